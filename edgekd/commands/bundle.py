"""`edgekd bundle`: what a bare board needs to check, measure or use an exported model, in one folder or tar."""

from __future__ import annotations

import json as jsonlib
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgekd import devices, integrity, profiles
from edgekd import recipe as recipes
from edgekd.analysis.lineage import chain
from edgekd.artifact import Artifact
from edgekd.commands import current, output, signing, start
from edgekd.commands.bundle_files import checked, put, require_free
from edgekd.commands.bundle_selftest import selftest
from edgekd.commands.bundle_text import LABELS, README, labels, readme
from edgekd.commands.chain import data_roots, weight_caches
from edgekd.console import Console
from edgekd.errors import MissingTool, UsageError
from edgekd.keys import Settings
from edgekd.params import BenchParams
from edgekd.pipeline import run, steps_of
from edgekd.plan import bench_params
from edgekd.profiles import Device
from edgekd.recipe import Recipe
from edgekd.runner.bundle import FILE, SIGNATURE
from edgekd.stages.bench_bundle import lay_bundle
from edgekd.store import Store
from edgekd.targets import other_chip, resolve_targets, runtime_of

FOLDER = "bundles"


@dataclass(frozen=True)
class BundleOptions:
    """The command line, as typed."""

    source: str | None
    target: str | None
    kind: Literal["deploy", "bench"]
    output: Path | None
    sign: Path | None
    device: str | None
    workspace: Path
    data_root: list[Path] | None
    json: bool


@dataclass(frozen=True)
class Chosen:
    """What goes into a bundle: the export, what it was made from, and how it runs on the device."""

    export: Artifact
    data: Artifact
    lineage: Mapping[str, str]
    params: BenchParams
    device: Device


def bundle(options: BundleOptions) -> None:
    """Write a bundle, sign it where asked, and let its runner test it here.

    Raises:
        UsageError: Nothing is exported, the target is not there, or `--output` is something else than a bundle.
        MissingTool: The device has no runtime for the target.
        IntegrityError: The exported files are damaged.
        CheckFailed: The bundle's own runner does not get the golden answers.
    """
    console = Console()
    key = None if options.sign is None else signing.load(options.sign)
    chosen = _chosen(options, console)
    name = f"{chosen.params.target}-{options.kind}"
    place = options.output or options.workspace / FOLDER / name
    require_free(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".edgekd-bundle-", dir=place.parent) as work:
        folder = Path(work) / name
        _lay(chosen, options.kind, folder)
        public = None
        if key is not None:
            signature = signing.sign(key, (folder / FILE).read_bytes())
            (folder / SIGNATURE).write_text(f"{signature}\n", encoding="ascii")
            public = signing.public_hex(key)
        found = checked(folder, public)
        tested = selftest(folder, chosen.params, public)
        put(folder, place)
    facts = {
        "bundle": str(place),
        "kind": options.kind,
        "target": chosen.params.target,
        "artifact": chosen.export.id,
        "runtime": chosen.params.runtime,
        "digest": found.digest,
        "files": found.files,
        "public_key": public,
        "selftest": tested,
    }
    _print(facts, options)


def _chosen(options: BundleOptions, console: Console) -> Chosen:
    store = Store(options.workspace)
    export, recipe = _export(options, console)
    found = chain(store, export)
    if found.faults:
        fault = found.faults[0]
        raise UsageError(
            fault.artifact, fault.found, fault.expected, f"edgekd artifacts verify{current.option(options.workspace)}"
        )
    steps = found.steps
    for artifact in (export, steps["data"]):
        integrity.require(artifact)
    device = _device(options.device, recipe)
    params = _params(export, recipe, device)
    console.log(f"bundle of {export.id}: {params.runtime} on {params.device}")
    return Chosen(export, steps["data"], {step: a.key for step, a in steps.items()}, params, device)


def _export(options: BundleOptions, console: Console) -> tuple[Artifact, Recipe]:
    """The export to bundle, and the recipe that says how it is measured."""
    workspace = options.workspace
    if start.is_file(options.source, workspace):
        return _of_file(options, console)
    if options.source is not None:
        artifact = current.resolve(workspace, options.source)
        recipe = recipes.from_dict(artifact.manifest.get("recipe", {}), f"recipe of {artifact.id}")
        if artifact.step.startswith("bench/"):
            artifact = Store(workspace).resolve(artifact.inputs["export"])
        exports = {artifact.step: artifact}
    else:
        found = current.require(workspace, "an exported model")
        recipe = recipes.from_dict(found.recipe, f"recipe {found.name}")
        exports = current.artifacts(workspace, found)
    exports = {step: a for step, a in exports.items() if step.startswith("export/")}
    return _pick(exports, options, recipe), recipe


