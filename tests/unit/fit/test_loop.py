from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from method_arguments import SHIPPED
from safetensors.torch import save
from torch import nn

from edgekd import registry
from edgekd.distillers.base import Distiller
from edgekd.errors import StageFailed
from edgekd.fit import batches
from edgekd.fit.batches import TrainingData
from edgekd.fit.evaluate import evaluate
from edgekd.fit.request import FitResult, Side

Fitted = Callable[..., FitResult]
METHODS = sorted(registry.plugins("distillers"))
BF16_LOSS = 5e-3  # relative, of the mean loss of 3 steps at a low rate; 6e-4 seen, one rounding of bfloat16 is 4e-3


def digest(network: nn.Module) -> str:
    state = network.state_dict()
    return hashlib.sha256(save({name: state[name].contiguous() for name in sorted(state)})).hexdigest()


def test_methods_are_found() -> None:
    assert {"ce", "kd", "afd", "rtk"} <= set(METHODS)


@pytest.mark.parametrize("use", METHODS)
def test_two_epochs_of_each_method(fitted: Fitted, make_side: Callable[..., Side], use: str) -> None:
    student, teacher = make_side(1), make_side(2)
    before, keys = digest(teacher.network), list(student.network.state_dict())
    result = fitted(use, student=student, teacher=teacher)
    assert [row["epoch"] for row in result.history] == [1, 2]
    terms = set(result.history[0]) - {"epoch", "lr", "loss", "train_seconds", "images_per_second"}
    assert "ce" in terms or use == "simkd"
    assert result.history[0]["loss"] == pytest.approx(sum(result.history[0][term] for term in terms))
    assert all(math.isfinite(row["loss"]) for row in result.history)
    assert digest(result.network) != digest(make_side(1).network)
    assert list(student.network.state_dict()) == keys
    if use not in SHIPPED:
        assert list(result.network.state_dict()) == keys  # nothing of the distiller is in the student
    assert not result.network.training
    # The teacher: same bytes, running statistics too; no gradients; no hooks on either.
    assert digest(teacher.network) == before
    assert all(p.grad is None for p in teacher.network.parameters())
    for network in (student.network, teacher.network, result.network):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


@pytest.mark.parametrize("use", METHODS)
@pytest.mark.parametrize("settings", [{}, {"ema": 0.9, "optimizer": "adamw", "lr": 1e-3, "schedule": "one-cycle"}])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(
    fitted: Fitted, tmp_path: Path, use: str, settings: dict[str, Any]
) -> None:
    whole = fitted(use, epochs=3, folder=tmp_path / "whole", **settings)

    def stop(network: nn.Module) -> dict[str, float]:
        if len(list((tmp_path / "cut").glob("*.safetensors"))) == 1:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        fitted(use, epochs=3, folder=tmp_path / "cut", validate=stop, **settings)
    resumed = fitted(use, epochs=3, folder=tmp_path / "cut", **settings)
    assert digest(resumed.network) == digest(whole.network)
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in whole.history]
    assert len(resumed.diagnostics) == len(whole.diagnostics)
    for ours, theirs in zip(resumed.diagnostics, whole.diagnostics, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_a_finished_run_is_not_trained_again(fitted: Fitted) -> None:
    first = fitted()
    again = fitted()
    assert digest(again.network) == digest(first.network)
    assert again.history == first.history


def test_training_learns(fitted: Fitted, data: TrainingData) -> None:
    plain = TrainingData(data.images, data.labels, ())
    result = fitted("ce", given=plain, epochs=12, lr=0.05)
    images, rows = plain.images.numpy(), np.arange(len(plain.labels))
    logits = evaluate(result.network, images, rows, (0.5,) * 3, (0.25,) * 3)
    assert (logits.argmax(1) == plain.labels.numpy()).mean() > 0.95
    assert result.history[-1]["loss"] < 0.5 * result.history[0]["loss"]


class Broken(Distiller):
    needs_teacher = False

    def __init__(self, value: float, step: int) -> None:
        super().__init__()
        self.value, self.step = value, step

    def forward(self, student: Any, teacher: Any, target: Any, progress: Any) -> dict[str, torch.Tensor]:
        ce = student.logits.mean()
        return {"ce": ce, "odd": ce * (self.value if progress.step == self.step else 1.0)}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_names_epoch_step_and_term(fitted: Fitted, tmp_path: Path, value: float) -> None:
    with pytest.raises(StageFailed, match=r"loss term 'odd'.*epoch 2, step 2") as caught:
        fitted(distiller=Broken(value, 4), folder=tmp_path / "nan", lr=1e-4)
    assert "lower fit.lr" in caught.value.hint
    assert [path.name for path in (tmp_path / "nan").iterdir()] == ["epoch-000001.safetensors"]


class Probe(Distiller):
    needs_teacher = False

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[torch.Tensor] = []
        self.fractions: list[float] = []
        self.index: list[torch.Tensor] = []

    def forward(self, student: Any, teacher: Any, target: Any, progress: Any) -> dict[str, torch.Tensor]:
        self.targets.append(target)
        self.fractions.append(progress.fraction)
        self.index.append(student.index)
        return {"ce": nn.functional.cross_entropy(student.logits, target)}


def test_label_smoothing_and_progress(fitted: Fitted, data: TrainingData) -> None:
    probe = Probe()
    fitted(distiller=probe, label_smoothing=0.1)
    assert [len(target) for target in probe.targets] == [32, 32, 6] * 2
    assert probe.fractions == pytest.approx([n / 6 for n in range(6)])
    for target, index in zip(probe.targets, probe.index, strict=True):
        assert target.sum(1) == pytest.approx(torch.ones(len(target)).numpy())
        assert torch.equal(target.argmax(1), data.labels[index])
        assert target.max().item() == pytest.approx(0.9 + 0.1 / 4)
    for epoch in (0, 1):
        assert torch.cat(probe.index[3 * epoch : 3 * epoch + 3]).sort().values.tolist() == list(range(70))
    assert not torch.equal(probe.index[0], probe.index[3])


def test_a_last_batch_of_one_image_is_left_out(data: TrainingData) -> None:
    cut = TrainingData(data.images[:65], data.labels[:65], ())
    assert [len(batch.labels) for batch in batches.batches(cut, 32, 0, 0, "cpu")] == [32, 32]
    assert batches.count(65, 32) == 2
    assert batches.count(66, 32) == 3


def test_batches_are_a_function_of_seed_and_epoch(data: TrainingData) -> None:
    first, again = (list(batches.batches(data, 32, 7, 3, "cpu")) for _ in range(2))
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, again, strict=True))
    for seed, epoch in ((7, 4), (8, 3)):
        other = next(iter(batches.batches(data, 32, seed, epoch, "cpu")))
        assert not torch.equal(other.index, first[0].index)


