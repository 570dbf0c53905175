"""Facts -> pictures: inline SVG, drawn by matplotlib without a display. Beside `compared_plot`, the only file that imports matplotlib.

Longer than others: seven pictures that share one style. Text stays text; a colour of PALETTE becomes a CSS variable of the page.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from edgekd.report import svg, words
from edgekd.report.schema import Account, Attention, Curve, Evaluation, Histogram, Latency, StageRow

PALETTE = {  # light values; the page gives dark ones. Told apart by people with any colour vision, and in grey
    "#1c2430": "--ink",
    "#5b6675": "--muted",
    "#dfe4ea": "--grid",
    "#1f5fa8": "--series-1",
    "#c2571a": "--series-2",
    "#1a8573": "--series-3",
    "#7b4bab": "--series-4",
    "#a8891c": "--series-5",
    "#fdfefe": "--paper",
}
INK, MUTED, GRID, *SERIES, PAPER = PALETTE
STYLE: dict[Any, Any] = {  # keys are matplotlib's own
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called `$x$`
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "edgekd",
}
WIDTH = 7.2  # inches; the page scales it
NAME_LENGTH = 22  # longer names are cut on a picture; the table beside it has them whole
ANNOTATED = 20  # classes up to which every cell of a matrix carries its number
TICKED = 60  # classes up to which every row of a matrix carries its name
RECALL_ROWS = 30  # classes drawn in the recall picture: the lowest ones when there are more
DARK = 0.7  # opacity above which the paper's colour reads better on a cell than ink, in the light and the dark theme
TOTAL = "loss"  # name of the sum of the terms in a history
LOG_LOSS = 50.0  # ratio of largest to smallest loss term above which the axis is logarithmic


def curves(found: Curve, name: str) -> str:
    """Loss terms, and validation top-1 where there is a validation part, per epoch."""
    with mpl.rc_context(STYLE):
        val = any(value is not None for value in found.val_top1_percent)
        figure = Figure(figsize=(WIDTH, 2.7), layout="constrained")
        axes = figure.subplots(1, 2 if val else 1, squeeze=False)[0]
        _losses(axes[0], found)
        if val:
            _lines(axes[1], found.epoch, {"val top-1": found.val_top1_percent})
            axes[1].set_title("Validation top-1 (%)")
        described = f"Per epoch, {len(found.epoch)} epochs: loss terms {', '.join(found.losses) or 'none'}"
        described += " and top-1 on the validation part in percent." if val else "; no validation part."
        return _svg(figure, name, f"Training curves of {found.step}", described)


def accuracy(stages: Sequence[StageRow], name: str) -> str:
    """Top-1 of every evaluated step with its 95 % interval, in the order of the chain."""
    rows = [(row, row.top1_percent) for row in stages if row.state == "ok" and row.top1_percent is not None]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.75 + 0.33 * len(rows)), layout="constrained")
        ax = figure.subplots()
        for y, (_, top1) in enumerate(rows):
            _interval(ax, y, top1.value, top1.low, top1.high, f"{top1.value:.2f}")
        _named_rows(ax, [row.step for row, _ in rows])
        ax.set_xlabel("top-1 on test (%), with 95 % interval")
        described = "; ".join(f"{row.step} {words.percent(top1)} %" for row, top1 in rows)
        return _svg(figure, name, "Top-1 per step", f"{described}.")


def losses(rows: Sequence[Account], name: str) -> str:
    """Drop of every step since the student, up to its bound; a mark where the gate ends."""
    found = [(row, row.origin) for row in rows if row.origin is not None]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.75 + 0.33 * len(found)), layout="constrained")
        ax = figure.subplots()
        ax.axvline(0, color=MUTED, linewidth=1.0)
        for y, (row, loss) in enumerate(found):
            _interval(ax, y, loss.drop_pp, loss.low_pp, loss.bound_pp, f"{words.signed(loss.drop_pp)}")
            if row.gate is not None:
                colour = SERIES[2] if row.gate.passed else SERIES[1]
                ax.plot([row.gate.budget_pp], [y], "|", color=colour, markersize=14, markeredgewidth=2.4)
        _named_rows(ax, [row.step for row, _ in found])
        ax.set_xlabel("top-1 lost since the student (points), with its one-sided 95 % bounds; upright mark: the gate")
        described = "; ".join(
            f"{row.step} {words.signed(loss.drop_pp)}, at most {loss.bound_pp:.3f}"
            + ("" if row.gate is None else f", gate {row.gate.budget_pp:g} {'passed' if row.gate.passed else 'FAILED'}")
            for row, loss in found
        )
        return _svg(figure, name, "Top-1 lost since the student, percentage points", f"{described}.")


def confusion(found: Evaluation, name: str) -> str:
    """Counts by label (rows) and answer (columns), shaded by the square root of the share of the row (else single errors cannot be seen); empty cells are not drawn."""
    matrix = np.asarray(found.matrix, dtype=np.float64)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    with mpl.rc_context(STYLE):
        side = min(6.6, max(3.6, 1.4 + 0.42 * len(matrix)))
        figure = Figure(figsize=(side + 0.4, side), layout="constrained")
        ax = figure.subplots()
        texts = [[f"{int(n)}" if n else "" for n in row] for row in matrix]
        _heat(ax, np.sqrt(shares), texts if len(matrix) <= ANNOTATED else None)
        _named_cells(ax, found.classes, found.classes)
        ax.set_xlabel("answer")
        ax.set_ylabel("label")
        described = (
            f"{found.n:,} test images by label (rows) and answer (columns); {int(np.trace(matrix)):,} on the diagonal."
        )
        return _svg(figure, name, f"Confusion matrix of {found.step}", described)


def recall(found: Evaluation, name: str) -> str:
    """Recall per class with its 95 % interval; the lowest ones when there are many classes."""
    rows = [row for row in found.recall if row.percent is not None]
    if len(rows) > RECALL_ROWS:
        rows = sorted(rows, key=lambda row: row.percent or 0.0)[:RECALL_ROWS]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.75 + 0.27 * len(rows)), layout="constrained")
        ax = figure.subplots()
        for y, row in enumerate(rows):
            _interval(ax, y, row.percent or 0.0, row.low, row.high, f"{row.percent:.1f}  n={row.n:,}")
        _named_rows(ax, [row.name for row in rows])
        ax.set_xlabel("recall (%), with 95 % interval")
        part = "" if len(rows) == len(found.recall) else f"the {len(rows)} lowest of {len(found.recall)} classes: "
        described = part + "; ".join(f"{row.name} {row.percent:.1f} % of {row.n:,}" for row in rows)
        return _svg(figure, name, f"Recall per class of {found.step}", f"{described}.")


def latency(benches: Sequence[Latency], name: str) -> str:
    """Every end-to-end sample of every valid bench on one axis; p50 and p90 marked where the count supports them."""
    shown = [(bench, bench.histograms[0]) for bench in benches if bench.state == "ok" and bench.histograms]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.5 + 1.55 * len(shown)), layout="constrained")
        axes = figure.subplots(len(shown), 1, squeeze=False, sharex=True)[:, 0]
        logarithmic = any(_uneven(histogram) for _, histogram in shown)
        for i, (ax, (bench, histogram)) in enumerate(zip(axes, shown, strict=True)):
            _samples(ax, bench, histogram, SERIES[i % len(SERIES)])
            if logarithmic:
                ax.set_xscale("log")
                _plain_log(ax.xaxis)
        axes[-1].set_xlabel(
            f"{shown[0][1].name.replace('_', ' ')} latency (ms)" + (", logarithmic" if logarithmic else "")
        )
        described = "; ".join(
            f"{bench.step}: {words.speed(bench)}, smallest {histogram.min_ms:.3g} ms, largest {histogram.max_ms:.3g} ms"
            for bench, histogram in shown
        )
        return _svg(figure, name, "Latency samples", f"{described}. No sample is cut off.")


def attention(found: Attention, name: str) -> str:
    """Mean attention of each student tap (row) to each teacher tap (column)."""
    matrix = np.asarray(found.matrix, dtype=np.float64)
    with mpl.rc_context(STYLE):
        rows, columns = matrix.shape
        size = (min(9.0, max(4.0, 1.7 + 0.42 * columns)), min(9.0, max(2.2, 1.3 + 0.36 * rows)))
        figure = Figure(figsize=size, layout="constrained")
        ax = figure.subplots()
        top = max(float(np.nanmax(matrix)), 1e-12)
        texts = [[f"{value:.2f}" if value >= 0.005 else "" for value in row] for row in matrix]
        _heat(ax, np.nan_to_num(matrix) / top, texts if max(rows, columns) <= ANNOTATED else None)
        _named_cells(ax, found.student_taps, found.teacher_taps)
        ax.set_xlabel("teacher tap")
        ax.set_ylabel("student tap")
        best = [found.teacher_taps[int(i)] for i in np.nanargmax(np.nan_to_num(matrix, nan=-1.0), axis=1)]
        described = "; ".join(
            f"{tap} listens most to {most}" for tap, most in zip(found.student_taps, best, strict=True)
        )
        return _svg(figure, name, f"Mean attention of {found.method}, last epoch", f"{described}.")


def _losses(ax: Axes, found: Curve) -> None:
    _lines(ax, found.epoch, found.losses)
    values = [value for column in found.losses.values() for value in column if value is not None]
    positive = [value for value in values if value > 0]
    if positive and len(positive) == len(values) and max(positive) / min(positive) > LOG_LOSS:
        ax.set_yscale("log")
        _plain_log(ax.yaxis)
        ax.set_title("Loss terms, weighted (logarithmic)")
    else:
        ax.set_title("Loss terms, weighted")
    if len(found.losses) > 1:
        ax.legend(loc="best", fontsize=8.5)


def _lines(ax: Axes, epoch: Sequence[int], columns: dict[str, tuple[float | None, ...]]) -> None:
    marker = "o" if len(epoch) <= 15 else ""
    colours = iter(SERIES * len(columns))
    for label, column in columns.items():
        y = [np.nan if value is None else value for value in column]
        colour = MUTED if label == TOTAL else next(colours)
        ax.plot(epoch, y, label=_short(label), color=colour, linewidth=1.6, marker=marker, markersize=3.5)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    ax.grid(axis="y")


def _interval(ax: Axes, y: int, value: float, low: float | None, high: float | None, text: str) -> None:
    if low is not None and high is not None:
        ax.plot([low, high], [y, y], color=SERIES[0], linewidth=2.2, solid_capstyle="butt", alpha=0.55)
    ax.plot([value], [y], "o", color=SERIES[0], markersize=5.5)
    ax.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), va="center", color=INK)


def _named_rows(ax: Axes, names: Sequence[str]) -> None:
    ax.set_yticks(range(len(names)), [_short(name) for name in names])
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.margins(x=0.06)
    ax.grid(axis="x")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=7))


def _heat(ax: Axes, share: np.ndarray, texts: list[list[str]] | None) -> None:
    """Cells with opacity = share in [0, 1]; numbers in the colour that can be read on it."""
    rows, columns = share.shape
    for i, j in zip(*np.nonzero(share > 0), strict=True):
        ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=SERIES[0], alpha=float(share[i, j]), linewidth=0))
    for i, row in enumerate(texts or []):
        for j, text in enumerate(row):
            colour = PAPER if share[i, j] > DARK else INK
            ax.text(j, i, text, ha="center", va="center", fontsize=7.5, color=colour)
    ax.set_xlim(-0.5, columns - 0.5)
    ax.set_ylim(rows - 0.5, -0.5)
    ax.set_aspect("equal" if rows == columns else "auto")
    for spine in ax.spines.values():
        spine.set_visible(True)
        spine.set_color(GRID)


def _named_cells(ax: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    ax.tick_params(length=0)
    for axis, names, rotation in ((ax.yaxis, rows, 0), (ax.xaxis, columns, 0 if _narrow(columns) else 60)):
        if len(names) <= TICKED:
            alignment: dict[str, Any] = (
                {"rotation": rotation, "ha": "right", "rotation_mode": "anchor"} if rotation else {}
            )
            axis.set_ticks(range(len(names)), [_short(name) for name in names], **alignment)


def _narrow(names: Sequence[str]) -> bool:
    return max((len(name) for name in names), default=0) <= 3 and len(names) <= ANNOTATED


def _samples(ax: Axes, bench: Latency, histogram: Histogram, colour: str) -> None:
    ax.stairs(histogram.counts, histogram.edges_ms, fill=True, color=colour, alpha=0.75, linewidth=0)
    ax.set_yscale("log")
    ax.set_ylim(0.7, max(histogram.counts) * 3.2)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    ax.grid(axis="y")
    ax.set_ylabel("samples")
    title = f"{_short(bench.step, 44)}: n={histogram.n:,}"
    for label, number, line in (("p50", bench.p50_ms, "solid"), ("p90", bench.p90_ms, "dashed")):
        if number is not None:
            ax.axvline(number.value, color=INK, linewidth=1.1, linestyle=line)
            title += f", {label} {number.value:.{words.decimals(number.value)}f} ms ({line})"
    ax.set_title(title)


def _plain_log(axis: Axis) -> None:
    """Ticks at 1, 2, 5 of each decade, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(FuncFormatter(lambda *_: ""))


def _uneven(histogram: Histogram) -> bool:
    """Whether the bins are equal in log: the tail is then far from the body."""
    widths = np.diff(histogram.edges_ms)
    return bool(widths[-1] > 1.5 * widths[0])


def _short(name: str, length: int = NAME_LENGTH) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"


def _svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as one SVG element; the same facts give the same bytes."""
    FigureCanvasSVG(figure)
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the reader's fonts draw the text
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    return svg.inline(buffer.getvalue(), name=name, title=title, description=description, colours=PALETTE)
