"""`edgekd devices`: the profiles that are known and the user's boards; add, show and remove one of them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from edgekd import boards, profiles
from edgekd import devices as known
from edgekd.boards import Board
from edgekd.commands import output
from edgekd.errors import RecipeError, UsageError, nearest
from edgekd.profiles import Device

COLUMNS = ("device", "family", "reached by", "runtimes", "precisions", "what it is")
DEFAULT_FOLDER = "~/.cache/edgekd"


def listed(json: bool) -> None:
    """The devices that can be measured, the user's own first."""
    own = [profiles.on_board(board) for board in boards.boards().values()]
    found = [*own, *profiles.devices().values()]
    following = f"edgekd bench --device {own[0].name if own else 'cpu'}"
    if json:
        output.print_json({"devices": [_facts(device) for device in found], "next": following})
        return
    output.print_table(COLUMNS, [_row(device) for device in found])
    output.next_command(following)


def add(board: Board, replace: bool, json: bool) -> None:
    """Keep a board in the user's config folder. Nothing is connected to yet.

    Raises:
        UsageError: The name is taken.
        RecipeError: No such profile, or the name is a profile's or a family's.
    """
    path = boards.path_of(board.name)
    shipped = profiles.devices()
    if board.name in shipped or known.is_family(board.name):
        raise RecipeError("NAME", f"{board.name} is a profile or a family", "a name of its own", f"my-{board.name}")
    if path.exists() and not replace:
        hint = f"edgekd devices show {board.name}; --force replaces it"
        raise UsageError(f"device {board.name}", "is there already", "another name", hint)
    if board.profile not in shipped and not board.profile.endswith((".yaml", ".yml")):
        raise RecipeError(
            "--profile", f"unknown name {board.profile!r}", nearest(board.profile, shipped), "edgekd devices"
        )
    if board.profile not in shipped:  # a file: the board is used from other folders than this one
        board = board.model_copy(update={"profile": str(Path(board.profile).absolute())})
    profiles.on_board(board)
    boards.write(board)
    following = f"edgekd doctor --device {board.name}"
    if json:
        output.print_json({"device": board.model_dump(), "file": str(path), "next": following})
        return
    output.say(f"added: {board.name}, a {board.profile} at {board.host} ({path})")
    output.next_command(following)


def show(name: str, json: bool) -> None:
    """Every fact of a device, with its source.

    Raises:
        RecipeError: No such device.
    """
    device = profiles.device(name, "NAME")
    facts = device.model_dump(mode="json", exclude_none=True, exclude_defaults=True, exclude={"reference"})
    typed = shlex.quote(name)  # it may be a file
    following = f"edgekd doctor --device {typed}" if device.host else f"edgekd bench --device {typed}"
    if device.transport == "ssh" and not device.host:
        following = f"edgekd devices add NAME --host user@board --profile {typed}"
    if json:
        file = str(boards.path_of(name)) if device.host else None
        output.print_json({"device": facts, "file": file, "next": following})
        return
    rows = [(key, _text(facts[key]), device.sources.get(key, "")) for key in facts if key != "sources"]
    more = [(key, "", text) for key, text in device.sources.items() if key not in facts]
    output.print_table(("fact", "value", "source"), [*rows, *more])
    output.next_command(following)


def remove(name: str, json: bool) -> None:
    """Forget a board; what lies on it stays there.

    Raises:
        UsageError: It is none of the user's.
    """
    path = boards.path_of(name)
    if not path.exists():
        own = sorted(found.stem for found in path.parent.glob("*.yaml"))
        expected = nearest(name, own) if own else "a board added with: edgekd devices add"
        raise UsageError(f"device {name}", "is no board of yours", expected, "edgekd devices")
    there = _folder(path)
    path.unlink()
    if json:
        output.print_json({"removed": name, "file": str(path), "folder_there": there, "next": "edgekd devices"})
        return
    output.say(f"removed: {name} ({path}); what was brought to the board lies in its {there}")
    output.next_command("edgekd devices")


def board_of(name: str, host: str, profile: str, python: str, folder: str, options: str) -> Board:
    """A board as typed.

    Raises:
        RecipeError: One of its values is wrong.
    """
    boards.path_of(name)
    if re.search(r"[\0\r\n]", options):
        raise RecipeError("--ssh-options", f"{options!r:.100}", "one line", "--ssh-options '-p 2222'")
    values = {"name": name, "host": host, "profile": profile, "python": python, "folder": folder}
    return boards.checked({**values, "ssh_options": shlex.split(options)}, f"device {name}")


def _folder(path: Path) -> str:
    """Where a board's files lie on it; a file that is damaged is removed all the same."""
    try:
        return boards.read(path).folder or DEFAULT_FOLDER
    except RecipeError:
        return DEFAULT_FOLDER


def _facts(device: Device) -> dict[str, Any]:
    names = ("name", "family", "transport", "host", "profile", "precisions", "description")
    return {name: getattr(device, name) for name in names} | {"runtimes": list(device.runtimes)}


def _row(device: Device) -> tuple[str, ...]:
    way = device.transport if device.host is None else f"ssh {device.host}"
    if device.transport == "ssh" and device.host is None:
        way = "ssh, once added"
    runtimes, precisions = ", ".join(device.runtimes), ", ".join(device.precisions)
    return (device.name, device.family, way, runtimes, precisions, device.description)


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{key}: {_text(one)}" if not isinstance(one, dict) else f"{key}" for key, one in value.items()
        )
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
