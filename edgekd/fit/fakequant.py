"""A network that computes as its int8 file will: values rounded to their 8-bit steps, gradients passed straight through.

Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, 2018
(simulated quantization); Esser et al., Learned Step Size Quantization, 2020, equations 1 to 3 (steps that are learned). Ours
differs: the steps of activations start from calibration and move on a logarithmic scale, their zero points stay; the step of a
weight is that of its channel's largest value.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from edgekd.errors import RecipeError
from edgekd.models.fold import foldable, parent, put
from edgekd.taps import TapPoint

LEVELS = 255  # from the smallest to the largest value of an 8-bit activation
SIGNED = -128  # smallest value of a signed one
FARTHEST = math.log(4)  # of a learned step from its start: what wants to go farther diverges
STEPS = 127  # of a signed 8-bit weight to each side of 0
GRAPH = "graph"  # the traced network inside a `FakeQuantized`


@dataclass(frozen=True)
class Activation:
    """A value of the network that is rounded.

    Attributes:
        node: Its name in `traced`.
        scale: Starting step, > 0.
        zero_point: The 8-bit value of 0.0, 0 to 255, or -128 to 127 where it is signed.
        like: Node whose step it shares; None: it has its own.
        signed: Its values are int8, not uint8.
    """

    node: str
    scale: float
    zero_point: int
    like: str | None = None
    signed: bool = False


class Rounded(nn.Module):
    """An activation in 256 steps. What is learned is the logarithm of the step's ratio to its start: a step of 0.01 that moves as
    a weight does is soon 0, its logarithm is not; and weight decay then leads back to the calibrated range.

    Args:
        scale: See `Activation`.
        zero_point: See `Activation`.
        learned: Let the step learn.
        signed: See `Activation`.
    """

    start: Tensor

    def __init__(self, scale: float, zero_point: int, learned: bool, signed: bool = False) -> None:
        super().__init__()
        self.register_buffer("start", torch.tensor(scale, dtype=torch.float32))
        self.ratio = nn.Parameter(torch.zeros(()), requires_grad=learned)
        self.zero_point, self.lowest = zero_point, SIGNED if signed else 0

    @property
    def step(self) -> Tensor:
        """The step in use, [] float32 > 0."""
        return self.start * self.ratio.clamp(-FARTHEST, FARTHEST).exp()

    def forward(self, x: Tensor) -> Tensor:
        """The same shape; gradient of x where it is inside the range, of the step by equation 3 of LSQ."""
        step = self.step
        low = self.lowest - self.zero_point
        place = (x / step).clamp(low, low + LEVELS)
        return (place + (place.round() - place).detach()) * step


class RoundedWeight(nn.Module):
    """A weight [outputs, ...] in 255 steps for each output, or for all; the step follows the weight.

    Args:
        channels: One step for each output.
    """

    def __init__(self, channels: bool) -> None:
        super().__init__()
        self.channels = channels

    def step(self, weight: Tensor) -> Tensor:
        """The step of each output [outputs, 1, ...], or of all [1, ...]; no gradient."""
        axes = tuple(range(1 if self.channels else 0, weight.dim()))
        largest = (
            weight.detach().abs().amax(dim=axes, keepdim=True).double()
        )  # divided in double, as the quantizer does
        return torch.where(largest > 0, largest / STEPS, 1.0).float()

    def forward(self, weight: Tensor) -> Tensor:
        """The same shape."""
        step = self.step(weight)
        return weight + ((weight / step).round().clamp(-STEPS, STEPS) * step - weight).detach()


class RoundedBias(nn.Module):
    """A bias [outputs] as the 32-bit integer that is added to sums of products: in steps of input times weight.

    They are fine, but an error of a hundredth of a step of the output turns one value of a hundred into its neighbour.

    Args:
        source: Rounds the layer's input.
        layer: Its weight is rounded by a `RoundedWeight`.
    """

    def __init__(self, source: Rounded, layer: nn.Module) -> None:
        super().__init__()
        self.read = (source, layer)  # a tuple: they stand elsewhere in the network

    def forward(self, bias: Tensor) -> Tensor:
        """The same shape."""
        source, layer = self.read
        weight: Any = layer.parametrizations.weight  # type: ignore[union-attr]
        return _in_steps(bias, source.step.detach() * weight[0].step(weight.original).flatten())


class FoldedConv(nn.Module):
    """A convolution and the BatchNorm behind it as the one convolution of the file, rounded, while both go on learning.

    While BatchNorm learns, what the folded and rounded weight gives is unfolded again and normalised by its batch; once its
    statistics are frozen this is the convolution of the file.

    Source: Krishnamoorthi, Quantizing deep convolutional networks for efficient inference, 2018, section 3.2.2.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv, self.norm = conv, norm
        self.rounded: RoundedWeight | None = None
        self.source: tuple[Rounded, ...] = ()  # a tuple: it stands elsewhere in the network

    def folded(self) -> tuple[Tensor, Tensor]:
        """(weight, bias) of the one convolution, float; in the order of operations of `fold_batchnorm`."""
        norm, bias = self.norm, self.conv.bias
        assert norm.running_mean is not None and norm.running_var is not None
        inverse = torch.rsqrt(norm.running_var + norm.eps)
        weight = self.conv.weight * (norm.weight * inverse).view(-1, 1, 1, 1)
        before = torch.zeros_like(norm.running_mean) if bias is None else bias
        return weight, (before - norm.running_mean) * inverse * norm.weight + norm.bias

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, outputs, H', W'], normalised."""
        weight, bias = self.folded()
        if self.rounded is not None:
            step = self.rounded.step(weight).flatten()
            weight = self.rounded(weight)
            bias = _in_steps(bias, self.source[0].step.detach() * step) if self.source else bias
        conv = self.conv
        if not self.norm.training:
            whole: Tensor = conv._conv_forward(x, weight, bias)
            return whole
        assert self.norm.running_var is not None
        ratio = self.norm.weight * torch.rsqrt(self.norm.running_var + self.norm.eps)
        ratio = torch.where(ratio == 0, 1.0, ratio).view(1, -1, 1, 1)
        plain = conv._conv_forward(x, weight, None) / ratio
        if conv.bias is not None:  # the running mean has it in it: `folded` takes it off again
            plain = plain + conv.bias.view(1, -1, 1, 1)
        normalised: Tensor = self.norm(plain)
        return normalised


class FakeQuantized(nn.Module):
    """A network whose weights and activations are rounded as those of an int8 file. Made by `fake_quantized`.

    BatchNorm goes by its batches at first, and keeps its statistics, as the file does, in the last quarter of the epochs
    (rounded up, but never in the first): frozen at a rate that is still high, a ResNet-8 came apart.
    """

    def __init__(self, graph: fx.GraphModule, points: Mapping[str, TapPoint]) -> None:
        super().__init__()
        self.graph = graph
        self.points = dict(points)
        self.frozen = False

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of normalised images [B, C, H, W]."""
        logits: Tensor = self.graph(x)
        return logits

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Freeze BatchNorm where it is time; see `Paced`."""
        self.frozen = epoch >= max(1, epochs - math.ceil(epochs / 4))
        self.train(self.training)

    def train(self, mode: bool = True) -> FakeQuantized:
        """As of any module, but for a BatchNorm that is frozen."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and self.frozen:
                module.eval()
        return self

    def steps(self) -> dict[str, tuple[float, int]]:
        """{node: (step, zero point)} as they are now."""
        rounded = {name: module for name, module in self.graph.named_modules() if isinstance(module, Rounded)}
        return {name.removeprefix(PREFIX): (float(m.step.detach()), m.zero_point) for name, m in rounded.items()}

    def weights(self) -> dict[str, Tensor]:
        """The unrounded weights, under the names of the network with its BatchNorms folded."""
        convolutions = {name: module for name, module in self.graph.named_modules() if isinstance(module, FoldedConv)}
        hidden = (PREFIX, *(f"{name}." for name in convolutions))
        state = {
            _plain(name): tensor for name, tensor in self.graph.state_dict().items() if not name.startswith(hidden)
        }
        for name, module in convolutions.items():
            weight, bias = module.folded()
            state |= {f"{name}.weight": weight.detach(), f"{name}.bias": bias.detach()}
        return state


