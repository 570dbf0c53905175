"""runner.pyz: small, the same bytes every time, Python 3.8, nothing but the standard library, NumPy and its own parts."""

import ast
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

import edgekd
from edgekd.runner.runtimes import base
from edgekd.stages.bench import build_runner

PACKAGE = Path(edgekd.__file__).parent
SOURCES = sorted((PACKAGE / "runner").rglob("*.py")) + [PACKAGE / f"{n}.py" for n in ("__init__", "stats", "agreement")]
OWN = ("edgekd.stats", "edgekd.agreement", "edgekd.runner")
LIMIT = 100_000  # bytes: the promise of the design, a bundle is the model and next to nothing


def name(path):
    return path.relative_to(PACKAGE).as_posix()


def test_the_sources_are_found():
    assert len(SOURCES) >= 12


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_syntax_is_python_38(path):
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_annotations_are_never_evaluated_and_generics_stay_in_them(path):
    """`list[int]` and `int | None` are Python 3.9 and 3.10 outside annotations, which the future import leaves unread."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if len(tree.body) <= 2 and path.name == "__init__.py":
        return
    assert any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    builtin = {"list", "dict", "tuple", "set", "frozenset", "type"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            assert node.value.id not in builtin, f"{path.name}:{node.lineno}"
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("removeprefix", "removesuffix", "file_digest"), f"{path.name}:{node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_imports_are_the_standard_library_numpy_and_its_own_parts(path):
    engine = path.stem if path.parent.name == "runtimes" else ""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            modules = [f"{node.module}.{a.name}" for a in node.names] if node.module == "edgekd" else [node.module]
        for module in modules:
            top = module.split(".")[0]
            if top == "edgekd":
                assert module.startswith(OWN), module
            else:
                assert top in sys.stdlib_module_names or top in ("numpy", engine), module


def test_the_archive_is_small_and_whole(tmp_path):
    path = build_runner(tmp_path / "runner.pyz")
    assert path.stat().st_size < LIMIT
    assert os.access(path, os.X_OK)
    with zipfile.ZipFile(path) as archive:
        assert set(archive.namelist()) == {"__main__.py", *(f"edgekd/{name(source)}" for source in SOURCES)}
        assert archive.testzip() is None


def test_equal_sources_give_equal_bytes_at_another_time(tmp_path):
    first = build_runner(tmp_path / "a.pyz").read_bytes()
    time.sleep(2.1)  # a zip's clock counts two seconds
    assert build_runner(tmp_path / "b.pyz").read_bytes() == first


def test_the_archive_runs_from_anywhere_without_edgekd(tmp_path):
    path = build_runner(tmp_path / "runner.pyz")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import edgekd.runner.bench as b; print(b.__file__)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(path)], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.startswith(str(path))
    helped = subprocess.run(
        [sys.executable, str(path), "--help"], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert "bench" in helped.stdout


def test_engines_are_found_in_folder_and_archive(tmp_path):
    assert "onnxruntime" in base.names()
    path = build_runner(tmp_path / "runner.pyz")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from edgekd.runner.runtimes import base; print(*base.names())"
    done = subprocess.run([sys.executable, "-I", "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == sorted(base.names())


@pytest.mark.parametrize("engine", sorted(base.names()))
def test_every_engine_is_a_runtime(engine):
    assert issubclass(base.find(engine), base.Runtime)


def test_the_runner_never_imports_torch():
    code = "import sys, edgekd.runner.__main__, edgekd.runner.bench; sys.exit(any(m in sys.modules for m in ('torch', 'onnx', 'pydantic')))"
    subprocess.run([sys.executable, "-c", code], check=True)
