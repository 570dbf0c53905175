"""`edgekd parity`: is it the same network on every rung? Runs each form on the same images, and names what is at fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.analysis import ladder
from edgekd.analysis.ladder import INPUT, LABELS, Rung
from edgekd.artifact import Artifact
from edgekd.commands import current, output
from edgekd.console import Console
from edgekd.errors import CheckFailed
from edgekd.store import Store

COLUMNS = ("rung", "", "against", "n", "top-1 %", "same %", "SQNR dB", "max error", "/ range", "KL", "beyond margin")
TENSORS = ("tensor", "operators", "weights", "SQNR dB", "own dB", "scale loses dB", "")


@dataclass(frozen=True)
class ParityOptions:
    """The command line, as typed."""

    recipe: str | None
    source: str | None
    images: int
    tensors: bool
    workspace: Path
    threads: int
    json: bool


def parity(options: ParityOptions) -> None:
    """Print the ladder.

    Raises:
        UsageError: Nothing was made here, or no graph yet.
        IntegrityError: A file is not what was sealed.
        CheckFailed: A rung is not held; names the first, and its first diverging tensor.
    """
    console = Console()
    made = _made(options, console)
    from edgekd.commands.climb import climb
    from edgekd.commands.parity_parts import gather

    rungs = climb(gather(made, options.images, options.threads, console), tensors=options.tensors)
    wrong = _failure(rungs, current.option(options.workspace))
    if options.json:
        facts = {"artifacts": {step: a.id for step, a in made.items()}, "rungs": [rung.json() for rung in rungs]}
        if wrong is not None:
            output.fail(wrong, facts)
        output.print_json({**facts, "next": _next(options)})
        return
    _print(rungs, options.tensors)
    if wrong is not None:
        raise wrong
    output.next_command(_next(options))


def _made(options: ParityOptions, console: Console) -> Mapping[str, Artifact]:
    """{step: artifact} of the run that is meant: an artifact's own chain, a recipe's last run, or the current one."""
    if options.source is not None:
        return _chain(options.workspace, current.resolve(options.workspace, options.source), console)
    if options.recipe is not None:
        run = current.last_run(options.workspace, options.recipe, "run")
        return current.artifacts(options.workspace, run)
    run = current.require(options.workspace, "a run with an exported file")
    console.log(f"parity of {run.name} (the current run of {options.workspace})")
    return current.artifacts(options.workspace, run)


def _chain(workspace: Path, last: Artifact, console: Console) -> Mapping[str, Artifact]:
    """An artifact and all that it was made from, upstream first."""
    console.log(f"parity of {last.id} (chosen with --from)")
    order = ("data", "teacher", "views", "student", "qat", "graph", "quantized", "export", "bench")
    return dict(
        sorted(
            current.upstream(Store(workspace), last).items(), key=lambda item: order.index(item[0].partition("/")[0])
        )
    )


def _failure(rungs: Sequence[Rung], place: str) -> CheckFailed | None:
    rung = ladder.first_failing(rungs)
    if rung is None:
        return None
    found = "; ".join(rung.failures)
    if rung.attributed != rung.name:
        found += f": {rung.attributed} is at fault, not the network"
    return CheckFailed(f"parity: {rung.name}", found, rung.expected, _hint(rung, place))


def _hint(rung: Rung, place: str) -> str:
    if rung.attributed == INPUT:
        return f"feed it as `edgekd.input` inside the file says; edgekd export{place} writes it again"
    if rung.attributed == LABELS:
        return f"take the order of labels.txt beside the file; edgekd export{place} writes it again"
    if rung.first is None:
        return f"edgekd parity --tensors{place}"
    kind = rung.name.partition("/")[0]
    if kind == "quantized":
        return f"edgekd quantize --force{place}, then edgekd parity --tensors{place}"
    remade = "export" if kind in ("graph", "export") else "bench"
    return f"edgekd {remade} --force{place}, then edgekd parity --tensors{place}"


def _next(options: ParityOptions) -> str:
    return ("edgekd eval" if options.tensors else "edgekd parity --tensors") + current.option(options.workspace)


def _print(rungs: Sequence[Rung], tensors: bool) -> None:
    output.print_table(COLUMNS, [row for rung in rungs for row in _rows(rung)], right=COLUMNS[3:])
    for rung in rungs:
        if tensors and rung.tensors:
            output.say(f"{rung.name}, tensor by tensor against {rung.tensors_of}:")
            output.print_table(TENSORS, [_tensor(one) for one in rung.tensors], right=TENSORS[3:6])
    for rung in rungs:
        if rung.note and rung.note != "run now":
            output.say(f"{rung.name}: {rung.note}")
        for line in rung.failures:
            output.say(f"{rung.name} fails: {line}")


def _rows(rung: Rung) -> list[tuple[Any, ...]]:
    """Against the rung before, and a second line against the origin where that is another."""
    share = "-" if rung.top1_percent is None else f"{rung.top1_percent:.2f}"
    rows = [(rung.name, rung.state, rung.against, rung.n or "-", share, *_cells(rung.before))]
    if rung.origin and rung.origin != rung.before:
        rows.append(("", "", "origin", rung.n, "", *_cells(rung.origin)))
    return rows


def _cells(figures: Mapping[str, Any]) -> tuple[str, ...]:
    if not figures:
        return ("-",) * 6
    return (
        f"{figures['agreement_percent']:.2f}",
        f"{figures['sqnr_db']:.1f}",
        f"{figures['max_abs_error']:.2g}",
        f"{figures['error_to_range']:.1e}",
        f"{figures['kl_mean']:.1e}",
        f"{figures['disagreements_outside_margin']} of {figures['disagreements']}",
    )


def _tensor(one: Mapping[str, Any]) -> tuple[str, ...]:
    lost = "-" if one["lost_db"] is None else f"{one['lost_db']:.1f}"
    figures = f"{one['sqnr_db']:.1f}", f"{one['own_db']:.1f}", lost
    return (one["tensor"], one["op"], ", ".join(one["weights"]), *figures, "; ".join(one["faults"]))
