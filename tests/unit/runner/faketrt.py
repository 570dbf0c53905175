"""A FAKE `tensorrt` and a FAKE CUDA in memory: they walk the program's own lines and prove nothing about TensorRT.

The fake engine is a linear classifier: its bytes are weights [64, 10] and bias [10]. "Device memory" is memory of this process,
so that addresses, sizes and copies must be right for an answer to come out.
"""

import ctypes
import io
import types

import numpy as np

GPU = {"gpu": "FAKE Orin", "capability": "8.7", "driver": "R36, REVISION: 4.3 CUDA 12.6"}


class FakeCuda:
    """The calls of `cudart.Cuda` on ordinary memory; every call is kept."""

    version, path = "0.0", "FAKE"

    def __init__(self):
        self.calls, self.blocks, self.graphs, self.recording = [], {}, {}, None

    def call(self, name, *arguments):
        self.calls.append(name)
        if name == "cudaMemcpyAsync":
            target, source, size, kind, _ = arguments
            assert (target if kind == 1 else source) in self.blocks, "not device memory"
            assert size <= len(self.blocks[target]) and size <= len(self.blocks[source])
            ctypes.memmove(target, source, size)
        elif name in ("cudaFree", "cudaFreeHost"):
            del self.blocks[arguments[0]]
        elif name == "cudaStreamBeginCapture":
            self.recording = []
        elif name == "cudaGraphLaunch":
            for act in self.graphs[arguments[0]]:
                act()

    def made(self, name, *arguments):
        self.calls.append(name)
        if name in ("cudaMalloc", "cudaMallocHost"):
            block = ctypes.create_string_buffer(arguments[0])
            self.blocks[ctypes.addressof(block)] = block
            return ctypes.addressof(block)
        if name == "cudaGraphInstantiateWithFlags":
            self.graphs[len(self.calls)] = self.recorded
        return len(self.calls)

    def captured(self, stream):
        self.recorded, self.recording = self.recording, None
        return 77

    def elapsed_ns(self, start, end):
        return end - start


class Fake:
    """A module by the name of `tensorrt`. `spoil`: added to the bias of what it builds; `plan`: what building gives instead."""

    def __init__(self, cuda, weights, bias, version="10.13.3", most=8):
        self.cuda, self.weights, self.bias, self.spoil, self.most = cuda, weights, bias, 0.0, most
        self.built, self.flags, self.dla_layers, self.refuse, self.out_of_memory = 0, None, None, "", False
        self.__version__ = version
        self.old = version.startswith("8")
        kinds = ["EXPLICIT_BATCH"] if self.old else ["EXPLICIT_BATCH", "STRONGLY_TYPED"]
        self.NetworkDefinitionCreationFlag = types.SimpleNamespace(**{name: i for i, name in enumerate(kinds)})
        precisions = {} if version.startswith("11") else {"INT8": "INT8", "FP16": "FP16"}
        self.BuilderFlag = types.SimpleNamespace(TF32="TF32", GPU_FALLBACK="GPU_FALLBACK", **precisions)
        for name in ("MemoryPoolType", "ProfilingVerbosity", "LayerInformationFormat", "DeviceType"):
            setattr(self, name, types.SimpleNamespace(WORKSPACE=0, DETAILED=1, JSON=2, DLA="DLA"))
        self.TensorIOMode = types.SimpleNamespace(INPUT=1)
        self.DataType = types.SimpleNamespace(FLOAT=0, HALF=1)
        self.LayerType = types.SimpleNamespace(QUANTIZE="Q")
        self.ILogger = type("ILogger", (), {})
        self.layers = [types.SimpleNamespace(type="Q", num_outputs=0)]

    def severity(self, name):
        return types.SimpleNamespace(name=name)

    def Builder(self, log):  # noqa: N802
        return FakeBuilder(self, log)

    def OnnxParser(self, network, log):  # noqa: N802
        errors = [types.SimpleNamespace(desc=lambda: "not this\noperator")] if self.refuse == "parse" else []
        return types.SimpleNamespace(
            parse_from_file=lambda path: not errors, num_errors=len(errors), get_error=lambda i: errors[i]
        )

    def Runtime(self, log):  # noqa: N802
        def deserialize(content):
            if self.refuse == "deserialize":
                log.log(self.severity("ERROR"), "expecting library version 10.13 got 10.3")
                return None
            if self.refuse == "chip":
                log.log(
                    self.severity("WARNING"), "Using an engine plan file across different models of devices is not ..."
                )
            return FakeEngine(self, np.load(io.BytesIO(content)))

        return types.SimpleNamespace(deserialize_cuda_engine=deserialize, DLA_core=-1)


