"""What a step's key hashes: parameters, input digests, versions, and what of this machine changes the result."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekd import registry
from edgekd.artifact import Artifact, canonical, sha256_file
from edgekd.console import Console
from edgekd.data.checkpoint_file import find_checkpoint
from edgekd.fit.resolve import resolve
from edgekd.params import BenchParams, DataParams, Params, StudentParams, TeacherParams
from edgekd.plan import Step
from edgekd.recipe import Fit
from edgekd.stages.base import RunContext


@dataclass(frozen=True)
class Settings:
    """How a pipeline run behaves; nothing in here changes a result.

    Attributes:
        workspace: Folder of the artifacts.
        data_roots: Where data sets and checkpoints are looked up.
        recipe_dir: Folder of the recipe file, if there is one.
        console: Progress and log.
        threads: CPU threads of training.
        force: Names of the steps to make again although they are there; `*` = all.
        pins: {step name: artifact} to use as they are, whatever their key (`--from`).
    """

    workspace: Path
    data_roots: tuple[Path, ...]
    recipe_dir: Path | None
    console: Console
    threads: int
    force: frozenset[str] = frozenset()
    pins: Mapping[str, Artifact] = field(default_factory=dict)


@dataclass(frozen=True)
class Keyed:
    """A step with everything that its key hashes."""

    step: Step
    material: Mapping[str, Any]

    @property
    def key(self) -> str:
        """SHA-256 of the canonical JSON of the material, hex."""
        return hashlib.sha256(canonical(self.material)).hexdigest()


def prepare(step: Step, settings: Settings) -> Step:
    """A step with what only this machine can tell: the source files' digest, the checkpoint's hash.

    Raises:
        RecipeError: A data set or checkpoint is not where it is looked for.
    """
    params = step.params
    if step.name in settings.pins:
        return step
    if isinstance(params, DataParams):
        from edgekd.stages import data

        return replace(step, params=data.locate(params, settings.data_roots))
    if isinstance(params, TeacherParams) and params.checkpoint is not None:
        path = find_checkpoint(params.checkpoint, settings.recipe_dir, settings.data_roots)
        update = {"checkpoint": path.name, "checkpoint_sha256": sha256_file(path)}
        return replace(step, params=params.model_copy(update=update))
    return step


def keyed(step: Step, inputs: Mapping[str, Artifact], settings: Settings) -> Keyed:
    """The key material of a step: parameters, input digests, versions, and what of the machine changes the result."""
    material: dict[str, Any] = {
        "stage": step.stage,
        "version": registry.stage_version(step.stage),
        "params": _hashed(step.params),
        "inputs": {role: inputs[name].digest for role, name in step.inputs.items()},
    }
    if step.plugin is not None:
        group, name = step.plugin
        material["plugin"] = {"group": group, "name": name, "version": registry.find(group, name).version}
    if fit_of(step.params) is not None:
        context = context_of(step.params, settings)
        material["environment"] = {"device": context.device, "precision": context.precision}
    if isinstance(step.params, BenchParams):
        from edgekd.stages.bench import fingerprint

        material["environment"] = fingerprint(step.params)
    return Keyed(step, material)


def stated(step: Step, made: Artifact) -> dict[str, Any]:
    """Key material of a step as far as the recipe says it, in the form of an artifact that is to be compared with it.

    What only a prepared step knows (the bytes of its sources) and the machine is taken from the artifact.
    """
    old: Mapping[str, Any] = made.manifest["params"]
    params = _hashed(step.params)
    for name in ("sources", "layout", "checkpoint_sha256"):
        if name in old:
            params[name] = old[name]
    if old.get("checkpoint_sha256"):
        params.pop("checkpoint", None)
    if old.get("sources"):
        params["args"].pop("path", None)
    return {**{k: made.manifest.get(k) for k in ("version", "plugin", "environment")}, "params": params, "inputs": {}}


def context_of(params: Params, settings: Settings) -> RunContext:
    """How a stage runs here: device and precision resolved for a training step. `resume` is set once there is one."""
    context = RunContext(
        settings.data_roots, settings.recipe_dir, settings.workspace, settings.console, threads=settings.threads
    )
    fit = fit_of(params)
    if fit is None:
        return context
    resolved = resolve(fit)
    return replace(context, device=resolved.device, precision=resolved.precision)


def fit_of(params: Params) -> Fit | None:
    """The fit section of a training step, else None."""
    return params.fit if isinstance(params, TeacherParams | StudentParams) else None


def _hashed(params: Params) -> dict[str, Any]:
    """Parameters as they are hashed: no path, and `auto` and a named device that mean the same give the same key."""
    values = params.model_dump(mode="json")
    for name in ("device", "precision"):
        if isinstance(values.get("fit"), dict):
            values["fit"].pop(name)
    values.pop("expect_top1", None)  # a check of the result, not an input of it
    if values.get("checkpoint_sha256"):
        values.pop("checkpoint")  # its bytes count, not its name
    if values.get("sources"):
        values["args"] = {k: v for k, v in values["args"].items() if k != "path"}  # likewise
    return values
