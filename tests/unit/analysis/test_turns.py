"""Ratios of runs that took turns: what drift and noise of the machine may not make of them."""

import numpy as np
import pytest

from edgekd.analysis import turns


def blocks(medians, n=50, spread=0.05, seed=0, parts=("end_to_end",)):
    """One block a round around each median in ms."""
    generator = np.random.default_rng(seed)
    draw = [1e6 * ms * (1 + spread * generator.gamma(2, 1, n)) for ms in medians]
    return [{part: values.astype(np.int64) for part in parts} for values in draw]


ROUNDS = 40
DRIFT = np.linspace(1, 3, ROUNDS)  # the machine gets three times slower meanwhile


def test_drift_of_the_machine_is_no_difference():
    runs = {"a": blocks(0.3 * DRIFT, seed=1), "b": blocks(0.3 * DRIFT, seed=2)}
    (effect,) = turns.effects(runs)
    assert not effect["shown"]
    assert effect["low"] <= 1 <= effect["high"]
    assert "no difference shown" in effect["words"]


@pytest.mark.parametrize("swapped", [False, True])
def test_a_true_ratio_is_found_under_drift_with_the_faster_one_first(swapped):
    runs = {"slow": blocks(0.45 * DRIFT, seed=1), "fast": blocks(0.30 * DRIFT, seed=2)}
    if swapped:
        runs = dict(reversed(runs.items()))
    (effect,) = turns.effects(runs)
    assert (effect["first"], effect["second"]) == ("fast", "slow")
    assert effect["shown"]
    assert effect["low"] < 1.5 < effect["high"]
    assert effect["high"] - effect["low"] < 0.1
    assert effect["words"].startswith("fast is 1.")
    assert effect["rounds"] == ROUNDS


def test_95_percent_intervals_cover_the_truth():
    covered = 0
    for seed in range(100):
        runs = {"a": blocks([0.3] * 20, 9, seed=2 * seed), "b": blocks([0.33] * 20, 9, seed=2 * seed + 1)}
        (effect,) = turns.effects(runs)
        low, high = (
            (effect["low"], effect["high"]) if effect["first"] == "a" else (1 / effect["high"], 1 / effect["low"])
        )
        covered += low <= 1.1 <= high
    assert covered >= 88  # 95 expected, three standard errors of a share of 100 below


SITTINGS = [i // 7 for i in range(42)]


def sat(seed, ratio=1.0, lives=0.016):
    """Two runs whose processes are each faster or slower by some per cent while they live, and true to `ratio` on average."""
    drawn = np.random.default_rng(seed).normal(0, lives / np.sqrt(2), (2, 6))
    a, b = (np.exp(np.repeat(one, 7)) for one in drawn)
    return {"a": blocks(0.3 * a, 40, 0.02, 2 * seed), "b": blocks(0.3 * ratio * b, 40, 0.02, 2 * seed + 1)}


@pytest.mark.parametrize("ratio", [1.0, 1.1])
def test_what_a_process_is_by_its_place_in_memory_is_no_difference_of_files(ratio):
    covered = 0
    for seed in range(100):
        (effect,) = turns.effects(sat(seed, ratio), sittings=SITTINGS)
        low, high = (effect["low"], effect["high"])
        low, high = (low, high) if effect["first"] == "a" else (1 / high, 1 / low)
        covered += low <= ratio <= high
        assert ratio == 1.0 or effect["shown"]
    assert covered >= 88  # as above
    assert effect["sittings"] == 6


def test_more_pairs_ask_for_more_and_hold_together():
    runs = {name: blocks([0.3] * ROUNDS, seed=i) for i, name in enumerate("abc")}
    found = turns.effects(runs)
    assert len(found) == 3
    assert all(effect["confidence"] == pytest.approx(1 - 0.05 / 3) for effect in found)


def test_another_part_can_be_held_against_a_whole():
    ours = [{"end_to_end": np.full(9, 500_000), "inference": np.full(9, 400_000)} for _ in range(20)]
    theirs = [{"end_to_end": np.full(9, 400_000)} for _ in range(20)]
    (effect,) = turns.effects({"ours": ours, "theirs": theirs}, {"ours": "inference"})
    assert effect["ratio"] == 1
    assert not effect["shown"]


def test_figures_of_all_blocks_together():
    found = turns.figures(blocks([0.3] * 20, parts=("end_to_end", "inference")))
    assert set(found) == {"end_to_end", "inference"}
    whole = found["end_to_end"]
    assert whole["n"] == 1000
    assert whole["p50_low_ms"] <= whole["p50_ms"] <= whole["p50_high_ms"]
    assert whole["p90_low_ms"] <= whole["p90_ms"] <= whole["p90_high_ms"]


def test_too_few_samples_have_no_percentile_they_do_not_support():
    assert "p90_ms" not in turns.figures(blocks([0.3] * 20, 3))["end_to_end"]
