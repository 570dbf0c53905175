from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from method_arguments import ARGUMENTS, SHIPPED
from safetensors.torch import load_file

from edgekd import models, registry
from edgekd.artifact import Artifact
from edgekd.errors import RecipeError
from edgekd.fit import loop
from edgekd.models.grafted import regraft
from edgekd.params import DistillParams, Roles, StudentParams, TeacherParams
from edgekd.recipe import Fit
from edgekd.stages import distill, train
from edgekd.stages.base import RunContext

FIT = Fit(epochs=2, batch_size=20, lr=0.05)
METHODS = sorted(registry.plugins("distillers"))


def given_method(use: str) -> DistillParams:
    return DistillParams(use=use, args=ARGUMENTS.get(use, {}))


def params(use: str, **changes: Any) -> StudentParams:
    given = {"model": "resnet8", "fit": FIT, "distill": given_method(use), "roles": Roles(), "seed": 3}
    return StudentParams(**(given | changes))


@pytest.fixture
def teacher(
    brightness: Artifact, tmp_path: Path, training_context: RunContext, as_artifact: Callable[..., Artifact]
) -> Artifact:
    out = tmp_path / "teacher"
    out.mkdir()
    context = replace(training_context, resume=tmp_path / "teacher-resume")
    given = TeacherParams(model="resnet14", fit=FIT, roles=Roles(), seed=3)
    return as_artifact(out, "teacher", train.run(given, {"data": brightness}, out, context).metrics)


@pytest.mark.parametrize("use", METHODS)
def test_a_student_of_each_method(
    use: str, brightness: Artifact, teacher: Artifact, tmp_path: Path, training_context: RunContext
) -> None:
    out = tmp_path / "student"
    out.mkdir()
    context = replace(training_context, classes=3, teacher_model="resnet14")
    distill.check(params(use), context)
    needs = registry.plugins("distillers")[use].attributes.get("needs_teacher", True)
    inputs = {"data": brightness} | ({"teacher": teacher} if needs else {})
    before = sorted((path.name, path.read_bytes()) for path in teacher.path.iterdir())
    result = distill.run(params(use), inputs, out, context)
    assert sorted((path.name, path.read_bytes()) for path in teacher.path.iterdir()) == before
    network = models.build("resnet8", classes=3)
    said = json.loads((out / "model.json").read_text(encoding="utf-8"))
    network = regraft(network, said["graft"]) if use in SHIPPED else network
    assert sorted(load_file(out / "weights.safetensors")) == sorted(network.state_dict())
    assert result.metrics["parameters"] == said["parameters"] == sum(p.numel() for p in network.parameters())
    assert ("teacher_agreement_percent" in result.metrics) == needs
    assert {"top1_percent", "macs", "images_per_second", "compiled", "train_seconds", "epochs"} <= set(result.metrics)
    assert len(json.loads((out / "history.json").read_text(encoding="utf-8"))) == 2
    json.dumps(result.metrics, allow_nan=False)


@pytest.mark.parametrize(("use", "epochs"), [("afd", 2), ("rtk", 1)])  # rtk attends in the first half of the run
def test_attention_is_written(
    use: str, epochs: int, brightness: Artifact, teacher: Artifact, tmp_path: Path, training_context: RunContext
) -> None:
    out = tmp_path / "student"
    out.mkdir()
    distill.run(params(use), {"data": brightness, "teacher": teacher}, out, training_context)
    with np.load(out / "diagnostics.npz", allow_pickle=False) as file:
        assert file["attention"].shape == (3, 6)
        assert file["attention_history"].shape == (epochs, 3, 6)
        assert np.array_equal(file["attention_history"][-1], file["attention"])
        assert len(file["student_taps"]) == 3
        assert len(file["teacher_taps"]) == 6


def test_answers_are_made_with_the_threads_of_the_run(
    brightness: Artifact, tmp_path: Path, training_context: RunContext, threads_of_answers: list[int]
) -> None:
    out, before = tmp_path / "student", torch.get_num_threads()
    out.mkdir()
    distill.run(params("ce"), {"data": brightness}, out, replace(training_context, threads=before + 1))
    assert threads_of_answers == [before + 1]  # the fit's own setting is put back before
    assert torch.get_num_threads() == before


def test_initial_weights_are_the_same_for_every_method(
    brightness: Artifact,
    teacher: Artifact,
    tmp_path: Path,
    training_context: RunContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts: list[dict[str, torch.Tensor]] = []
    first = loop._Run.epoch

    def spy(self: Any, task: Any) -> Any:
        if self.state.epoch == 0:
            starts.append({name: value.clone() for name, value in self.network.state_dict().items()})
        return first(self, task)

    monkeypatch.setattr(loop._Run, "epoch", spy)
    for use in METHODS:
        out = tmp_path / use
        out.mkdir()
        context = replace(training_context, resume=tmp_path / f"resume-{use}")
        distill.run(params(use), {"data": brightness, "teacher": teacher}, out, context)
    assert len(starts) == len(METHODS) >= 4
    for other in starts[1:]:
        assert all(torch.equal(other[name], value) for name, value in starts[0].items())


def test_a_method_that_does_not_fit_the_networks_says_so_before_the_teacher_is_trained(
    training_context: RunContext,
) -> None:
    given = params("hmat")
    known = {"classes": 3, "channels": 3, "teacher_model": "resnet14"}
    distill.check(given, replace(training_context, **known))
    distill.check(given, replace(training_context, size=(16, 16), **known))
    with pytest.raises(RecipeError, match="hmat") as raised:
        distill.check(given, replace(training_context, size=(4, 4), **known))
    assert "channel=false" in raised.value.hint


def test_averaged_weights_and_layers_that_are_shipped_exclude_each_other(training_context: RunContext) -> None:
    fit = FIT.model_copy(update={"ema": 0.9})
    distill.check(params("kd", fit=fit), training_context)
    with pytest.raises(RecipeError, match=r"student\.fit\.ema"):
        distill.check(params("kdfm", fit=fit), training_context)


def test_a_teacher_of_other_classes_is_refused(
    brightness: Artifact, teacher: Artifact, tmp_path: Path, training_context: RunContext
) -> None:
    path = brightness.path / "data.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(facts | {"classes": [*facts["classes"], "fourth"]}), encoding="utf-8")
    with pytest.raises(RecipeError, match="classes") as caught:
        distill.run(params("kd"), {"data": brightness, "teacher": teacher}, tmp_path / "out", training_context)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "given",
    [
        params("kd", model="resnet9"),
        params("no_such_method"),
        params("kd", distill=DistillParams(use="kd", args={"temprature": 4})),
        params("kd", fit=Fit(schedule="one-cycle", warmup=1)),
    ],
)
def test_a_bad_recipe_fails_before_work(given: StudentParams, training_context: RunContext) -> None:
    with pytest.raises(RecipeError):
        distill.check(given, replace(training_context, teacher_model="resnet14"))
