"""The device that a recipe or `--device` names, by name, file or family; several stand with commas between them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from edgekd import boards, profiles
from edgekd.errors import MissingTool, RecipeError, nearest
from edgekd.profiles import Device

MODEL = Path("/proc/device-tree/model")
WHERE = "bench.device"


def split(names: str) -> list[str]:
    """The names in `a,b,c`.

    Raises:
        RecipeError: One is empty, or stands twice.
    """
    found = [name.strip() for name in names.split(",")]
    if not all(found) or len(set(found)) < len(found):
        raise RecipeError(WHERE, f"{names!r:.100}", "names with commas between them, each once", "edgekd devices")
    return found


def possible(name: str) -> list[Device]:
    """What a name may stand for as far as profiles tell: one device, or every profile of a family. No board is needed.

    Raises:
        RecipeError: No such name.
    """
    if is_family(name):
        return [device for device in profiles.devices().values() if device.family == name]
    try:
        return [profiles.device(name)]
    except RecipeError as error:
        families = {device.family for device in profiles.devices().values()}
        known = {*profiles.devices(), *boards.boards(), *families}
        if error.where == WHERE and not name.endswith((".yaml", ".yml")):
            hint = f"{error.hint}, then the same with --set bench.device=NAME"
            raise RecipeError(WHERE, error.found, nearest(name, known), hint) from error
        raise


def is_family(name: str) -> bool:
    """Whether a name is a family's and no device's."""
    own = {*profiles.devices(), *boards.boards()}
    return name not in own and name in {device.family for device in profiles.devices().values()}


def resolve(name: str) -> Device:
    """The one device that can be measured under a name: for a family or a board's profile this machine if it is one, else the
    one board of that kind; never another kind.

    Raises:
        RecipeError: No such name.
        MissingTool: No such board is known here, or several are.
    """
    kinds = possible(name)
    if all(kind.transport == "none" for kind in kinds):
        why = "runs no Python: edgekd makes files for it and estimates, and cannot measure there"
        needs = "; ".join(facts.needs for facts in kinds[0].runtimes.values())
        hint = f"edgekd export --format NAME --output DIR ({needs})"
        raise MissingTool(f"--device {name}", why, "a board that SSH reaches", hint)
    if not is_family(name) and (kinds[0].transport == "local" or kinds[0].host):
        return kinds[0]
    here = this_machine(kinds)
    if here is not None:
        return here
    named = {device.name for device in kinds}
    found = [board for board in boards.boards().values() if board.profile in named]
    if len(found) == 1:
        return profiles.on_board(found[0])
    where = f"--device {name}"
    if found:
        listed = ", ".join(f"{board.name} ({board.host})" for board in found)
        hint = f"--device {found[0].name}; side by side: --device {','.join(board.name for board in found)}"
        raise MissingTool(where, f"{len(found)} boards are meant: {listed}", "one of them", hint)
    example = min(kinds, key=lambda kind: (kind.memory_mib or 0, kind.name)).name
    raise MissingTool(
        where,
        "no such board is configured, and this machine is none",
        "a board that SSH reaches",
        f"edgekd devices add NAME --host user@board --profile {example}; then: --device NAME",
    )


def this_machine(kinds: Sequence[Device]) -> Device | None:
    """The profile that this machine's device tree matches: the device without a way to it."""
    model = _model()
    for kind in kinds:
        if model and model.startswith(kind.match.device_tree):
            return kind.model_copy(update={"transport": "local"})
    return None


def said(name: str, device: Device) -> str:
    """What a name was resolved to, in words; empty where it says it itself."""
    if device.host is not None:
        return f"device {name}: board {device.name} at {device.host}, a {device.profile or device.name}"
    if name != device.name or device.match.device_tree:
        return f"device {name}: this machine, a {device.name}"
    return ""


def measurable() -> list[Device]:
    """The devices that can be measured as things are: those of this machine, and the user's boards."""
    shipped = list(profiles.devices().values())
    here = this_machine(shipped)
    local = [device for device in shipped if device.transport == "local" and _built_in(device)]
    return [*local, *([here] if here else []), *map(profiles.on_board, boards.boards().values())]


def _built_in(device: Device) -> bool:
    """Whether this machine shows a local device's chip and has a runtime for it."""
    pattern = device.match.device_file
    there = not pattern or any(Path("/").glob(pattern.lstrip("/")))
    return there and any(map(find_spec, device.runtimes))


def _model() -> str:
    try:
        return MODEL.read_text(encoding="utf-8", errors="replace").rstrip("\0\n")
    except OSError:
        return ""  # no device tree: a PC
