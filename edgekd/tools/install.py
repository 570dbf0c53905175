"""Making a tool environment: whole or not at all. Everything is put into a scratch folder, tried there, marked, and renamed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import util
from pathlib import Path
from typing import Any

from edgekd import locks
from edgekd.console import Console, Task
from edgekd.errors import EdgekdError, IntegrityError, MissingTool, StageFailed, UsageError
from edgekd.tools import catalogue, env, place
from edgekd.tools.catalogue import Tool

MIB = 1024 * 1024
LINKED = ("torch", "torchgen", "functorch", "triton", "nvidia", "cuda", "torch-*.dist-info")  # of the host's packages
LINKS = "edgekd_host.pth"
OWN = (place.MARKER, "pyvenv.cfg", "bin/python")  # one of them is in every environment, half of one too
TRY_LIMIT = 300.0  # seconds; the largest tool imports in 10
TAKEN = re.compile(r"^(Collecting|Processing|Requirement already satisfied)")


def size_mib(tool: Tool) -> tuple[int, int]:
    """(fetched at most, on disk) of a new environment here, MiB."""
    own = tool.torch.own_mib if tool.torch is not None and tool.host_torch() is None else 0
    return tool.download_mib + own // 2, tool.installed_mib + own


def install(tool: Tool, console: Console, force: bool = False) -> Path:
    """Make a tool's environment, or leave a whole one as it is.

    Args:
        tool: What to install.
        console: Progress.
        force: Make it anew although it is whole; the old one stays until the new one is.

    Returns:
        Its folder.

    Raises:
        MissingTool: Not pinned for this Python or machine (before anything is fetched), pip cannot fetch it, or it does not load.
        IntegrityError: A file has another SHA-256 than its pin.
        UsageError: What lies in its place is no environment.
        StageFailed: Too little disk space, or a folder that cannot be written.
    """
    tool.require_supported()
    root = place.root()
    final = root / tool.name
    if not force and (final / place.MARKER).is_file() and place.fault(tool, final) is None:
        return final
    with _writable(tool, root):
        root.mkdir(parents=True, exist_ok=True)
        _require_own(tool, final)
        _require_space(tool, root)
        with locks.held(root, root / f".{tool.name}.lock"):
            _make(tool, root, final, console)
    return final


def remove(tool: Tool) -> int:
    """Delete a tool's environment, whole or not, and its log; the bytes that are freed. Nothing behind a link is touched.

    Raises:
        UsageError: What lies in its place is no environment.
        StageFailed: It cannot be deleted, or somebody makes it right now.
    """
    root = place.root()
    if not root.is_dir():
        return 0
    with _writable(tool, root), locks.held(root, root / f".{tool.name}.lock"):
        _require_own(tool, root / tool.name)
        left = [*root.glob(f".{tool.name}.new"), *root.glob(f".{tool.name}.old")]
        freed = sum(_discard(path) for path in [root / tool.name, *left])
        (root / f"{tool.name}.log").unlink(missing_ok=True)
    return freed


def disk_bytes(folder: Path) -> int:
    """Bytes of a folder's own files; what is linked is not its own."""
    files = (Path(top) / name for top, _, names in os.walk(folder) for name in names)
    return sum(path.lstat().st_size for path in files)


