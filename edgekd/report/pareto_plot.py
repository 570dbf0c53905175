"""The picture of one Pareto table: top-1 over p50 with both intervals; who is dominated is hollow."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from edgekd.report.plots import INK, MUTED, PAPER, SERIES, STYLE, WIDTH

HEIGHT = 4.2  # inches


def svg(group: Mapping[str, Any]) -> bytes:
    """A whole SVG file of one group of `analysis.pareto.groups`; the same facts give the same bytes."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": "pareto"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained", facecolor=PAPER)
        ax = figure.subplots()
        for i, row in enumerate(group["points"]):
            x, y = row["axes"]["p50_ms"], row["axes"]["top1_percent"]
            front = not row["dominated_by"]
            colour = SERIES[i % len(SERIES)] if front else MUTED
            ax.plot([x["low"], x["high"]], [y["value"]] * 2, color=colour, linewidth=1.8)
            ax.plot([x["value"]] * 2, [y["low"], y["high"]], color=colour, linewidth=1.8)
            ax.plot([x["value"]], [y["value"]], "o", color=colour, markerfacecolor=colour if front else PAPER)
            energy = row["axes"].get("energy_mj")
            text = f"{row['name']}" + (f", {energy['value']:.2f} mJ" if energy else "")
            ax.annotate(text, (x["value"], y["value"]), (5, 5), textcoords="offset points", color=INK, fontsize=7.5)
        ax.set_xscale("log")
        ax.set_xlabel("p50 latency, one image (ms, logarithmic), with 95 % interval")
        ax.set_ylabel("top-1 on test (%), with 95 % interval")
        ax.set_title(
            f"{group['device']} ({group['chip']}), {group['threads']} thread(s), {group['kind']}; hollow: dominated"
        )
        ax.grid(axis="both")
        ax.margins(x=0.15, y=0.12)
        FigureCanvasSVG(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()
