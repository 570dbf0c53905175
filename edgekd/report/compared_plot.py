"""The picture of a comparison: each method's difference to one reference, a point a seed, its mean and its 95 % interval."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from edgekd.report.plots import INK, MUTED, SERIES, STYLE, WIDTH

DOTS = 160  # a inch
SPREAD = 0.22  # of the points of one method, up and down, of a row's height


def png(facts: Mapping[str, Any]) -> bytes:
    """PNG of the differences to `kd`, or to labels alone where there is no teacher."""
    reference = facts["usual"] or facts["plain"]
    found = [
        (row["method"], difference)
        for row in facts["methods"]
        for difference in row["differences"]
        if difference["to"] == reference
    ]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.1 + 0.36 * max(len(found), 1)), layout="constrained")
        ax = figure.subplots()
        ax.axvline(0, color=MUTED, linewidth=1.0)
        for y, (_, difference) in enumerate(found):
            n = len(difference["values_pp"])
            heights = [y + SPREAD * (2 * i / (n - 1) - 1 if n > 1 else 0) for i in range(n)]
            ax.plot(difference["values_pp"], heights, "o", color=SERIES[0], markersize=3.2, alpha=0.45, linewidth=0)
            if difference["low_pp"] is not None:
                ax.plot([difference["low_pp"], difference["high_pp"]], [y, y], color=SERIES[0], linewidth=2.2)
            ax.plot([difference["mean_pp"]], [y], "D", color=INK, markersize=4.5)
        ax.set_yticks(range(len(found)), [name for name, _ in found])
        ax.set_ylim(len(found) - 0.4, -0.6)
        ax.grid(axis="x")
        ax.set_xlabel(
            f"top-1 minus {reference}, percentage points; bars: 95 % interval over {len(facts['seeds'])} seeds"
        )
        ax.set_title(
            f"{facts['name']}: {facts['student']}, {facts['epochs']} epochs, n={facts['n_test']:,} test images"
        )
        buffer = io.BytesIO()
        FigureCanvasAgg(figure)
        figure.savefig(buffer, format="png", dpi=DOTS, metadata={"Software": None})
        return buffer.getvalue()
