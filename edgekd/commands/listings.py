"""`edgekd formats | devices | models | distillers`: what is built, read from files and sources without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import util

from edgekd import models as model_table
from edgekd import profiles, registry, trtcheck
from edgekd.commands import output
from edgekd.models import catalogue
from edgekd.profiles import Target

PACKAGES = {"none": ("onnx",)}  # of a scheme, to make a file of it; of all others:
QUANTIZING = ("onnx", "onnxruntime")


def formats(json: bool) -> None:
    """The export targets, what each needs, and whether it is usable here."""
    rows = [
        (t.name, t.family, t.scheme, ", ".join(t.runtimes), _needs(t), _makeable(t), _measurable(t), t.description)
        for t in profiles.targets().values()
    ]
    columns = ("target", "family", "scheme", "runs in", "needs", "export here", "measure here", "what it is")
    _print("formats", columns, rows, json, "edgekd export --format onnx-int8")


def devices(json: bool) -> None:
    """The devices that can be measured."""
    rows = [
        (d.name, d.family, d.transport, ", ".join(d.runtimes), ", ".join(d.precisions), d.description)
        for d in profiles.devices().values()
    ]
    _print(
        "devices",
        ("device", "family", "reached by", "runtimes", "precisions", "what it is"),
        rows,
        json,
        "edgekd bench --device cpu",
    )


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


def _needs(target: Target) -> str:
    """Packages to make it, and what to run it on."""
    able = _devices_of(target)
    device = f"device {' or '.join(able)}" if able else f"a board with {' or '.join(target.runtimes)}"
    return f"{', '.join(PACKAGES.get(target.scheme, QUANTIZING))}; {device}"


def _makeable(target: Target) -> str:
    """Whether it can be exported here, and for a family with a tool of its own whether that can check the file."""
    missing = [name for name in PACKAGES.get(target.scheme, QUANTIZING) if util.find_spec(name) is None]
    if missing:
        return f"no: pip install {' '.join(missing)}"
    made = {scheme for p in registry.plugins("quantizers").values() for scheme in p.attributes.get("schemes", ())}
    if target.scheme not in made | {"none"}:
        return f"no: no quantizer makes scheme {target.scheme}"
    if target.family != "trt":
        return "yes"
    return f"yes, checked by {trtcheck.TOOL}" if trtcheck.available() else f"yes, unchecked: {trtcheck.INSTALL}"


def _measurable(target: Target) -> str:
    """Whether it can be measured with a device that is known here."""
    able = _devices_of(target)
    if not able:
        return f"no: no device has {' or '.join(target.runtimes)}"
    missing = [runtime for runtime in target.runtimes if util.find_spec(runtime) is None]
    return f"no: pip install {' '.join(missing)}" if missing else f"yes: {', '.join(able)}"


def _devices_of(target: Target) -> list[str]:
    return [d.name for d in profiles.devices().values() if set(d.runtimes) & set(target.runtimes)]


def _print(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], json: bool, following: str) -> None:
    if json:
        output.print_json({title: [dict(zip(columns, row, strict=True)) for row in rows]})
        return
    output.print_table(columns, rows)
    output.next_command(following)
