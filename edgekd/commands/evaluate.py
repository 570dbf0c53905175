"""`edgekd eval`: what an artifact's stored answers are worth; nothing is run and test is not touched again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd import predictions
from edgekd.artifact import Artifact
from edgekd.commands import current, output
from edgekd.data.roles import read_info
from edgekd.errors import CheckFailed, UsageError
from edgekd.report import evaluated
from edgekd.report.folder import Answers, Folder
from edgekd.store import Store


def evaluate(
    reference: str | None,
    min_top1: float | None,
    against: str | None,
    max_drop: float | None,
    workspace: Path,
    json: bool,
) -> None:
    """Print top-1, per-class recall and the paired difference; check the bounds given.

    Raises:
        UsageError: The artifact has no predictions, `--max-drop` has nothing to compare with, or the two artifacts did
            not answer the same images.
        CheckFailed: A bound is not met.
    """
    if max_drop is not None and against is None:
        raise UsageError(
            "--max-drop",
            "says no baseline",
            "--against ARTIFACT",
            "edgekd eval quantized/u8s8 --against student --max-drop 1",
        )
    facts = _facts(workspace, reference, against)
    missed = _missed(facts, min_top1, max_drop)
    if json:
        if missed is not None:
            output.fail(missed, facts)
        output.print_json(facts)
        return
    _print(facts)
    if missed is not None:
        raise missed
    output.next_command(f"edgekd report{current.option(workspace)}")


def _facts(workspace: Path, reference: str | None, against: str | None) -> dict[str, Any]:
    artifact = _with_predictions(workspace, reference)
    answers = _test(artifact)
    facts: dict[str, Any] = {
        "artifact": artifact.id,
        **predictions.summarize(predictions.load(artifact.path)),
        "recall": _recall(answers, _classes(workspace, artifact)),
    }
    if against is not None:
        baseline = _with_predictions(workspace, against)
        facts["against"] = _paired(baseline.id, _test(baseline), answers)
    return facts


def _missed(facts: dict[str, Any], min_top1: float | None, max_drop: float | None) -> CheckFailed | None:
    if min_top1 is not None and facts["top1_percent"] < min_top1:
        return CheckFailed(facts["artifact"], f"top-1 {facts['top1_percent']:.2f} %", f"at least {min_top1} %")
    if max_drop is not None and facts["against"]["drop_pp"] > max_drop:
        return CheckFailed(
            facts["artifact"],
            f"{facts['against']['drop_pp']:.2f} points below {facts['against']['artifact']}",
            f"at most {max_drop}",
        )
    return None


def _test(artifact: Artifact) -> Answers:
    answers = Folder(artifact).answers()
    if answers is None:
        raise UsageError(artifact.id, "holds no answers on test images", "an artifact that was evaluated on test")
    return answers


def _with_predictions(workspace: Path, reference: str | None) -> Artifact:
    if reference is not None:
        artifact = current.resolve(workspace, reference)
        if not (artifact.path / predictions.FILE).is_file():
            raise UsageError(
                artifact.id,
                "holds no predictions",
                "a teacher, student, graph, quantized or bench artifact",
                f"edgekd artifacts ls{current.option(workspace)}",
            )
        return artifact
    run = current.require(workspace, "a finished run, or the name of an artifact")
    found = [a for a in current.artifacts(workspace, run).values() if (a.path / predictions.FILE).is_file()]
    if not found:
        raise UsageError(
            f"workspace {workspace}",
            "the current run has no predictions yet",
            "a trained teacher or student",
            f"edgekd run{current.option(workspace)}",
        )
    return found[-1]


def _classes(workspace: Path, artifact: Artifact) -> list[str]:
    store = Store(workspace)
    source = artifact
    while "data" not in source.inputs and source.inputs:
        source = store.resolve(next(iter(source.inputs.values())))
    data = store.resolve(source.inputs["data"])
    return list(read_info(data.path)["classes"])


def _recall(answers: Answers, classes: list[str]) -> list[dict[str, Any]]:
    found = evaluated.recall(evaluated.confusion(answers), classes)
    return [
        {"class": r.name, "recall_percent": r.percent, "low_percent": r.low, "high_percent": r.high, "n": r.n}
        for r in found
    ]


def _paired(name: str, before: Answers, after: Answers) -> dict[str, Any]:
    before, after = before.shared(after)
    expected = "two artifacts of one data set"
    if not len(before.row):
        raise UsageError("--against", "shares no test image with the artifact", expected)
    if not before.same_images(after):
        other = int((before.label != after.label).sum())
        raise UsageError(
            f"--against {name}", f"{other} of {len(before.row)} shared test rows have another label", expected
        )
    drop = evaluated.drop(name, before, after)
    return {"artifact": drop.against, "n": drop.n, "drop_pp": drop.points, "low_pp": drop.low, "high_pp": drop.high}


def _print(facts: dict[str, Any]) -> None:
    output.say(
        f"{facts['artifact']}: top-1 {facts['top1_percent']:.2f} % "
        f"(95 % interval {facts['top1_low_percent']:.2f} to {facts['top1_high_percent']:.2f}, n={facts['n_test']})"
    )
    if "against" in facts:
        a = facts["against"]
        shown = (
            "no difference shown" if a["low_pp"] <= 0 <= a["high_pp"] else ("worse" if a["drop_pp"] > 0 else "better")
        )
        output.say(
            f"drop against {a['artifact']}: {a['drop_pp']:+.2f} points ({a['low_pp']:+.2f} to {a['high_pp']:+.2f}, same {a['n']} images): {shown}"
        )
    rows = [
        (
            r["class"],
            "-" if r["recall_percent"] is None else f"{r['recall_percent']:.1f}",
            "-" if r["low_percent"] is None else f"{r['low_percent']:.1f} to {r['high_percent']:.1f}",
            r["n"],
        )
        for r in facts["recall"]
    ]
    output.print_table(("class", "recall %", "95 % interval", "n"), rows, right=("recall %", "n"))
