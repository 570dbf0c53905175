import pytest
import torch
from madeup import ready, stages

from edgekd.distillers.affinity import affinity_distance
from edgekd.distillers.hmat import HMAT
from edgekd.errors import RecipeError

STUDENT = stages((4, 20, 20), (6, 8, 8), (6, 8, 8), (8, 4, 4))
TEACHER = stages((5, 24, 24), (9, 10, 10), (12, 4, 4))
OFF = {"position": False, "channel": False, "activation_mid": False, "activation_high": False}
TERMS = {
    "position": "hmat_position",
    "channel": "hmat_channel",
    "activation_mid": "hmat_activation",
    "activation_high": "hmat_activation",
}


@pytest.mark.parametrize("switch", OFF)
def test_each_attention_alone(switch) -> None:
    pair = ready(HMAT(**{**OFF, switch: True}), STUDENT, TEACHER)
    terms = pair()
    assert set(terms) == {"ce", "kd", TERMS[switch]}
    assert terms[TERMS[switch]] > 0
    read = {"position": "stage.1:map", "channel": "stage.4:map", "activation_mid": "stage.2:energy"}
    assert list(pair.student.taps) == [read.get(switch, "stage.4:energy")]
    assert bool(pair.method.parameter_groups()) == (switch == "channel")


def test_the_two_activations_add_up() -> None:
    both, mid, high = (
        ready(HMAT(**{**OFF, **on}), STUDENT, TEACHER)
        for on in (
            {"activation_mid": True, "activation_high": True},
            {"activation_mid": True},
            {"activation_high": True},
        )
    )
    for one in (mid, high):
        for own, shown in zip(one[1:], both[1:], strict=True):
            own.taps.update({key: shown.taps[key] for key in own.taps})
    expected = (mid()["hmat_activation"] + high()["hmat_activation"]).item()
    assert both()["hmat_activation"].item() == pytest.approx(expected, rel=1e-6)


def test_every_kind_at_all_levels() -> None:
    pair = ready(HMAT(all_levels=True, channel=False), STUDENT, TEACHER)
    levels = ("stage.1", "stage.2", "stage.4")
    assert set(pair.student.taps) == {f"{tap}:{reduction}" for tap in levels for reduction in ("map", "energy")}
    assert set(ready(HMAT(all_levels=True), STUDENT, TEACHER).method.projectors) == {"low", "mid", "high"}


def test_a_projector_only_between_unequal_widths() -> None:
    assert not ready(HMAT(), TEACHER, TEACHER).method.parameter_groups()
    assert len(list(ready(HMAT(), STUDENT, TEACHER).method.projectors["high"].parameters())) == 3


def test_positions_are_compared_on_at_most_16_by_16(monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(
        "edgekd.distillers.hmat.affinity_distance", lambda s, t, loss: seen.append(s.shape[1]) or s.sum()
    )
    ready(HMAT(**{**OFF, "position": True}), STUDENT, TEACHER)()
    ready(HMAT(**{**OFF, "position": True}), stages(*3 * [(4, 9, 20)]), stages(*3 * [(5, 30, 12)]))()
    assert seen == [16 * 16, 9 * 12]


@pytest.mark.parametrize("loss", ["kl", "mse"])
def test_affinities_know_no_scale_and_no_rotation(loss) -> None:
    random = torch.Generator().manual_seed(0)
    s, t = torch.randn(2, 3, 5, 8, generator=random)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=random)).Q
    plain = affinity_distance(s, t, loss)
    assert torch.allclose(affinity_distance(7 * s @ turn, t, loss), plain, rtol=1e-4)
    assert abs(float(affinity_distance(s @ turn, s, loss))) < 1e-6 < 1e-2 < float(plain)


def test_what_it_cannot_do() -> None:
    with pytest.raises(RecipeError, match="hmat with every attention off") as caught:
        HMAT(**OFF).wanted(list(STUDENT), list(TEACHER))
    assert caught.value.hint == "distill.use: kd"
    with pytest.raises(RecipeError, match="and the teacher has 2") as caught:
        HMAT().wanted(list(STUDENT), ["stage.1", "stage.2", "pooled"])
    assert caught.value.hint == "distill.use: at"


def test_channels_of_one_pixel_are_an_error_that_says_how_to_go_on() -> None:
    small = stages((4, 4, 4), (6, 2, 2), (8, 1, 1))
    with pytest.raises(RecipeError, match=r"\(4x4 and 1x1\) meet in one pixel") as caught:
        ready(HMAT(), STUDENT, small)
    assert caught.value.hint == "--set distill.channel=false"
    assert ready(HMAT(channel=False), STUDENT, small)()["hmat_position"] > 0
