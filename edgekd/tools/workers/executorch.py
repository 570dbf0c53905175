"""A `torch.export` program -> a .pte file for XNNPACK: float32, or int8 by XNNPACK's own quantizer on our images.

The shift that rounded weights cause is taken out of the biases afterwards, as in the worker litert.

Source of that: Nagel, van Baalen, Blankevoort, Welling, Data-Free Quantization Through Weight Equalization and Bias
Correction, ICCV 2019, section 4.2; the input's mean is measured on the calibration images instead of derived from BatchNorm.
Needs: torch, torchao, executorch.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import torch

FAITHFUL = 1e-4  # of the range of the golden logits: two float32 runtimes differ by 1e-6, a broken hand-over by 1e-2
LAYERS = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)
HEAD = (torch.ops.aten.adaptive_avg_pool2d.default, torch.ops.aten.flatten.using_ints)
NOTATION = "quantized_decomposed::"  # where values are rounded: the backend makes no operator of it
LARGEST = 127  # of a symmetric int8 weight


def main(job: dict) -> dict:
    """Write `model`; says where each operator of it runs: in XNNPACK, or in a kernel of ExecuTorch's own."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.load(job["program"])
    network = program.module(check_guards=False)  # its guards are a call that the quantizer cannot read
    with np.load(job["golden"], allow_pickle=False) as file:
        images, wanted = _normalised(file["images"], job), file["logits"]
    with torch.no_grad():
        found = np.concatenate([network(image[None]).numpy() for image in images])
        error = float(np.abs(found - wanted).max() / np.ptp(wanted))
        if not error <= FAITHFUL:
            return {"refused": f"in this tool's torch it errs by {error:.2g} of the range of the golden logits"}
        if job["precision"] == "int8":
            with np.load(job["calibration"], allow_pickle=False) as file:
                shown = _normalised(file["images"], job)
            print(f"> executorch: quantizing on {len(shown)} images")
            quantized = _quantized(network, shown, job["bias_correction"])
            program = torch.export.export(quantized, (images[:1],))
        print("> executorch: lowering to XNNPACK")
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    parts = [part for part in lowered.exported_program().graph_module.children() if hasattr(part, "backend_id")]
    made = lowered.to_executorch()
    Path(job["model"]).write_bytes(made.buffer)
    return {"program_error_to_range": error, **placement(parts, made.executorch_program.execution_plan[0])}


def placement(parts, plan) -> dict:
    """{placement, delegates, left}: the operators that a backend was handed, and those that the file itself runs elsewhere.

    Args:
        parts: The lowered parts of the graph: `backend_id`, `original_module` with the operators that the backend was handed.
        plan: The execution plan that is in the file: `delegates`, `operators`, `chains` of instructions.

    Raises:
        RuntimeError: The file hands over other parts than the graph has.
    """
    if sorted(part.backend_id for part in parts) != sorted(delegate.id for delegate in plan.delegates):
        found = ", ".join(delegate.id for delegate in plan.delegates) or "none"
        raise RuntimeError(f"the file hands over other parts than the graph has: {found}")
    rows = [
        {"operator": node.target.name(), "name": node.name, "place": part.backend_id.removesuffix("Backend").upper()}
        for part in parts
        for node in part.original_module.graph.nodes
        if node.op == "call_function" and hasattr(node.target, "name") and NOTATION not in node.target.name()
    ]
    instructions = [one.instr_args for chain in plan.chains for one in chain.instructions]
    kernels = [plan.operators[one.op_index] for one in instructions if hasattr(one, "op_index")]
    left = [f"{kernel.name}.{kernel.overload}" if kernel.overload else kernel.name for kernel in kernels]
    rows += [{"operator": name, "name": f"kernel {i}", "place": "ExecuTorch"} for i, name in enumerate(left)]
    return {"placement": rows, "delegates": len(parts), "left": dict(sorted(Counter(left).items()))}


def _quantized(network, shown, corrected):
    """int8 activations (one scale a tensor), int8 weights (one scale a channel); ranges by torchao's histograms."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    class FineHead(XNNPACKQuantizer):
        """Rounds pooled features in their own range: that of the map before is 5 times as wide (24 dB instead of 29)."""

        def annotate(self, model):
            model = super().annotate(model)
            for node in model.graph.nodes:
                if node.target in HEAD:
                    node.meta.pop("quantization_annotation", None)
            return model

    prepared = prepare_pt2e(network, FineHead().set_global(get_symmetric_quantization_config(is_per_channel=True)))
    reader = _Means(prepared)
    for image in shown:
        reader.run(image[None])  # its observers see the values on the way
    if corrected:
        _correct_biases(prepared, {node: total / len(shown) for node, total in reader.totals.items()})
    return convert_pt2e(prepared)


class _Means(torch.fx.Interpreter):
    """Runs a network and sums up, of each layer's input, the mean of each channel."""

    def __init__(self, network):
        super().__init__(network)
        self.totals = {}

    def run_node(self, node):
        if node.target in LAYERS:
            value = self.env[node.args[0]].double()
            mean = value.mean(dim=(0, 2, 3)) if value.dim() == 4 else value.reshape(-1, value.shape[-1]).mean(dim=0)
            self.totals[node] = self.totals.get(node, 0) + mean
        return super().run_node(node)


def _correct_biases(prepared, means):
    """Add to each layer's bias what its rounded weights take from the mean of its output."""
    for node, mean in means.items():
        stored = node.args[1] if node.args[1].op == "get_attr" else node.args[1].args[0]
        if len(node.args) < 3 or node.args[2] is None:
            continue
        weight, bias = (_at(prepared, part.target) for part in (stored, node.args[2]))
        real = weight.double().reshape(len(weight), weight.shape[1], -1)
        scale = real.abs().amax(dim=(1, 2), keepdim=True) / LARGEST
        lost = (real - torch.round(real / scale) * scale).sum(dim=2)  # [outputs, inputs of the group]
        groups = len(mean) // weight.shape[1]
        shown = mean.reshape(groups, -1).repeat_interleave(len(weight) // groups, dim=0)
        bias += (lost * shown).sum(dim=1).to(bias.dtype)


def _at(module, name):
    """An attribute by its dotted name."""
    for part in name.split("."):
        module = getattr(module, part)
    return module.data


def _normalised(images, job):
    """[n, H, W, C] uint8 -> [n, C, H, W] float32."""
    mean, std = (np.asarray(job[name], dtype=np.float32).reshape(1, 1, 1, -1) for name in ("mean", "std"))
    values = (images.astype(np.float32) / np.float32(255) - mean) / std
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))
