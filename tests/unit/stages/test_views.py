from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgekd import keys, methods, models, registry
from edgekd import recipe as recipes
from edgekd.artifact import Artifact
from edgekd.augment import Drawn, apply
from edgekd.console import Console
from edgekd.errors import RecipeError, StageFailed
from edgekd.fit import cached
from edgekd.params import DistillParams, Roles, StudentParams, TeacherParams, ViewsParams
from edgekd.pipeline import dry_run, run, steps_of
from edgekd.plan import plan
from edgekd.recipe import Fit
from edgekd.stages import distill, evaluate, reserved, train, views
from edgekd.stages.base import RunContext, StageResult
from edgekd.taps import Tapped, reduce, tapped
from tests.tolerances import FOLDED_LOGITS

N, K = 60, 3
FIT = Fit(epochs=1, batch_size=20, lr=0.05)


def params(**changes: Any) -> ViewsParams:
    given = {"views": K, "taps": "block", "reductions": ("energy", "pooled"), "roles": Roles(), "seed": 3}
    return ViewsParams(**(given | changes))


@pytest.fixture
def teacher(
    brightness: Artifact, tmp_path: Path, training_context: RunContext, as_artifact: Callable[..., Artifact]
) -> Artifact:
    out = tmp_path / "teacher"
    out.mkdir()
    context = replace(training_context, resume=tmp_path / "teacher-resume")
    given = TeacherParams(model="resnet14", fit=FIT, roles=Roles(), seed=3)
    return as_artifact(out, "teacher", train.run(given, {"data": brightness}, out, context).metrics)


Make = Callable[..., tuple[Path, StageResult]]


@pytest.fixture
def make(brightness: Artifact, teacher: Artifact, tmp_path: Path, training_context: RunContext) -> Make:
    """Runs the stage as the pipeline does: `out` is empty, `resume` is what an earlier attempt of that name left."""

    def go(name: str = "a", **changes: Any) -> tuple[Path, StageResult]:
        out, resume = tmp_path / f"out-{name}", tmp_path / f"resume-{name}"
        for path in out.iterdir() if out.is_dir() else ():
            path.unlink()
        out.mkdir(exist_ok=True)
        resume.mkdir(exist_ok=True)
        inputs = {"data": brightness, "teacher": teacher}
        return out, views.run(params(**changes), inputs, out, replace(training_context, resume=resume))

    return go


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def test_the_records_are_the_teachers_answers_to_the_views(make: Make, brightness: Artifact, teacher: Artifact) -> None:
    out, result = make()
    data = evaluate.open_data(brightness, Roles())
    network, model, (mean, std) = evaluate.read_network(teacher, data)
    points = models.taps(model, network)
    facts = json.loads((out / cached.FACTS).read_text(encoding="utf-8"))
    drawn = Drawn(tuple(facts["augment"]), **load_file(out / cached.DRAWN))
    shown = apply(data.training(None).images[torch.arange(K * N) % N], drawn)
    names = [f"block.{i}" for i in range(1, 7)]
    with tapped(network.eval(), points, [(name, "map") for name in names], mean, std) as plain, torch.no_grad():
        logits, maps = plain.eval()(shown)
    parts = [reduce(maps[f"{n}:map"], r).flatten(1) for r in ("energy", "pooled") for n in names]  # type: ignore[arg-type]
    expected = torch.cat(parts, dim=1).numpy()
    found = np.load(out / cached.TAPS)
    assert found.dtype == np.float16 and found.shape == (K, N, expected.shape[1])
    assert np.allclose(found.reshape(K * N, -1), expected, rtol=2**-10, atol=1e-5)
    stored = np.load(out / cached.LOGITS)
    assert stored.dtype == np.float32 and stored.shape == (K, N, 3)
    assert np.abs(stored.reshape(K * N, 3) - logits.numpy()).max() < FOLDED_LOGITS * np.ptp(logits.numpy())
    assert facts["augment"] == ["crop2", "flip"] and facts["seed"] == 3 and facts["teacher"] == teacher.digest
    assert set(result.payload) == {path.name for path in out.iterdir()}
    assert result.metrics["file_bytes"] == found.nbytes + stored.nbytes
    json.dumps(result.metrics, allow_nan=False)


