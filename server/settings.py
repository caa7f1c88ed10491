"""Settings: read once, typed, refusing nonsense with one line that names the setting.

From the environment, else from `.env` (or the file that ENV_FILE names); a secret X may stand in the file that X_FILE
names.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from email.utils import parseaddr
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from dotenv import dotenv_values

from server.errors import SettingsError

ROOT = Path(__file__).resolve().parent.parent

_RATE = re.compile(r"([1-9]\d{0,6})/(second|minute|hour)")
_ADDRESS = re.compile(r"[^@\s<>\",;]{1,64}@[^@\s<>\",;]{1,190}")
_PEM = re.compile(r"-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting that this version reads; the names are the environment's in lower case."""

    secret_key: tuple[str, ...]
    license_secret: str
    signing_key: tuple[bytes, ...] = ()
    data_dir: Path = ROOT / "data"
    database_url: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    web_concurrency: int = 2
    admin_api_key: str | None = None
    admin_password_hash: str | None = None
    owner_email: str | None = None
    app_url: str = "http://127.0.0.1:8000"
    allowed_origins: tuple[str, ...] = ()
    trusted_proxies: int = 0
    rate_limit: str = "120/minute"
    gumroad_webhook_secret: str | None = None
    gumroad_seller_id: str | None = None
    gumroad_access_token: str | None = None
    gumroad_api_base: str = "https://api.gumroad.com"
    stripe_secret_key: str | None = None
    stripe_webhook_secret: tuple[str, ...] = ()
    stripe_api_base: str = "https://api.stripe.com"
    jvzoo_secret_key: str | None = None
    jvzoo_webhook_secret: str | None = None
    jvzoo_legacy_signature: str = "off"
    jvzoo_keygen: str = "off"
    jvzoo_amounts: str = "dollars"
    stripe_payment_methods: tuple[str, ...] = ()
    payu_pos_id: str | None = None
    payu_client_id: str | None = None
    payu_client_secret: str | None = None
    payu_second_key: str | None = None
    payu_api_url: str = "https://secure.payu.com"
    jazzcash_merchant_id: str | None = None
    jazzcash_password: str | None = None
    jazzcash_integrity_salt: str | None = None
    jazzcash_api_url: str = "https://payments.jazzcash.com.pk"
    jazzcash_flow: str = "hosted"
    jazzcash_sandbox: str = "off"
    easypaisa_store_id: str | None = None
    easypaisa_hash_key: str | None = None
    easypaisa_username: str | None = None
    easypaisa_password: str | None = None
    easypaisa_account: str | None = None
    easypaisa_api_url: str = "https://easypay.easypaisa.com.pk"
    easypaisa_flow: str = "hosted"
    email_backend: str = "console"
    smtp_host: str = "localhost"
    smtp_port: int = 587
    smtp_username: str | None = None
    smtp_password: str | None = None
    smtp_starttls: str = "auto"
    from_email: str | None = None
    refund_window_days: int = 90
    device_releases: int = 5
    seats_letter: str = "on"
    seller_name: str | None = None
    seller_address: tuple[str, ...] = ()
    seller_tax_id: str | None = None

    def __repr__(self) -> str:
        return "Settings(…)"  # secrets stay out of logs and tracebacks


def load_settings(environ: Mapping[str, str] | None = None, dotenv: Path | None = None) -> Settings:
    """The settings of this process. Raises SettingsError, naming the setting."""
    if environ is None:
        environ, dotenv = os.environ, dotenv or env_file()
    written = dotenv_values(dotenv) if dotenv is not None and dotenv.is_file() else {}
    values: dict[str, Any] = {}
    for field in fields(Settings):
        name = field.name.upper()
        text = _text(name, environ) or _text(name, written)
        if text is not None:
            values[field.name] = _READERS[field.name](name, text)
        elif name in ("SECRET_KEY", "LICENSE_SECRET"):
            raise SettingsError(
                f"{name} is missing: set it in the environment or in .env (./scripts/server writes one)"
            )
    return _checked(Settings(**values))


def env_file() -> Path:
    return Path(os.environ.get("ENV_FILE") or ROOT / ".env")


def _text(name: str, given: Mapping[str, str | None]) -> str | None:
    """The setting's text; None where it is missing or empty."""
    if path := (given.get(f"{name}_FILE") or "").strip():
        try:
            return Path(path).read_text().strip() or None
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{name}_FILE: cannot be read ({error})") from None
    return (given.get(name) or "").strip() or None


