"""The program `trtexec`: found, asked which options it has, and its command lines made of those. Written, not run on hardware.

Source: `trtexec --help` of TensorRT 8.6 and 10 (NVIDIA); no option is taken for granted.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import List, Optional, Tuple

from edgekd.runner.failure import MISSING, STAGE_FAILED, USAGE, RunnerError
from edgekd.runner.onnxhead import Head
from edgekd.runner.trt.build import MEMORY_WORDS
from edgekd.runner.trt.options import Options

PLACES = ("/usr/src/tensorrt/bin", "/usr/local/tensorrt/bin", "/opt/tensorrt/bin")
WARM_UP_MS = 1000
SHOWN = 3  # of its error lines in one message


def find_program() -> Optional[str]:
    """Where trtexec is: on PATH, or where NVIDIA's packages put it, which is not on PATH."""
    return shutil.which("trtexec") or next(
        filter(None, (shutil.which("trtexec", path=place) for place in PLACES)), None
    )


class Program:
    """One trtexec.

    Args:
        path: Where it is.

    Attributes:
        options: The names that its help lists, without dashes.
        version: `8.6.1`, of the number in its first line; `unknown` where it says none.

    Raises:
        RunnerError: 5: it cannot be run, or is something else.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            text = _run([path, "--help"]).stdout
        except OSError as error:
            raise RunnerError(MISSING, path, error.strerror or str(error), "a trtexec of this machine") from error
        self.options = set(re.findall(r"--([A-Za-z]\w*)", text))
        self.version = version_of(text)
        self.must("onnx", "saveEngine", "loadEngine", "loadInputs", "exportOutput", "exportTimes")

    def must(self, *names: str) -> None:
        """Raise unless it has all of these options."""
        for name in names:
            if name not in self.options:
                found = "TensorRT {} has no option --{}".format(self.version, name)
                raise RunnerError(
                    MISSING, self.path, found, "a trtexec that has it", "the Python bindings, python3-libnvinfer"
                )

    def build(self, model: Path, engine: Path, head: Head, options: Options, timing: Path) -> List[str]:
        """Arguments that build an engine and run nothing.

        Raises:
            RunnerError: 2: a DLA that cannot be; 5: an option that it lacks.
        """
        line = ["--onnx={}".format(model), "--saveEngine={}".format(engine), *self._typing(head, options)]
        if head.shape[0] is None:
            most = 1 if options.dla_core is not None else options.max_batch
            for name, n in (("minShapes", 1), ("optShapes", 1), ("maxShapes", most)):
                line.append("--{}={}".format(self._has(name), shape_of(head, n)))
        if not options.tf32 and "noTF32" in self.options:
            line.append("--noTF32")
        if options.workspace_mib is not None:
            pool = "memPoolSize" in self.options
            form = "--memPoolSize=workspace:{}" if pool else "--{}={{}}".format(self._has("workspace"))
            line.append(form.format(options.workspace_mib))
        if options.optimization_level is not None:
            line.append("--{}={}".format(self._has("builderOptimizationLevel"), options.optimization_level))
        if options.timing_cache and "timingCacheFile" in self.options:
            line.append("--timingCacheFile={}".format(timing))
        if options.dla_core is not None:
            self.must("exportLayerInfo", "profilingVerbosity")
            line += ["--{}={}".format(self._has("useDLACore"), options.dla_core), "--profilingVerbosity=detailed"]
        if options.gpu_fallback:
            line.append("--" + self._has("allowGPUFallback"))
        return [*line, "--skipInference" if "skipInference" in self.options else "--" + self._has("buildOnly")]

    def answer(self, engine: Path, head: Head, n: int, data: Path, out: Path, options: Options) -> List[str]:
        """Arguments that answer one file of n images, once."""
        once = ["--iterations=1", "--duration=0", "--warmUp=0", "--exportOutput={}".format(out)]
        return [*self._loaded(engine, head, n, data, options), *once]

    def time(
        self, engine: Path, head: Head, data: Path, out: Path, bounds: Tuple[float, int], options: Options
    ) -> List[str]:
        """Arguments that time batch 1 for at least so many seconds and queries, transfers and computing one after the other."""
        seconds, queries = bounds
        line = ["--duration={}".format(math.ceil(seconds)), "--iterations={}".format(queries)]
        line += ["--warmUp={}".format(WARM_UP_MS), "--exportTimes={}".format(out)]
        apart = (
            ["--exposeDMA"] if "exposeDMA" in self.options else []
        )  # else the next query's copy runs beside this one
        graph = ["--" + self._has("useCudaGraph")] if options.cuda_graph else []
        return [*self._loaded(engine, head, 1, data, options), *line, *apart, *graph]

    def layers(self, engine: Path, out: Path, options: Options) -> List[str]:
        """Arguments that write where the layers of a DLA's engine run."""
        line = ["--loadEngine={}".format(engine), "--exportLayerInfo={}".format(out), "--profilingVerbosity=detailed"]
        return [*line, "--useDLACore={}".format(options.dla_core), "--iterations=1", "--duration=0", "--warmUp=0"]

    def run(self, arguments: List[str], where: str) -> str:
        """What it says, both streams.

        Raises:
            RunnerError: 7: it fails; memory that ran out is said to be that.
        """
        done = _run([self.path, *arguments])
        if done.returncode != 0:
            lines = [line.partition("[E]")[2].strip() for line in done.stdout.splitlines() if "[E]" in line]
            found = "; ".join(lines[:SHOWN]) or "exit code {}".format(done.returncode)
            short = any(word in done.stdout.lower() for word in MEMORY_WORDS) or done.returncode == -9
            hint = "options: {workspace_mib: 256}, optimization_level: 1, or more swap" if short else ""
            raise RunnerError(
                STAGE_FAILED, where, ("memory ran out: " if short else "trtexec: ") + found, "exit code 0", hint
            )
        return done.stdout

    def _loaded(self, engine: Path, head: Head, n: int, data: Path, options: Options) -> List[str]:
        line = ["--loadEngine={}".format(engine), "--loadInputs={}:{}".format(head.name, data)]
        if head.shape[0] is None:
            line.append("--{}={}".format(self._has("shapes"), shape_of(head, n)))
        return line if options.dla_core is None else [*line, "--useDLACore={}".format(options.dla_core)]

    def _typing(self, head: Head, options: Options) -> List[str]:
        """Strongly typed where it can be; else the flags that let the graph's own precision be."""
        weak_dla = options.dla_core is not None and "int8" in self.options
        if weak_dla and head.quantized:
            found = "a DLA of TensorRT {} takes no explicit Q/DQ".format(self.version)
            raise RunnerError(USAGE, "options: dla_core", found, "a half-precision file", "--format tensorrt-fp16")
        if "stronglyTyped" in self.options and not weak_dla:
            return ["--stronglyTyped"]
        wanted = ["int8", "fp16"] if head.quantized else ["fp16"] if head.half else []
        return [
            "--" + name for name in wanted if name in self.options
        ]  # 11 has neither: all its networks are strongly typed

    def _has(self, name: str) -> str:
        self.must(name)
        return name


def shape_of(head: Head, n: int) -> str:
    """`input:1x3x32x32`."""
    return "{}:{}".format(head.name, "x".join(str(size) for size in (n, *head.shape[1:])))


def version_of(text: str) -> str:
    """`10.13.3` of `[TensorRT v101303]`: two digits each from 10 on, `8.6.1` of `v8601` before."""
    found = re.search(r"TensorRT v(\d{4,6})", text)
    if found is None:
        return "unknown"
    number = int(found.group(1))
    major, minor = (number // 10000, number // 100 % 100) if number >= 10000 else (number // 1000, number // 100 % 10)
    return "{}.{}.{}".format(major, minor, number % 100)


def _run(line: List[str]) -> "subprocess.CompletedProcess[str]":
    """Both streams as one text."""
    return subprocess.run(
        line,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        errors="replace",
    )
