"""A `torch.export` program -> a .tflite file: converted by litert-torch, quantized by ai-edge-quantizer on our images.

The quantizer's own calibration keeps a moving average of the ranges of single images, which clips: 14 dB on a CIFAR-10
resnet8. Here the ranges of all images are looked at, cut where the squared error is least (24 dB), and the shift that rounded
weights cause is taken out of the biases (30 dB).

Source of the last: Nagel, van Baalen, Blankevoort, Welling, Data-Free Quantization Through Weight Equalization and Bias
Correction, ICCV 2019, section 4.2; the input's mean is measured on the calibration images instead of derived from BatchNorm.
Needs: torch, litert-torch, ai-edge-quantizer, ai-edge-litert.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import torch

FAITHFUL = 1e-4  # of the range of the golden logits: two float32 runtimes differ by 1e-6, a broken hand-over by 1e-2
BINS = 4096  # of a tensor's values: 16 to a step of the whole range, 5 to one of the smallest that is tried
PARTS = np.linspace(1.0, 0.3, 71)  # of the whole range
STEPS = 255
LAYERS = ("CONV_2D", "FULLY_CONNECTED", "DEPTHWISE_CONV_2D")
TYPES = {0: np.float32, 2: np.int32, 9: np.int8}  # of the file format's TensorType


def main(job: dict) -> dict:
    """Write `model`; says what is in it, and how far the program is from the golden logits."""
    program = torch.export.load(job["program"]).module()
    with np.load(job["golden"], allow_pickle=False) as file:
        images, wanted = _normalised(file["images"], job), file["logits"]
    found = np.concatenate([program(torch.from_numpy(image[None])).detach().numpy() for image in images])
    error = float(np.abs(found - wanted).max() / np.ptp(wanted))
    if not error <= FAITHFUL:
        return {"refused": f"in this tool's torch it errs by {error:.2g} of the range of the golden logits"}
    model, plain = Path(job["model"]), Path.cwd() / "plain.tflite"
    print("> litert: converting")
    _convert(program, images, model if job["precision"] == "fp32" else plain)
    if job["precision"] == "int8":
        with np.load(job["calibration"], allow_pickle=False) as file:
            shown = np.ascontiguousarray(_normalised(file["images"], job).transpose(0, 2, 3, 1))
        print(f"> litert: quantizing on {len(shown)} images")
        _quantize(plain, model, shown, job["calibrate"], job["bias_correction"])
    return {"program_error_to_range": error, "operators": _operators(model)}


def _normalised(images, job):
    """[n, H, W, C] uint8 -> [n, C, H, W] float32."""
    mean, std = (np.asarray(job[name], dtype=np.float32).reshape(1, 1, 1, -1) for name in ("mean", "std"))
    values = (images.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def _convert(program, images, path):
    """The float file, batch 1, channels last: the layout of its kernels, so no transposition is left at the input."""
    import litert_torch

    example = torch.from_numpy(np.ascontiguousarray(images[:1].transpose(0, 2, 3, 1)))
    litert_torch.convert(litert_torch.to_channel_last_io(program, args=[0]), (example,)).export(str(path))


def _quantize(plain, model, shown, calibrate, corrected):
    """int8 activations (one scale a tensor, any zero point), int8 weights (one scale a channel, symmetric), int32 biases."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import calibrator, quantizer, recipe
    from ai_edge_quantizer.utils import qsv_utils

    tool = quantizer.Quantizer(str(plain), recipe.static_wi8_ai8())
    name = Interpreter(model_path=str(plain)).get_signature_list()["serving_default"]["inputs"][0]
    fed = {"serving_default": [{name: image[None]} for image in shown]}
    if calibrate == "moving":
        ranges = tool.calibrate(fed, num_threads=1)
    else:
        reader = calibrator.Calibrator(plain.read_bytes(), num_threads=1, qsv_update_func=qsv_utils.min_max_update)
        reader.calibrate(fed, model_recipe_manager=tool._recipe_manager)
        ranges = reader.get_model_qsvs()
    counts, means = _watched(plain, shown, ranges)
    if calibrate == "mse":
        for tensor, (count, low, high) in counts.items():
            least, most = _best(count, low, high)
            shape = np.shape(ranges[tensor]["min"])
            ranges[tensor] = {**ranges[tensor], "min": np.full(shape, least), "max": np.full(shape, most)}
    model.unlink(missing_ok=True)
    tool.quantize(ranges).export_model(str(model))
    if corrected:
        _correct_biases(plain, model, means)


