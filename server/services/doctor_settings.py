"""The check-up of what the owner wrote: `.env` and `products.json`. What the start refuses is not told twice here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from urllib.parse import urlsplit

import msgspec
from dotenv import dotenv_values

from server.domain.catalogue import read_catalogue
from server.domain.keys import derive
from server.domain.purchase import Entry
from server.errors import BadRequest
from server.platforms import PLATFORMS
from server.platforms.web_client import is_loopback
from server.services.catalogue_sanity import oddities
from server.services.doctor import Check, Examination, Patient, good, skipped, warning, wrong
from server.settings import ROOT

LONG_ENOUGH, FEWEST_SYMBOLS = 32, 8
_EXAMPLES = re.compile(r"change.?(me|this)|example|secret|password|placeholder|dummy|12345|abcdef|keyledger", re.I)
_NAMES = re.compile(r"^#?([A-Z][A-Z0-9_]*)=", re.M)
_LAST_LINES = 50


def env_file(patient: Patient) -> Iterator[Check]:
    path = patient.env_file
    if not path.is_file():
        yield skipped(".env", f"there is no {path}: all settings come from the environment")
        return
    if path.stat().st_mode & 0o077:
        yield wrong(".env", f"other users may read {path}", f"chmod 600 {path}")
    known = set(_NAMES.findall((ROOT / ".env.example").read_text(encoding="utf-8")))
    unknown = sorted(name for name in dotenv_values(path) if name.removesuffix("_FILE") not in known)
    if unknown:
        yield warning(".env", f"no setting of this version: {', '.join(unknown)}", "Look for a typing error")
    elif not path.stat().st_mode & 0o077:
        yield good(".env", "is closed to others, and holds no unknown name")


def secrets(patient: Patient) -> Iterator[Check]:
    """Those that are ours to choose; what a platform made is taken as it is."""
    settings = patient.settings
    ours = {
        "LICENSE_SECRET": settings.license_secret,
        "SECRET_KEY": settings.secret_key[0],
        "ADMIN_API_KEY": settings.admin_api_key,
        "GUMROAD_WEBHOOK_SECRET": settings.gumroad_webhook_secret,
        "JVZOO_WEBHOOK_SECRET": settings.jvzoo_webhook_secret,
    }
    given = {name: secret for name, secret in ours.items() if secret}
    count = Counter(given.values())
    found = [(name, weakness) for name, secret in given.items() if (weakness := _weakness(secret, count[secret]))]
    for name, weakness in found:
        if name == "LICENSE_SECRET":  # keys that were sold rest on it
            yield warning(name, weakness, "Take another one only before the first sale")
        else:
            yield wrong(name, weakness, "Take 32 random characters, then restart, and change it where it is pasted")
    if not found:
        yield good("secrets", f"{len(given)} of them, long, unlike each other and unlike examples")


def _weakness(secret: str, times: int) -> str | None:
    if _EXAMPLES.search(secret) or len(set(secret)) < FEWEST_SYMBOLS:
        return "looks like an example, not like chance"
    if times > 1:
        return "is used for two settings"
    return f"is shorter than {LONG_ENOUGH} characters" if len(secret) < LONG_ENOUGH else None


def license_secret(patient: Patient) -> Iterator[Check]:
    """Whether today's LICENSE_SECRET made the newest keys. One of them is enough: keys may outlive a change of plan."""
    sold = (entry for entry in patient.store.scan(Entry, newest_first=True) if entry.source in PLATFORMS)
    issued = [entry for entry in islice(sold, _LAST_LINES) if any(grant.license_key for grant in entry.grants)]
    if not issued:
        yield skipped("license secret", "no platform has sold anything yet that would show whether it fits")
    elif any(_made(patient.settings.license_secret, entry) for entry in issued):
        yield good("license secret", "is the one that made the newest keys")
    else:
        todo = "Put the old LICENSE_SECRET back: a sale told again would get another key than the buyer has"
        yield wrong("license secret", "is not the one that made the newest keys", todo)


