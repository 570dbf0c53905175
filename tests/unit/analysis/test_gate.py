"""The gate by simulation: what passes that should not, what fails that should not, and what `validate` therefore takes."""

import numpy as np
import pytest
from tolerances import FALSE_PASSES, GOOD_PASSES

from edgekd import stats
from edgekd.analysis import resolution
from edgekd.analysis.gate import Judged, allowance, origin, routes
from edgekd.analysis.losses import Loss
from edgekd.errors import RecipeError
from edgekd.recipe import Gate

CHAINS = 2000
IMAGES = (1000, 10_000, 50_000)
DIFFERING = (0.003, 0.01, 0.03)
CHAIN = {
    "data": [],
    "student": ["data"],
    "qat": ["data", "student"],
    "graph": ["data", "qat"],
    "quantized/u8s8": ["data", "graph", "qat"],
    "export/onnx-int8": ["quantized/u8s8"],
    "bench/onnx-int8@cpu": ["data", "export/onnx-int8"],
}
PLAIN = {
    **{name: CHAIN[name] for name in ("data", "student", "export/onnx-int8", "bench/onnx-int8@cpu")},
    "graph": ["data", "student"],
    "quantized/u8s8": ["data", "graph"],
}
KINDS = ("qat", "graph", "quantized", "bench")


def chains(n, differing, drops, seed):
    """(lost, gained) since the student, [stages, CHAINS]: each stage changes images of its own, on top of those before it.

    Args:
        n: Images.
        differing: Share of images on which the last stage and the student differ, the same part of it at each stage.
        drops: True drop of each stage since the student, a fraction, ascending.
        seed: Of the generator.
    """
    random = np.random.default_rng(seed)
    steps = np.diff(np.concatenate(([0.0], drops)))
    share = max(differing / len(steps), steps.max())
    lost = [random.binomial(n, (share + step) / 2, CHAINS) for step in steps]
    gained = [random.binomial(n - lost[i], (share - step) / (2 - share - step)) for i, step in enumerate(steps)]
    return np.cumsum(lost, axis=0), np.cumsum(gained, axis=0)


def passed(lost, gained, n, budgets):
    """Share of chains whose every stage is inside its budget, as the pipeline decides it."""
    bounds = stats.drop_bound(lost, gained, n)
    return float(np.mean(np.all(bounds <= np.asarray(budgets)[:, None], axis=0)))


def finest(n, differing):
    """The least budget of one stage that leaves it the chance that `validate` asks for."""
    return resolution._finest([(0.0, differing)], n)


@pytest.mark.parametrize("n", IMAGES)
@pytest.mark.parametrize("differing", DIFFERING)
@pytest.mark.parametrize("bad", ["alone", "first of 2", "last of 2", "last of 4"])
def test_a_chain_that_loses_its_budget_passes_at_most_5_times_in_100(n, differing, bad):
    """The true drop of one stage is its whole allowance; what the others lose is carried on, or the budget is spent at once."""
    budget = max(finest(n, differing), 2 / n)
    drops, budgets = {
        "alone": ([budget], [budget]),
        "first of 2": ([budget, budget], [budget, 2 * budget]),
        "last of 2": ([0.0, 2 * budget], [budget, 2 * budget]),  # the first leaves its half to the second
        "last of 4": ([0.0, 0.0, 0.0, 4 * budget], [budget, 2 * budget, 3 * budget, 4 * budget]),
    }[bad]
    lost, gained = chains(n, differing, drops, seed=n)
    assert passed(lost, gained, n, budgets) <= FALSE_PASSES