def _checked(settings: Settings) -> Settings:
    if settings.email_backend == "smtp" and not (settings.from_email or settings.owner_email):
        raise SettingsError("FROM_EMAIL is missing: letters need a sender where EMAIL_BACKEND is smtp")
    if settings.smtp_password and not settings.smtp_username:
        raise SettingsError("SMTP_USERNAME is missing: SMTP_PASSWORD is set without it")
    return settings


# ------------------------------------------------------------------------------------------------ readers by kind
def _plain(name: str, text: str) -> str:
    if not text.isprintable():
        raise SettingsError(f"{name} holds characters that cannot be printed")
    return text


def _secret(name: str, text: str) -> str:
    if len(_plain(name, text)) < 16:
        raise SettingsError(f"{name} is too short: use at least 16 random characters")
    return text


def _secrets(name: str, text: str) -> tuple[str, ...]:
    return tuple(_secret(name, part.strip()) for part in text.split(","))


def _list(name: str, text: str) -> tuple[str, ...]:
    """Secrets that a platform made: several while one takes the place of another."""
    parts = tuple(part.strip() for part in _plain(name, text).split(","))
    if not all(parts):
        raise SettingsError(f"{name} has an empty part between its commas")
    return parts


def _lines(name: str, text: str) -> tuple[str, ...]:
    """An address in lines, parted by line breaks or by \\n."""
    parts = (part.strip() for part in text.replace("\\n", "\n").splitlines())
    return tuple(_plain(name, part) for part in parts if part)


def _whole(low: int, high: int) -> Callable[[str, str], int]:
    def read(name: str, text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text[:9]) <= high):
            raise SettingsError(f"{name} is {text[:40]!r}: a whole number from {low} to {high} is needed")
        return int(text)

    return read


def _one_of(*words: str) -> Callable[[str, str], str]:
    def read(name: str, text: str) -> str:
        if text.lower() not in words:
            raise SettingsError(f"{name} is {text[:40]!r}: it can be {', '.join(words)}")
        return text.lower()

    return read


def _folder(name: str, text: str) -> Path:
    path = ROOT / Path(_plain(name, text)).expanduser()
    if path.exists() and not path.is_dir():
        raise SettingsError(f"{name}: {text} is not a folder")
    return path


