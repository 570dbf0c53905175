"""`edgekd formats | devices | models | distillers`: what is built, read from files and sources without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import util

from edgekd import models as model_table
from edgekd import profiles, registry
from edgekd.commands import output
from edgekd.models import catalogue
from edgekd.profiles import Target

RUNTIME_PACKAGES = {"onnxruntime": "onnxruntime"}


def formats(json: bool) -> None:
    """The export targets, what each needs, and whether it is usable here."""
    rows = [
        (t.name, t.family, t.scheme, ", ".join(t.runtimes), _usable(t), t.description)
        for t in profiles.targets().values()
    ]
    columns = ("target", "family", "scheme", "runs in", "usable here", "what it is")
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


def _usable(target: Target) -> str:
    missing = [r for r in target.runtimes if util.find_spec(RUNTIME_PACKAGES.get(r, r)) is None]
    return "yes" if not missing else f"no: pip install {' '.join(missing)}"


def _print(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], json: bool, following: str) -> None:
    if json:
        output.print_json({title: [dict(zip(columns, row, strict=True)) for row in rows]})
        return
    output.print_table(columns, rows)
    output.next_command(following)