def _made(secret: str, entry: Entry) -> bool:
    order = entry.as_event().order
    return any(
        grant.license_key.endswith(derive(secret, entry.source, order, grant.product_id)) for grant in entry.grants
    )


def addresses(patient: Patient) -> Iterator[Check]:
    settings, is_https = patient.settings, urlsplit(patient.settings.app_url).scheme == "https"
    found = []
    if patient.platforms and is_loopback(settings.app_url):
        found.append(warning("APP_URL", "no platform can reach it: it is this machine's own", "Set the public address"))
    elif not is_https:
        found.append(warning("APP_URL", "is not https: keys and secrets can be read on the way", "Put TLS in front"))
    elif not settings.trusted_proxies:
        words = "is 0, but APP_URL is https, so a proxy is in front: all clients look like one address"
        found.append(warning("TRUSTED_PROXIES", words, "Set it to the number of proxies (nginx alone: 1)"))
    if settings.host not in ("127.0.0.1", "::1", "localhost"):
        if settings.trusted_proxies:
            words = f"is {settings.host}: who comes past the proxy may claim any address"
            found.append(warning("HOST", words, "Use 127.0.0.1, or a firewall, behind a proxy"))
        elif not is_https:
            found.append(warning("HOST", f"is {settings.host}, without TLS", "Use 127.0.0.1 behind a proxy with TLS"))
    if not settings.owner_email:
        found.append(warning("OWNER_EMAIL", "is not set: nobody gets the alerts", "Set your address"))
    yield from found or [good("addresses", f"{settings.app_url}, behind a proxy; alerts have a reader")]


def platforms(patient: Patient) -> Iterator[Check]:
    settings, on = patient.settings, patient.platforms
    if not on:
        yield warning("platforms", "none is on", "README: Your platforms")
    if "gumroad" in on and not settings.gumroad_access_token:
        yield warning("gumroad", "sales are not read back: its secret alone proves them", "Set GUMROAD_ACCESS_TOKEN")
    if "jvzoo" in on and not settings.jvzoo_webhook_secret:
        yield warning("jvzoo", "its signature has 32 bits, and no second secret is set", "Set JVZOO_WEBHOOK_SECRET")
    if "jvzoo" in on and settings.jvzoo_legacy_signature == "on":
        yield warning("jvzoo", "JVZOO_LEGACY_SIGNATURE is on: it signs next to nothing", "Turn it off where you can")
    if "stripe" in on and (key := settings.stripe_secret_key):
        yield from _stripe_key(patient, key)


class _Mode(msgspec.Struct):
    source: str
    is_test: bool = False


def _stripe_key(patient: Patient, key: str) -> Iterator[Check]:
    told = next((line for line in patient.store.scan(_Mode, newest_first=True) if line.source == "stripe"), None)
    if key.startswith("sk_"):
        todo = "Take a restricted key, rk_: to read, and for a store front to write Checkout Sessions and Refunds"
        yield warning("stripe", "STRIPE_SECRET_KEY may do everything", todo)
    if told is not None and told.is_test != ("_test_" in key):
        modes = {True: "test", False: "live"}
        words = f"its newest notice is of {modes[told.is_test]} mode, the key of {modes[not told.is_test]} mode"
        yield warning("stripe", words, "Take the key of the same mode: it knows nothing of the other's sales")


def catalogue(patient: Patient) -> Iterator[Check]:
    path = patient.folder / "products.json"
    if not path.is_file():
        yield wrong("products.json", "is not there: every sale waits as unmapped", "README: Your products")
        return
    try:
        found = read_catalogue(path.read_bytes())
    except BadRequest as error:
        yield wrong("products.json", error.detail, "Mend that place; the last good one is in use meanwhile")
        return
    strange = list(oddities(found, patient.platforms))
    for odd in strange:
        yield warning("products.json", odd.words, odd.todo)
    if not strange:
        yield good("products.json", f"{len(found.products)} products, each can be sold")


SETTINGS: list[Examination] = [env_file, secrets, addresses, platforms, catalogue, license_secret]
