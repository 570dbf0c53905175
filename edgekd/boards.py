"""The user's own boards: one file each in the config folder, which says what board it is and how SSH finds it.

`$EDGEKD_CONFIG`, else `$XDG_CONFIG_HOME/edgekd`, else `~/.config/edgekd`; in it `devices/NAME.yaml`. Keys, user names and
jump hosts stay in the user's SSH config: nothing secret is in these files.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from edgekd import yamlsource
from edgekd.durable import write_whole
from edgekd.errors import RecipeError
from edgekd.recipe import NAME

# What ssh takes for a destination and no option, no second word and no shell character: an alias, host or user@host; IPv6.
HOST = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._+-]*@)?[A-Za-z0-9:][A-Za-z0-9._:%-]*")
PROGRAM = re.compile(r"[A-Za-z0-9_./+-]+")
OPTIONS = ("-F", "-p", "-i", "-l", "-J", "-o")  # of ssh, that a board may need


class Board(BaseModel):
    """One board of the user's: `devices/NAME.yaml` of the config folder.

    Attributes:
        name: How it is called with `--device`.
        profile: The device profile that says what it is.
        host: `user@board`, or a name of the SSH config.
        python: Its Python: a program of its PATH, or an absolute path.
        folder: Absolute path on the board for what is brought there; empty: `~/.cache/edgekd`.
        ssh_options: More options of ssh, as words: `[-p, "2222"]`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(pattern=NAME)
    profile: str
    host: str
    python: str = "python3"
    folder: str = ""
    ssh_options: list[str] = []

    @field_validator("host")
    @classmethod
    def _destination(cls, host: str) -> str:
        if HOST.fullmatch(host) is None:
            raise ValueError("should be user@board or a name of your SSH config (a port belongs there, too)")
        return host

    @field_validator("python")
    @classmethod
    def _program(cls, python: str) -> str:
        if PROGRAM.fullmatch(python) is None or python.startswith("-"):
            raise ValueError("should be the name of a program on the board, or its absolute path")
        return python

    @field_validator("folder")
    @classmethod
    def _absolute(cls, folder: str) -> str:
        if folder and (not folder.startswith("/") or not folder.isprintable() or ".." in folder.split("/")):
            raise ValueError("should be an absolute path on the board")
        return folder

    @field_validator("ssh_options")
    @classmethod
    def _pairs(cls, words: list[str]) -> list[str]:
        pairs = zip(words[::2], words[1::2], strict=False)
        if len(words) % 2 or any(flag not in OPTIONS or not value.isprintable() for flag, value in pairs):
            raise ValueError(f"should be pairs of an option and its value; options: {', '.join(OPTIONS)}")
        return words


def folder() -> Path:
    """The config folder; it need not exist."""
    named, home = os.environ.get("EDGEKD_CONFIG"), os.environ.get("XDG_CONFIG_HOME")
    return Path(named) if named else (Path(home) if home else Path.home() / ".config") / "edgekd"


def ssh_options() -> list[str]:
    """Options of ssh for every board: the file of `$EDGEKD_SSH_CONFIG` instead of the user's own SSH config."""
    named = os.environ.get("EDGEKD_SSH_CONFIG")
    return ["-F", named] if named else []


def path_of(name: str) -> Path:
    """The file of a board.

    Raises:
        RecipeError: The name is none that a file may have.
    """
    if re.fullmatch(NAME, name) is None:
        raise RecipeError("device", f"name {name!r:.100}", "letters, digits, `.`, `_` and `-`", "another name")
    return folder() / "devices" / f"{name}.yaml"


def boards() -> dict[str, Board]:
    """All boards by name.

    Raises:
        RecipeError: A file is no board.
    """
    found = (read(path) for path in sorted((folder() / "devices").glob("*.yaml")))
    return {board.name: board for board in found}


def read(path: Path) -> Board:
    """One board.

    Raises:
        RecipeError: The file is no board, or another one's.
    """
    source = yamlsource.read(path)
    board = checked(source.data, str(path))
    if board.name != path.stem:
        raise RecipeError(source.place(("name",)), f"name: {board.name}", path.stem, f"rename it to {board.name}.yaml")
    return board


def checked(values: object, where: str) -> Board:
    """Values as a board.

    Raises:
        RecipeError: One of them is wrong.
    """
    try:
        return Board.model_validate(values)
    except ValidationError as error:
        item = error.errors()[0]
        key = ".".join(map(str, item["loc"])) or "board"
        found = f"{key}: {str(item.get('input'))!r:.100}: {item['msg'].removeprefix('Value error, ')}"
        raise RecipeError(where, found, "name, profile, host; python, folder, ssh_options", "edgekd devices") from error


def write(board: Board) -> Path:
    """Keep a board; gives its file."""
    path = path_of(board.name)
    write_whole(path, yaml.safe_dump(board.model_dump(exclude_defaults=True), sort_keys=False).encode())
    return path
