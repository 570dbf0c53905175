"""Whether a bundle.json is signed by the key that the user named. The key never comes from the bundle."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from edgekd.runner import ed25519
from edgekd.runner.failure import INTEGRITY, USAGE, RunnerError

DER = bytes.fromhex("302a300506032b6570032100")  # what stands before the 32 bytes in a SubjectPublicKeyInfo (RFC 8410)
EXPECTED = "64 hex digits, or a file with them, with 32 raw bytes, or in PEM"


def public_key(given: str) -> bytes:
    """The 32 bytes of a key given in hex, or as a file.

    Raises:
        RunnerError: 2: neither a key nor a file with one.
    """
    if len(given) == 2 * ed25519.KEY_BYTES:
        try:
            key = bytes.fromhex(given)
            if len(key) == ed25519.KEY_BYTES:  # fromhex skips spaces
                return key
        except ValueError:
            pass  # a file's name may be as long
    try:
        content = Path(given).read_bytes()
    except OSError as error:
        raise RunnerError(USAGE, "--public-key " + given, error.strerror or str(error), EXPECTED) from error
    if len(content) == ed25519.KEY_BYTES and not content.startswith(b"-----"):
        return content
    try:
        words = content.decode("ascii")
        lines = [line.strip() for line in words.splitlines() if not line.startswith("-----")]
        key = base64.b64decode("".join(lines), validate=True) if "-----BEGIN" in words else bytes.fromhex(words.strip())
    except (ValueError, binascii.Error) as error:
        raise RunnerError(USAGE, "--public-key " + given, "no public key: {}".format(error), EXPECTED) from error
    key = key[len(DER) :] if key.startswith(DER) else key
    if len(key) != ed25519.KEY_BYTES:
        raise RunnerError(USAGE, "--public-key " + given, "{} bytes".format(len(key)), EXPECTED)
    return key


def check(path: Path, content: bytes, key: bytes) -> None:
    """Check the signature file at `path` over bytes.

    Raises:
        RunnerError: 6: none there, or not of this key over these bytes.
    """
    try:
        found = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise RunnerError(INTEGRITY, path.name, "no signature: {}".format(error), "a signed bundle") from error
    if not ed25519.verify(key, content, found):
        raise RunnerError(INTEGRITY, path.name, "not made by this key for this bundle", "a bundle of whom you trust")
