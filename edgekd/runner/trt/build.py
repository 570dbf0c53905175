"""An ONNX file -> a serialized engine: TensorRT 8.6, 10 and 11, by what their bindings have. Written, not run on hardware.

Precision is in the graph (explicit Q/DQ, half-precision tensors). A network is strongly typed where the version has that; the
flags INT8 and FP16 are for 8.6, and for a DLA before 11, which takes no strongly typed network.

Source: TensorRT documentation, Working with Quantized Types, Strongly Typed Networks, Working with DLA (NVIDIA).
Needs: nothing of its own; `trt` is the bindings' module (TensorRT-RTX's, which builds without a GPU, walks the same lines).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

from edgekd.runner import atomic
from edgekd.runner.failure import MISSING, STAGE_FAILED, USAGE, RunnerError
from edgekd.runner.trt.cache import say
from edgekd.runner.trt.options import Options

MIB = 1 << 20
MEMORY_WORDS = ("out of memory", "outofmemory", "insufficient workspace", "insufficient memory", "could not allocate")
SHOWN, LENGTH = 3, 600  # errors in one message, and characters


def engine(trt: Any, path: Path, options: Options, log: Any, timing: Path) -> Any:
    """The serialized engine (a buffer).

    Args:
        trt: The bindings.
        path: The ONNX file.
        options: How to build.
        log: Of `logger`.
        timing: File of the timing cache; read and written where the option says so.

    Raises:
        RunnerError: 2: a shape or a DLA that cannot be; 5: no such DLA core; 7: TensorRT refuses the file, or memory runs out.
    """
    builder = trt.Builder(log)
    network, parser = parsed(trt, builder, path, options, log)
    config = configured(trt, builder, network, options)
    kept = _timing_cache(config, timing) if options.timing_cache else None
    progress = _progress(trt)
    if progress is not None:
        config.progress_monitor = progress
    begun = time.monotonic()
    say("building {} with TensorRT {}; this takes from seconds to many minutes".format(path.name, trt.__version__))
    plan = builder.build_serialized_network(network, config)
    del parser  # it owns the weights that the network points at
    if plan is None:
        raise _unbuilt(path, options, log)
    say("built in {:.0f} s, {} KiB".format(time.monotonic() - begun, plan.nbytes // 1024))
    if kept is not None:
        content = memoryview(config.get_timing_cache().serialize())
        atomic.write(timing, lambda file: file.write(content))
    return plan


def parsed(trt: Any, builder: Any, path: Path, options: Options, log: Any) -> Tuple[Any, Any]:
    """The network of an ONNX file, and the parser, which must outlive it.

    Raises:
        RunnerError: 7: the parser refuses the file.
    """
    network = builder.create_network(creation_flags(trt, options))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)):
        reasons = [parser.get_error(i).desc() for i in range(parser.num_errors)] or log.errors
        found = "TensorRT {} does not parse it: {}".format(trt.__version__, line_of(reasons[:SHOWN]))
        raise RunnerError(STAGE_FAILED, path.name, found, "a file that it parses", "edgekd lint FILE --format trt")
    return network, parser


def creation_flags(trt: Any, options: Options) -> int:
    """Strongly typed where the version has it, with an explicit batch where that must still be said."""
    flag = trt.NetworkDefinitionCreationFlag
    if hasattr(flag, "STRONGLY_TYPED") and not _weak_dla(trt, options):
        return 1 << int(flag.STRONGLY_TYPED)
    if hasattr(flag, "EXPLICIT_BATCH"):
        return 1 << int(flag.EXPLICIT_BATCH)
    return 0


def configured(trt: Any, builder: Any, network: Any, options: Options) -> Any:
    """How to build: precision flags where they count, memory, profile of the free batch, DLA.

    Raises:
        RunnerError: 2: a shape or a DLA that cannot be; 5: no such DLA core.
    """
    config = builder.create_builder_config()
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * MIB)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") or _weak_dla(trt, options):
        _weak_precision(trt, network, config, options)
    if options.dla_core is not None:
        _use_dla(trt, builder, config, options)
    image = tuple(network.get_input(0).shape)
    if network.num_inputs != 1 or -1 in image[1:]:
        found = "{} input(s), the first of shape {}".format(network.num_inputs, image)
        raise RunnerError(USAGE, "model", found, "one input whose batch alone is free")
    if image[0] == -1:
        profile, most = builder.create_optimization_profile(), 1 if options.dla_core is not None else options.max_batch
        profile.set_shape(network.get_input(0).name, (1, *image[1:]), (1, *image[1:]), (most, *image[1:]))
        config.add_optimization_profile(profile)
    return config


def _weak_dla(trt: Any, options: Options) -> bool:
    return options.dla_core is not None and hasattr(trt.BuilderFlag, "INT8")


def _weak_precision(trt: Any, network: Any, config: Any, options: Options) -> None:
    """The flags that let a weakly typed network compute in what its file says."""
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    quantized = any(layer.type == trt.LayerType.QUANTIZE for layer in layers)
    outputs = [layer.get_output(i) for layer in layers for i in range(layer.num_outputs)]
    half = any(tensor.dtype == trt.DataType.HALF for tensor in outputs)
    if quantized and options.dla_core is not None:
        found = "a DLA of TensorRT {} takes no explicit Q/DQ".format(trt.__version__)
        raise RunnerError(USAGE, "options: dla_core", found, "a half-precision file", "--format tensorrt-fp16")
    if quantized:
        config.set_flag(trt.BuilderFlag.INT8)
    if quantized or half:
        config.set_flag(trt.BuilderFlag.FP16)


def _use_dla(trt: Any, builder: Any, config: Any, options: Options) -> None:
    if options.dla_core not in range(builder.num_DLA_cores):
        found = "core {} of {}".format(options.dla_core, builder.num_DLA_cores)
        raise RunnerError(MISSING, "options: dla_core", found, "a DLA core of this device and of this TensorRT")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = options.dla_core
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the inspector names layers and no devices
    if options.gpu_fallback:
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _timing_cache(config: Any, path: Path) -> Any:
    """The cache of an earlier build on this device; an empty one where there is none or TensorRT does not take it."""
    content = path.read_bytes() if path.exists() else b""
    cache = config.create_timing_cache(content)
    if not config.set_timing_cache(cache, False):
        say("the timing cache {} is of another TensorRT or device: a new one is made".format(path))
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _unbuilt(path: Path, options: Options, log: Any) -> RunnerError:
    """Why there is no engine, in TensorRT's words."""
    said = " ".join(log.errors + log.warnings).lower()
    reasons = line_of(log.errors[-SHOWN:])
    if any(word in said for word in MEMORY_WORDS):
        limit = options.workspace_mib
        hint = "options: {{workspace_mib: {}}}, optimization_level: 1, or more swap".format(
            max((limit or 512) // 2, 64)
        )
        return RunnerError(STAGE_FAILED, path.name, "memory ran out while building: " + reasons, "enough memory", hint)
    hint = "options: {gpu_fallback: true}" if options.dla_core is not None else "edgekd lint FILE --format trt"
    return RunnerError(STAGE_FAILED, path.name, "TensorRT does not build it: " + reasons, "a file that it builds", hint)


def line_of(texts: List[str]) -> str:
    """What TensorRT said, on one line."""
    return "; ".join(" ".join(text.split()) for text in texts)[:LENGTH] or "no reason given"


def _progress(trt: Any) -> Any:
    """A monitor that says each main phase; None where the version has none (8.6)."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Progress(trt.IProgressMonitor):  # type: ignore[misc]  # its base comes at run time
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            if not parent_phase:
                say("{} ({} steps)".format(phase_name, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            pass

    return Progress()


def logger(trt: Any) -> Any:
    """A logger that keeps errors and warnings, each text once, in order: `errors`, `warnings`."""

    class Log(trt.ILogger):  # type: ignore[misc]  # its base comes at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: List[str] = []
            self.warnings: List[str] = []

        def log(self, severity: Any, message: str) -> None:
            kept: Dict[str, List[str]] = {"WARNING": self.warnings, "ERROR": self.errors, "INTERNAL_ERROR": self.errors}
            if message not in kept.get(severity.name, [message]):
                kept[severity.name].append(message)

    return Log()