def test_validation_sees_the_deployed_network_and_is_in_the_history(fitted: Fitted) -> None:
    seen: list[bool] = []

    def validate(network: nn.Module) -> dict[str, float]:
        seen.append(network.training)
        return {"val_top1_percent": 50.0}

    result = fitted("afd", validate=validate)
    assert seen == [False, False]
    assert [row["val_top1_percent"] for row in result.history] == [50.0, 50.0]


def test_averaged_weights_are_given_when_asked_for(fitted: Fitted, tmp_path: Path) -> None:
    plain = fitted(folder=tmp_path / "plain")
    averaged = fitted(folder=tmp_path / "averaged", ema=0.9)
    assert [row["loss"] for row in averaged.history] == [row["loss"] for row in plain.history]
    assert digest(averaged.network) != digest(plain.network)


def test_the_method_does_not_change_the_threads_or_the_global_generator(fitted: Fitted) -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    fitted()
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def test_bf16_runs_and_stays_near_fp32(fitted: Fitted, tmp_path: Path) -> None:
    low, full = (
        fitted("kd", folder=tmp_path / name, epochs=1, lr=0.01, precision=name).history[0]["loss"]
        for name in ("bf16", "fp32")
    )
    assert low != full
    assert low == pytest.approx(full, rel=BF16_LOSS)


class Failing(Distiller):
    needs_teacher = False

    def __init__(self, error: Callable[[], Any]) -> None:
        super().__init__()
        self.error = error

    def forward(self, student: Any, teacher: Any, target: Any, progress: Any) -> dict[str, torch.Tensor]:
        self.error()
        raise AssertionError


def throw(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.empty(1 << 46),  # 256 TiB: more than an address space holds
        lambda: throw(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
        lambda: throw(RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GiB)")),
        lambda: throw(MemoryError("Unable to allocate 7 GiB for an array")),
    ],
)
def test_out_of_memory_is_a_failed_stage(fitted: Fitted, error: Callable[[], Any]) -> None:
    with pytest.raises(StageFailed, match=r"out of memory on cpu with batches of 32") as caught:
        fitted(distiller=Failing(error))
    assert caught.value.exit_code == 7
    assert "student.fit.batch_size=16" in caught.value.hint


def test_other_errors_of_torch_go_through(fitted: Fitted) -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fitted(distiller=Failing(lambda: torch.ones(2, 3) @ torch.ones(2, 3)))