def _pick(exports: Mapping[str, Artifact], options: BundleOptions, recipe: Recipe) -> Artifact:
    """The export of `--format`, else the last of the run, as `predict` takes it."""
    if options.target is None and exports:
        return list(exports.values())[-1]
    names = [] if options.target is None else resolve_targets([options.target], "--format", recipe)
    wanted = f"export/{profiles.target(names[0]).name}" if names else ""
    if wanted in exports:
        return exports[wanted]
    there = ", ".join(exports) or "nothing that is exported"
    hint = f"edgekd export --format {options.target}" if options.target else "edgekd export"
    raise UsageError(options.source or f"workspace {options.workspace}", f"has {there}", wanted or "an export", hint)


def _of_file(options: BundleOptions, console: Console) -> tuple[Artifact, Recipe]:
    """An ONNX file of the user's, brought into our form and exported first: its labels and normalisation are inside."""
    roots = data_roots(options.data_root)
    targets = [options.target] if options.target else None
    plain = ["qat=null"]  # a finished file is not trained on, whatever the current run did
    recipe, folder = start.choose(
        str(options.source), "export", None, options.workspace, roots, plain, targets, console
    )
    settings = Settings(options.workspace, roots, folder, console, 1, weight_caches=weight_caches())
    outcomes = run(recipe, steps_of(recipe, until="export", targets=targets), settings)
    exports = {o.step.name: o.artifact for o in outcomes if o.artifact is not None and o.step.kind == "export"}
    return list(exports.values())[-1], recipe


def _device(asked: str | None, recipe: Recipe) -> Device:
    """The device of `--device`, else the recipe's; a bundle needs its profile, not the board.

    Raises:
        UsageError: Several are named.
        MissingTool: A family is named of which no board is known here.
    """
    names = devices.split(asked or recipe.bench.device)
    if len(names) > 1:
        raise UsageError("bundle", f"several devices: {', '.join(names)}", "one", f"--device {names[0]}")
    kinds = devices.possible(names[0])
    if not devices.is_family(names[0]):
        return kinds[0]
    try:
        return devices.resolve(names[0])
    except MissingTool as error:
        found = ", ".join(kind.name for kind in kinds)
        raise MissingTool(error.where, f"is one of: {found}", "which board", f"--device {kinds[0].name}") from error


def _params(export: Artifact, recipe: Recipe, device: Device) -> BenchParams:
    """How the target runs on a device."""
    target = profiles.target(str(export.manifest["params"]["target"]))
    runtime = runtime_of(recipe, device, target)
    mismatch = other_chip(recipe, [device], target, "bundle")
    if mismatch is not None:
        raise mismatch
    if runtime is None:
        others = [d.name for d in profiles.devices().values() if set(d.runtimes) & set(target.runtimes)]
        raise MissingTool(
            f"device {device.name}",
            f"has no runtime for {target.name}: {', '.join(device.runtimes)}",
            f"one of: {', '.join(target.runtimes)}",
            f"--device {others[0]}" if others else "another --format",
        )
    return bench_params(recipe, target, device, runtime)


def _lay(chosen: Chosen, kind: Literal["deploy", "bench"], folder: Path) -> None:
    inputs = {"export": chosen.export, "data": chosen.data}
    facts = jsonlib.loads((chosen.export.path / "model.json").read_text(encoding="utf-8"))
    needs = chosen.device.runtimes[chosen.params.runtime]
    texts = {README: readme(chosen.params, facts, kind, needs), LABELS: labels(facts["classes"])}
    lay_bundle(chosen.params, inputs, folder, share=False, kind=kind, runner=True, lineage=chosen.lineage, texts=texts)


def _print(facts: Mapping[str, Any], options: BundleOptions) -> None:
    place = Path(facts["bundle"])
    tested, public = facts["selftest"], facts["public_key"]
    key = f" --public-key {public}" if public else ""
    following = f"edgekd bundle verify {shlex.quote(str(place))}{key}"
    if options.json:
        output.print_json({**facts, "next": following})
        return
    output.print_table(("file", "SHA-256"), sorted(facts["files"].items()))
    size = sum(p.stat().st_size for p in place.iterdir()) if place.is_dir() else place.stat().st_size
    output.say(f"{place}: {facts['kind']} bundle of {facts['artifact']}, {output.size(size)}")
    output.say(f"bundle.json: SHA-256 {facts['digest']}")
    output.say(f"signed; public key {public}" if public else "not signed (--sign KEYFILE)")
    output.say("self-test: passed here" if tested["ran"] else f"self-test: not run here ({tested['why']})")
    output.next_command(following)
