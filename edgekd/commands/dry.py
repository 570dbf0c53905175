"""`--dry-run`: what would run, what is cached, and about how long it would take."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.artifact import Artifact, Store
from edgekd.commands import output
from edgekd.keys import Settings
from edgekd.params import StudentParams, TeacherParams
from edgekd.pipeline import Outcome

OTHERS = {"data": 30.0, "graph": 30.0, "quantize": 20.0, "export": 1.0}  # seconds, seen for CIFAR-10 on 2 cores
BENCH_SECONDS = {"smoke": 6.0, "quick": 20.0}


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
    output.say(f"in all: about {_time(sum(known))}{unknown}; an estimate, right within a factor of 2")
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
    data = next((o.artifact for o in outcomes if o.step.name == "data"), None)
    if data is None:
        return None
    facts = jsonlib.loads((data.path / "data.json").read_text(encoding="utf-8"))
    images = step.params.fit.epochs * (step.params.roles.train or facts["splits"]["train"] - step.params.roles.val)
    seen = _seen(Store(settings.workspace), step.name, step.params)
    return images / seen if seen is not None else _computed(step.params, outcomes, facts, images, settings)


def _seen(store: Store, name: str, params: TeacherParams | StudentParams) -> float | None:
    """Images per second of the newest artifact of the same networks and method in this workspace."""
    same = [a for a in store.of(name) if _alike(a, params) and a.metrics.get("images_per_second")]
    return float(same[-1].metrics["images_per_second"]) if same else None


def _alike(artifact: Artifact, params: TeacherParams | StudentParams) -> bool:
    old: Mapping[str, Any] = artifact.manifest["params"]
    use = params.distill.use if isinstance(params, StudentParams) else None
    return bool(old["model"] == params.model and old.get("distill", {}).get("use") == use and old.get("fit"))


def _computed(
    params: TeacherParams | StudentParams,
    outcomes: Sequence[Outcome],
    facts: Mapping[str, Any],
    images: int,
    settings: Settings,
) -> float:
    from edgekd.fit import estimate

    def cost(model: str) -> int:
        return estimate.macs(model, len(facts["classes"]), facts["channels"], (facts["height"], facts["width"]))

    teacher = next((o.step.params for o in outcomes if isinstance(o.step.params, TeacherParams)), None)
    looking_on = cost(teacher.model) if teacher is not None and isinstance(params, StudentParams) else 0
    return estimate.seconds(cost(params.model), looking_on, images, estimate.matrix_rate(settings.threads))


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
