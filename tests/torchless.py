"""The command line in a process of its own, which must not load torch."""

import subprocess
import sys

PROGRAM = """
import sys
sys.argv = ["edgekd", *sys.argv[1:]]
from edgekd.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code
assert not {"torch", "torchvision", "onnxsim"} & set(sys.modules)
"""


def torchless(home, *argv):
    """A command in a folder, which must succeed without torch: stdout and stderr."""
    command = [sys.executable, "-c", PROGRAM, *map(str, argv)]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done
