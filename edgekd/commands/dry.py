"""`--dry-run`: what would run, what is cached, and about how long it would take."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from edgekd import registry
from edgekd.artifact import Artifact
from edgekd.commands import output
from edgekd.data.base import DataSource
from edgekd.keys import Settings
from edgekd.params import DataParams, StudentParams, TeacherParams
from edgekd.pipeline import Outcome
from edgekd.store import Store

OTHERS = {"data": 30.0, "graph": 30.0, "quantize": 20.0, "export": 1.0}  # seconds, seen for CIFAR-10 on 2 cores
BENCH_SECONDS = {"smoke": 6.0, "quick": 20.0}


@dataclass(frozen=True)
class Shape:
    """What of the data set an estimate rests on."""

    train: int
    classes: int
    channels: int
    size: tuple[int, int]


def print_plan(outcomes: Sequence[Outcome], settings: Settings, json: bool) -> None:
    """Print the plan as a table or JSON; nothing is run."""
    estimates = {o.step.name: _estimate(o, outcomes, settings) for o in outcomes}
    known = [value for value in estimates.values() if value is not None]
    if json:
        steps = [
            {
                "step": o.step.name,
                "state": o.state,
                "why": o.why,
                "artifact": o.artifact.id if o.artifact else None,
                "estimated_s": estimates[o.step.name],
            }
            for o in outcomes
        ]
        output.print_json(
            {"dry_run": True, "steps": steps, "estimated_s": sum(known), "complete": len(known) == len(estimates)}
        )
        return
    rows = [(o.step.name, o.state, _time(estimates[o.step.name]), o.why) for o in outcomes]
    output.print_table(("step", "", "about", "why"), rows, right=("about",))
    unknown = "" if len(known) == len(estimates) else " + what cannot be known before the data is decoded"
    output.say(f"in all: about {_time(sum(known))}{unknown}; an estimate, within a factor of 2 for 32x32 images")
    output.next_command("the same line without --dry-run")


def _estimate(outcome: Outcome, outcomes: Sequence[Outcome], settings: Settings) -> float | None:
    step = outcome.step
    if outcome.artifact is not None:
        return 0.0
    if step.stage == "bench":
        return BENCH_SECONDS[step.params.profile]  # type: ignore[attr-defined]
    if not isinstance(step.params, TeacherParams | StudentParams):
        return OTHERS.get(step.stage, 1.0)
    if step.params.fit is None:
        return OTHERS["data"]
    data, source = next((o, o.step.params) for o in outcomes if isinstance(o.step.params, DataParams))
    shape = _shape(source, data.artifact)
    if shape is None:
        return None
    images = step.params.fit.epochs * (step.params.roles.train or shape.train - step.params.roles.val)
    teacher = _teacher(step.params, outcomes)
    same = [a for a in Store(settings.workspace).of(step.name) if _alike(a, step.params, teacher, source)]
    if not same:
        return _computed(step.params.model, teacher, shape, images, settings)
    newest = max(same, key=lambda artifact: str(artifact.manifest["sealed_at"]))
    return images / float(newest.metrics["images_per_second"])


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


def _teacher(params: TeacherParams | StudentParams, outcomes: Sequence[Outcome]) -> str | None:
    """The network that looks on while a student is trained."""
    teachers = (o.step.params.model for o in outcomes if isinstance(o.step.params, TeacherParams))
    return next(teachers, None) if isinstance(params, StudentParams) else None


def _alike(artifact: Artifact, params: TeacherParams | StudentParams, teacher: str | None, data: DataParams) -> bool:
    """Whether a sealed training took as long for an image: the same networks, method and kind of images."""
    old: Mapping[str, Any] = artifact.manifest["params"]
    recipe: Mapping[str, Any] = artifact.manifest["recipe"]
    use = params.distill.use if isinstance(params, StudentParams) else None
    return (
        bool(artifact.metrics.get("images_per_second"))
        and old["model"] == params.model
        and (old.get("distill") or {}).get("use") == use
        and (teacher is None or (recipe["teacher"] or {}).get("model") == teacher)
        and (recipe["data"]["use"], recipe["data"]["size"]) == (data.use, data.size)
    )


def _computed(model: str, teacher: str | None, shape: Shape, images: int, settings: Settings) -> float:
    from edgekd.fit import estimate

    def cost(network: str) -> int:
        return estimate.macs(network, shape.classes, shape.channels, shape.size)

    looking_on = cost(teacher) if teacher is not None else 0
    return estimate.seconds(cost(model), looking_on, images, estimate.convolution_rate(settings.threads))


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
