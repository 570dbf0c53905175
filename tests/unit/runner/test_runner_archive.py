"""runner.pyz: small, the same bytes every time, Python 3.8, nothing but the standard library, NumPy and its own parts."""

import ast
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

import edgekd
from edgekd.runner.failure import MISSING, RunnerError
from edgekd.runner.runtimes import base
from edgekd.stages.bench import build_runner
from edgekd.stages.runner_archive import bare

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
    tree = ast.parse(path.read_text(encoding="utf-8"))
    needs = (
        " ".join(re.findall(r"Needs: (.*)", ast.get_docstring(tree) or "")) if path.parent.name == "runtimes" else ""
    )
    named = set(re.findall(r"\w+", needs.replace("-", "_")))
    for node in ast.walk(tree):
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
                assert top in sys.stdlib_module_names or top in {"numpy", *named}, module


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


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_what_is_left_out_of_the_archive_is_docstrings_and_comments(path):
    """The same syntax tree, the same lines."""
    source = path.read_text(encoding="utf-8")
    packed = bare(source)

    def skeleton(text):
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
                and ast.get_docstring(node, False) is not None
            ):
                node.body[0].value = ast.Constant("")
                node.body[0].end_lineno = node.body[0].end_col_offset = 0
        tree.body = [node for node in tree.body if not isinstance(node, ast.Expr)]
        return [
            (type(node).__name__, getattr(node, "lineno", 0), getattr(node, "name", getattr(node, "id", "")))
            for node in ast.walk(tree)
            if not isinstance(node, ast.Constant)
        ]

    assert skeleton(packed) == skeleton(source)
    assert packed.count("\n") == source.count("\n")
    assert "#" not in re.sub(r"(\"[^\"\n]*\"|'[^'\n]*')", "", packed)


def test_the_runner_needs_python_38(tmp_path):
    """Vermin knows which release brought each function of the standard library."""
    vermin = [str(Path(sys.executable).with_name("vermin")), "--target=3.8-", "--no-tips", "--violations"]
    if not Path(vermin[0]).is_file():
        pytest.skip("vermin is not installed")
    newer = tmp_path / "newer.py"
    newer.write_text("print('a'.removeprefix('a'))\n")
    assert subprocess.run([*vermin, str(newer)], capture_output=True).returncode == 1
    done = subprocess.run([*vermin, *map(str, SOURCES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


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
def test_every_engine_is_a_runtime_or_says_what_to_install(engine):
    try:
        found = base.find(engine)
    except RunnerError as error:
        assert error.exit_code == MISSING
        assert "install" in error.hint, error.line()
    else:
        assert issubclass(found, base.Runtime)


def test_the_runner_never_imports_torch():
    code = "import sys, edgekd.runner.__main__, edgekd.runner.bench; sys.exit(any(m in sys.modules for m in ('torch', 'onnx', 'pydantic')))"
    subprocess.run([sys.executable, "-c", code], check=True)
