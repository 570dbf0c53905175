"""A quantization that is decided and not yet written: its graph can still be had with some layers in float, or only one in int8."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from onnx import ModelProto

from edgekd.errors import StageFailed
from edgekd.quantizers import bias, gates, qdq
from edgekd.quantizers.base import Range
from edgekd.quantizers.calibrate import Array
from edgekd.quantizers.qdq import Limits


@dataclass(frozen=True)
class Draft:
    """Everything that a quantized graph is made of.

    Attributes:
        model: The float graph, as `qdq.prepare` gives it; equalized where that was asked.
        scheme: One of `qdq.FORMS`.
        limits: {value: (lowest, highest)}.
        exact: {value: its quantization} in the place of limits.
        gates: Convolutions that run in float with int8 weights.
        shifts: {layer: what is added to its bias while it is quantized}.
    """

    model: ModelProto
    scheme: str
    limits: Limits = field(default_factory=dict)
    exact: Mapping[str, Range] | None = None
    gates: tuple[str, ...] = ()
    shifts: Mapping[str, Array] = field(default_factory=dict)

    @property
    def layers(self) -> list[str]:
        """Names of the layers that are quantized, in the order of the graph."""
        return [node.name for node in qdq.layers(self.model) if node.name not in self.gates]

    @property
    def left(self) -> list[str]:
        """Names of the gates and of the nodes that feed them."""
        return [*self.gates, *gates.feeding(self.model, list(self.gates))]

    def with_ranges(self, ranges: Mapping[str, Range]) -> Draft:
        """The same with given ranges, as they are.

        Raises:
            StageFailed: They are not those of the values that are rounded.
        """
        names = qdq.activations(self.model, self.scheme, self.left)
        sources = set(names.values())
        wrong = [f"no range for {name!r}" for name in sorted(sources - set(ranges))]
        wrong += [f"a range for {name!r}, which is not rounded" for name in sorted(set(ranges) - set(names))]
        wrong = wrong or [
            f"two ranges for {name!r} and {source!r}, which share one"
            for name, source in names.items()
            if ranges.get(name, ranges[source]) != ranges[source]
        ]
        if wrong:
            found = f"{wrong[0]}; {len(ranges)} ranges for {len(sources)} activations"
            raise StageFailed(f"quantized/{self.scheme}", found, "the ranges of the values that are rounded")
        return replace(self, exact={name: ranges[source] for name, source in names.items()})

    def written(self, kept: Collection[str] = ()) -> ModelProto:
        """The quantized graph.

        Args:
            kept: Names of layers that stay in float, and what they read, too: the layer before such a one then computes in
                float with its int8 weight.

        Raises:
            StageFailed: onnxruntime refuses the graph.
        """
        corrected = bias.shifted(self.model, {name: own for name, own in self.shifts.items() if name not in kept})
        bare = [*kept, *qdq.around(self.model, kept)] if kept else []
        made = qdq.written(corrected, self.scheme, self.limits, exact=self.exact, kept=self.left, bare=bare)
        return gates.quantize_weights(made, list(self.gates)) if self.gates else made

    def alone(self, layer: str) -> ModelProto:
        """The float graph with one layer quantized, its weight and its input.

        Raises:
            StageFailed: onnxruntime refuses the graph.
        """
        corrected = bias.shifted(self.model, {name: own for name, own in self.shifts.items() if name == layer})
        return qdq.written(corrected, self.scheme, self.limits, exact=self.exact, only=layer)