PREFIX = "rounded_"


def traced(network: nn.Module) -> fx.GraphModule:
    """The network as a graph of its operations, over the same modules.

    Raises:
        RecipeError: Its control flow hangs on its input.
    """
    return fx.GraphModule(network, _graph(network)[0])


def gone(network: nn.Module) -> set[str]:
    """Convolutions whose bare output no file has: the BatchNorm of another module is folded into them."""
    return {conv for conv, norm in foldable(network, across=True) if parent(conv) != parent(norm)}


def refuse_gone(network: nn.Module, points: Mapping[str, TapPoint]) -> None:
    """Refuse taps of what a network with all its BatchNorms folded does not have.

    Raises:
        RecipeError: A tap reads the bare output of a convolution that the BatchNorm of another module is folded into.
    """
    lost = gone(network)
    for tap, point in points.items():
        if point.path in lost and point.side == "output":
            found = f"the method reads the tap {tap!r}, and the int8 file has no {point.path} without the BatchNorm behind it"
            raise RecipeError("qat", found, "a method of other taps", "remove qat: post-training quantization")


def values(graph: fx.GraphModule, images: Tensor) -> dict[str, Tensor]:
    """{node: value} of all tensors that a batch makes, in the order made."""
    seen: dict[str, Tensor] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            value = super().run_node(n)
            if isinstance(value, Tensor) and n.op != "output":
                seen[n.name] = value.detach().clone()  # an operation in place may change it later
            return value

    with torch.no_grad():
        Recorder(graph).run(images)
    return seen


