"""Estimates of `--dry-run`: known on an empty workspace, taken from the newest training that was alike."""

import json

import pytest

from edgekd import recipe as recipes
from edgekd.artifact import Artifact
from edgekd.commands import dry
from edgekd.console import Console
from edgekd.data import cifar10, digits
from edgekd.fit import estimate
from edgekd.keys import Settings
from edgekd.pipeline import Outcome
from edgekd.plan import plan
from edgekd.store import Store

RECIPE = {
    "name": "dry",
    "data": {"use": "digits"},
    "teacher": {"model": "resnet14", "fit": {"epochs": 2}},
    "student": {"model": "resnet8", "fit": {"epochs": 10}},
    "distill": {"use": "kd"},
}


def estimates(workspace, capsys, *overrides):
    """{step: seconds} of a plan of which nothing is made."""
    steps = plan(recipes.from_dict(RECIPE, "dry", overrides), until="student")
    outcomes = [Outcome(step, "to make", "not made before") for step in steps]
    dry.print_plan(outcomes, Settings(workspace, (), None, Console(quiet=True), 1), json=True)
    document = json.loads(capsys.readouterr().out)
    return {step["step"]: step["estimated_s"] for step in document["steps"]}, document["complete"]


def trained(*, speed, sealed_at, teacher="resnet14", data="digits", student="resnet8"):
    manifest = {
        "params": {"model": student, "distill": {"use": "kd", "args": {}}, "fit": {}},
        "recipe": {"teacher": {"model": teacher}, "data": {"use": data, "size": None}},
        "metrics": {"images_per_second": speed},
        "sealed_at": sealed_at,
    }
    return Artifact(None, manifest)


def test_a_fresh_workspace_knows_the_time_of_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(estimate, "convolution_rate", lambda threads: 1e11)
    found, complete = estimates(tmp_path, capsys)
    assert complete
    assert found["student"] > found["teacher"] > 0
    larger, _ = estimates(tmp_path, capsys, "data.size=16")
    assert larger["student"] > 3 * found["student"]
    fewer, _ = estimates(tmp_path, capsys, "data.train=719")
    assert fewer["student"] == pytest.approx(found["student"] / 2)


def test_networks_of_other_packages_are_run_to_be_timed(tmp_path, capsys, monkeypatch):
    name = "torchvision:shufflenet_v2_x0_5"
    assert estimate.measured(name, 10, 1, (8, 8), 1, True) > 0
    monkeypatch.setattr(estimate, "convolution_rate", lambda threads: 1e11)
    monkeypatch.setattr(estimate, "measured", lambda *given: 0.5 if given == (name, 10, 1, (8, 8), 1, True) else 0.25)
    ours, _ = estimates(tmp_path, capsys)
    student, complete = estimates(tmp_path, capsys, f"student.model={name}")
    assert complete and student["teacher"] == ours["teacher"]
    assert 10 * 1438 * 0.5 < student["student"] < 10 * 1438 * 0.5 + ours["student"]
    both, _ = estimates(tmp_path, capsys, f"student.model={name}", f"teacher.model={name}")
    assert both["teacher"] == 2 * 1438 * 0.5
    assert both["student"] == 10 * 1438 * (0.5 + 0.25)


def test_the_newest_like_training_counts(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(estimate, "convolution_rate", lambda threads: 1e11)
    old = trained(speed=100.0, sealed_at="2026-01-01T00:00:00+00:00")
    new = trained(speed=200.0, sealed_at="2026-01-02T00:00:00+00:00")
    later = "2026-01-03T00:00:00+00:00"
    other = [
        trained(speed=1.0, sealed_at=later, teacher="resnet56"),
        trained(speed=2.0, sealed_at=later, data="cifar10"),
        trained(speed=3.0, sealed_at=later, student="resnet20"),
    ]
    monkeypatch.setattr(Store, "of", lambda self, step: iter([new, *other, old] if step == "student" else []))
    found, _ = estimates(tmp_path, capsys)
    assert found["student"] == 10 * 1438 / 200


def test_digits_are_as_many_as_expected():
    source = digits.Digits()
    decoded = source.decode(source.locate([]), None, None, Console(quiet=True))
    images = {split: part[0].shape for split, part in decoded.splits.items()}
    shape = (source.expected.height, source.expected.width, source.expected.channels)
    assert images == {"train": (source.expected.train, *shape), "test": (source.expected.test, *shape)}
    assert len(decoded.classes) == source.expected.classes


def test_cifar10_says_its_shape():
    expected = cifar10.CIFAR10().expected
    assert (expected.train, expected.test, expected.classes) == (50_000, 10_000, 10)
    assert (expected.channels, expected.height, expected.width) == (3, 32, 32)
