"""What a step's key hashes: parameters, input digests, versions, and what of this machine changes the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekd import registry
from edgekd.artifact import Artifact, material_key, sha256_file
from edgekd.console import Console
from edgekd.data.checkpoint_file import find_checkpoint
from edgekd.fit.distributed import ALONE, Group
from edgekd.fit.resolve import resolve
from edgekd.models import published
from edgekd.params import (
    AdoptParams,
    BenchParams,
    DataParams,
    ExportParams,
    Params,
    QatParams,
    QuantizeParams,
    StudentParams,
    TeacherParams,
    ViewsParams,
)
from edgekd.plan import Step
from edgekd.recipe import Fit
from edgekd.stages import joint
from edgekd.stages.base import RunContext
from edgekd.targets import FLOAT_BIASES
from edgekd.tools import place as tools
from edgekd.validation import QAT_STARTS

FILES = ("checkpoint", "weights", "onnx")  # parameters that name a file; beside each stands `<name>_sha256`


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
        group: The processes that train together.
        weight_caches: Folders in which torch and Hugging Face keep weights that were fetched before.
    """

    workspace: Path
    data_roots: tuple[Path, ...]
    recipe_dir: Path | None
    console: Console
    threads: int
    force: frozenset[str] = frozenset()
    pins: Mapping[str, Artifact] = field(default_factory=dict)
    weight_caches: tuple[Path, ...] = ()
    group: Group = ALONE


@dataclass(frozen=True)
class Keyed:
    """A step with everything that its key hashes."""

    step: Step
    material: Mapping[str, Any]

    def in_processes(self, n: int) -> Keyed:
        """The same step, trained by another number of processes."""
        return replace(self, material={**self.material, "environment": _shared(self.material["environment"], n)})

    @property
    def key(self) -> str:
        """SHA-256 of the canonical JSON of the material, hex."""
        return material_key(self.material)


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

        return replace(step, params=data.locate(params, _roots(params, settings)))
    if isinstance(params, TeacherParams) and params.checkpoint is not None:
        path = find_checkpoint(params.checkpoint, settings.recipe_dir, settings.data_roots, f"{params.role}.checkpoint")
        update = {"checkpoint": str(path), "checkpoint_sha256": sha256_file(path)}
        return replace(step, params=params.model_copy(update=update))
    if isinstance(params, TeacherParams) and params.weights is not None:
        path = published.find(
            params.model, params.weights, settings.recipe_dir, settings.data_roots, settings.weight_caches
        )
        update = {"weights": str(path), "weights_sha256": sha256_file(path)}
        return replace(step, params=params.model_copy(update=update))
    if isinstance(params, AdoptParams):
        from edgekd.onnximport import read

        path = find_checkpoint(params.onnx, settings.recipe_dir, settings.data_roots, "student.onnx")
        update = {"onnx": str(path), "onnx_sha256": read.digest(path)}
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
        if isinstance(
            step.params, QatParams
        ):  # where it rounds, and its first ranges, are what that quantizer's file says
            starts = registry.find("quantizers", QAT_STARTS)
            material["plugin"]["starts"] = {"name": starts.name, "version": starts.version}
        if isinstance(step.params, StudentParams | QuantizeParams):
            own = step.params.args if isinstance(step.params, QuantizeParams) else step.params.distill.args
            members = registry.members(group, name, own)
            if members:
                versions = [{"name": use, "version": registry.find(group, use).version} for use, _ in members]
                material["plugin"]["members"] = versions
    if isinstance(step.params, QuantizeParams) and step.params.scheme in FLOAT_BIASES:
        material["plugin"]["evaluated"] = "biases in float"
    if isinstance(step.params, ExportParams) and step.params.tool is not None:
        material["plugin"]["tool"] = tools.fingerprint(step.params.tool)
    if fit_of(step.params) is not None:
        context = context_of(step.params, settings)
        place = {"device": context.device, "precision": context.precision}
        material["environment"] = _shared(place, settings.group.world if step.stage in joint.PARAMS else 1)
    if isinstance(step.params, BenchParams):
        from edgekd.stages.bench import fingerprint

        material["environment"] = fingerprint(step.params)
    return Keyed(step, material)


def stated(step: Step, made: Artifact) -> dict[str, Any]:
    """Key material of a step as far as the recipe says it, in the form of an artifact that is to be compared with it.

    What only a prepared step knows (the bytes of its sources) and the machine is taken from the artifact.
    """
    old: Mapping[str, Any] = made.manifest.get("params", {})
    params = _hashed(step.params)
    # artifacts of the first version carry `expect_top1`, which is no input
    params.update({name: old[name] for name in ("sources", "layout", "expect_top1") if name in old})
    for name in FILES:
        digest = old.get(f"{name}_sha256")
        if digest and params.pop(name, None):
            params[f"{name}_sha256"] = digest
    if old.get("sources"):
        params["args"].pop("path", None)
    return {**{k: made.manifest.get(k) for k in ("version", "plugin", "environment")}, "params": params, "inputs": {}}


def context_of(params: Params, settings: Settings) -> RunContext:
    """How a stage runs here: device and precision resolved for a training step. `resume` is set once there is one."""
    context = RunContext(
        _roots(params, settings),
        settings.recipe_dir,
        settings.workspace,
        settings.console,
        threads=settings.threads,
        group=settings.group,
    )
    fit = fit_of(params)
    if fit is None:
        return context
    resolved = resolve(fit)
    return replace(context, device=resolved.device, precision=resolved.precision)


def _roots(params: Params, settings: Settings) -> tuple[Path, ...]:
    """Where a step's files are looked up: a data set that has a path also beside the recipe, and there first."""
    if settings.recipe_dir is None or not (isinstance(params, DataParams) and "path" in params.args):
        return settings.data_roots
    return (settings.recipe_dir, *settings.data_roots)


def fit_of(params: Params) -> Fit | None:
    """The fit section of a step that runs a network as training does, else None."""
    return params.fit if isinstance(params, TeacherParams | StudentParams | ViewsParams) else None


def _shared(environment: Mapping[str, Any], processes: int) -> dict[str, Any]:
    """The environment of a training; of one process it says nothing of their number."""
    return {**environment, "processes": processes} if processes > 1 else dict(environment)


def _hashed(params: Params) -> dict[str, Any]:
    """Parameters as they are hashed: no path, and `auto` and a named device that mean the same give the same key."""
    values = params.model_dump(mode="json")
    for name in ("device", "precision"):
        if isinstance(values.get("fit"), dict):
            values["fit"].pop(name)
        if isinstance(params, ViewsParams):
            values.pop(name)
    values.pop("expect_top1", None)  # a check of the result, not an input of it
    values.pop("board", None)  # what the user calls it: what it is stands in the fingerprint
    for name in FILES:
        if values.get(f"{name}_sha256"):
            values.pop(name)  # its bytes count, not its name
    if values.get("sources"):
        values["args"] = {k: v for k, v in values["args"].items() if k != "path"}  # likewise
    return values
