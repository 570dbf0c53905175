"""ed25519 verification against RFC 8032's vectors, `cryptography`, and what must be refused; keys and signatures of bundles."""

import base64
import hashlib
import json

import numpy as np
import pytest

from edgekd.runner import ed25519, signature
from edgekd.runner.__main__ import main
from edgekd.runner.failure import RunnerError

# RFC 8032, section 7.1: TEST 1, 2, 3 and SHA(abc): (public key, message, signature).
VECTORS = {
    "1": (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        b"",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    "2": (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        b"\x72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    "3": (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        b"\xaf\x82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    "SHA(abc)": (
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        hashlib.sha512(b"abc").digest(),
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
}
KEY, MESSAGE, SIGNED = (bytes.fromhex(part) if isinstance(part, str) else part for part in VECTORS["3"])
# Points of order 1, 2, 4, 4, 8, 8, 8, 8: what they "sign" proves nothing.
SMALL = [
    "01" + 31 * "00",
    "ec" + 30 * "ff" + "7f",
    32 * "00",
    31 * "00" + "80",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
]
# Not on the curve; y = p, p + 1 and 2^255 - 1 where less would do; x = 0 with a sign.
NO_POINT = [
    "02" + 31 * "00",
    "ed" + 30 * "ff" + "7f",
    "ee" + 30 * "ff" + "7f",
    31 * "ff" + "7f",
    "01" + 30 * "00" + "80",
]


@pytest.mark.parametrize("name", VECTORS)
def test_the_vectors_of_the_rfc(name):
    key, message, signed = VECTORS[name]
    assert ed25519.verify(bytes.fromhex(key), message, bytes.fromhex(signed))


@pytest.mark.parametrize("place", range(0, 64, 7))
def test_any_other_signature_is_refused(place):
    bad = bytearray(SIGNED)
    bad[place] ^= 1
    assert not ed25519.verify(KEY, MESSAGE, bytes(bad))


def test_another_message_or_key_is_refused():
    assert not ed25519.verify(KEY, MESSAGE + b"\0", SIGNED)
    assert not ed25519.verify(bytes.fromhex(VECTORS["1"][0]), MESSAGE, SIGNED)


def test_the_same_signature_written_otherwise_is_refused():
    """S + L verifies under the equation alone: a second signature that nobody made."""
    s = int.from_bytes(SIGNED[32:], "little") + ed25519.ORDER
    assert s < 1 << 256
    assert not ed25519.verify(KEY, MESSAGE, SIGNED[:32] + s.to_bytes(32, "little"))


@pytest.mark.parametrize("encoded", NO_POINT)
def test_what_is_no_point_is_refused_as_key_and_in_a_signature(encoded):
    point = bytes.fromhex(encoded)
    assert not ed25519.verify(point, MESSAGE, SIGNED)
    assert not ed25519.verify(KEY, MESSAGE, point + SIGNED[32:])


@pytest.mark.parametrize("encoded", SMALL)
def test_a_key_of_small_order_signs_nothing(encoded):
    """With A of small order and S = 0, R = -k A is one of eight points: anybody finds a message that fits."""
    key = bytes.fromhex(encoded)
    for r in SMALL:
        assert not any(ed25519.verify(key, bytes([i]), bytes.fromhex(r) + bytes(32)) for i in range(2))


@pytest.mark.parametrize(("key", "signed"), [(KEY[:31], SIGNED), (KEY + b"\0", SIGNED), (KEY, SIGNED[:63]), (KEY, b"")])
def test_other_lengths_are_refused(key, signed):
    assert not ed25519.verify(key, MESSAGE, signed)


def private_key():
    pytest.importorskip("cryptography")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.mark.parametrize("length", [0, 1, 111, 1023, 100_000])
def test_what_cryptography_signs_is_accepted(length):
    key, message = private_key(), np.random.default_rng(length).bytes(length)
    public = key.public_key().public_bytes_raw()
    signed = key.sign(message)
    assert ed25519.verify(public, message, signed)
    assert not ed25519.verify(public, message + b"\0", signed)


def ways_to_give(key, folder):
    """The key as hex, and as files of hex, raw bytes and PEM."""
    pem = base64.b64encode(signature.DER + key).decode()
    files = {
        "hex": key.hex().encode() + b"\n",
        "raw": key,
        "pem": f"-----BEGIN PUBLIC KEY-----\n{pem}\n-----END PUBLIC KEY-----\n".encode(),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [key.hex(), *(str(folder / name) for name in files)]


def test_a_key_is_given_in_hex_or_as_a_file(tmp_path):
    for given in ways_to_give(KEY, tmp_path):
        assert signature.public_key(given) == KEY


@pytest.mark.parametrize(
    "content", [b"", b"xyz", b"ab" * 31, b"-----BEGIN PUBLIC KEY-----\nAAAA\n", bytes(range(200, 240))]
)
def test_what_is_no_key_is_exit_2(content, tmp_path):
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(RunnerError) as caught:
        signature.public_key(str(tmp_path / "key"))
    assert caught.value.exit_code == 2


def sign(bundle):
    """Sign bundle.json; the public key in hex."""
    key = private_key()
    (bundle.folder / "bundle.sig").write_text(key.sign((bundle.folder / "bundle.json").read_bytes()).hex() + "\n")
    return key.public_key().public_bytes_raw().hex()


def test_a_signed_bundle_is_accepted_with_its_key_and_without(bundle, capsys):
    key = sign(bundle)
    assert main(["selftest", str(bundle.folder), "--public-key", key]) == 0
    assert main(["selftest", str(bundle.folder)]) == 0
    assert '"error_to_range"' in capsys.readouterr().out


@pytest.mark.parametrize("command", ["selftest", "bench", "predict", "serve-stdin"])
@pytest.mark.parametrize("wrong", ["missing", "of another", "not hex", "of other bytes"])
def test_an_unsigned_bundle_is_exit_6_before_its_json_is_read(bundle, wrong, command, tmp_path, capsys):
    """The json below would be exit 6 for its own sake, named bundle.json: what is named shows what came first."""
    key = sign(bundle)
    sig = bundle.folder / "bundle.sig"
    if wrong == "missing":
        sig.unlink()
    elif wrong == "not hex":
        sig.write_text("signed, sealed")
    elif wrong == "of another":
        key = KEY.hex()
    (bundle.folder / "bundle.json").write_text("{")
    more = {"bench": [str(tmp_path / "out")], "predict": [str(tmp_path)]}.get(command, [])
    assert main([command, str(bundle.folder), *more, "--public-key", key]) == 6
    assert json.loads(capsys.readouterr().err)["where"] == "bundle.sig"
    assert not (tmp_path / "out").exists()
