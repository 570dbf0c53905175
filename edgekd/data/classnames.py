"""What a class may be called: anything that fits on a line. Names go into reports, tables and `labels.txt`, never into a path."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from edgekd.errors import RecipeError

LONGEST = 255  # characters: what a folder's name may have
# Control characters, halves of characters (a folder's name that is no UTF-8), line and paragraph separators.
REFUSED = ("Cc", "Cs", "Zl", "Zp")


def check_class_names(names: Sequence[str], where: str) -> None:
    """Raise RecipeError unless every name is a line of text.

    Args:
        names: In label order.
        where: The file or recipe key that they come from.
    """
    for label, name in enumerate(names):
        if not name.strip():
            raise RecipeError(where, f"class {label} has no name", "a name")
        if len(name) > LONGEST:
            raise RecipeError(
                where, f"the name of class {label}, {name[:40]!r}..., has {len(name)} characters", f"at most {LONGEST}"
            )
        if any(unicodedata.category(letter) in REFUSED for letter in name):
            raise RecipeError(where, f"the name of class {label}, {name!a}, has control characters", "one line of text")
