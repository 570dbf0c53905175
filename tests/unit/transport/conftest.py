"""A real sshd on 127.0.0.1 whose board is this machine, in a folder of its own."""

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
START_S = 20
CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/hostkey
PidFile {folder}/pid
AuthorizedKeysFile {folder}/key.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
"""


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def sshd(tmp_path_factory):
    """Running server: `host`, `options` of ssh, `folder` with its keys, `port`, `known` hosts file."""
    if not Path(SSHD).exists() or shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("needs ssh, ssh-keygen and sshd (apt-get install openssh-client openssh-server)")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("hostkey", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    port = free_port()
    (folder / "config").write_text(CONFIG.format(port=port, folder=folder))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([SSHD, "-D", "-f", folder / "config", "-E", folder / "log"], stdin=subprocess.DEVNULL)
    until = time.monotonic() + START_S
    while not answers(port) and time.monotonic() < until and server.poll() is None:
        time.sleep(0.02)
    known = folder / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {(folder / 'hostkey.pub').read_text()}")
    client = {"Port": port, "IdentityFile": folder / "key", "IdentitiesOnly": "yes", "UserKnownHostsFile": known}
    lines = [f"  {name} {value}" for name, value in {**client, "GlobalKnownHostsFile": "/dev/null"}.items()]
    (folder / "client").write_text("\n".join(["Host *", *lines, ""]))
    user = getpass.getuser()
    yield SimpleNamespace(
        host=f"{user}@127.0.0.1", options=["-F", str(folder / "client")], folder=folder, port=port, known=known
    )
    server.terminate()
    server.wait()


@pytest.fixture(scope="session")
def connection(sshd):
    """The connection that tests share, as the commands of one run do."""
    from edgekd.transport.openssh import Client

    client = Client(sshd.host, sshd.options)
    yield client
    client.close()


@pytest.fixture
def board(sshd, connection, tmp_path, monkeypatch):
    """`board(**changed)` -> a Link to it, whose files go below `tmp_path`; `own`: over a connection of its own."""
    from edgekd.transport import ssh
    from edgekd.transport.ssh import Link

    monkeypatch.setattr(ssh, "EVERYONE", str(tmp_path / "everyone"))  # tests run side by side on this machine
    links = []

    def linked(own=False, **changed):
        given = {"host": sshd.host, "python": sys.executable, "folder": str(tmp_path / "there"), **changed}
        link = Link(ssh_options=sshd.options, **given)
        if not own:
            link._client = connection
        links.append((own, link))
        return link

    yield linked
    for own, link in links:
        if own:
            link._client.close()
