"""The export targets that a recipe or `--format` names, by name, file or family; and which of them can be measured."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence

from edgekd import devices, profiles, registry
from edgekd.errors import EngineMismatch, MissingTool, RecipeError, nearest
from edgekd.profiles import Device, Target
from edgekd.recipe import Qat, Recipe

FILES = (".yaml", ".yml")
QAT_SCHEMES = ("u8s8", "s8-trt")  # whose files training can round like; the first where no target says
FLOAT_BIASES = ("s8-trt",)  # whose runtime takes biases in float: onnxruntime's rounding of them is no part of the file


def resolve_targets(names: Sequence[str], where: str, recipe: Recipe, quantized: bool | None = None) -> list[str]:
    """Names of shipped targets and paths of a user's own, in the order given, each once; the profiles are checked.

    Args:
        names: Targets, files, or families: of a family, its target of the recipe's precision.
        where: `--format` or `export`, for errors.
        recipe: Whose precision a family follows.
        quantized: Whether a family means its int8 target; None: where the recipe `quantizes`.

    Raises:
        RecipeError: No such target, exporter or argument of it; two files with one target's name; a family without one
            target of that precision.
    """
    quantized = quantizes(recipe) if quantized is None else quantized
    known = profiles.targets()
    found: dict[str, str] = {}
    for name in (_by_family(name, where, quantized, known) for name in names):
        target = known.get(name) or profiles.target(name, where)
        registry.find("exporters", target.exporter, f"target {target.name}: exporter")
        registry.check("exporters", target.exporter, target.args, f"target {target.name}: args")
        _require_tool(target)
        if found.setdefault(target.name, name) != name:
            raise RecipeError(
                where,
                f"{found[target.name]} and {name} are both target {target.name}",
                "another `name:` in one of them",
            )
    return list(found.values())


def by_family(names: Iterable[str], recipe: Recipe) -> dict[str, str]:
    """{family: the target that it stands for} of the names that are families."""
    quantized, known = quantizes(recipe), profiles.targets()
    families = {target.family for target in known.values()} - known.keys()
    return {name: _by_family(name, "export", quantized, known) for name in names if name in families}


def quantizes(recipe: Recipe) -> bool:
    """Whether a recipe ships int8: it trains for it, it begins at such a file, or one of its targets is of such a scheme."""
    known = profiles.targets()
    own = [known.get(name) or profiles.target(name) for name in recipe.export if name in known or name.endswith(FILES)]
    schemes = [recipe.student.scheme or "none", *(target.scheme for target in own)]
    return recipe.qat is not None or any(profiles.precision(scheme) == "int8" for scheme in schemes)


def trained_scheme(recipe: Recipe, qat: Qat) -> str:
    """The scheme that quantization-aware training rounds like: the recipe's, else that of the first target which has one."""
    if qat.scheme is not None:
        return qat.scheme
    schemes = [scheme for name in recipe.export for scheme in _schemes(name) if scheme in QAT_SCHEMES]
    return (schemes or QAT_SCHEMES)[0]


def runtime_of(recipe: Recipe, device: Device, target: Target) -> str | None:
    """The runtime that measures a target on a device: the recipe's, else the first of the device's that it runs in."""
    asked = recipe.bench.runtime
    return next((name for name in fitting(device, target) if asked in (None, name)), None)


def fitting(device: Device, target: Target) -> list[str]:
    """The device's runtimes that run a target's file, for the device's chip."""
    return [name for name in device.runtimes if name in target.runtimes and fits(device, name, target)]


def other_chip(recipe: Recipe, named: Sequence[Device], target: Target, command: str) -> EngineMismatch | None:
    """That a device has the runtime of a target, but is another chip than its file is for; None: no device is.

    Args:
        recipe: Whose runtime it is.
        named: One device, or all that one name may stand for.
        target: The target.
        command: What would take its file to the device: `bench`, `bundle`.
    """
    wrong = [(device, name) for device in named for name in _able(recipe, device, target)]
    if not wrong or any(fits(device, name, target) for device, name in wrong):
        return None
    device, runtime = wrong[0]
    own = device.runtimes[runtime].chip or device.family
    others = [one for one in profiles.targets().values() if one.exporter == target.exporter]
    right = [one.name for one in others if chip_of(one) == own]
    name = device.reference or device.name
    hint = f"edgekd {command} --format {right[0]} --device {shlex.quote(name)}" if right else "edgekd formats"
    found = f"its file is for {chip_of(target)}, and {name} is a {own} ({device.profile or device.name})"
    return EngineMismatch(f"target {target.name}", found, f"a file for {own}", hint)


def fits(device: Device, runtime: str, target: Target) -> bool:
    """Whether a runtime of a device is of the chip that a target's file is for."""
    return chip_of(target) in ("", device.runtimes[runtime].chip or device.family)


def chip_of(target: Target) -> str:
    """The one chip that a target's file is for; empty: it runs wherever its runtime does."""
    argument = registry.find("exporters", target.exporter).attributes.get("chip_named_by", "")
    return str(target.args.get(argument, ""))