def test_the_size_is_known_beforehand(make: Make) -> None:
    for name, given in {"a": {}, "b": {"taps": None, "reductions": ()}, "c": {"taps": "stage"}}.items():
        _, result = make(name, **given)
        p = params(**given)
        size = cached.record_bytes("resnet14", 3, (3, 16, 16), p.taps, p.reductions)
        assert result.metrics["file_bytes"] == size * K * N


def test_equal_parameters_give_equal_bytes_and_another_seed_other_views(make: Make) -> None:
    first = contents(make("a")[0])
    assert contents(make("b")[0]) == first
    other = contents(make("c", seed=4)[0])
    assert all(other[name] != first[name] for name in (cached.TAPS, cached.LOGITS, cached.DRAWN))


def test_without_taps_there_are_logits_alone(make: Make) -> None:
    out, _ = make(taps=None, reductions=())
    assert sorted(path.name for path in out.iterdir()) == sorted((cached.LOGITS, cached.DRAWN, cached.FACTS))
    opened = cached.open_views(out, 0)
    seen = opened.outputs(torch.tensor([0, 5]), torch.tensor([0, 5]), "cpu")
    assert seen.logits.shape == (2, 3) and seen.taps == {}


class Killed:
    """A forward of the teacher that fails at one call of many, and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.calls, self.at, self.whole = 0, at, Tapped.forward
        monkeypatch.setattr(Tapped, "forward", lambda module, images: self.forward(module, images))

    def forward(self, module: Tapped, images: torch.Tensor) -> Any:
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return self.whole(module, images)


def test_a_run_that_was_killed_goes_on(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = contents(make("whole")[0])
    monkeypatch.setattr(views, "KEPT_EVERY", 1)
    killed = Killed(monkeypatch, at=4)  # one forward for the shapes, two batches of 64
    with pytest.raises(KeyboardInterrupt):
        make("cut")
    killed.calls, killed.at = 0, 0
    assert contents(make("cut")[0]) == whole
    assert killed.calls == 2  # the shapes, and the one batch of 180 records that was missing


@pytest.mark.parametrize("name", [cached.TAPS, cached.LOGITS, views.DONE])
@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", None])
def test_damaged_beginnings_are_begun_anew(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, damage: bytes | None
) -> None:
    whole = contents(make("whole")[0])
    monkeypatch.setattr(views, "KEPT_EVERY", 1)
    with pytest.raises(KeyboardInterrupt):
        with monkeypatch.context() as patch:
            Killed(patch, at=4)
            make("cut")
    path = tmp_path / "resume-cut" / name
    path.unlink() if damage is None else path.write_bytes(damage)
    assert contents(make("cut")[0]) == whole


def test_what_is_made_survives_until_it_is_sealed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = contents(make()[0])
    counted = Killed(monkeypatch, at=0)
    assert contents(make()[0]) == whole  # as after a kill while the artifact was hashed
    assert counted.calls == 1


@pytest.mark.parametrize("room", [0, 10_000])  # for nothing, for the logits alone
def test_a_full_disk_is_found_before_the_teacher_runs(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    def full(descriptor: int, size: int) -> None:
        if size > room:
            raise OSError(28, "No space left on device")

    counted = Killed(monkeypatch, at=0)
    monkeypatch.setattr(reserved, "_reserve", full)
    with pytest.raises(StageFailed, match="No space left") as caught:
        make()
    assert caught.value.exit_code == 7
    assert counted.calls == 1  # for the shapes
    assert list((tmp_path / "resume-a").iterdir()) == []  # nothing keeps the disk full


def test_a_value_that_float16_cannot_hold_names_its_tap(make: Make, teacher: Artifact) -> None:
    path = teacher.path / evaluate.WEIGHTS
    weights = load_file(path)
    weights["layer2.0.bn2.weight"] = weights["layer2.0.bn2.weight"] * 3000
    save_file(weights, path)
    with pytest.raises(StageFailed, match=r"tap block\.3:energy") as caught:
        make()
    assert caught.value.exit_code == 7 and "cached_views" in caught.value.hint


def test_a_teacher_without_such_taps_fails_before_work(
    training_context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = replace(training_context, teacher_model="resnet14")
    views.check(params(), context)
    monkeypatch.setattr(models, "taps", lambda *args: {"stage.1": ("layer1", "output")})
    views.check(params(taps="stage"), context)
    with pytest.raises(RecipeError, match=r"distill\.taps: the teacher has no block taps"):
        views.check(params(), context)


CHAIN = {
    "name": "cached",
    "data": {"use": "digits", "train": 100},
    "teacher": {"model": "resnet14", "fit": {"epochs": 1, "lr": 0.1, "device": "cpu", "compile": False}},
    "student": {"model": "resnet8", "fit": {"epochs": 1, "lr": 0.1, "device": "cpu", "compile": False}},
    "distill": {"use": "rtk", "cached_views": 2},
}


def steps(*overrides: str) -> dict[str, Any]:
    return {step.name: step for step in plan(recipes.from_dict(CHAIN, "cached", overrides), until="student")}


def go(workspace: Path, *overrides: str) -> dict[str, Any]:
    recipe = recipes.from_dict(CHAIN, "cached", overrides)
    settings = keys.Settings(workspace, (), None, Console(quiet=True), 1)
    return {o.step.name: o for o in run(recipe, steps_of(recipe, until="student"), settings)}


def test_methods_over_the_same_taps_share_the_views(tmp_path: Path) -> None:
    first = go(tmp_path)
    assert {name: o.state for name, o in first.items()} == dict.fromkeys(
        ("data", "teacher", "views", "student"), "made"
    )
    assert first["student"].artifact.inputs["views"] == first["views"].artifact.id
    assert first["student"].artifact.metrics["views"] == "2 cached views"
    history = json.loads((first["student"].artifact.path / "history.json").read_text(encoding="utf-8"))
    assert [row["views"] for row in history] == ["2 cached views"]
    for override in ("distill.beta=7", "distill.use=afd", "student.fit.lr=0.05", "student.model=resnet14"):
        again = go(tmp_path, override)
        assert (again["views"].state, again["student"].state) == ("reused", "made"), override
    for override in ("distill.use=kd", "distill.cached_views=1", "distill.taps=stage"):
        recipe = recipes.from_dict(CHAIN, "cached", [override])
        settings = keys.Settings(tmp_path, (), None, Console(quiet=True), 1)
        states = {o.step.name: o.state for o in dry_run(steps_of(recipe, until="student"), settings)}
        assert (states["teacher"], states["views"]) == ("reused", "to make"), override


def test_a_live_student_keeps_the_key_that_it_had() -> None:
    live = steps("distill.cached_views=null")
    assert "views" not in live and "views" not in live["student"].inputs
    assert "cached_views" not in keys._hashed(live["student"].params)["distill"]
    assert keys._hashed(steps()["student"].params)["distill"]["cached_views"] == 2


def test_a_named_device_and_auto_are_one_key() -> None:
    hashed = [keys._hashed(steps(f"student.fit.device={device}")["views"].params) for device in ("auto", "cpu")]
    assert hashed[0] == hashed[1]
    assert "device" not in hashed[0] and "precision" not in hashed[0]


@pytest.mark.parametrize(
    "use", sorted(n for n in registry.plugins("distillers") if n != "sum" and methods.stored(n, {}) is None)
)
def test_a_method_that_cannot_be_cached_is_refused(use: str) -> None:
    with pytest.raises(RecipeError, match=r"distill\.cached_views: 2, and distill\.use") as caught:
        steps(f"distill.use={use}")
    assert caught.value.exit_code == 2 and "kd" in caught.value.expected


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many"])
def test_a_number_of_views_is_at_least_one(value: str) -> None:
    with pytest.raises(RecipeError, match="cached_views"):
        recipes.from_dict(CHAIN, "cached", [f"distill.cached_views={value}"])


def test_a_method_that_reads_more_than_it_says_is_refused(
    training_context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = DistillParams(use="rtk", cached_views=2)
    student = StudentParams(model="resnet8", fit=FIT, distill=given, roles=Roles(), seed=3)
    context = replace(training_context, teacher_model="resnet14")
    distill.check(student, context)
    monkeypatch.setattr(methods, "stored", lambda *_: ("block", ("pooled",)))
    with pytest.raises(RecipeError, match=r"reads block\.1:energy of the teacher, which is not stored"):
        distill.check(student, context)
