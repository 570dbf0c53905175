"""What a test set can resolve: a budget is taken only when a chain that loses nothing passes with a chance of more than 80 %.

The chance that a step which loses nothing is failed falls with the test images and grows with the images on which it and
the student differ. The chances of the steps on one way are added, which is never less than the chance that one of them fails.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from edgekd import stats
from edgekd.analysis.gate import allowance, kind, origin, routes
from edgekd.errors import RecipeError
from edgekd.profiles import precision
from edgekd.recipe import Gate

PASSES = 0.82  # least chance of a chain that loses nothing: 80 %, and two standard errors of 2,000 simulated ones
# Share of test images on which exactly one of a file and the student is right, assumed before there is a file.
# Seen on CIFAR-10 (n = 10,000): u8s8 files of four resnet20 0.61 to 0.78 % (0.7 to 0.9 % changed their answer), float graphs 0,
# a resnet8 trained on, rounded, for 4 epochs 2.2 to 2.6 %; two students trained apart from the same teacher 6.9 %.
QUANTIZED, ROUNDED, TRAINED_ON = 0.01, 0.0005, 0.03
MOST_IMAGES = 10**9
STEPS = 50  # halvings: far below a thousandth of a percentage point


def require(gate: Gate, made_from: Mapping[str, Sequence[str]], n: int, answering: Collection[str] = ()) -> None:
    """See that a gate can be decided on this many test images.

    Args:
        gate: The recipe's.
        made_from: {step: steps that it is made from} of the whole chain, upstream first.
        n: Test images.
        answering: See `gate.routes`.

    Raises:
        RecipeError: A chain that loses nothing would fail more than 1 time in 5; or there is nothing to measure a drop from.
    """
    found = routes(made_from, answering)
    if origin(made_from) is None and any(kind(step) == "quantized" for step in made_from):
        raise RecipeError(
            "gate", "the student is a quantized file: no drop can be measured", "a float student", "--set gate=null"
        )
    asked = {step: _tests(gate, route) for step, route in found.items()}
    worst = max(asked, key=lambda step: _missed(asked[step], n), default=None)
    if worst is not None and _missed(asked[worst], n) > 1 - PASSES:
        raise _refusal(gate, found[worst], asked[worst], n)


def differing(route: Sequence[str]) -> float:
    """Share of images on which exactly one of the student and the end of a route is right, as assumed."""
    trained = TRAINED_ON if "qat" in route else 0.0
    scheme = next((step.partition("/")[2] for step in route if kind(step) == "quantized"), "none")
    made_there = any(kind(step) == "export" for step in route)  # by a tool chain, which is nearly always int8
    return max(trained, QUANTIZED if made_there or precision(scheme) == "int8" else ROUNDED)


def _tests(gate: Gate, route: Sequence[str]) -> list[tuple[float, float]]:
    """(allowance as a fraction, differing share) of each network on a route: a measured file answers as it did before."""
    tests: list[tuple[float, float]] = []
    for i in range(len(route)):
        budget = allowance(gate, route[: i + 1])[0] / 100
        again = kind(route[i]) == "bench" or (i > 0 and kind(route[i]) == kind(route[i - 1]) == "export")
        if again and tests:
            tests[-1] = (min(tests[-1][0], budget), tests[-1][1])
        else:
            tests.append((budget, differing(route[: i + 1])))
    return tests


def _missed(tests: Sequence[tuple[float, float]], n: int) -> float:
    """Largest chance that a chain which loses nothing fails."""
    return sum(1 - stats.pass_chance(budget, n, share) for budget, share in tests)


def _refusal(gate: Gate, route: Sequence[str], tests: Sequence[tuple[float, float]], n: int) -> RecipeError:
    least, images = 100 * _finest(tests, n), _images(tests, n)
    budget, key = min((allowance(gate, route[: i + 1]) for i in range(len(route))), key=lambda found: found[0])
    enough = f"{images:,} test images" if images is not None else "no number of test images"
    return RecipeError(
        key,
        f"{budget:g} pp cannot be resolved with {n:,} test images: a chain that loses nothing, where student and files differ on "
        f"{100 * max(share for _, share in tests):g} % of them, would fail {100 * min(_missed(tests, n), 1):.0f} times in 100",
        f"at least {least:g} pp, or {enough}: it must pass {100 * PASSES:.0f} times in 100",
        f"--set {key}={least:g}",
    )


def _finest(tests: Sequence[tuple[float, float]], n: int) -> float:
    """The least allowance, a fraction, that every smaller one must be raised to; a hundredth of a point is its grain."""
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        good = _missed([(max(budget, middle), share) for budget, share in tests], n) <= 1 - PASSES
        low, high = (low, middle) if good else (middle, high)
    return math.ceil(high * 1e4 - 1e-6) / 1e4


def _images(tests: Sequence[tuple[float, float]], n: int) -> int | None:
    """Test images that would do, two digits; n do not. None: these budgets leave no room at all."""
    while _missed(tests, n) > 1 - PASSES:
        n = math.ceil(n * 1.1)
        if n > MOST_IMAGES:
            return None
    grain = int(10 ** max(len(str(n)) - 2, 0))
    return math.ceil(n / grain) * grain
