"""runner.pyz: the program that runs on the device, as one executable file."""

from __future__ import annotations

import ast
import io
import tokenize
import zipfile
from functools import cache
from pathlib import Path

import edgekd

PARTS = ("__init__.py", "stats.py", "agreement.py", "runner/**/*.py")
MAIN = "import sys\n\nfrom edgekd.runner.__main__ import main\n\nsys.exit(main())\n"
FIXED_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold: equal sources, equal bytes
PACKING = 9  # zlib's level: fixed, so that one zlib gives equal bytes


def build_runner(path: Path) -> Path:
    """Write runner.pyz: an executable zip of the runner and its two leaves; equal sources give equal bytes.

    Deflated at a fixed level: the same zlib gives the same bytes, another one might not. Docstrings and comments are left out,
    line numbers stay. (The standard library's `zipapp` writes today's date.)
    """
    root = Path(edgekd.__file__).resolve().parent
    sources = {
        f"edgekd/{file.relative_to(root).as_posix()}": bare(file.read_text(encoding="utf-8"))
        for part in PARTS
        for file in root.glob(part)
    }
    with path.open("wb") as file:
        file.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=PACKING) as archive:
            for name, content in sorted({"__main__.py": MAIN, **sources}.items()):
                entry = zipfile.ZipInfo(name, FIXED_DATE)
                entry.external_attr = 0o644 << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, content, compresslevel=PACKING)
    path.chmod(0o755)
    return path


@cache  # a command builds several: one to ask each board what it is, one for each bundle
def bare(source: str) -> str:
    """The same program without docstrings and comments; every statement stays on its line."""
    lines = source.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip() + "\n"
    for first, last, column in _docstrings(ast.parse(source)):
        lines[first - 1] = " " * column + '""\n'  # a body of a docstring alone still has a statement
        lines[first:last] = ["\n"] * (last - first)
    return "".join(lines)


def _docstrings(tree: ast.Module) -> list[tuple[int, int, int]]:
    """(first line, last line, column) of each."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if ast.get_docstring(node, clean=False) is not None:
                found.append((first.lineno, first.end_lineno or first.lineno, first.col_offset))
    return found
