"""Makes `tests/trtnames.json`: the names and signatures of TensorRT's Python bindings, and of the CUDA runtime, by version.

    pip download --no-deps --only-binary=:all: -d WHEELS tensorrt-bindings==8.6.1 tensorrt-cu12-bindings==10.3.0 \\
        tensorrt-cu12-bindings==10.13.3.9 tensorrt-cu13-bindings==11.4.0.106 \\
        nvidia-cuda-runtime-cu11==11.8.89 nvidia-cuda-runtime-cu12==12.9.79 nvidia-cuda-runtime==13.5.37
    python -m tests.trtnames WHEELS

The wheels of bindings come without TensorRT's libraries. Each module is imported in a process of its own over stand-in
libraries that hold its missing symbols and nothing behind them: names, docstrings and enum values are read, nothing is called.
CUDA's prototypes are read from the header in its wheel. Needs: gcc, nm, and the Python that the wheels are for.

The file: `tensorrt` {version: {class or enum: {member: number of arguments without self, or null for a property or enum
value}}} of the classes in CLASSES, and `module`, the names at the top; `cuda` {version: {function: number of arguments}}.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType

TABLE = Path(__file__).with_suffix(".json")
CLASSES = (
    "Builder", "BuilderFlag", "DataType", "DeviceType", "EngineInspector", "IBuilderConfig", "ICudaEngine", "IExecutionContext",
    "IHostMemory", "ILayer", "ILogger", "INetworkDefinition", "IOptimizationProfile", "IProgressMonitor", "ITensor", "ITimingCache",
    "LayerInformationFormat", "LayerType", "MemoryPoolType", "NetworkDefinitionCreationFlag", "OnnxParser", "ParserError",
    "ProfilingVerbosity", "Runtime", "TensorIOMode",
)  # fmt: skip
OTHERS = ("GLIBC", "CXXABI", "GCC_")  # versions of symbols that the system has


def main(folder: Path) -> None:
    """Write the table."""
    table: dict[str, dict[str, object]] = {"tensorrt": {}, "cuda": {}}
    for wheel in sorted(folder.glob("*.whl")):
        version = wheel.name.split("-")[1]
        with tempfile.TemporaryDirectory() as place:
            zipfile.ZipFile(wheel).extractall(place)
            if wheel.name.startswith("tensorrt"):
                table["tensorrt"][version] = over_stand_ins(next(Path(place).glob("tensorrt*/tensorrt.so")))
            else:
                table["cuda"][version] = prototypes(next(Path(place).rglob("cuda_runtime_api.h")))
    TABLE.write_text(json.dumps(table, indent=None, sort_keys=True, separators=(",", ":")).replace("},", "},\n") + "\n")


def over_stand_ins(module: Path) -> dict[str, object]:
    """What a process that imports a module over stand-in libraries reads."""
    stand_ins(module)
    done = subprocess.run(
        [sys.executable, "-m", "tests.trtnames", "--read", str(module)],
        env={**os.environ, "LD_LIBRARY_PATH": str(module.parent)},
        stdout=subprocess.PIPE,
        check=True,
    )
    return dict(json.loads(done.stdout))


def stand_ins(module: Path) -> None:
    """Beside a module: the libraries that it needs of TensorRT, each with all symbols that nobody else has."""
    asked = subprocess.run(["readelf", "-d", str(module)], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\[(libnv[^\]]+)\]", asked)
    listed = subprocess.run(["nm", "-D", "--undefined-only", str(module)], capture_output=True, text=True, check=True)
    names = {line.split()[-1] for line in listed.stdout.splitlines() if line.split()[0] == "U"}
    missing = sorted(n for n in names if "@" not in n and not n.startswith(("Py", "_Py")))
    source = module.with_name("stand_in.c")
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in missing))
    for name in needed:
        line = ["gcc", "-w", "-shared", "-fPIC", "-o", str(module.with_name(name)), str(source), f"-Wl,-soname,{name}"]
        subprocess.run(line, check=True)


def read(path: Path) -> dict[str, object]:
    """Names and signatures of a module of bindings."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("tensorrt", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return names_of(module)


def names_of(module: ModuleType) -> dict[str, object]:
    """Members of CLASSES, and what lies at the top."""
    found: dict[str, object] = {"module": sorted(name for name in dir(module) if not name.startswith("_"))}
    for name in CLASSES:
        if hasattr(module, name):
            kind = getattr(module, name)
            members = {
                member: getattr(kind, member)
                for member in dir(kind)
                if not member.startswith("_" if name != "INetworkDefinition" else ("_", "add_"))
            }
            found[name] = {member: arguments(value) for member, value in members.items()}
            init = arguments(kind.__init__)
            found[name] |= {"__init__": init} if init is not None else {}  # type: ignore[operator]
    return found


def arguments(value: object) -> list[int] | None:
    """Least and most arguments of a method by its docstring, without self; None: a property or a value."""
    if not callable(value) or not value.__doc__ or isinstance(value, int):
        return None
    signatures = re.findall(r"^(?:\d+\. )?\w+\((.*)\) ->", value.__doc__, re.MULTILINE)
    counts = []
    for text in signatures:
        if "*args" in text:
            continue  # the heading of an overloaded function
        inner = re.sub(r"\[[^\[\]]*\]", "", re.sub(r"\[[^\[\]]*\]", "", re.sub(r"<[^<>]*>", "", text)))
        parts = [part for part in inner.split(",") if part.strip() and not re.match(r"\s*(self|arg0)\b", part)]
        counts.append((sum("=" not in part for part in parts), len(parts)))
    return [min(least for least, _ in counts), max(most for _, most in counts)] if counts else None


def prototypes(header: Path) -> dict[str, int]:
    """Arguments of each function of `cuda_runtime_api.h`; of the names that a macro changes, too."""
    text = re.sub(r"/\*.*?\*/", "", header.read_text(encoding="utf-8", errors="replace"), flags=re.DOTALL)
    wanted = r"cuda(Malloc|Free|MallocHost|FreeHost|MemcpyAsync|Stream\w+|Event\w+|Graph(Inst|Launch|Exec|Destroy)\w*|\w+GetVersion)"
    found = re.findall(r"cudaError_t\s+CUDARTAPI\s+(\w+)\s*\(([^;]*?)\)\s*;", text)
    return {
        name: 0 if inner.strip() in ("", "void") else inner.count(",") + 1
        for name, inner in found
        if re.fullmatch(wanted, name)
    }


if __name__ == "__main__":
    if sys.argv[1] == "--read":
        sys.stdout.write(json.dumps(read(Path(sys.argv[2]))))
    else:
        main(Path(sys.argv[1]))
