"""`--dry-run`: what would run, what is cached, and about how long it would take."""

from __future__ import annotations

import json as jsonlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from edgekd import registry
from edgekd.artifact import Artifact
from edgekd.commands import output
from edgekd.data.base import DataSource
from edgekd.keys import Settings
from edgekd.models import catalogue
from edgekd.params import DataParams, StudentParams, TeacherParams, ViewsParams
from edgekd.pipeline import Outcome
from edgekd.store import Store, age

# seconds, seen for CIFAR-10 on 2 cores
OTHERS = {"data": 30.0, "graph": 30.0, "adopt": 30.0, "quantize": 20.0, "export": 1.0}
Trained = TeacherParams | StudentParams | ViewsParams
BENCH_SECONDS = {"smoke": 6.0, "quick": 20.0, "mlperf": 670.0}


@dataclass(frozen=True)
class Shape:
    """What of the data set an estimate rests on."""

    train: int
    classes: int
    channels: int
    size: tuple[int, int]


def print_plan(outcomes: Sequence[Outcome], settings: Settings, json: bool) -> None:
    """Print the plan as a table or JSON; nothing is run."""
    estimates = {o.step.name: estimate_of(o, outcomes, settings) for o in outcomes}
    known = [value for value in estimates.values() if value is not None]
    disk = {o.step.name: size for o in outcomes if (size := _disk(o, outcomes)) is not None}
    if json:
        steps = [
            {
                "step": o.step.name,
                "state": o.state,
                "why": o.why,
                "artifact": o.artifact.id if o.artifact else None,
                "estimated_s": estimates[o.step.name],
                **({"disk_bytes": disk[o.step.name]} if o.step.name in disk else {}),
            }
            for o in outcomes
        ]
        output.print_json(
            {"dry_run": True, "steps": steps, "estimated_s": sum(known), "complete": len(known) == len(estimates)}
        )
        return
    rows = [(o.step.name, o.state, shown_time(estimates[o.step.name]), o.why) for o in outcomes]
    output.print_table(("step", "", "about", "why"), rows, right=("about",))
    for o in outcomes:
        if o.step.kind == "quantized" and o.step.plugin is not None:
            output.say(f"{o.step.name}: by quantizer {o.step.plugin[1]}")
    for name, size in disk.items():
        output.say(f"{name}: {size / 1e9:.2g} GB on disk; {_free(settings.workspace) / 1e9:.2g} GB are free there")
    unknown = "" if len(known) == len(estimates) else " + what cannot be known before the data is decoded"
    output.say(f"in all: about {shown_time(sum(known))}{unknown}; an estimate, within a factor of 2 for 32x32 images")
    output.next_command("the same line without --dry-run")


def estimate_of(outcome: Outcome, outcomes: Sequence[Outcome], settings: Settings) -> float | None:
    """About how many seconds a step will take, 0 where it is made; None: not known before the data are decoded."""
    """About how many seconds a step will take, 0 where it is made; None: not known before the data are decoded."""
    step = outcome.step
    if outcome.artifact is not None:
        return 0.0
    if step.stage == "bench":
        return BENCH_SECONDS[step.params.profile]  # type: ignore[attr-defined]
    if not isinstance(step.params, TeacherParams | StudentParams | ViewsParams):
        return OTHERS.get(step.stage, 1.0)
    if step.params.fit is None:
        return OTHERS["data"]
    source, shape = _source(outcomes)
    if shape is None:
        return None
    images = step.params.fit.epochs * (step.params.roles.train or shape.train - step.params.roles.val)
    teacher = _teacher(step.params, outcomes)
    same = [a for a in Store(settings.workspace).of(step.name) if _alike(a, step.params, teacher, source)]
    if not same:
        return _computed(_model(step.params), teacher, shape, images, settings)
    newest = max(same, key=age)
    return images / float(newest.metrics["images_per_second"])


