"""CUDA's libraries: the real libcudart where there is one, and a FAKE libcuda for what a board would say."""

import re
import types

import pytest

from edgekd.runner.failure import MISSING, STAGE_FAILED, RunnerError
from edgekd.runner.trt import cudart, gpu


def libcuda(fails="", code=100):
    """A FAKE driver library of an Orin."""

    def say(target, value):
        target._obj.value = value

    def call(name, act=lambda *arguments: None):
        def function(*arguments):
            act(*arguments)
            return code if name == fails else 0

        return function

    return types.SimpleNamespace(
        cuInit=call("cuInit"),
        cuDeviceGet=call("cuDeviceGet"),
        cuDeviceGetName=call("cuDeviceGetName", lambda buffer, size, device: setattr(buffer, "value", b"Orin")),
        cuDeviceGetAttribute=call("cuDeviceGetAttribute", lambda out, what, device: say(out, {75: 8, 76: 7}[what])),
        cuDriverGetVersion=call("cuDriverGetVersion", lambda out: say(out, 12060)),
        cuGetErrorString=call("cuGetErrorString", lambda code, out: say(out, b"no CUDA-capable device is detected")),
    )


@pytest.mark.parametrize(
    ("place", "text", "named"),
    [
        ("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", "R36 (release), REVISION: 4.3 "),
        ("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.90.07  Fri May 31", "550.90.07 "),
        ("etc/other", "", ""),
    ],
)  # fmt: skip
def test_the_facts_of_a_gpu(monkeypatch, tmp_path, place, text, named):
    monkeypatch.setattr(gpu, "_library", libcuda)
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text(text)
    assert gpu.facts(tmp_path) == {"gpu": "Orin", "capability": "8.7", "driver": named + "CUDA 12.6"}


@pytest.mark.parametrize("fails", ["cuInit", "cuDeviceGet", "cuDeviceGetAttribute", "cuDriverGetVersion"])
def test_no_gpu_is_exit_5_in_the_drivers_words(monkeypatch, fails):
    monkeypatch.setattr(gpu, "_library", lambda: libcuda(fails))
    with pytest.raises(RunnerError) as caught:
        gpu.facts()
    assert caught.value.exit_code == MISSING and f"{fails}: error 100: no CUDA-capable device" in caught.value.found


def test_no_driver_is_exit_5(monkeypatch):
    monkeypatch.setattr(gpu, "LIBRARIES", ("libnone.so.1",))
    with pytest.raises(RunnerError) as caught:
        gpu.facts()
    assert caught.value.exit_code == MISSING and caught.value.where == "NVIDIA driver"


def test_no_cuda_runtime_is_exit_5(monkeypatch):
    monkeypatch.setattr(cudart, "_candidates", lambda: iter(["libnone.so", "/nowhere/libcudart.so"]))
    with pytest.raises(RunnerError) as caught:
        cudart.Cuda()
    assert caught.value.exit_code == MISSING and "no libcudart" in caught.value.found


def test_it_is_looked_for_in_this_process_the_linker_usual_folders_and_wheels(monkeypatch, tmp_path):
    wheel = tmp_path / "nvidia/cu13/lib"
    wheel.mkdir(parents=True)
    (wheel / "libcudart.so.13").write_bytes(b"")
    maps = tmp_path / "maps"
    maps.write_text("7f00-7f01 r-xp 0 0 0  /opt/x/libcudart.so.12.6.77\n7f01-7f02 r-xp 0 0 0  /lib/libc.so.6\n")
    monkeypatch.setattr(cudart, "MAPS", maps)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = list(cudart._candidates())
    assert (
        found[:2] == ["/opt/x/libcudart.so.12.6.77", "libcudart.so"]
        and "/usr/local/cuda/lib64/libcudart.so.12" in found
    )
    assert str(wheel / "libcudart.so.13") in found and "/lib/libc.so.6" not in found


def test_the_real_library_is_called_with_these_types():
    try:
        cuda = cudart.Cuda()
    except RunnerError as error:
        pytest.skip(f"no CUDA runtime on this machine: {error.found}")
    assert re.fullmatch(r"1[1-9]\.\d+", cuda.version)
    try:
        address = cuda.made("cudaMallocHost", 4096)
    except RunnerError as error:  # its own words, as no driver or no GPU is here
        assert (
            error.exit_code == STAGE_FAILED
            and re.search(r"error \d+: \w+", error.found)
            and error.where == "CUDA: cudaMallocHost"
        )
    else:
        assert address
        cuda.call("cudaFreeHost", address)


def test_memory_that_runs_out_on_the_device_names_the_option(monkeypatch):
    class Library:
        def __getattr__(self, name):
            if name == "cudaGetErrorString":
                return Said()
            return Answer(name)

    class Said:
        restype = None

        def __call__(self, code):
            return b"out of memory"

    class Answer:
        argtypes = None

        def __init__(self, name):
            self.name = name

        def __call__(self, *arguments):
            return cudart.OUT_OF_MEMORY if self.name == "cudaMalloc" else 0

    monkeypatch.setattr(cudart, "_load", lambda: (Library(), "FAKE"))
    cuda = cudart.Cuda()
    with pytest.raises(RunnerError) as caught:
        cuda.made("cudaMalloc", 1 << 40)
    assert caught.value.exit_code == STAGE_FAILED and "error 2: out of memory" in caught.value.found
    assert "max_batch" in caught.value.hint