@pytest.mark.parametrize("n", [100, 1000, 10_000])
@pytest.mark.parametrize("expected", [0.5, 1, 2.7, 3.05, 4.8, 6.7, 13.2, 40])
@pytest.mark.parametrize("gained", [0, 0.3, 1])
def test_the_bound_misses_5_times_in_100_at_most_where_counts_are_small(n, expected, gained):
    """Exact: a true drop of a few images, some of them won back; where nothing is, Wald's forms miss up to 10 times."""
    won = gained * expected
    k = np.arange(160)
    lost_chance = _poisson(k, expected + won)
    won_chance = _poisson(k, won) if won else (k == 0).astype(float)
    a, b = np.meshgrid(k, k, indexing="ij")
    missed = stats.drop_bound(a, b, n) < expected / n
    assert float((np.outer(lost_chance, won_chance) * missed).sum()) <= 0.0501


def _poisson(k, mean):
    from scipy.stats import poisson

    return poisson.pmf(k, mean)


@pytest.mark.parametrize("n", IMAGES)
@pytest.mark.parametrize("differing", DIFFERING)
@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("spread", ["whole", "staged"])
def test_a_chain_that_loses_nothing_passes_4_times_in_5_wherever_validate_takes_the_budget(
    monkeypatch, n, differing, stages, spread
):
    """The least budget taken, found by asking; `differing` is the truth and what is assumed."""
    for name in ("QUANTIZED", "ROUNDED", "TRAINED_ON"):
        monkeypatch.setattr(resolution, name, differing)
    steps = ["qat", "graph", "quantized/u8s8", "quantized/u8s8/again"][:stages]
    made_from = {"student": [], **{step: [(["student", *steps])[i]] for i, step in enumerate(steps)}}

    def gate(budget):
        if spread == "whole":
            return Gate.model_validate({"max_drop_pp": budget})
        return Gate.model_validate({"stages": dict.fromkeys(KINDS[: min(stages, 3)], budget)})

    taken = least_taken(gate, made_from, n)
    found = routes(made_from)
    budgets = [allowance(gate(taken), found[step])[0] / 100 for step in steps]
    lost, gained = chains(n, differing, [0.0] * stages, seed=stages)
    assert passed(lost, gained, n, budgets) >= GOOD_PASSES


def least_taken(gate, made_from, n):
    """Percentage points, to 0.005."""
    low, high = 0.0, 20.0
    while high - low > 0.005:
        middle = (low + high) / 2
        try:
            resolution.require(gate(middle), made_from, n)
            high = middle
        except RecipeError:
            low = middle
    return high


def test_what_is_taken_as_shipped_on_10_000_images():
    """1 % differing: the bound of a loss of nothing is 0.17 pp; more than 4 in 5 pass from 0.27 pp on."""
    assert float(stats.drop_bound(50, 50, 10_000)) == pytest.approx(0.0017, abs=1e-4)
    assert least_taken(lambda pp: Gate.model_validate({"max_drop_pp": pp}), PLAIN, 10_000) == pytest.approx(
        0.27, abs=0.01
    )
    resolution.require(Gate.model_validate({"max_drop_pp": 0.3}), PLAIN, 10_000)
    with pytest.raises(RecipeError, match=r"0\.16 pp cannot be resolved with 10,000 test images") as error:
        resolution.require(Gate.model_validate({"max_drop_pp": 0.16}), PLAIN, 10_000)
    assert error.value.where == "gate.max_drop_pp" and error.value.hint == "--set gate.max_drop_pp=0.27"
    images = int(error.value.expected.split(" or ")[1].split(" test")[0].replace(",", ""))
    resolution.require(Gate.model_validate({"max_drop_pp": 0.16}), PLAIN, images)
    with pytest.raises(RecipeError):
        resolution.require(Gate.model_validate({"max_drop_pp": 0.16}), PLAIN, int(0.9 * images))


def test_what_is_asked_for_instead_is_taken():
    gate = Gate.model_validate({"stages": {"graph": 0.1, "quantized": 0.9}})
    with pytest.raises(RecipeError) as error:
        resolution.require(gate, CHAIN, 10_000)
    key, _, least = error.value.hint.removeprefix("--set ").partition("=")
    assert key == "gate.stages.graph"
    resolution.require(Gate.model_validate({"stages": {"graph": float(least), "quantized": 0.9}}), CHAIN, 10_000)