class FakeBuilder:
    num_DLA_cores = 2  # noqa: N815

    def __init__(self, trt, log):
        self.trt, self.log = trt, log

    def create_network(self, flags):
        self.trt.network_flags = flags
        tensor = types.SimpleNamespace(name="input", shape=(-1, 1, 8, 8))
        layers = self.trt.layers
        return types.SimpleNamespace(
            num_inputs=1, get_input=lambda i: tensor, num_layers=len(layers), get_layer=lambda i: layers[i]
        )

    def create_builder_config(self):
        self.trt.flags = {"TF32"}
        cache = types.SimpleNamespace(serialize=lambda: b"FAKE timing")
        return types.SimpleNamespace(
            clear_flag=self.trt.flags.discard, set_flag=self.trt.flags.add, set_memory_pool_limit=lambda pool, size: None,
            add_optimization_profile=lambda profile: None, create_timing_cache=lambda content: cache,
            set_timing_cache=lambda cache, mismatch: True, get_timing_cache=lambda: cache,
        )  # fmt: skip

    def create_optimization_profile(self):
        def set_shape(name, least, best, most):
            self.trt.most = most[0]

        return types.SimpleNamespace(set_shape=set_shape)

    def build_serialized_network(self, network, config):
        self.trt.built += 1
        if self.trt.out_of_memory:
            self.log.log(self.trt.severity("ERROR"), "Requested amount of GPU memory ... insufficient workspace")
        if self.trt.out_of_memory or self.trt.refuse == "build":
            return None
        file = io.BytesIO()
        np.save(file, np.concatenate([self.trt.weights, [self.trt.bias + self.trt.spoil]]).astype(np.float32))
        return np.frombuffer(file.getvalue(), np.uint8)


class FakeEngine:
    num_io_tensors = 2

    def __init__(self, trt, values):
        self.trt, self.values = trt, values
        self.num_layers = len(trt.dla_layers or ())

    def get_tensor_name(self, i):
        return ("input", "logits")[i]

    def get_tensor_mode(self, name):
        return 1 if name == "input" else 2

    def get_tensor_dtype(self, name):
        return 0

    def get_tensor_shape(self, name):
        return (-1, 1, 8, 8)

    def get_tensor_profile_shape(self, name, profile):
        return [(1, 1, 8, 8), (1, 1, 8, 8), (self.trt.most, 1, 8, 8)]

    def create_engine_inspector(self):
        return types.SimpleNamespace(get_layer_information=lambda i, form: self.trt.dla_layers[i])

    def create_execution_context(self):
        return FakeContext(self)


class FakeContext:
    def __init__(self, engine):
        self.engine, self.at, self.n = engine, {}, 0

    def set_input_shape(self, name, shape):
        assert name == "input" and shape[1:] == (1, 8, 8) and shape[0] <= self.engine.trt.most
        self.n = shape[0]
        return True

    def get_tensor_shape(self, name):
        return (self.n, 1, 8, 8) if name == "input" else (self.n, 10)

    def set_tensor_address(self, name, address):
        self.at[name] = address
        return True

    def execute_async_v3(self, stream):
        cuda = self.engine.trt.cuda
        if cuda.recording is not None:
            n = self.n
            cuda.recording.append(lambda: self.compute(n))
        else:
            self.compute(self.n)
        return True

    def compute(self, n):
        images = np.frombuffer(self.engine.trt.cuda.blocks[self.at["input"]], np.float32)[: n * 64].reshape(n, 64)
        out = np.frombuffer(self.engine.trt.cuda.blocks[self.at["logits"]], np.float32)
        out[: n * 10] = (images @ self.engine.values[:64] + self.engine.values[64]).ravel()
