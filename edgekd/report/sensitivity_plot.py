"""The picture of a sensitivity: what each layer costs when it alone is quantized, in the order of the network."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from edgekd.report.plots import INK, MUTED, SERIES, STYLE, WIDTH

DOTS = 160  # a inch
EXACT = 100.0  # dB at which the axis ends: a layer without any noise has no place on it


def png(facts: Mapping[str, Any]) -> bytes:
    """PNG of the noise (dB, lower is worse) and of the lost top-1 (points) of every layer."""
    rows = facts["layers"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.3 + 0.22 * len(rows)), layout="constrained")
        noise, drop = figure.subplots(1, 2, sharey=True)
        place = range(len(rows))
        noise.barh(place, [min(row["sqnr_db"], EXACT) for row in rows], color=SERIES[0], height=0.65)
        noise.axvline(min(facts["all"]["sqnr_db"], EXACT), color=INK, linewidth=1.1, linestyle="dashed")
        noise.set_yticks(place, [row["layer"] for row in rows], fontsize=7.5)
        noise.set_ylim(len(rows) - 0.4, -0.6)
        noise.set_title("SQNR of the logits (dB); dashed: all layers", fontsize=8.5)
        drop.barh(place, [row["drop_pp"] for row in rows], color=SERIES[1], height=0.65)
        drop.axvline(0, color=MUTED, linewidth=1.0)
        drop.axvline(facts["all"]["drop_pp"], color=INK, linewidth=1.1, linestyle="dashed")
        drop.set_title(f"top-1 lost (points), n={facts['images']:,} of {facts['role']}", fontsize=8.5)
        for ax in (noise, drop):
            ax.grid(axis="x")
        buffer = io.BytesIO()
        FigureCanvasAgg(figure)
        figure.savefig(buffer, format="png", dpi=DOTS, metadata={"Software": None})
        return buffer.getvalue()