def _watched(plain, shown, ranges):
    """({tensor: (histogram, low, high)}, {tensor: mean of each channel}) of the float values of all images.

    The output is in no histogram: it keeps its whole range, for equal logits at the end of a clipped one tie.
    """
    net = _interpreter(plain, preserve=True)
    net.allocate_tensors()
    given, told = net.get_input_details()[0]["index"], net.get_output_details()[0]["name"]
    values = [t for t in net.get_tensor_details() if t["name"] in ranges and t["dtype"] == np.float32]
    spans = {
        t["name"]: tuple(float(f(ranges[t["name"]][k])) for f, k in ((np.min, "min"), (np.max, "max"))) for t in values
    }
    counts, means = {t["name"]: np.zeros(BINS) for t in values if t["name"] != told}, {t["name"]: 0.0 for t in values}
    for image in shown:
        net.set_tensor(given, image[None])
        net.invoke()
        for tensor in values:
            name, value = tensor["name"], net.get_tensor(tensor["index"])
            means[name] = means[name] + value.reshape(-1, value.shape[-1]).mean(axis=0, dtype=np.float64) / len(shown)
            if name in counts and spans[name][1] > spans[name][0]:
                counts[name] += np.histogram(value, BINS, spans[name])[0]
    return {name: (count, *spans[name]) for name, count in counts.items() if count.any()}, means


def _best(count, low, high):
    """The range around zero whose 256 steps err least on values counted in equal bins from low to high."""
    values = low + (np.arange(BINS) + 0.5) * (high - low) / BINS
    errors = []
    for part in PARTS:
        least, most = min(low, 0.0) * part, max(high, 0.0) * part
        step = (most - least) / STEPS
        rounded = np.rint(np.clip(values, least, most) / step) * step
        errors.append((float(count @ np.square(values - rounded)), least, most))
    return min(errors)[1:]


def _correct_biases(plain, model, means):
    """Add to each layer's bias what its rounded weights take from the mean of its output.

    Raises:
        RuntimeError: The quantized file has other operators than the float one.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    before, after = flatbuffer_utils.read_model(str(plain)), flatbuffer_utils.read_model(str(model))
    pairs = [
        (flatbuffer_utils.opcode_to_name(before, op.opcodeIndex), op.inputs) for op in before.subgraphs[0].operators
    ]
    other = [(flatbuffer_utils.opcode_to_name(after, op.opcodeIndex), op.inputs) for op in after.subgraphs[0].operators]
    if [name for name, _ in pairs] != [name for name, _ in other]:
        raise RuntimeError("the quantized file has other operators than the float one")
    for (name, old), (_, new) in zip(pairs, other, strict=True):
        if name not in LAYERS or len(new) < 3 or new[2] < 0:
            continue
        lost = _weights(before, old[1]) - _weights(after, new[1])
        mean = means[before.subgraphs[0].tensors[old[0]].name.decode()]
        if name == "DEPTHWISE_CONV_2D":  # [1, h, w, C]
            shift = lost[0].sum(axis=(0, 1)) * mean
        else:  # [outputs, ..., inputs]
            shift = lost.reshape(len(lost), -1, lost.shape[-1]).sum(axis=1) @ mean
        bias = after.subgraphs[0].tensors[new[2]]
        kept = np.frombuffer(after.buffers[bias.buffer].data, dtype=np.int32)
        steps = np.rint(shift / np.asarray(bias.quantization.scale, dtype=np.float64)).astype(np.int32)
        after.buffers[bias.buffer].data = np.frombuffer((kept + steps).tobytes(), dtype=np.uint8)
    flatbuffer_utils.write_model(after, str(model))


def _weights(model, index):
    """A layer's weights as real numbers."""
    tensor = model.subgraphs[0].tensors[index]
    values = np.frombuffer(model.buffers[tensor.buffer].data, dtype=TYPES[tensor.type]).reshape(tensor.shape)
    if tensor.type == 0:
        return values.astype(np.float64)
    shape = [1] * values.ndim
    shape[tensor.quantization.quantizedDimension] = -1
    return values * np.asarray(tensor.quantization.scale, dtype=np.float64).reshape(shape)


def _operators(path):
    """{operator: how many} of a file."""
    return dict(sorted(Counter(node["op_name"] for node in _interpreter(path)._get_ops_details()).items()))


def _interpreter(path, preserve=False):
    """One without a delegate, which would stand for all operators that it takes."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return Interpreter(
        model_path=str(path),
        experimental_preserve_all_tensors=preserve,
        experimental_op_resolver_type=plain,
        num_threads=1,
    )