def fake_quantized(
    network: nn.Module,
    points: Mapping[str, TapPoint],
    activations: Sequence[Activation],
    weights: Mapping[str, bool],
    learned: bool,
    biases: Mapping[str, str] | None = None,
) -> FakeQuantized:
    """A copy of the network that rounds what it is told to.

    Args:
        network: Float.
        points: Its taps; those of the result read the rounded values.
        activations: What to round, by the nodes of the network with its BatchNorms folded, `traced`.
        weights: {module whose `weight` is rounded: one step for each output}.
        learned: Let the steps of the activations learn.
        biases: {module of `weights` whose `bias` is rounded: node of the activation that it reads}.

    Raises:
        RecipeError: See `traced`; a tap reads a convolution that its file has only with the BatchNorm of another module in it.
    """
    refuse_gone(network, points)
    network = copy.deepcopy(network).eval()  # a trace in training would keep functional dropout for good
    network.requires_grad_(True)
    for conv_path, norm_path in foldable(network, across=True):
        conv, norm = network.get_submodule(conv_path), network.get_submodule(norm_path)
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        put(network, conv_path, FoldedConv(conv, norm))
        put(network, norm_path, nn.Identity())
    graph, outputs = _graph(network)
    places = {node.name: node for node in graph.nodes}
    after: dict[fx.Node, fx.Node] = {}
    for activation in activations:
        if activation.like is None:
            rounding = Rounded(activation.scale, activation.zero_point, learned, activation.signed)
            network.add_module(PREFIX + activation.node, rounding)
    for activation in activations:
        node = places[activation.node]
        after[node] = _behind(graph, node, PREFIX + (activation.like or activation.node))
    read = {}
    for tap, point in points.items():
        called, given = outputs[point.path]
        node = called if point.side == "output" else given
        node, name = after.get(node, node), f"tap_{tap.replace('.', '_')}"
        network.add_module(name, nn.Identity())
        with graph.inserting_after(node):
            graph.call_module(name, (node,))
        read[tap] = TapPoint(f"{GRAPH}.{name}", "output")
    made = fx.GraphModule(network, graph)
    for path, channels in weights.items():
        _round_weight(made.get_submodule(path), channels)
    for path, node in (biases or {}).items():
        source = made.get_submodule(PREFIX + node)
        assert isinstance(source, Rounded)
        _round_bias(made.get_submodule(path), source)
    return FakeQuantized(made, read)


def _round_weight(layer: nn.Module, channels: bool) -> None:
    if isinstance(layer, FoldedConv):
        layer.rounded = RoundedWeight(channels)
    else:
        parametrize.register_parametrization(layer, "weight", RoundedWeight(channels))


def _round_bias(layer: nn.Module, source: Rounded) -> None:
    if isinstance(layer, FoldedConv):
        layer.source = (source,)
    else:
        parametrize.register_parametrization(layer, "bias", RoundedBias(source, layer))


def _in_steps(value: Tensor, step: Tensor) -> Tensor:
    """Rounded to whole steps; the gradient passes."""
    return value + ((value / step).round() * step - value).detach()


def _plain(name: str) -> str:
    """The name of a tensor before its layer's rounding."""
    return name.replace("parametrizations.", "").removesuffix(".original")


def _behind(graph: fx.Graph, node: fx.Node, name: str) -> fx.Node:
    """A call of the module `name` on the node, which everything behind it reads instead."""
    with graph.inserting_after(node):
        rounded = graph.call_module(name, (node,))
    node.replace_all_uses_with(rounded, delete_user_cb=lambda user: user is not rounded)
    return rounded


def _graph(network: nn.Module) -> tuple[fx.Graph, dict[str, tuple[fx.Node, fx.Node]]]:
    """The operations, and of each module that ran: the nodes of its output and its input."""
    seen: dict[str, tuple[fx.Node, fx.Node]] = {}

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, FoldedConv) or super().is_leaf_module(m, module_qualified_name)

        def call_module(self, m, forward, args, kwargs):  # type: ignore[no-untyped-def]
            output = super().call_module(m, forward, args, kwargs)
            if isinstance(output, fx.Proxy) and args and isinstance(args[0], fx.Proxy):
                seen[self.path_of_module(m)] = (output.node, args[0].node)
            return output

    try:
        graph = Tracer().trace(network)
    except fx.proxy.TraceError as error:
        raise RecipeError(
            "qat",
            f"the network cannot be looked through: {error}",
            "a network without control flow on its input",
            "remove qat: post-training quantization",
        ) from error
    return graph, seen