def _disk(outcome: Outcome, outcomes: Sequence[Outcome]) -> int | None:
    """Bytes that the step needs on disk, where it is to be made and they are many."""
    params = outcome.step.params
    if outcome.artifact is not None or not isinstance(params, ViewsParams):
        return None
    _, shape = _source(outcomes)
    if shape is None:
        return None
    from edgekd.fit import cached

    images = params.roles.train or shape.train - params.roles.val
    shown = (shape.channels, *shape.size)
    teacher = str(_teacher(params, outcomes))
    return params.views * images * cached.record_bytes(teacher, shape.classes, shown, params.taps, params.reductions)


def _free(workspace: Path) -> int:
    folder = workspace.resolve()
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.is_dir())).free


def _source(outcomes: Sequence[Outcome]) -> tuple[DataParams, Shape | None]:
    data, source = next((o, o.step.params) for o in outcomes if isinstance(o.step.params, DataParams))
    return source, _shape(source, data.artifact)


def _shape(params: DataParams, data: Artifact | None) -> Shape | None:
    """Of the decoded data, else what the source's kind knows beforehand."""
    if data is not None:
        facts = jsonlib.loads((data.path / "data.json").read_text(encoding="utf-8"))
        size = (facts["height"], facts["width"])
        return Shape(facts["splits"]["train"], len(facts["classes"]), facts["channels"], size)
    expected = cast("DataSource", registry.construct("data", params.use, params.args)).expected
    if expected is None:
        return None
    size = (params.size, params.size) if params.size is not None else (expected.height, expected.width)
    return Shape(expected.train, expected.classes, expected.channels, size)


def _model(params: Trained) -> str | None:
    """The network that is trained."""
    return None if isinstance(params, ViewsParams) else params.model


def _teacher(params: Trained, outcomes: Sequence[Outcome]) -> str | None:
    """The network that looks on while a student is trained, or that answers the views."""
    teachers = (o.step.params.model for o in outcomes if isinstance(o.step.params, TeacherParams))
    live = isinstance(params, StudentParams) and params.distill.cached_views is None
    return next(teachers, None) if live or isinstance(params, ViewsParams) else None


def _alike(artifact: Artifact, params: Trained, teacher: str | None, data: DataParams) -> bool:
    """Whether a sealed training took as long for an image: the same networks, method and kind of images."""
    old: Mapping[str, Any] = artifact.manifest.get("params", {})
    recipe: Mapping[str, Any] = artifact.manifest.get("recipe", {})
    made_from: Mapping[str, Any] = recipe.get("data", {})
    distill: Mapping[str, Any] = params.distill.model_dump() if isinstance(params, StudentParams) else {}
    before: Mapping[str, Any] = old.get("distill") or {}
    return (
        bool(artifact.metrics.get("images_per_second"))
        and old.get("model") == _model(params)
        and before.get("use") == distill.get("use")
        and ("cached_views" in before) == ("cached_views" in distill)
        and (teacher is None or (recipe.get("teacher") or {}).get("model") == teacher)
        and (made_from.get("use"), made_from.get("size")) == (data.use, data.size)
    )


def _computed(model: str | None, teacher: str | None, shape: Shape, images: int, settings: Settings) -> float:
    from edgekd.fit import estimate

    def cost(network: str | None) -> int:
        if network is None or catalogue.is_foreign(network):
            return 0
        return estimate.macs(network, shape.classes, shape.channels, shape.size)

    def measured(network: str | None, training: bool) -> float:
        if network is None or not catalogue.is_foreign(network):
            return 0.0
        return estimate.measured(network, shape.classes, shape.channels, shape.size, settings.threads, training)

    counted = estimate.seconds(cost(model), cost(teacher), images, estimate.convolution_rate(settings.threads))
    return counted + images * (measured(model, True) + measured(teacher, False))


def shown_time(seconds: float | None) -> str:
    """Seconds as people read them."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