def test_a_float_graph_needs_less_than_an_int8_file():
    """It differs from its student on nothing but ties, so a tenth of a point can be shown of it."""
    resolution.require(
        Gate.model_validate({"max_drop_pp": 1.0, "stages": {"graph": 0.1, "quantized": 0.5}}), PLAIN, 10_000
    )
    half = {**PLAIN, "quantized/fp16": ["data", "graph"]}
    del half["quantized/u8s8"], half["export/onnx-int8"], half["bench/onnx-int8@cpu"]
    resolution.require(Gate.model_validate({"max_drop_pp": 0.12}), half, 10_000)


def test_a_file_that_was_given_quantized_has_nothing_to_be_measured_from():
    with pytest.raises(RecipeError, match="no drop can be measured"):
        resolution.require(Gate.model_validate({"max_drop_pp": 1}), {"data": [], "quantized/u8s8": ["data"]}, 10_000)


def test_routes_begin_behind_the_student_and_are_those_of_one_file():
    found = routes({**CHAIN, "quantized/s8-trt": ["data", "graph", "qat"], "bench/onnx@cpu": ["data", "graph"]})
    assert found["bench/onnx-int8@cpu"] == ("qat", "graph", "quantized/u8s8", "bench/onnx-int8@cpu")
    assert found["quantized/s8-trt"] == ("qat", "graph", "quantized/s8-trt")
    assert found["bench/onnx@cpu"] == ("qat", "graph", "bench/onnx@cpu")
    assert not {"student", "data", "export/onnx-int8"} & set(found)


def test_of_a_graph_that_was_given_drops_are_measured_from_it():
    given = {"data": [], "graph": ["data"], "quantized/u8s8": ["data", "graph"]}
    assert origin(given) == "graph" and routes(given) == {"quantized/u8s8": ("quantized/u8s8",)}


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        ({"max_drop_pp": 1}, {"qat": 1, "graph": 1, "quantized/u8s8": 1, "bench/onnx-int8@cpu": 1}),
        ({"max_drop_pp": 1, "stages": {"graph": 0.1, "quantized": 0.5}}, {"qat": 1, "graph": 0.1, "quantized/u8s8": 0.6, "bench/onnx-int8@cpu": 1}),
        ({"stages": {"qat": 0.2, "quantized": 0.5}}, {"qat": 0.2, "graph": 0.7, "quantized/u8s8": 0.7, "bench/onnx-int8@cpu": 0.7}),
        ({"stages": {"qat": 0.2, "graph": 0.1, "quantized": 0.3, "bench": 0.1}}, {"qat": 0.2, "graph": 0.3, "quantized/u8s8": 0.6, "bench/onnx-int8@cpu": 0.7}),
    ],
)  # fmt: skip
def test_what_a_stage_does_not_spend_is_left_for_the_later_ones(gate, expected):
    found = routes(CHAIN)
    asked = Gate.model_validate(gate)
    allowed = {name: allowance(asked, route)[0] for name, route in found.items()}
    assert allowed == pytest.approx(expected)
    assert max(allowed.values()) <= asked.total_pp + 1e-9


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (1, 1), (3, 2)])
def test_as_many_images_as_a_failed_gate_names_would_show_the_drop_seen(lost, gained):
    """The same shares of that many images are inside the budget; where nothing differs, too."""
    n, budget = 359, 0.5
    judged = Judged("quantized/u8s8", "a", budget, "gate.max_drop_pp", Loss("student", n, lost, gained, lost + gained))
    assert not judged.passed
    images = int(judged.failure().hint.split("about ")[1].split()[0].replace(",", ""))
    assert 100 * stats.drop_bound(lost * images / n, gained * images / n, images) <= budget
    assert images < 100 * n  # no more than it takes, by an order of magnitude
