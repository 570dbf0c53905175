"""Verification of ed25519 signatures; nothing here signs or knows a secret.

Source: RFC 8032, sections 5.1 and 6 (formulas of points in extended coordinates). Stricter than it: a public key of small order,
under which anybody can sign, is refused. Times depend on the input: none of it is secret.
"""

from __future__ import annotations

import hashlib
from typing import Optional, Tuple

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT = pow(2, (P - 1) // 4, P)  # a square root of -1
Point = Tuple[int, int, int, int]  # X, Y, Z, T with x = X/Z, y = Y/Z, x y = T/Z
ZERO: Point = (0, 1, 1, 0)
KEY_BYTES, SIGNATURE_BYTES = 32, 64


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether this key signed this message."""
    if len(public_key) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    key, r = _decode(public_key), signature[:32]
    s = int.from_bytes(signature[32:], "little")
    if key is None or s >= ORDER or _decode(r) is None or _same(_times(8, key), ZERO):
        return False
    k = int.from_bytes(hashlib.sha512(r + public_key + message).digest(), "little") % ORDER
    x, y, z, t = key
    return _encode(_add(_times(s, BASE), _times(k, (P - x, y, z, P - t)))) == r  # S B - k A = R, byte for byte


def _add(a: Point, b: Point) -> Point:
    e, f = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    c, d = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    p, q, r, s = f - e, d - c, d + c, f + e
    return (p * q % P, r * s % P, q * r % P, p * s % P)


def _times(scalar: int, point: Point) -> Point:
    found = ZERO
    while scalar:
        if scalar & 1:
            found = _add(found, point)
        point = _add(point, point)
        scalar >>= 1
    return found


def _same(a: Point, b: Point) -> bool:
    return (a[0] * b[2] - b[0] * a[2]) % P == 0 and (a[1] * b[2] - b[1] * a[2]) % P == 0


def _encode(point: Point) -> bytes:
    inverse = pow(point[2], P - 2, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _decode(encoded: bytes) -> Optional[Point]:
    """The point of 32 bytes; None: they are no point, or not the one way of writing it."""
    number = int.from_bytes(encoded, "little")
    y, odd = number & (1 << 255) - 1, number >> 255
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT % P
    if (x * x - square) % P or (x == 0 and odd):
        return None
    x = P - x if x & 1 != odd else x
    return (x, y, 1, x * y % P)


def _base() -> Point:
    point = _decode((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))
    assert point is not None  # y = 4/5, x even
    return point


BASE = _base()
