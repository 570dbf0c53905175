"""ed25519 keys of a user's own, and the signature of a bundle. Needs: cryptography (extra `sign`); verifying needs nothing."""

from __future__ import annotations

import importlib.util
import os
import shlex
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.commands import output
from edgekd.errors import MissingTool, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

INSTALL = "pip install 'edgekd[sign]'"
PUBLIC = ".pub"
OTHERS = stat.S_IRWXG | stat.S_IRWXO


def keygen(path: Path, json: bool) -> None:
    """Write a new private key that its owner alone can read, its public key beside it, and print the public key.

    Raises:
        UsageError: One of the files is there.
        MissingTool: `cryptography` is not installed.
    """
    public = path.with_name(path.name + PUBLIC)
    for place in (path, public):
        if place.exists() or place.is_symlink():
            raise UsageError(str(place), "is there; a key is never written over", "a new file", "another PATH")
    _require()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write(path, pem, 0o600)
    shown = public_hex(key)
    _write(public, f"{shown}\n".encode(), 0o644)
    if json:
        output.print_json({"private_key": str(path), "public_key_file": str(public), "public_key": shown})
        return
    output.say(f"private key: {path} (yours alone: keep it, and let no bundle or repository hold it)")
    output.say(f"public key:  {shown}  (also in {public})")
    output.next_command(f"edgekd bundle --sign {shlex.quote(str(path))}")


def load(path: Path) -> Ed25519PrivateKey:
    """The private key in a file.

    Raises:
        UsageError: No such file, others can read it, or it holds no ed25519 key.
        MissingTool: `cryptography` is not installed.
    """
    _require()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    where, hint = f"--sign {path}", f"edgekd bundle keygen {shlex.quote(str(path))}"
    if not path.is_file():
        raise UsageError(where, "no such file", "a private key", hint)
    if os.name == "posix" and path.stat().st_mode & OTHERS:
        found = f"can be read by others (mode {stat.S_IMODE(path.stat().st_mode):o})"
        raise UsageError(where, found, "mode 600", f"chmod 600 {shlex.quote(str(path))}")
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise UsageError(where, f"holds no key ({error})", "an ed25519 private key in PEM", hint) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(where, f"holds a {type(key).__name__}", "an ed25519 private key", hint)
    return key


def sign(key: Ed25519PrivateKey, content: bytes) -> str:
    """The signature of bytes, 128 hex digits; the same key and bytes give the same one."""
    return key.sign(content).hex()


def public_hex(key: Ed25519PrivateKey) -> str:
    """The public key, 64 hex digits."""
    return key.public_key().public_bytes_raw().hex()


def _require() -> None:
    if importlib.util.find_spec("cryptography") is None:
        raise MissingTool("signing", "cryptography is not installed", "the extra `sign`", INSTALL)


def _write(path: Path, content: bytes, mode: int) -> None:
    """A new file that nobody else could read even for a moment."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