def _make(tool: Tool, root: Path, final: Path, console: Console) -> None:
    scratch, log = root / f".{tool.name}.new", root / f"{tool.name}.log"
    _discard(scratch)  # of an install that was cut short
    try:
        with log.open("w", encoding="utf-8") as file:
            _call([sys.executable, "-m", "venv", str(scratch)], file.write, tool)
            pip = [str(scratch / "bin" / "python"), "-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]
            pinned = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", str(tool.requirements)]
            with console.task(f"installing {tool.name}", len(tool.pins()), "packages") as task:
                _call([*pip, "install", *pinned], file.write, tool, task)
            torch = _torch(tool, scratch, [*pip, "install"], file.write, console)
            console.log(f"trying {tool.name}: {', '.join(tool.imports)}")
            _try(tool, scratch, file.write)
        _mark(tool, scratch, torch)
        _swap(scratch, final)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _torch(
    tool: Tool, scratch: Path, pip: list[str], write: Callable[[str], object], console: Console
) -> dict[str, Any] | None:
    """Link the host's torch, or install the tool's own: said in the marker."""
    if tool.torch is None:
        return None
    version, spec = tool.host_torch(), util.find_spec("torch")
    if version is None or spec is None or spec.origin is None:
        console.log(f"torch {tool.torch.own} (without hashes: its native libraries differ by machine)")
        _call([*pip, f"torch=={tool.torch.own}", "-c", str(_constraints(tool, scratch))], write, tool)
        return {"from": "own", "version": tool.torch.own}
    host, links = Path(spec.origin).parent.parent, scratch / "host"
    links.mkdir()
    for pattern in LINKED:
        for path in host.glob(pattern):
            (links / path.name).symlink_to(path)
    (place.site(scratch) / LINKS).write_text("../../../host\n", encoding="ascii")
    console.log(f"torch {version} of {sys.executable} is linked, not copied")
    return {"from": "host", "version": version}


def _constraints(tool: Tool, scratch: Path) -> Path:
    """The pins without hashes: what torch brings must not replace one."""
    path = scratch / "constraints.txt"
    path.write_text("".join(f"{name}=={version}\n" for name, version in tool.pins().items()), encoding="ascii")
    return path


def _try(tool: Tool, scratch: Path, write: Callable[[str], object]) -> None:
    program = "; ".join(f"import {name}" for name in tool.imports)
    variables = env.environment(scratch, 1)
    _call([str(scratch / "bin" / "python"), "-I", "-c", program], write, tool, variables=variables)


def _mark(tool: Tool, scratch: Path, torch: dict[str, Any] | None) -> None:
    """Write what makes it an installed one, last."""
    freeze = dict(sorted(place.packages(place.site(scratch)).items()))
    wrong = {name: version for name, version in tool.pins().items() if freeze.get(name) != version}
    if wrong:
        raise MissingTool(f"tool {tool.name}", f"pip left out or changed {sorted(wrong)}", str(wrong), _again(tool))
    marker = {
        "schema": place.SCHEMA,
        "tool": tool.name,
        "python": catalogue.python(),
        "platform": catalogue.here(),
        "pins_sha256": tool.pins_sha256,
        "freeze": freeze,
        "torch": torch,
        "bytes": disk_bytes(scratch),
    }
    (scratch / place.MARKER).write_text(json.dumps(marker, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _swap(scratch: Path, final: Path) -> None:
    """Put the new one in the old one's place; between the two renames there is none, never half a one."""
    old = final.with_name(f".{final.name}.old")
    _discard(old)
    if os.path.lexists(final):
        final.rename(old)
    scratch.rename(final)
    with suppress(OSError):  # the new one is in its place; the next install deletes what is left of the old one
        _discard(old)


def _discard(path: Path) -> int:
    """Delete a folder, or the link in its place and nothing behind it; the bytes that are freed."""
    if not os.path.lexists(path):
        return 0
    if path.is_symlink() or not path.is_dir():
        freed = path.lstat().st_size
        path.unlink()
        return freed
    freed = disk_bytes(path)
    shutil.rmtree(path)
    return freed


def _require_own(tool: Tool, path: Path) -> None:
    """Nothing, unless a folder of somebody else's has the tool's name: EDGEKD_TOOLS may be any folder."""
    if not path.is_dir() or not any(path.iterdir()) or any(os.path.lexists(path / name) for name in OWN):
        return
    hint = f"move it away, or {place.VARIABLE}=FOLDER for tools alone"
    raise UsageError(f"tool {tool.name}", f"{path} is no environment that edgekd made", "no such folder", hint)


def _call(
    line: list[str],
    write: Callable[[str], object],
    tool: Tool,
    task: Task | None = None,
    variables: dict[str, str] | None = None,
) -> None:
    """Run one step of an install; pip keeps the user's own configuration, and every line goes to the log."""
    said: list[str] = []
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with subprocess.Popen(
        line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        env=own if variables is None else variables,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for text in process.stdout:
            write(text)
            said.append(text.rstrip())
            if task is not None and TAKEN.match(text):
                task.advance()
    if process.returncode != 0:
        raise _failure(tool, [text for text in said if text and not text.startswith("WARNING")], process.returncode)


def _failure(tool: Tool, said: list[str], code: int) -> EdgekdError:
    where, log = f"tool {tool.name}", place.root() / f"{tool.name}.log"
    last = "\n".join(said[-6:])
    if "No space left on device" in last or "Disk quota exceeded" in last:
        return StageFailed(where, "the disk is full", "free space", f"free some, then {_again(tool)}")
    if "DO NOT MATCH THE HASHES" in "\n".join(said):
        return IntegrityError(where, f"a file has another SHA-256 than its pin\n{last}", "the files that were pinned")
    hint = f"see {log}; then {_again(tool)}"
    return MissingTool(where, f"cannot be installed (exit code {code})\n{last}", "its packages, as pinned", hint)


def _again(tool: Tool) -> str:
    return f"edgekd tools install {tool.name}"


def _require_space(tool: Tool, root: Path) -> None:
    needed, free = size_mib(tool)[1] + size_mib(tool)[0], shutil.disk_usage(root).free // MIB
    if free < needed:
        found, hint = f"{free} MiB are free in {root}", f"{place.VARIABLE}=FOLDER on another disk"
        raise StageFailed(f"tool {tool.name}", found, f"{needed} MiB", hint)


@contextmanager
def _writable(tool: Tool, root: Path) -> Iterator[None]:
    """What the system refuses while files are written, as an error of the install."""
    try:
        yield
    except OSError as error:
        found = f"{error.strerror or error} ({error.filename or root})"
        hint = f"{place.VARIABLE}=FOLDER that can be written"
        raise StageFailed(f"tool {tool.name}", found, "a writable folder with free space", hint) from error
