"""Before a comparison runs: what is made and what is not, about how long it takes, and the least that it can show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edgekd.analysis.compare import LITERATURE_SD, ONE_SEED, pooled, pp, visible
from edgekd.analysis.compared import over_seeds
from edgekd.artifact import Artifact, canonical
from edgekd.commands import output
from edgekd.commands.dry import estimate_of, shown_time
from edgekd.commands.students import Students
from edgekd.comparison import Comparison

Made = Mapping[str, Mapping[int, Artifact]]


def smallest(comparison: Comparison, made: Made) -> dict[str, Any] | None:
    """The least difference that this number of seeds can show, pp; None with one seed, or nothing to compare.

    The spread is that of the students already made, where two of a method and of its reference are; else the literature's.
    """
    n, reference = len(comparison.seeds), comparison.usual or comparison.plain
    if n == 1:
        return None
    others = [m.label for m in comparison.methods if m.asked and reference in comparison.references(m)]
    if not others:
        return None
    found = [over_seeds(comparison.seeds, made[label], made[reference]) for label in others]
    seen = pooled([difference for difference in found if difference is not None])
    sd, freedom = seen or (LITERATURE_SD * math.sqrt(2), 0)
    return {
        "one_pp": visible(sd, n),
        "each_pp": visible(sd, n, len(others)),
        "comparisons": len(others),
        "sd_pp": sd,
        "sd_from": f"the students made so far ({freedom} degrees of freedom)"
        if seen
        else f"two runs of sd {LITERATURE_SD} pp each, as the literature has it for the full protocol",
    }


def lines(comparison: Comparison, students: Students, made: Made) -> list[str]:
    """The plan in words."""
    n, methods = len(comparison.seeds), comparison.methods
    done = sum(len(seeds) for seeds in made.values())
    beside = [method.label for method in methods if not method.asked]
    fit = comparison.recipe.student.fit
    assert fit is not None  # refused by `compared`
    said = [
        f"{len(methods)} methods x {n} seed{'s' if n > 1 else ''}, {fit.epochs} epoch{'s' if fit.epochs > 1 else ''} each: {n * len(methods)} students, "
        f"{done} made" + ("" if done == n * len(methods) else f"; {_duration(comparison, students, made)}")
    ]
    if beside:
        said.append(f"to compare with: {', '.join(beside)}")
    least = smallest(comparison, made)
    if least is None:
        return [*said, ONE_SEED] if n == 1 else said
    among = f", {pp(least['each_pp'])} for each of {least['comparisons']}" if least["comparisons"] > 1 else ""
    return [
        *said,
        f"smallest difference to {comparison.usual or comparison.plain} that {n} seeds can show: {pp(least['one_pp'])} for one "
        f"comparison{among} (paired differences of sd {least['sd_pp']:.2g} pp: {least['sd_from']})",
    ]


def show(comparison: Comparison, students: Students, made: Made, json: bool) -> None:
    """`--dry-run`: the plan on stdout."""
    rows = [(method.label, len(made[method.label]), len(comparison.seeds)) for method in comparison.methods]
    said = lines(comparison, students, made)
    if json:
        names = ("method", "made", "wanted")
        listed = [dict(zip(names, row, strict=True)) for row in rows]
        output.print_json({"dry_run": True, "methods": listed, "smallest": smallest(comparison, made), "notes": said})
        return
    output.print_table(("method", "made", "of"), rows, right=("made", "of"))
    for line in said:
        output.say(line)
    output.next_command("the same line without --dry-run")


def _duration(comparison: Comparison, students: Students, made: Made) -> str:
    """About how long what is missing takes; each step that several students share counts once."""
    seconds: dict[bytes, float | None] = {}
    for method in comparison.methods:
        missing = [seed for seed in comparison.seeds if seed not in made[method.label]]
        if missing:
            outcomes = students.outcomes(comparison.student(method, missing[0]))
            for outcome in outcomes:
                own = outcome is outcomes[-1]
                what = canonical({"step": outcome.step.name, "params": outcome.step.params.model_dump(mode="json")})
                if what not in seconds:
                    about = estimate_of(outcome, outcomes, students.settings)
                    seconds[what] = None if about is None else about * (len(missing) if own else 1)
    known = [value for value in seconds.values() if value is not None]
    more = "" if len(known) == len(seconds) else " and what cannot be known before the data are decoded"
    return f"about {shown_time(sum(known))}{more}"
