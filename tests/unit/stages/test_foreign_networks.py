"""Networks of torchvision, and weights to start from, through the stages that train."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekd import keys, models
from edgekd import recipe as recipes
from edgekd.artifact import Artifact, sha256_file
from edgekd.console import Console
from edgekd.errors import IntegrityError, RecipeError
from edgekd.fit import seeding
from edgekd.params import DistillParams, Roles, StudentParams, TeacherParams
from edgekd.pipeline import steps_of
from edgekd.recipe import Fit
from edgekd.stages import distill, evaluate, train
from edgekd.stages.base import RunContext

FIT = Fit(epochs=1, batch_size=20, lr=0.01)
RECIPE: dict[str, Any] = {
    "name": "foreign",
    "data": {"use": "cifar10", "size": 96},
    "teacher": {"model": "torchvision:resnet18", "fit": {"epochs": 1}},
    "student": {"model": "torchvision:mobilenet_v3_small", "fit": {"epochs": 1}},
    "distill": {"use": "kd"},
}


def params(**changes: Any) -> TeacherParams:
    return TeacherParams(**({"model": "resnet8", "fit": FIT, "roles": Roles(), "seed": 0} | changes))


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_torchvision_pair_is_trained_and_read_back(
    brightness: Artifact, tmp_path: Path, training_context: RunContext, as_artifact: Any
) -> None:
    context = replace(training_context, size=(16, 16), teacher_model="torchvision:shufflenet_v2_x0_5")
    teacher = params(model="torchvision:shufflenet_v2_x0_5")
    train.check(teacher, context)
    out = folder(tmp_path / "teacher")
    result = train.run(teacher, {"data": brightness}, out, context)
    made = as_artifact(out, "teacher", result.metrics)
    student = StudentParams(
        model="torchvision:mobilenet_v3_small",
        fit=FIT,
        distill=DistillParams(use="rtk"),
        roles=Roles(),
        seed=0,
    )
    distill.check(student, context)
    outs = []
    for name in ("first", "second"):
        out = folder(tmp_path / name)
        again = replace(context, resume=folder(tmp_path / f"resume-{name}"))
        result = distill.run(student, {"data": brightness, "teacher": made}, out, again)
        outs.append([(out / file).read_bytes() for file in result.payload])
    assert outs[0] == outs[1]
    assert np.isfinite(json.loads((out / "history.json").read_text(encoding="utf-8"))[-1]["rtk"])
    data = evaluate.open_data(brightness, Roles())
    network, model, normal = evaluate.read_network(as_artifact(out, "student", result.metrics), data)
    assert model == "torchvision:mobilenet_v3_small"
    answers = evaluate.answers(network.eval(), data, normal, "cpu", ("test",))
    assert 100 * answers.right.mean() == pytest.approx(result.metrics["top1_percent"])


def test_a_teacher_starts_from_weights_of_other_classes(
    brightness: Artifact, tmp_path: Path, training_context: RunContext, capsys: pytest.CaptureFixture[str]
) -> None:
    source = models.build("resnet8", classes=10, generator=torch.Generator().manual_seed(3))
    path = tmp_path / "w.pt"
    torch.save(source.state_dict(), path)
    context = replace(training_context, console=Console(), size=(16, 16), channels=3, classes=3)
    started = params(fit=Fit(epochs=1, batch_size=20, lr=1e-9), weights="w.pt", weights_sha256=sha256_file(path))
    train.check(started, context)
    out = folder(tmp_path / "out")
    metrics = train.run(started, {"data": brightness}, out, context).metrics
    assert metrics["weights"] == "w.pt" and metrics["classifier_from_weights"] is False
    assert "starts from w.pt, all but its classifier" in capsys.readouterr().err
    data = evaluate.open_data(brightness, Roles())
    fresh = data.build("resnet8", seeding.generator(0, "teacher")).state_dict()
    network, _, _ = evaluate.read_network(Artifact(out, {"step": "teacher"}), data)
    state = network.state_dict()
    assert torch.allclose(state["conv1.weight"], source.state_dict()["conv1.weight"], atol=1e-6)
    assert torch.allclose(state["classifier.weight"], fresh["classifier.weight"], atol=1e-6)


def test_weights_that_changed_since_the_step_was_planned(tmp_path: Path, training_context: RunContext) -> None:
    torch.save(models.build("resnet8", classes=3).state_dict(), tmp_path / "w.pt")
    with pytest.raises(IntegrityError, match=r"teacher\.weights"):
        train.check(params(weights="w.pt", weights_sha256="0" * 64), training_context)


def keyed(tmp_path: Path, weights: str | None) -> str:
    values = {**RECIPE, "teacher": {"model": "resnet8", "fit": {"epochs": 1}, "weights": weights}}
    recipe = recipes.from_dict(values, "r")
    settings = keys.Settings(tmp_path / "ws", (tmp_path,), None, Console(quiet=True), 1)
    step = keys.prepare(next(step for step in steps_of(recipe) if step.name == "teacher"), settings)
    return keys.keyed(replace(step, inputs={}), {}, settings).key


def test_the_key_holds_the_bytes_of_the_weights_and_not_their_place(tmp_path: Path) -> None:
    folder(tmp_path / "pretrained")
    for name, content in (("a.pt", b"1"), ("pretrained/b.pt", b"1"), ("c.pt", b"2")):
        (tmp_path / name).write_bytes(content)
    found = [keyed(tmp_path, name) for name in ("a.pt", str(tmp_path / "a.pt"), "b.pt", "c.pt", None)]
    assert found[0] == found[1] == found[2]
    assert len(set(found)) == 3


def test_without_weights_the_key_is_as_before_they_were_known() -> None:
    assert not {"weights", "weights_sha256"} & set(params().model_dump())
    assert "weights" not in recipes.from_dict(RECIPE, "r").model_dump()["teacher"]


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        ({"weights": "DEFAULT"}, "`weights` beside `fit`"),
        ({"weights": "DEFAULT", "checkpoint": "w.pt"}, "`weights` beside `fit`"),
        ({"weights": "DEFAULT", "fit": {}, "checkpoint": "w.pt"}, "no `checkpoint`"),
        ({"weights": "IMAGENET1K_V7", "fit": {}}, "no weights 'IMAGENET1K_V7'"),
    ],
)
def test_weights_that_a_recipe_cannot_mean(teacher: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        steps_of(recipes.from_dict({**RECIPE, "teacher": {"model": "torchvision:resnet18", **teacher}}, "r"))
