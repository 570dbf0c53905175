"""`edgekd formats | models | distillers`: what is built, read from files and sources without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import util
from pathlib import Path

from edgekd import devices, profiles, registry, trtcheck
from edgekd import models as model_table
from edgekd.commands import output
from edgekd.errors import MissingTool
from edgekd.models import catalogue
from edgekd.profiles import Target
from edgekd.runner.runtimes import base as engines
from edgekd.tools import engines as packages
from edgekd.tools import place

PACKAGES: dict[str, tuple[str, ...]] = {"none": ("onnx",)}  # of a scheme, to make a file of it; of all others:
QUANTIZING = ("onnx", "onnxruntime")
UNSEEN = "written, not run on hardware"


def formats(json: bool) -> None:
    """The export targets, what each needs, and whether it is usable here."""
    rows = [
        (t.name, t.family, t.scheme, ", ".join(t.runtimes), _needs(t), _makeable(t), _measurable(t), t.description)
        for t in profiles.targets().values()
    ]
    columns = ("target", "family", "scheme", "runs in", "needs", "export here", "measure here", "what it is")
    following = "edgekd export --format onnx-int8"
    if json:
        _print("formats", columns, rows, json, following)
        return
    groups, whole = _grouped(rows), columns[:1]  # a name is typed: it stands on one line
    usable = [(row[0], row[2], *row[5:7]) for row in groups]
    output.print_table(("target", "scheme", *columns[5:7]), usable, whole=whole)
    output.say("")
    about = [(row[0], _about(row)) for row in groups]
    output.print_table(("target", "what it is, and what it needs"), about, whole=whole)
    output.next_command(following)


def models(json: bool) -> None:
    """The networks by family, and the packages whose networks can be named."""
    rows = [*model_table.describe(), *catalogue.describe()]
    _print("models", ("model", "family"), rows, json, "edgekd recipes show quickstart")


def distillers(json: bool) -> None:
    """The distillation methods with their arguments and defaults."""
    plugins = registry.plugins("distillers").values()
    rows = [
        (
            p.name,
            "edgekd reconstruction" if p.attributes.get("reconstruction") else "",
            p.summary,
            ", ".join(f"{a.name}={a.default}" for a in p.arguments),
        )
        for p in plugins
    ]
    _print(
        "distillers",
        ("method", "note", "what it does", "arguments and defaults"),
        rows,
        json,
        "edgekd distill --set distill.use=kd",
    )


def _grouped(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The sizes or chips of one target in one row, where all but what it is says the same: `ethos-u55-{32,64,128,256}`."""
    found: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for row in rows:
        found.setdefault((row[0].rpartition("-")[0] or row[0], *row[1:-1]), []).append(row)
    return [group[0] if len(group) == 1 else _row(stem[0], group) for stem, group in found.items()]


def _row(stem: str, group: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    sizes = sorted((row[0].rpartition("-")[2] for row in group), key=lambda size: (len(size), size))
    words = [row[-1].split() for row in group]
    shared = " ".join(same[0] if len(set(same)) == 1 else "..." for same in zip(*words, strict=False))
    return (f"{stem}-{{{','.join(sizes)}}}", *group[0][1:-1], shared)


def _about(row: tuple[str, ...]) -> str:
    name, family = row[:2]
    return f"{row[7]}; needs {row[4]}" + ("" if name.startswith(family) else f"; family {family}")


def _needs(target: Target) -> str:
    """Packages to make it, and what to run it on."""
    able = sorted({d.family for d in profiles.devices().values() if set(d.runtimes) & set(target.runtimes)})
    device = f"device {' or '.join(able)}" if able else f"a board with {' or '.join(target.runtimes)}"
    tools = _tools(target)
    packages = [f"tool {name}" for name in tools] or PACKAGES.get(target.scheme, QUANTIZING)
    return f"{', '.join(packages)}; {device}"


def _tools(target: Target) -> list[str]:
    """Tools that its exporter drives; of a target that edgekd makes, none."""
    return list(registry.find("exporters", target.exporter).attributes.get("needs", ())) if target.tool else []


def _makeable(target: Target) -> str:
    """Whether it can be exported here, and for a family with a tool of its own whether that can check the file."""
    if target.tool:
        return _with_tools(target)
    missing = [name for name in PACKAGES.get(target.scheme, QUANTIZING) if util.find_spec(name) is None]
    if missing:
        return f"no: pip install {' '.join(missing)}"
    made = {scheme for p in registry.plugins("quantizers").values() for scheme in p.attributes.get("schemes", ())}
    if target.scheme not in made | {"none"}:
        return f"no: no quantizer makes scheme {target.scheme}"
    if target.family != "trt":
        return "yes"
    return f"yes, checked by {trtcheck.TOOL}" if trtcheck.available() else f"yes, unchecked: {trtcheck.INSTALL}"


def _with_tools(target: Target) -> str:
    """Whether the tools of a target are there and whole, and what to type where they are not."""
    for name in _tools(target):
        try:
            place.require(name, target.name)
        except MissingTool as error:
            return f"no: {error.hint or error.found}"
    return "yes"


def _measurable(target: Target) -> str:
    """Whether it can be measured with a device that is known here, and whether its runtime was ever seen to run."""
    return _usable(target) + ("" if any(map(_seen, target.runtimes)) else f"; {UNSEEN}")


def _seen(runtime: str) -> bool:
    """Whether its engine has run; one that has not says so first thing in its source."""
    module = engines.names().get(runtime)
    found = None if module is None else util.find_spec(module)
    source = Path(found.origin).read_text(encoding="utf-8") if found is not None and found.origin else ""
    return f"{UNSEEN}." not in source.partition("\n\n")[0].lower()


def _usable(target: Target) -> str:
    able = [device for device in devices.measurable() if set(device.runtimes) & set(target.runtimes)]
    if not able:
        return f"no: no device here has {' or '.join(target.runtimes)}"
    missing = [line for runtime in target.runtimes if (line := _lacking(runtime, target.name))]
    if missing and all(device.transport == "local" for device in able):
        return f"no: {'; '.join(missing)}"
    return f"yes: {', '.join(device.name for device in able)}"


def _lacking(runtime: str, where: str) -> str:
    """What to type for an engine whose package is neither beside edgekd nor in a tool environment; empty where it is."""
    if runtime not in packages.ENGINES:
        return f"pip install {runtime}" if util.find_spec(runtime) is None else ""
    try:
        packages.python(runtime, where)
    except MissingTool as error:
        return error.hint or error.found
    return ""


def _print(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], json: bool, following: str) -> None:
    if json:
        output.print_json({title: [dict(zip(columns, row, strict=True)) for row in rows]})
        return
    output.print_table(columns, rows)
    output.next_command(following)
