"""One engine at work: pinned host and device buffers, one stream, copies and computing timed apart. Written, not run on hardware.

Source: TensorRT's tensor API (8.5 and later: set_tensor_address, execute_async_v3); CUDA events and graphs (NVIDIA).
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Dict, List, Tuple

import numpy as np

from edgekd.runner.failure import STAGE_FAILED, RunnerError
from edgekd.runner.trt import cudart
from edgekd.runner.trt.cudart import Cuda

if TYPE_CHECKING:
    import numpy.typing as npt

PARTS = ("host_to_device", "compute", "device_to_host")


class Session:
    """Buffers for the largest batch, and one execution context.

    Args:
        trt: The bindings.
        engine: A deserialized engine of one input; its first output are the logits.
        cuda: The CUDA runtime.
        graph: Replay a recorded graph instead of launching layer by layer.

    Attributes:
        batch: Batch that the engine is fixed to; None: any up to `most`, in pieces beyond.

    Raises:
        RunnerError: 7: not such an engine, or no memory.
    """

    def __init__(self, trt: Any, engine: Any, cuda: Cuda, graph: bool) -> None:
        self._cuda, self._graph = cuda, graph
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if name not in inputs]
        if len(inputs) != 1 or not outputs:
            raise RunnerError(STAGE_FAILED, "engine", "inputs {}, outputs {}".format(inputs, outputs), "one input")
        self._input = inputs[0]
        shape = tuple(engine.get_tensor_shape(self._input))
        self.batch = None if shape[0] == -1 else int(shape[0])
        self.most = self.batch or int(engine.get_tensor_profile_shape(self._input, 0)[2][0])
        self._context = engine.create_execution_context()
        if self._context is None:
            raise RunnerError(STAGE_FAILED, "engine", "no execution context", "memory on the device", "sudo dmesg")
        self._freed: List[Tuple[str, int]] = []
        self._stream = self._made("cudaStreamDestroy", "cudaStreamCreateWithFlags", cudart.NON_BLOCKING)
        self._events = [self._made("cudaEventDestroy", "cudaEventCreate") for _ in range(len(PARTS) + 1)]
        self._graphs: Dict[int, int] = {}
        self._shaped = 0
        self._shape((self.most, *shape[1:]))
        tensors = {name: self._context.get_tensor_shape(name) for name in names}
        kinds = {name: _numpy(trt, engine.get_tensor_dtype(name)) for name in names}
        self._host = {name: self._buffer(tuple(tensors[name]), kinds[name]) for name in names}
        self._device = {name: self._made("cudaFree", "cudaMalloc", self._host[name].nbytes) for name in names}
        for name, address in self._device.items():
            if not self._context.set_tensor_address(name, address):
                raise RunnerError(STAGE_FAILED, "engine", "refuses the buffer of " + name)
        self._output = outputs[0]

    def infer(self, batch: npt.NDArray[np.float32]) -> Tuple[npt.NDArray[np.float32], List[int]]:
        """Logits [B, C] and the nanoseconds of PARTS; a batch beyond `most` goes in pieces.

        Raises:
            RunnerError: 7: TensorRT or CUDA fails.
        """
        answers, spent = [], np.zeros(len(PARTS), dtype=np.int64)
        for start in range(0, len(batch), self.most):
            piece = batch[start : start + self.most]
            self._host[self._input][: len(piece)] = piece
            self._shape(piece.shape)
            spent += self._run(len(piece))
            answers.append(np.array(self._host[self._output][: len(piece)], dtype=np.float32))
        return np.concatenate(answers), [int(value) for value in spent]

    def close(self) -> None:
        """Give memory, stream, events and graphs back."""
        self._cuda.call("cudaStreamSynchronize", self._stream)
        self._host.clear()
        del self._context
        while self._freed:
            self._cuda.call(*self._freed.pop())

    def _run(self, n: int) -> npt.NDArray[np.int64]:
        """Copy in, compute, copy out, and wait."""
        launch = self._replay(n) if self._graph else self._execute
        self._mark(0)
        self._copy(self._device[self._input], self._host[self._input], n, cudart.TO_DEVICE)
        self._mark(1)
        launch()
        self._mark(2)
        self._copy(self._device[self._output], self._host[self._output], n, cudart.TO_HOST)
        self._mark(3)
        self._cuda.call("cudaStreamSynchronize", self._stream)
        marks = self._events
        spent = [self._cuda.elapsed_ns(marks[i], marks[i + 1]) for i in range(len(PARTS))]
        return np.array(spent, dtype=np.int64)

    def _copy(self, device: int, host: npt.NDArray[Any], n: int, direction: int) -> None:
        """The first n images or answers of a buffer, to the device or to the host."""
        pair = (device, host.ctypes.data) if direction == cudart.TO_DEVICE else (host.ctypes.data, device)
        self._cuda.call("cudaMemcpyAsync", *pair, n * host[:1].nbytes, direction, self._stream)

    def _mark(self, i: int) -> None:
        self._cuda.call("cudaEventRecord", self._events[i], self._stream)

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._stream):
            raise RunnerError(STAGE_FAILED, "inference", "TensorRT does not run the engine", "an engine of this device")

    def _replay(self, n: int) -> Any:
        """What launches the graph of a batch size; recorded after one plain run, which settles what shapes left open."""
        if n not in self._graphs:
            self._execute()
            self._cuda.call("cudaStreamSynchronize", self._stream)
            self._cuda.call("cudaStreamBeginCapture", self._stream, cudart.THREAD_LOCAL)
            self._execute()
            graph = self._cuda.captured(self._stream)
            self._graphs[n] = self._cuda.made("cudaGraphInstantiateWithFlags", graph, 0)
            self._freed += [("cudaGraphDestroy", graph), ("cudaGraphExecDestroy", self._graphs[n])]
        return lambda: self._cuda.call("cudaGraphLaunch", self._graphs[n], self._stream)

    def _shape(self, shape: Tuple[int, ...]) -> None:
        if shape[0] != self._shaped and not self._context.set_input_shape(self._input, shape):
            raise RunnerError(STAGE_FAILED, "inference", "the engine refuses shape {}".format(shape))
        self._shaped = shape[0]

    def _made(self, freed_by: str, name: str, *arguments: Any) -> int:
        handle = self._cuda.made(name, *arguments)
        self._freed.append((freed_by, handle))
        return handle

    def _buffer(self, shape: Tuple[int, ...], kind: Any) -> npt.NDArray[Any]:
        """Pinned host memory as an array."""
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        address = self._made("cudaFreeHost", "cudaMallocHost", size)
        return np.frombuffer((ctypes.c_char * size).from_address(address), dtype=kind).reshape(shape)


def _numpy(trt: Any, kind: Any) -> Any:
    known = {trt.DataType.FLOAT: np.float32, trt.DataType.HALF: np.float16}
    if kind not in known:
        raise RunnerError(STAGE_FAILED, "engine", "input or output of type {}".format(kind), "float32 or float16")
    return known[kind]
