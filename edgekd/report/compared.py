"""A comparison's facts, as `edgekd.analysis.compared` gives them, in words: columns for a terminal and Markdown to paste."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.report import words

Row = Mapping[str, Any]


def columns(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the columns."""
    references = [f"to {name}, pp" for name in (facts["plain"], facts["usual"]) if name is not None]
    own = ["to its own baseline, pp"] if _has_own(facts) else []
    return ("method", "n", "top-1 % (sd)", *references, *own, "s/epoch", "trained extra", "ships", "as teacher %")


def cells(facts: Mapping[str, Any], row: Row) -> tuple[str, ...]:
    """One method as texts in the order of `columns`."""
    named = [name for name in (facts["plain"], facts["usual"]) if name is not None]
    found = {difference["to"]: difference for difference in row["differences"]}
    shown = [points(found.get(name)) for name in named]
    if _has_own(facts):
        own = next((difference for name, difference in found.items() if name not in named), None)
        same = f"as to {row['baseline']}" if row["baseline"] in found else words.NONE
        shown.append(same if own is None else f"{points(own)} ({own['to']})")
    agreed = row["teacher_agreement_percent"]
    return (
        row["method"],
        str(row["n"]),
        f"{row['mean_percent']:.2f}" + ("" if row["sd_pp"] is None else f" ({row['sd_pp']:.2f})"),
        *shown,
        f"{row['epoch_seconds']:.3g}",
        words.count(row["method_parameters"]),
        words.count(row["parameters"]),
        words.NONE if agreed is None else f"{agreed:.1f}",
    )


def points(difference: Row | None) -> str:
    """`+0.42 [+0.11, +0.73]` percentage points; without an interval where one seed gives none."""
    if difference is None:
        return words.NONE
    mean, low, high = (difference[name] for name in ("mean_pp", "low_pp", "high_pp"))
    return _signed(mean) if low is None else f"{_signed(mean)} [{_signed(low)}, {_signed(high)}]"


def verdicts(facts: Mapping[str, Any]) -> list[str]:
    """One line a method that was asked for: what may be said of it."""
    lines = []
    for row in facts["methods"]:
        said = list(dict.fromkeys(difference["verdict"] for difference in row["differences"] if row["asked"]))
        if said:
            lines.append(f"{row['method']}: {'; '.join(said)}")
    return lines


def notes(facts: Mapping[str, Any]) -> list[str]:
    """What must be said about the table."""
    n, rows = len(facts["seeds"]), facts["methods"]
    images, most = f"{facts['n_test']:,}", facts["comparisons"]
    lines = [
        f"{n} seed{'s' if n > 1 else ''} ({_listed(facts['seeds'])}), {facts['epochs']} epoch{'s' if facts['epochs'] > 1 else ''}, weights of the {facts['keep']} "
        f"epoch{' by validation' if facts['keep'] == 'best' else ''}. With one seed every method starts from the same student "
        "and sees the same images in the same order; data, teacher and cached views are the same for all seeds."
    ]
    if n > 1:
        lines.append(
            "[ , ]: 95 % Student-t interval of the paired difference over the seeds. It covers initialisation, order and "
            f"augmentation; it does not cover another teacher, other training images or other test images than these {images}."
        )
    if n > 1 and most > 1:
        lines.append(
            f"Verdicts are corrected by Holm for the number of methods compared with the same reference (up to {most}); "
            "intervals are not."
        )
    hosts = {(run["processor"], run["threads"]) for row in rows for run in row["runs"]}
    where = " and ".join(f"{processor}, {threads} threads" for processor, threads in sorted(hosts, key=str))
    lines.append(
        f"s/epoch: median training time of an epoch, validation left out, on {facts['device']} in "
        f"{facts['precision']} ({where}). trained extra: parameters of the method's own modules; ships: parameters of the network that is exported."
    )
    return lines


def markdown(facts: Mapping[str, Any]) -> str:
    """The whole comparison as Markdown."""
    head = columns(facts)
    lines = [f"## {facts['name']}: {facts['student']}" + (f" from {facts['teacher']}" if facts["teacher"] else ""), ""]
    lines += [_line(head), _line(["---", *["---:"] * (len(head) - 1)])]
    lines += [_line(cells(facts, row)) for row in facts["methods"]]
    lines += ["", *(f"- {line}" for line in verdicts(facts)), "", *notes(facts), ""]
    lines.append("Students: " + "; ".join(_artifacts(row) for row in facts["methods"]) + ".")
    return "\n".join(lines) + "\n"


def _artifacts(row: Row) -> str:
    return f"{row['method']} " + ", ".join(f"`{run['artifact'].rpartition('/')[2]}`" for run in row["runs"])


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def _has_own(facts: Mapping[str, Any]) -> bool:
    named = {facts["plain"], facts["usual"]}
    return any(difference["to"] not in named for row in facts["methods"] for difference in row["differences"])


def _listed(seeds: Sequence[int]) -> str:
    whole = list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))) and len(seeds) > 2
    return f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds))


def _signed(value: float) -> str:
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", words.MINUS)
