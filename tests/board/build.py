"""The fake board's disk: an aarch64 root file system, made without root, Docker or binfmt_misc.

    python -m tests.board.build [bookworm bullseye]

Debian's packages are fetched by an apt of its own (signatures checked, broken downloads resumed) and unpacked, not installed: no
program of another architecture need run for that. The wheels are pinned with their SHA-256; `built.json` records the hash of
every package. What is built is kept in $EDGEKD_BOARD, else $XDG_CACHE_HOME/edgekd-board, some 250 MB for each suite.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from tests.board import files

HERE = Path(__file__).resolve().parent
MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
VERSION = 1  # raised when the same packages are laid out otherwise
PACKAGES = (
    *("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1", "dash", "coreutils", "tar", "gzip", "grep"),
    *("sed", "findutils", "mawk", "libc-bin", "util-linux", "procps", "base-files"),
)
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64", "manylinux_2_17_aarch64")
NEEDLESS = ("./usr/share/doc/*", "./usr/share/man/*", "./usr/share/locale/*", "./usr/share/perl*", "./usr/lib/*/perl*")
# Written back as bytecode once, else each start of an emulated Python compiles its standard library anew.
WARM = "import argparse, hashlib, json, zipfile, tarfile, subprocess, selectors, numpy"


class CannotBuild(Exception):
    """What is missing to build it, in words."""


@dataclass(frozen=True)
class Suite:
    """One Debian release and the CPython that is its `python3`."""

    name: str
    python: str
    engines: tuple[str, ...]  # modules that its wheels bring

    @property
    def wheels(self) -> Path:
        """The pinned wheels."""
        return HERE / f"wheels-{self.name}.txt"

    @property
    def folder(self) -> Path:
        """Where it is built: another recipe, another folder."""
        pins = [line for line in self.wheels.read_text().splitlines() if not line.startswith("#")]
        recipe = json.dumps([VERSION, self.name, PACKAGES, NEEDLESS, pins])
        return cache() / f"{self.name}-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"

    @property
    def root(self) -> Path:
        """Its root file system."""
        return self.folder / "root"


SUITES = {
    "bookworm": Suite("bookworm", "3.11", ("onnxruntime", "ai_edge_litert.interpreter")),
    "bullseye": Suite("bullseye", "3.9", ("onnxruntime",)),
}


def cache() -> Path:
    """The folder of everything built."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("EDGEKD_BOARD") or Path(home) / "edgekd-board")


def build(suite: Suite) -> Path:
    """The root file system, built where it is not yet; a build that was broken off goes on where it was.

    Raises:
        CannotBuild: A program or the network is missing.
    """
    suite.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(suite.folder / "lock"):
        if (suite.folder / "built.json").is_file():
            return suite.root
        packages, wheels = _packages(suite), _wheels(suite)
        shutil.rmtree(suite.root, ignore_errors=True)
        _unpack(packages, wheels, suite.root)
        _warm(suite)
        record = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (*packages, *wheels)}
        (suite.folder / "built.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        for name in ("apt", "wheels"):
            shutil.rmtree(suite.folder / name)
    return suite.root


def _packages(suite: Suite) -> list[Path]:
    """Debian's packages and all that they depend on, by an apt that knows nothing of this machine's."""
    home = suite.folder / "apt"
    for name in ("lists/partial", "archives/partial"):
        (home / name).mkdir(parents=True, exist_ok=True)
    (home / "status").touch()
    (home / "sources.list").write_text(f"deb [arch=arm64 signed-by={KEYRING}] {MIRROR} {suite.name} main\n")
    settings = {
        "Dir::State": home, "Dir::State::lists": home / "lists", "Dir::State::status": home / "status",
        "Dir::Cache": home, "Dir::Cache::archives": home / "archives", "Dir::Etc::sourcelist": home / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null", "APT::Architecture": "arm64", "APT::Architectures": "arm64",
        "APT::Install-Recommends": "0", "Acquire::Languages": "none", "Acquire::Retries": "3",
        "APT::Sandbox::User": "",
    }  # fmt: skip
    options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    _run(["apt-get", *options, "-qq", "update", "--error-on=any"])
    _run(["apt-get", *options, "-qq", "-y", "--download-only", "install", *PACKAGES])
    return sorted(path for path in (home / "archives").glob("*.deb") if not path.name.startswith("perl"))


def _wheels(suite: Suite) -> list[Path]:
    folder = suite.folder / "wheels"
    platforms = [part for name in PLATFORMS for part in ("--platform", name)]
    _run([
        sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "--only-binary=:all:", *platforms,
        "--python-version", suite.python, "-d", str(folder), "-r", str(suite.wheels),
    ])  # fmt: skip
    return sorted(folder.glob("*.whl"))


def _unpack(packages: Sequence[Path], wheels: Sequence[Path], root: Path) -> None:
    for name in ("bin", "lib", "sbin"):  # as in every release since bookworm: one tree under /usr
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    omit = [f"--exclude={pattern}" for pattern in NEEDLESS]
    for package in packages:
        content = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE)
        _run(["tar", "-x", "--keep-directory-symlink", *omit, "-C", str(root)], stdin=content.stdout)
        if content.wait() != 0:
            raise CannotBuild(f"{package.name} cannot be unpacked")
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(root / "opt" / "site")
    (root / "etc" / "edgekd-emulated").write_text("QEMU under proot: figures of time mean nothing here\n")
    (root / "etc" / "nv_tegra_release").write_text(
        "# R36 (release), REVISION: 4.3, GCID: 0, BOARD: generic, EABI: aarch64\n"
    )


def _warm(suite: Suite) -> None:
    """Import everything once as the board would; that it works is the test of the build."""
    with tempfile.TemporaryDirectory() as folder:
        files.lay(Path(folder), suite.root)
        command = f"python3 -c '{', '.join((WARM, *suite.engines))}'"
        _run(["sh", f"{folder}/device.sh"], env={"PATH": os.environ["PATH"], "SSH_ORIGINAL_COMMAND": command})


def _run(argv: Sequence[str], **more: object) -> None:
    """Run a program.

    Raises:
        CannotBuild: It is not there or fails; with its last words.
    """
    try:
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False, **more)  # type: ignore[call-overload]
    except FileNotFoundError as error:
        raise CannotBuild(f"{argv[0]} is not installed") from error
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise CannotBuild(f"{Path(argv[0]).name} failed with exit code {done.returncode}: {' / '.join(words)}")


def main(names: Sequence[str]) -> int:
    """Build suites by name, all of them where none is named."""
    try:
        for name in names or SUITES:
            sys.stdout.write(f"{name} (Python {SUITES[name].python}): {build(SUITES[name])}\n")
    except CannotBuild as error:
        sys.stderr.write(f"cannot build the fake board: {error}\n")
        return 5
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
