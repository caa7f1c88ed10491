"""`client/vectors/ed25519.json`: for who has to verify signatures by hand. https://www.rfc-editor.org/rfc/rfc8032"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tests.client.answer_vectors import ORDER

# Section 7.1, with the signatures as they stand there: seed, public key, message, signature
RFC = {
    "TEST 1": (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    "TEST 2": (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    "TEST 3": (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    "TEST SHA(abc)": (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        hashlib.sha512(b"abc").hexdigest(),
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b589"
        "09351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
}
FIELD = 2**255 - 19


def ed25519_cases() -> Iterator[dict[str, Any]]:
    """Each as OpenSSL judges it, too: `_case` asks."""
    for name, (seed, public, message, signature) in RFC.items():
        private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))
        assert private.public_key().public_bytes_raw().hex() == public, name
        assert private.sign(bytes.fromhex(message)).hex() == signature, name
        yield _case(f"RFC 8032, section 7.1, {name}", public, message, signature, is_good=True)
    for length in (64, 1023, 4096):
        private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(bytes([length % 251])).digest())
        text = (hashlib.sha512(b"keyledger").digest() * 64)[:length]
        public = private.public_key().public_bytes_raw().hex()
        yield _case(f"a message of {length} bytes", public, text.hex(), private.sign(text).hex(), is_good=True)
    yield from _bad()


def _bad() -> Iterator[dict[str, Any]]:
    seed, public, message, signature = RFC["TEST 3"]
    r, s = bytes.fromhex(signature)[:32], int.from_bytes(bytes.fromhex(signature)[32:], "little")

    def with_s(number: int) -> str:
        return (r + number.to_bytes(32, "little")).hex()

    for name, key, text, forged in (
        ("another message", public, "af83", signature),
        ("no message", public, "", signature),
        ("another key", RFC["TEST 2"][1], message, signature),
        ("the first bit of R", public, message, _flipped(signature, 0)),
        ("the sign of R", public, message, _flipped(signature, 255)),
        ("the first bit of S", public, message, _flipped(signature, 256)),
        ("the highest bit of S", public, message, _flipped(signature, 511)),
        ("S + L", public, message, with_s(s + ORDER)),
        ("S = L", public, message, with_s(ORDER)),
        ("S = 0", public, message, with_s(0)),
        ("R and S changed places", public, message, signature[64:] + signature[:64]),
        ("zeros", public, message, "00" * 64),
        ("ones", public, message, "ff" * 64),
        ("63 bytes", public, message, signature[:-2]),
        ("65 bytes", public, message, signature + "00"),
        ("no bytes", public, message, ""),
        ("a key of 31 bytes", public[:-2], message, signature),
        ("a key of 33 bytes", public + "00", message, signature),
        ("a key that is no point of the curve", "02" + "00" * 31, message, signature),
        ("the key's sign", _flipped(public, 255), message, signature),
    ):
        yield _case(name, key, text, forged, is_good=False)
    yield _case(
        "R is the neutral point in a spelling that is not its own", public, message, _odd_r(seed), is_good=False
    )


def _odd_r(seed: str) -> str:
    """S = h * a fits R = neutral; but y = p + 1 is no spelling of y = 1 (section 5.1.3, step 1)."""
    public, message = (bytes.fromhex(RFC["TEST 3"][place]) for place in (1, 2))
    wide = bytearray(hashlib.sha512(bytes.fromhex(seed)).digest()[:32])
    wide[0] &= 248
    wide[31] = wide[31] & 127 | 64
    odd = (FIELD + 1).to_bytes(32, "little")
    h = int.from_bytes(hashlib.sha512(odd + public + message).digest(), "little")
    return (odd + (h * int.from_bytes(wide, "little") % ORDER).to_bytes(32, "little")).hex()


def _flipped(text: str, bit: int) -> str:
    raw = bytearray.fromhex(text)
    raw[bit // 8] ^= 1 << bit % 8
    return raw.hex()


def _case(name: str, public: str, message: str, signature: str, *, is_good: bool) -> dict[str, Any]:
    assert _openssl(public, message, signature) is is_good, name
    return {"name": name, "public_key": public, "message": message, "signature": signature, "valid": is_good}


def _openssl(public: str, message: str, signature: str) -> bool:
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(signature), bytes.fromhex(message))
    except (InvalidSignature, ValueError):
        return False
    return True
