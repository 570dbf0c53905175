from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from edgekd import models, predictions
from edgekd.artifact import Artifact, sha256_file
from edgekd.data.checkpoint_file import find_checkpoint
from edgekd.errors import CheckFailed, IntegrityError, RecipeError
from edgekd.params import Roles, TeacherParams
from edgekd.recipe import Fit
from edgekd.stages import train
from edgekd.stages.base import RunContext

FIT = Fit(epochs=3, batch_size=20, lr=0.05)


def params(**changes: Any) -> TeacherParams:
    return TeacherParams(**({"model": "resnet8", "fit": FIT, "roles": Roles(val=6), "seed": 0} | changes))


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A checkpoint as published ones look, in <root>/pretrained, and the parameters that import it."""
    network = models.build("resnet8_a", classes=3, generator=torch.Generator().manual_seed(3))
    path = tmp_path / "pretrained" / "resnet8.th"
    path.parent.mkdir()
    state = {f"module.{name.replace('classifier.', 'linear.')}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 12.3}, path)
    names = {"model": "resnet8_a", "fit": None, "checkpoint": "resnet8.th", "checkpoint_sha256": sha256_file(path)}
    return path, names


def test_a_fitted_teacher(brightness: Artifact, tmp_path: Path, training_context: RunContext) -> None:
    train.check(params(), training_context)
    outs = []
    for name in ("first", "second"):
        out = tmp_path / name
        out.mkdir()
        context = replace(training_context, resume=tmp_path / f"resume-{name}")
        result = train.run(params(), {"data": brightness}, out, context)
        outs.append([(out / file).read_bytes() for file in result.payload])
    assert outs[0] == outs[1]
    assert result.payload == ("weights.safetensors", "model.json", "predictions.npz")
    facts = json.loads((out / "model.json").read_text(encoding="utf-8"))
    assert facts["classes"] == ["dark", "dim", "bright"]
    assert facts["normalize"] == {"mean": [0.4] * 3, "std": [0.25] * 3}
    assert (facts["height"], facts["width"], facts["channels"]) == (16, 16, 3)
    assert (
        facts["parameters"]
        == result.metrics["parameters"]
        == sum(p.numel() for p in models.build("resnet8", classes=3).parameters())
    )
    history = json.loads((out / "history.json").read_text(encoding="utf-8"))
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert {"lr", "loss", "ce", "train_seconds", "images_per_second", "val_top1_percent"} <= set(history[0])
    answers = predictions.load(out)
    assert (len(answers.of("val").row), len(answers.of("test").row)) == (6, 30)
    assert result.metrics["n_test"] == 30
    assert result.metrics["compiled"] is False
    assert sorted(load_file(out / "weights.safetensors")) == sorted(models.build("resnet8", classes=3).state_dict())


def test_an_imported_teacher(
    brightness: Artifact, published: tuple[Path, dict[str, Any]], tmp_path: Path, training_context: RunContext
) -> None:
    given = params(**published[1], normalize="imagenet", trained_on="train+val", roles=Roles())
    context = replace(training_context, classes=3, channels=3, size=(16, 16))
    train.check(given, context)
    out = tmp_path / "out"
    out.mkdir()
    result = train.run(given, {"data": brightness}, out, context)
    network = models.build("resnet8_a", classes=3, generator=torch.Generator().manual_seed(3))
    found = load_file(out / "weights.safetensors")
    assert all(torch.equal(found[name], value) for name, value in network.state_dict().items())
    assert result.metrics["val_seen_in_training"] is True
    assert json.loads((out / "model.json").read_text(encoding="utf-8"))["normalize"]["mean"] == [0.485, 0.456, 0.406]
    assert not (out / "history.json").exists()


def test_expect_top1(
    brightness: Artifact, published: tuple[Path, dict[str, Any]], tmp_path: Path, training_context: RunContext
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    found = train.run(params(**published[1]), {"data": brightness}, out, training_context).metrics["top1_percent"]
    train.run(params(**published[1], expect_top1=round(found, 2)), {"data": brightness}, out, training_context)
    with pytest.raises(CheckFailed, match="top-1 on test is") as caught:
        train.run(params(**published[1], expect_top1=found + 0.006), {"data": brightness}, out, training_context)
    assert caught.value.exit_code == 3


def test_a_checkpoint_of_other_classes_is_refused_before_work(
    published: tuple[Path, dict[str, Any]], training_context: RunContext
) -> None:
    with pytest.raises(RecipeError, match="classifier") as caught:
        train.check(params(**published[1]), replace(training_context, classes=10, channels=3))
    assert caught.value.exit_code == 2


def test_a_grey_checkpoint_is_checked_with_the_channels_of_the_data(
    training_context: RunContext, tmp_path: Path
) -> None:
    network = models.build("resnet8", classes=3, channels=1)
    torch.save(network.state_dict(), tmp_path / "grey.th")
    given = params(fit=None, checkpoint="grey.th")
    train.check(given, replace(training_context, classes=3, channels=1, size=(28, 28)))
    for unknown in ({"classes": 3}, {"channels": 1}, {}):
        train.check(given, replace(training_context, **unknown))
    with pytest.raises(RecipeError, match="conv1"):
        train.check(given, replace(training_context, classes=3, channels=3, size=(28, 28)))


def test_answers_are_made_with_the_threads_of_the_run(
    brightness: Artifact,
    published: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    training_context: RunContext,
    threads_of_answers: list[int],
) -> None:
    out, before = tmp_path / "out", torch.get_num_threads()
    out.mkdir()
    train.run(params(**published[1]), {"data": brightness}, out, replace(training_context, threads=before + 1))
    assert threads_of_answers == [before + 1]
    assert torch.get_num_threads() == before


def test_a_checkpoint_that_changed_is_refused(
    published: tuple[Path, dict[str, Any]], training_context: RunContext
) -> None:
    path, names = published
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(IntegrityError, match="SHA-256"):
        train.check(params(**names), training_context)


def test_a_checkpoint_that_is_nowhere(training_context: RunContext, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="not found") as caught:
        train.check(params(fit=None, checkpoint="none.th"), replace(training_context, recipe_dir=tmp_path / "r"))
    for place in (tmp_path / "r" / "none.th", tmp_path / "none.th", tmp_path / "pretrained" / "none.th"):
        assert str(place) in str(caught.value)


@pytest.mark.parametrize("place", ["given", "recipe", "root", "pretrained"])
def test_where_a_checkpoint_is_found(tmp_path: Path, place: str) -> None:
    folders = {
        "given": tmp_path,
        "recipe": tmp_path / "recipes",
        "root": tmp_path / "root",
        "pretrained": tmp_path / "root" / "pretrained",
    }
    path = folders[place] / "weights.th"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    name = str(path) if place == "given" else "weights.th"
    assert find_checkpoint(name, tmp_path / "recipes", (tmp_path / "other", tmp_path / "root")) == path


@pytest.mark.parametrize(
    "changes", [{"model": "resnet57"}, {"fit": Fit(schedule="one-cycle", warmup=1)}, {"fit": None}]
)
def test_a_bad_recipe_fails_before_work(training_context: RunContext, changes: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        train.check(params(**changes), training_context)


@pytest.mark.data
@pytest.mark.parametrize(
    ("size", "name", "right"), [(56, "resnet56-4bfd9763.th", 9339), (20, "resnet20-12fca82f.th", 9173)]
)
def test_published_checkpoints_are_found(
    data_root: Path, training_context: RunContext, size: int, name: str, right: int
) -> None:
    given = params(model=f"resnet{size}_a", fit=None, checkpoint=name, expect_top1=right / 100)
    train.check(given, replace(training_context, data_roots=(data_root,), classes=10, channels=3))
