import numpy as np
import pytest
import torch

from edgekd.distillers.afd import AFD
from edgekd.errors import RecipeError


def test_attention_columns_sum_to_one_and_are_forgotten_when_read(world) -> None:
    here = world()
    method = here.ready(AFD())
    for _ in range(3):
        here(method)
    shown = method.diagnostics()
    assert shown["attention"].shape == (3, 6)
    assert np.allclose(shown["attention"].sum(0), 1, atol=1e-6)
    assert list(shown["student_taps"]) == ["block.1", "block.2", "block.3"]
    assert list(shown["teacher_taps"])[-1] == "block.6"
    assert method.diagnostics() == {}


def test_validation_is_not_counted(world) -> None:
    here = world()
    method = here.ready(AFD()).eval()
    here(method)
    assert method.diagnostics() == {}


def test_defaults() -> None:
    method = AFD()
    assert (method.beta, method.alpha_kd, method.temperature, method.qk_dim) == (200, 0.9, 4, 128)


def test_resnet110_gives_every_second_block() -> None:
    blocks = [f"block.{n}" for n in range(1, 55)]
    student, teacher = AFD().wanted(["stem", *blocks[:9], "stage.1"], ["stem", *blocks, "pooled"])
    assert len(student) == 18 and len(teacher) == 54
    assert [tap for tap, _ in teacher[:27]] == [f"block.{n}" for n in range(2, 55, 2)]
    assert ("block.54", "pooled") in teacher and ("stem", "energy") not in teacher


def test_stage_taps_and_missing_taps() -> None:
    student, _ = AFD(taps="stage").wanted(["stage.1", "stage.2"], ["stage.1"])
    assert [tap for tap, reduction in student if reduction == "energy"] == ["stage.1", "stage.2"]
    with pytest.raises(RecipeError, match=r"distill\.taps: the teacher has no block taps") as caught:
        AFD().wanted(["block.1"], ["stage.1"])
    assert caught.value.hint == "taps: stage"


def test_one_sample_cannot_train_but_can_be_looked_at(world) -> None:
    here = world(batch=1)
    method = here.ready(AFD())
    with pytest.raises(ValueError, match="more than 1 value"):
        here(method)
    assert torch.isfinite(here(method.eval())["afd"])
