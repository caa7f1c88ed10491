"""`client/vectors/signed_answers.json`: what an app believes, and what it must not."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from server.services.signing import SigningKey
from server.web.signatures import COVERED
from tests.client.till import HARDWARE, NOW, OTHER_HARDWARE, OTHERS, OURS, UPGRADED, Answered, Till, nonce_of, rfc3339

ORDER = 2**252 + 27742317777372353535851937790883648493  # of the curve's group, RFC 8032 section 5.1
Case = tuple[str, Answered, str]


def answer_cases(till: Till) -> Iterator[dict[str, Any]]:
    for name, seen, expect in (*_verdicts(till), *_forged(till), *_about_another(till)):
        yield _case(name, seen, expect)
    good = till.ask("validate", "live", nonce_of("clock"))
    for name, off in (
        ("the clock is five minutes ahead", timedelta(minutes=5)),
        ("the clock is behind by a second more than five minutes", timedelta(minutes=-5, seconds=-1)),
        ("the answer seems ten years old: the clock is wrong, the nonce is not", timedelta(days=3652)),
        ("the answer seems to come from the future", timedelta(days=-400)),
    ):
        yield _case(name, good, "BELIEVED", off)


def _case(name: str, seen: Answered, expect: str, off: timedelta = timedelta()) -> dict[str, Any]:
    asked = {n: getattr(seen, n) for n in ("method", "path", "license_key", "hardware_id", "product", "nonce")}
    case = {
        "name": name,
        "request": asked,
        "answer": {"status": seen.status, "headers": seen.headers, "body": seen.body},
        "now": rfc3339(NOW + off),
        "expect": expect,
    }
    if expect == "BELIEVED":
        said = json.loads(seen.body)
        case |= {"code": said["code"], "valid": said["valid"], "clock_off": abs(off) > timedelta(minutes=5)}
    return case


def _verdicts(till: Till) -> Iterator[Case]:
    """Each as the server gives it. The order matters: what is activated first is known later."""
    for name, route, sold, more in (
        ("a device takes a seat", "activate", "live", {}),
        ("a known device", "validate", "live", {}),
        ("a license file comes with its verdict", "file", "live", {"device_name": "Ann\u2019s \u201cLaptop\u201d"}),
        ("a seat is freed", "deactivate", "live", {}),
        ("without a device", "validate", "live", {"hardware_id": None}),
        ("without a product", "validate", "team", {"product": None}),
        ("no such key", "validate", "NO-SUCH-KEY", {}),
        ("revoked", "validate", "revoked", {}),
        ("refunded", "validate", "refunded", {}),
        ("ended", "validate", "ended", {"product": "team"}),
        ("another product", "validate", "team", {}),
        ("another customer", "validate", "live", {"email": "bob@example.com"}),
        ("a feature is not in it", "validate", "live", {"features": ["api_access"]}),
        ("no seat is free", "activate", "full", {}),
        ("asked without taking a seat", "validate", "full", {"bind": False, "hardware_id": OTHER_HARDWARE}),
        ("a new device that is only asked about", "validate", "team", {"product": "team", "bind": False,
                                                                      "hardware_id": OTHER_HARDWARE}),
    ):  # fmt: skip
        yield name, till.ask(route, sold, nonce_of(name), **more), "BELIEVED"
    for name, root, raw in (
        ("below a folder", "/shop", None),
        ("below a folder of any name", "", "/b%C3%BCro/a%20b/api/v1/licenses/validate"),
        ("the query is no part of the path", "", "/api/v1/licenses/validate?lang=en"),
    ):
        yield name, till.ask("validate", "live", nonce_of(name), root, raw), "BELIEVED"
    known = replace(till.ask("validate", "live", nonce_of("known")), hardware_id=UPGRADED)
    yield "the device has another disk since: the answer names it as it was bound", known, "BELIEVED"
    yield "headers of any case", _lower(till.ask("validate", "live", nonce_of("case"))), "BELIEVED"
    lower = replace(till.ask("validate", "live", nonce_of("typed")), license_key=till.keys["live"].lower())
    yield "the key as it was typed: small letters", lower, "BELIEVED"
    spaced = lower.license_key.replace("-", "").replace("0", "o").replace("1", "l")
    yield "the key as it was typed: no hyphens, O for 0, L for 1", replace(lower, license_key=spaced), "BELIEVED"


def _lower(seen: Answered) -> Answered:
    return replace(seen, headers=tuple((name.lower(), value) for name, value in seen.headers))


def _forged(till: Till) -> Iterator[Case]:
    good = till.ask("validate", "live", nonce_of("good"))
    denied = till.ask("validate", "refunded", nonce_of("denied"))
    signature, given, digest = good.header("Signature"), good.header("Signature-Input"), good.header("Content-Digest")
    yield "an answer to another request", replace(good, nonce=nonce_of("another request")), "OTHER_REQUEST"
    earlier = till.ask("validate", "live", nonce_of("earlier"))
    yield "an earlier answer told again", replace(earlier, nonce=good.nonce), "OTHER_REQUEST"
    opposite = replace(denied, body=denied.body.replace('"valid":false', '"valid":true '))
    yield "a denial that was turned into its opposite", opposite, "OTHER_BODY"
    yield "the same, with a digest that fits", opposite.told("Content-Digest", _digest(opposite.body)), "BAD_SIGNATURE"
    yield "a space behind the body", replace(good, body=good.body + " "), "OTHER_BODY"
    yield "an empty body", replace(good, body=""), "OTHER_BODY"
    for status in (201, 302, 400, 403, 429, 500, 503):
        yield f"status {status}, however well it is signed", signed_answer(replace(good, status=status)), "NO_VERDICT"
    yield "signed with another status than it came with", signed_answer(good, status=403), "BAD_SIGNATURE"
    yield "signed for another method", signed_answer(good, method="PUT"), "BAD_SIGNATURE"
    yield "signed for another path", replace(good, path="/api/v1/licenses/activate"), "BAD_SIGNATURE"
    yield "signed for a path without the folder", replace(good, path="/shop" + good.path), "BAD_SIGNATURE"
    yield "a page of somebody's network that wants a sign-in", _page(good), "UNSIGNED"
    for name in ("Content-Digest", "Signature-Input", "Signature"):
        yield f"without {name}", good.told(name), "UNSIGNED"
        yield f"{name} twice", good.told(name, good.header(name), good.header(name)), "UNREADABLE"
    yield "without any of the three", replace(good, headers=good.headers[:1]), "UNSIGNED"
    wide = base64.b64encode(hashlib.sha512(good.body.encode()).digest()).decode()
    yield "a digest by another algorithm", signed_answer(good, digest=f"sha-512=:{wide}:"), "UNREADABLE"
    yield "two digests", signed_answer(good, digest=f"{digest}, sha-512=:{wide}:"), "UNREADABLE"
    yield "a digest in hexadecimal", signed_answer(good, digest="sha-256=:" + _hex(good.body) + ":"), "UNREADABLE"
    yield "two signatures", _two(good), "UNREADABLE"
    yield "another label", good.changed("Signature-Input", "sig1=", "sig2="), "UNREADABLE"
    yield "not all is covered", signed_answer(good, covered=COVERED.replace(' "content-digest"', "")), "UNREADABLE"
    turned = COVERED.replace('"@status" "content-digest"', '"content-digest" "@status"')
    yield "in another order", signed_answer(good, covered=turned), "UNREADABLE"
    yield "nothing is covered", signed_answer(good, covered="()"), "UNREADABLE"
    yield "another algorithm", good.changed("Signature-Input", '"ed25519"', '"hmac-sha256"'), "UNREADABLE"
    yield "no algorithm", good.changed("Signature-Input", ';alg="ed25519"', ""), "UNREADABLE"
    yield "a parameter more", good.told("Signature-Input", given + ";expires=4102444800"), "UNREADABLE"
    yield "a time that is no number", good.changed("Signature-Input", "created=1", "created=-1"), "UNREADABLE"
    yield "another time", good.changed("Signature-Input", "created=1", "created=2"), "BAD_SIGNATURE"
    yield "a key that is not ours", signed_answer(good, key=OTHERS), "UNKNOWN_KEY"
    yield "a key that is not ours under our name", signed_answer(good, key=OTHERS, kid=OURS.kid), "BAD_SIGNATURE"
    yield "our signature under another name", good.changed("Signature-Input", OURS.kid, OTHERS.kid), "UNKNOWN_KEY"
    yield "a signature that was cut off", good.told("Signature", signature[:-5] + ":"), "UNREADABLE"
    yield "a signature without its padding", good.told("Signature", signature.replace("==:", ":")), "UNREADABLE"
    yield "a signature of nothing", good.told("Signature", "sig1=::"), "UNREADABLE"
    raw = base64.b64decode(signature[6:-1])
    for name, forged in bent(raw):
        yield name, good.told("Signature", f"sig1=:{base64.b64encode(forged).decode()}:"), "BAD_SIGNATURE"
    yield "bits behind the signature's last byte", good.told("Signature", _loose(signature)), "UNREADABLE"
    for name, body in (
        ("signed, but no JSON", "OK"),
        ("signed, but no object", "[]"),
        ("signed, but without a verdict", '{"nonce":"' + good.nonce + '"}'),
        ("signed, but it contradicts itself", denied.body.replace('"valid":false', '"valid":true')),
        ("signed, but valid is a text", good.body.replace('"valid":true', '"valid":"true"')),
        ("signed, valid, but of no license", _without(good.body, "license")),
    ):
        seen = denied if "contradicts" in name else good
        yield name, signed_answer(replace(seen, body=body)), "UNREADABLE"


def _about_another(till: Till) -> Iterator[Case]:
    """The request is not signed: who sits in between can put something else into it."""
    other = till.ask("validate", "team", nonce_of("another key"), product=None)
    yield "about another key", replace(other, license_key=till.keys["live"], product=None), "OTHER_LICENSE"
    refused = till.ask("validate", "refunded", nonce_of("another denial"))
    yield "a denial of another key", replace(refused, license_key=till.keys["live"]), "OTHER_LICENSE"
    elsewhere = till.ask("validate", "full", nonce_of("another device"), hardware_id=OTHER_HARDWARE)
    yield "about another device", replace(elsewhere, hardware_id=HARDWARE), "OTHER_DEVICE"
    nowhere = till.ask("validate", "full", nonce_of("no device"), hardware_id=None)
    yield "about no device, where one was asked about", replace(nowhere, hardware_id=HARDWARE), "OTHER_DEVICE"
    yield "a license of another product", replace(other, product="wave"), "OTHER_PRODUCT"
    bent_product = till.ask("validate", "live", nonce_of("another product asked"), product="team")
    yield "a denial for another product than was asked about", replace(bent_product, product="wave"), "OTHER_PRODUCT"


def _page(good: Answered) -> Answered:
    return replace(good, headers=(("Content-Type", "text/html"),), body="<!doctype html><title>Welcome</title>")


def _two(good: Answered) -> Answered:
    given, signature = good.header("Signature-Input"), good.header("Signature")
    twice = good.told("Signature-Input", f"{given}, {given.replace('sig1=', 'sig2=')}")
    return twice.told("Signature", f"{signature}, {signature.replace('sig1=', 'sig2=')}")


def bent(raw: bytes) -> Iterator[tuple[str, bytes]]:
    flipped = bytes([raw[0] ^ 1]) + raw[1:]
    yield "a bit of the signature", flipped
    larger = int.from_bytes(raw[32:], "little") + ORDER
    yield (
        "the signature's number, one turn further (RFC 8032: S must be less than L)",
        (raw[:32] + larger.to_bytes(32, "little")),
    )
    yield "a signature of zeros", bytes(64)


def _loose(signature: str) -> str:
    """The last symbol before the padding has four bits that belong to no byte."""
    last = {"A": "B", "Q": "R", "g": "h", "w": "x"}[signature[-4]]
    return signature[:-4] + last + signature[-3:]


def _without(body: str, name: str) -> str:
    return json.dumps(json.loads(body) | {name: None}, separators=(",", ":"))


def _hex(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


def _digest(body: str) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}:"


def signed_answer(
    seen: Answered,
    key: SigningKey = OURS,
    *,
    status: int | None = None,
    method: str = "POST",
    covered: str = COVERED,
    digest: str | None = None,
    kid: str | None = None,
    now: datetime = NOW,
) -> Answered:
    """Signed well for what it is not: only who has the key could, and the app asks for more than a signature."""
    digest = digest or _digest(seen.body)
    values = {
        '"@status"': str(status or seen.status),
        '"content-digest"': digest,
        '"@method";req': method,
        '"@path";req': seen.path,
    }
    parameters = f'{covered};created={int(now.timestamp())};keyid="{kid or key.kid}";alg="ed25519"'
    names = covered[1:-1].split(" ") if covered != "()" else []
    lines = [*(f"{name}: {values[name]}" for name in names), f'"@signature-params": {parameters}']
    signature = base64.b64encode(key.sign("\n".join(lines).encode())).decode()
    told = seen.told("Content-Digest", digest).told("Signature-Input", f"sig1={parameters}")
    return told.told("Signature", f"sig1=:{signature}:")
