"""`fit.keep: best`: the weights of the best validation epoch, the first of equals, through a stop and a resume."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

from edgekd.errors import RecipeError
from edgekd.fit import checkpoint, ready
from edgekd.fit.request import FitResult, Validate
from edgekd.recipe import Fit

Fitted = Callable[..., FitResult]


def digest(network: nn.Module) -> str:
    state = network.state_dict()
    return hashlib.sha256(save({name: state[name].contiguous() for name in sorted(state)})).hexdigest()


def judge(figures: Sequence[float], seen: list[str], stop_before: int | None = None) -> Validate:
    """Validation that gives one figure an epoch and notes the weights that it saw."""

    def validate(network: nn.Module) -> dict[str, float]:
        if len(seen) == stop_before:
            raise KeyboardInterrupt
        seen.append(digest(network))
        return {"val_top1_percent": figures[len(seen) - 1]}

    return validate


@pytest.mark.parametrize(
    ("figures", "best"),
    [((50.0, 70.0, 60.0), 2), ((50.0, 70.0, 70.0), 2), ((70.0, 60.0, 50.0), 1), ((1.0, 2.0, 3.0), 3)],
)
@pytest.mark.parametrize("settings", [{}, {"ema": 0.9}])
def test_the_best_epoch_is_given_back(
    fitted: Fitted, tmp_path: Path, figures: Sequence[float], best: int, settings: dict[str, float]
) -> None:
    seen: list[str] = []
    result = fitted("afd", epochs=3, keep="best", validate=judge(figures, seen), folder=tmp_path / "best", **settings)
    assert digest(result.network) == seen[best - 1]
    assert result.kept_epoch == best
    assert result.metrics("")["kept_epoch"] == best
    assert len(result.history) == len(set(seen)) == 3
    again: list[str] = []
    last = fitted("afd", epochs=3, validate=judge(figures, again), folder=tmp_path / "last", **settings)
    assert again == seen  # keeping changes nothing of the training
    assert digest(last.network) == seen[-1]
    assert last.kept_epoch is None
    assert "kept_epoch" not in last.metrics("")


def test_it_survives_a_stop(fitted: Fitted, tmp_path: Path) -> None:
    seen: list[str] = []
    figures = (70.0, 50.0, 60.0)
    with pytest.raises(KeyboardInterrupt):
        fitted("kd", epochs=3, keep="best", validate=judge(figures, seen, 2), folder=tmp_path)
    resumed = fitted("kd", epochs=3, keep="best", validate=judge(figures, seen), folder=tmp_path)
    assert len(seen) == 3
    assert digest(resumed.network) == seen[0]
    assert resumed.kept_epoch == 1


def test_only_such_a_run_has_more_in_its_checkpoints(fitted: Fitted, tmp_path: Path) -> None:
    figures = (70.0, 50.0)
    names = {}
    for keep in ("last", "best"):
        fitted("afd", keep=keep, validate=judge(figures, []), folder=tmp_path / keep)
        tensors, _ = checkpoint.read(tmp_path / keep / "epoch-000002.safetensors")
        names[keep] = set(tensors)
        if keep == "best":
            same = [n for n in tensors if n.startswith("network/") and torch.equal(tensors[n], tensors[f"best/{n}"])]
            assert len(same) < sum(n.startswith("network/") for n in tensors)
    more = names["best"] - names["last"]
    assert more and names["last"] < names["best"]
    assert {name.split("/")[0] for name in more} == {"best"}
    assert {name.split("/")[1] for name in more} == {"network", "distiller"}


def test_nothing_to_judge_by_is_refused_before_work(fitted: Fitted, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"student\.fit\.keep: best, and no image is held out") as caught:
        fitted("ce", keep="best", folder=tmp_path / "none")
    assert "data.val" in caught.value.hint
    assert not (tmp_path / "none").exists()
    with pytest.raises(RecipeError, match="held out"):
        ready.check(Fit(keep="best"), "cpu", "student.fit", val=0)
    for val in (None, 10):
        ready.check(Fit(keep="best", compile=False), "cpu", "student.fit", val=val)
    ready.check(Fit(compile=False), "cpu", "student.fit", val=0)


def test_the_methods_own_parameters_are_counted(fitted: Fitted, tmp_path: Path) -> None:
    assert fitted("ce", epochs=1, folder=tmp_path / "ce").method_parameters == 0
    assert fitted("kd", epochs=1, folder=tmp_path / "kd").method_parameters == 0
    assert fitted("afd", epochs=1, folder=tmp_path / "afd").method_parameters > 1000
