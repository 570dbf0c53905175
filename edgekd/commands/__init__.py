"""One command, or one group of commands, per file."""

from pathlib import Path

WORKSPACE = Path("workspace")  # where artifacts go when nobody says otherwise
