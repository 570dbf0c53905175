"""`make test-board`: install what is missing, build the fake board's disk, run its tests.

Where the packages or the network cannot be had it says by name what is skipped and why, and ends with 0: a machine without
them proves nothing about edgekd. With EDGEKD_REQUIRE_BOARD=1 that is exit 5.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

from tests.board import build

PROGRAMS = {
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "proot": "proot",
    "qemu-aarch64-static": "qemu-user-static",
    "dpkg-deb": "dpkg",
}
# No server of a package may start: its sshd is for the tests alone.
INSTALL = """set -e
if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends "$@"
"""


class Skip(Exception):
    """What this machine lacks, in words."""


def install() -> None:
    """Install the missing Debian packages.

    Raises:
        Skip: There is no apt-get, no right to use it, or it fails.
    """
    path = f"{os.environ['PATH']}:/usr/sbin"
    packages = sorted({package for name, package in PROGRAMS.items() if shutil.which(name, path=path) is None})
    if not packages:
        return
    if shutil.which("apt-get") is None:
        raise Skip(f"no apt-get to install {', '.join(packages)}")
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if root and (shutil.which("sudo") is None or subprocess.run([*root, "true"], capture_output=True).returncode):
        raise Skip(f"neither root nor sudo without a password to install {', '.join(packages)}")
    done = subprocess.run([*root, "sh", "-c", INSTALL, "install", *packages], capture_output=True, text=True)
    if done.returncode:
        raise Skip(f"apt-get cannot install {', '.join(packages)}: {done.stderr.strip()[-300:]}")


def main(arguments: Sequence[str]) -> int:
    """Everything; arguments go to pytest."""
    begun = time.monotonic()
    try:
        install()
        for suite in build.SUITES.values():
            build.build(suite)
    except (Skip, build.CannotBuild) as missing:
        sys.stderr.write(
            f"skipped: tests/board (the whole bench --device path, its faults, the oldest Python): {missing}\n"
        )
        return 5 if os.environ.get("EDGEKD_REQUIRE_BOARD") == "1" else 0
    built = time.monotonic()
    environment = {**os.environ, "EDGEKD_BOARD": str(build.cache()), "OMP_NUM_THREADS": "1"}
    words = [
        "-m",
        "pytest",
        "tests/board",
        "-m",
        "device",
        "-n",
        "2",
        "--dist",
        "loadfile",
        "--durations=5",
        *arguments,
    ]
    code = subprocess.run([sys.executable, *words], env=environment, check=False).returncode
    sys.stderr.write(
        f"test-board: {built - begun:.0f} s to install and build, {time.monotonic() - built:.0f} s of tests\n"
    )
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