def unmeasured(recipe: Recipe, target: Target) -> str:
    """Why a target can be measured with none of a recipe's devices; empty where it can."""
    named = [kind for name in devices.split(recipe.bench.device) for kind in devices.possible(name)]
    if any(runtime_of(recipe, device, target) for device in named):
        return ""
    mismatch = other_chip(recipe, named, target, "bench")
    if mismatch is not None:
        return f"{mismatch.found} (try: {mismatch.hint})"
    needed, asked = " or ".join(target.runtimes), recipe.bench.runtime
    has = f"bench.runtime is {asked}" if asked else f"{recipe.bench.device} has {', '.join(named[0].runtimes)}"
    able = [device.name for device in devices.measurable() if set(device.runtimes) & set(target.runtimes)]
    if able:
        return f"it runs in {needed}, and {has} (devices with {needed}: {', '.join(able)})"
    return f"it runs in {needed}, and {has}: that takes a board with {needed} (edgekd devices)"


def measurable(recipe: Recipe, targets: Sequence[Target], asked: bool) -> list[Target]:
    """The targets that one of the recipe's devices can run.

    Raises:
        EngineMismatch: The file of one that was asked for by name is for another chip than a device's.
        MissingTool: It cannot be measured for another reason.
    """
    for target in targets if asked else ():
        require_chip(recipe, target)
    reasons = {target.name: unmeasured(recipe, target) for target in targets}
    for name, reason in reasons.items():
        if asked and reason:
            raise not_here(f"--format {name}", name, reason)
    return [target for target in targets if not reasons[target.name]]


def require_chip(recipe: Recipe, target: Target) -> None:
    """Refuse a file that is for another chip than one of a recipe's devices.

    Raises:
        EngineMismatch: It is.
    """
    for name in devices.split(recipe.bench.device):
        error = other_chip(recipe, devices.possible(name), target, "bench")
        if error is not None:
            raise error


def with_sources(targets: Sequence[Target]) -> list[Target]:
    """Targets, each after the one that it is made from, each once."""
    found: dict[str, Target] = {}
    for target in targets:
        if target.made_from.startswith("export/"):
            source = profiles.target(target.made_from.partition("/")[2], f"target {target.name}: source")
            found.update({one.name: one for one in with_sources([source]) if one.name not in found})
        found.setdefault(target.name, target)
    return list(found.values())


def not_here(where: str, target: str, reason: str) -> MissingTool:
    """That a target cannot be measured here."""
    hint = f"edgekd export --format {target} --output DIR, and run the file there; or bench another target"
    return MissingTool(where, f"cannot be measured: {reason}", "a target of a runtime that the device has", hint)


def _able(recipe: Recipe, device: Device, target: Target) -> list[str]:
    """The device's runtimes that run files of a target's kind, the recipe's alone where it names one."""
    asked = recipe.bench.runtime
    return [name for name in device.runtimes if name in target.runtimes and asked in (None, name)]


def _require_tool(target: Target) -> None:
    """A target of a tool chain names one of its exporter's tools, and what its figures are worth; any other target names none."""
    needs = registry.find("exporters", target.exporter).attributes.get("needs", ())
    if target.tool not in (needs or (None,)):
        expected = f"one of: {', '.join(needs)}" if needs else "none: edgekd makes it itself"
        raise RecipeError(f"target {target.name}: tool", str(target.tool), expected)
    if needs and target.kind is None:
        raise RecipeError(f"target {target.name}: kind", "left out", "this CPU, simulator, emulated or estimated")


def _schemes(name: str) -> list[str]:
    """Of a target; of a family, those of all its targets."""
    known = profiles.targets()
    if name in known or name.endswith(FILES):
        return [(known.get(name) or profiles.target(name)).scheme]
    return [target.scheme for target in known.values() if target.family == name]


def _by_family(name: str, where: str, quantized: bool, known: Mapping[str, Target]) -> str:
    """The target that a family's name stands for; any other name as it is."""
    if name in known or name.endswith(FILES):
        return name
    members = [target for target in known.values() if target.family == name]
    if not members:
        names = {*known, *(target.family for target in known.values())}
        raise RecipeError(where, f"unknown name {name!r}", nearest(name, names), "edgekd formats")
    there = {profiles.precision(target.scheme) for target in members}
    preferred = ("int8",) if quantized else ("fp16", "fp32", "int8")
    precision = next((one for one in preferred if one in there), "int8")
    fitting = [target.name for target in members if profiles.precision(target.scheme) == precision]
    if len(fitting) > 1:  # one of several chips
        fitting = [target for target in fitting if known[target].default] or fitting
    if len(fitting) != 1:
        found = f"family {name} has {len(fitting)} targets of {precision}"
        raise RecipeError(where, found, "one of: " + ", ".join(target.name for target in members), "edgekd formats")
    return fitting[0]