def _url(name: str, text: str) -> str:
    parts = _split(name, text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise SettingsError(f"{name} is {text[:80]!r}: a web address such as https://licenses.example.com is needed")
    return text.rstrip("/")


def _api_base(*hosts: str) -> Callable[[str, str], str]:
    """https on the platform's own hosts, or loopback for tests."""

    def read(name: str, text: str) -> str:
        parts = _split(name, text)
        own = parts.scheme == "https" and parts.hostname in hosts and parts.port in (None, 443) and not parts.username
        if not own and not (parts.scheme in ("http", "https") and parts.hostname in _LOOPBACK):
            raise SettingsError(f"{name} is {text[:80]!r}: only https on {', '.join(hosts)} (or loopback) is allowed")
        return text.rstrip("/")

    return read


def _split(name: str, text: str) -> SplitResult:
    try:
        parts = urlsplit(_plain(name, text))
        _ = parts.port
    except ValueError:
        raise SettingsError(f"{name} is {text[:80]!r}: not a web address") from None
    return parts


def _origins(name: str, text: str) -> tuple[str, ...]:
    origins = tuple(part.strip() for part in text.split(",") if part.strip())
    for origin in origins:
        parts = _split(name, origin)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.query:
            raise SettingsError(
                f"{name}: {origin[:80]!r} is no origin such as https://shop.example.com (no path, no *)"
            )
    return origins


def _database(name: str, text: str) -> str:
    raise SettingsError(f"{name} is set, but this version keeps its books in flat files only: take it out")


def _rate(name: str, text: str) -> str:
    if text != "off" and not _RATE.fullmatch(text):
        raise SettingsError(f"{name} is {text[:40]!r}: 120/minute, 5/second, 1000/hour or off is needed")
    return text


def _address(name: str, text: str) -> str:
    """An address, alone or as `Name <address>`."""
    if not _ADDRESS.fullmatch(parseaddr(_plain(name, text))[1]) or not text.isascii():
        raise SettingsError(f"{name} is {text[:80]!r}: an e-mail address is needed")
    return text


def _signing_keys(name: str, text: str) -> tuple[bytes, ...]:
    """Each as its seed, the 32 bytes that an Ed25519 key is made of; several are parted by commas, or PEM by PEM."""
    seeds = [_seed(part) for part in re.split(r"\s*,\s*|(?<=-----)\s+(?=-----BEGIN)", text.replace("\\n", "\n"))]
    if not all(seeds):
        raise SettingsError(
            f"{name} is neither an Ed25519 private key in PEM nor the base64 of its 32 bytes (nor several of them)"
        )
    return tuple(filter(None, seeds))


def _seed(text: str) -> bytes | None:
    try:
        seed = _seed_of_pem(text) if _PEM.fullmatch(text) else base64.b64decode(text, validate=True)
    except (ValueError, TypeError):
        return None
    return seed if len(seed) == 32 else None


def _seed_of_pem(text: str) -> bytes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(text.encode(), None)
    except UnsupportedAlgorithm:
        return b""
    return key.private_bytes_raw() if isinstance(key, Ed25519PrivateKey) else b""


_HASH = re.compile(
    r"(?:scrypt:(?P<n>\d{1,8}):\d{1,3}:\d{1,3}\$[^$\s]{8,}\$[0-9a-f]{128}"
    r"|pbkdf2:sha(?:256:\d{1,8}\$[^$\s]{8,}\$[0-9a-f]{64}|512:\d{1,8}\$[^$\s]{8,}\$[0-9a-f]{128}))"
)


def _password_hash(name: str, text: str) -> str:
    """What could not be checked when the owner signs in is refused now: scrypt wants a power of two, for example."""
    found = _HASH.fullmatch(text)
    n = int(found["n"] or 2) if found else 0
    if n < 2 or n & (n - 1):
        raise SettingsError(f"{name} is no password hash: scripts/password.py makes one (in single quotes in .env)")
    return text


_READERS: dict[str, Callable[[str, str], object]] = {
    "secret_key": _secrets,
    "license_secret": _secret,
    "signing_key": _signing_keys,
    "data_dir": _folder,
    "database_url": _database,
    "host": _plain,
    "port": _whole(1, 65535),
    "web_concurrency": _whole(1, 64),
    "admin_api_key": _secret,
    "admin_password_hash": _password_hash,
    "owner_email": _address,
    "app_url": _url,
    "allowed_origins": _origins,
    "trusted_proxies": _whole(0, 10),
    "rate_limit": _rate,
    "gumroad_webhook_secret": _secret,
    "gumroad_seller_id": _plain,
    "gumroad_access_token": _plain,
    "gumroad_api_base": _api_base("api.gumroad.com"),
    "stripe_secret_key": _plain,
    "stripe_webhook_secret": _list,
    "stripe_api_base": _api_base("api.stripe.com"),
    "jvzoo_secret_key": _plain,
    "jvzoo_webhook_secret": _secret,
    "jvzoo_legacy_signature": _one_of("on", "off"),
    "jvzoo_keygen": _one_of("on", "off"),
    "jvzoo_amounts": _one_of("dollars", "cents"),
    "stripe_payment_methods": _list,
    "payu_pos_id": _plain,
    "payu_client_id": _plain,
    "payu_client_secret": _plain,
    "payu_second_key": _plain,
    "payu_api_url": _api_base("secure.payu.com", "secure.snd.payu.com"),
    "jazzcash_merchant_id": _plain,
    "jazzcash_password": _plain,
    "jazzcash_integrity_salt": _plain,
    "jazzcash_api_url": _api_base(
        "payments.jazzcash.com.pk", "sandbox.jazzcash.com.pk", "onlinepayments.jazzcash.com.pk", "pgw.jazzcash.com.pk"
    ),
    "jazzcash_flow": _one_of("hosted", "wallet"),
    "jazzcash_sandbox": _one_of("on", "off"),
    "easypaisa_store_id": _plain,
    "easypaisa_hash_key": _plain,
    "easypaisa_username": _plain,
    "easypaisa_password": _plain,
    "easypaisa_account": _plain,
    "easypaisa_api_url": _api_base("easypay.easypaisa.com.pk", "easypaystg.easypaisa.com.pk"),
    "easypaisa_flow": _one_of("hosted", "mobile"),
    "email_backend": _one_of("console", "smtp"),
    "smtp_host": _plain,
    "smtp_port": _whole(1, 65535),
    "smtp_username": _plain,
    "smtp_password": _plain,
    "smtp_starttls": _one_of("auto", "true", "false"),
    "from_email": _address,
    "refund_window_days": _whole(1, 3650),
    "device_releases": _whole(0, 1000),
    "seats_letter": _one_of("on", "off"),
    "seller_name": _plain,
    "seller_address": _lines,
    "seller_tax_id": _plain,
}
