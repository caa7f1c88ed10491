"""Settings: typed, from the environment, a file or `.env`, and nonsense refused by name."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from server.errors import SettingsError
from server.settings import ROOT, load_settings

GOOD = {"SECRET_KEY": "a" * 32, "LICENSE_SECRET": "b" * 32}


def pem(key, encryption=None):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()).decode()


def test_the_defaults():
    settings = load_settings(GOOD)
    assert (settings.host, settings.port, settings.web_concurrency) == ("127.0.0.1", 8000, 2)
    assert settings.data_dir == ROOT / "data"
    assert settings.admin_api_key is None
    assert settings.allowed_origins == ()
    assert (settings.email_backend, settings.smtp_starttls, settings.refund_window_days) == ("console", "auto", 90)


def test_every_kind_is_read():
    settings = load_settings(
        GOOD
        | {
            "SECRET_KEY": "a" * 32 + ", " + "c" * 32,
            "DATA_DIR": "/var/lib/keyledger",
            "PORT": "9000",
            "ALLOWED_ORIGINS": "https://a.example, http://localhost:3000",
            "APP_URL": "https://licenses.example.com/",
            "FROM_EMAIL": "Acme Software <sales@acme.example>",
            "SIGNING_KEY": base64.b64encode(b"k" * 32).decode(),
        }
    )
    assert settings.secret_key == ("a" * 32, "c" * 32)
    assert settings.data_dir == Path("/var/lib/keyledger")
    assert settings.allowed_origins == ("https://a.example", "http://localhost:3000")
    assert settings.app_url == "https://licenses.example.com"
    assert settings.from_email == "Acme Software <sales@acme.example>"


def test_signing_keys_are_read_in_both_forms_and_in_their_order():
    keys = [Ed25519PrivateKey.generate() for _ in range(3)]
    seeds = tuple(key.private_bytes_raw() for key in keys)
    as_pem, as_seed = [pem(key) for key in keys], [base64.b64encode(seed).decode() for seed in seeds]
    one_line = as_pem[0].strip().replace("\n", "\\n")
    for text in ["\n".join(as_pem), "".join(as_pem), ",".join(as_seed), f"{one_line}, {as_seed[1]},{as_pem[2]}"]:
        assert load_settings(GOOD | {"SIGNING_KEY": text}).signing_key == seeds
    assert load_settings(GOOD).signing_key == ()


@pytest.mark.parametrize(
    "text",
    [
        lambda: pem(X25519PrivateKey.generate()),
        lambda: pem(Ed25519PrivateKey.generate(), BestAvailableEncryption(b"password")),
        lambda: pem(Ed25519PrivateKey.generate()) + "and more",
        lambda: pem(Ed25519PrivateKey.generate()) + pem(X25519PrivateKey.generate()),
    ],
)
def test_no_other_pem_is_a_signing_key(text):
    with pytest.raises(SettingsError, match="SIGNING_KEY is neither"):
        load_settings(GOOD | {"SIGNING_KEY": text()})


def test_who_the_seller_is():
    settings = load_settings(GOOD)
    assert (settings.seller_name, settings.seller_address, settings.seller_tax_id) == (None, (), None)
    told = {"SELLER_NAME": "Ann Software GmbH", "SELLER_TAX_ID": "DE123456789", "SEATS_LETTER": "Off"}
    for address in (
        "Main Street 1\n10115 Berlin",
        "Main Street 1\\n10115 Berlin\\n",
        " Main Street 1 \r\n10115 Berlin",
    ):
        settings = load_settings(GOOD | told | {"SELLER_ADDRESS": address})
        assert settings.seller_address == ("Main Street 1", "10115 Berlin")
    assert (settings.seller_name, settings.seller_tax_id, settings.seats_letter) == (*list(told.values())[:2], "off")


def test_jvzoo_is_off_and_careful_by_default_and_read_as_it_is_written():
    settings = load_settings(GOOD)
    assert (settings.jvzoo_secret_key, settings.jvzoo_webhook_secret) == (None, None)
    assert (settings.jvzoo_legacy_signature, settings.jvzoo_keygen, settings.jvzoo_amounts) == ("off", "off", "dollars")
    settings = load_settings(
        GOOD
        | {
            "JVZOO_SECRET_KEY": "secret",  # of any length: JVZoo lets its users choose it
            "JVZOO_WEBHOOK_SECRET": "d" * 16,
            "JVZOO_LEGACY_SIGNATURE": "On",
            "JVZOO_KEYGEN": "ON",
            "JVZOO_AMOUNTS": "Cents",
        }
    )
    assert (settings.jvzoo_secret_key, settings.jvzoo_webhook_secret) == ("secret", "d" * 16)
    assert (settings.jvzoo_legacy_signature, settings.jvzoo_keygen, settings.jvzoo_amounts) == ("on", "on", "cents")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SECRET_KEY", "short"),
        ("LICENSE_SECRET", "short"),
        ("SECRET_KEY", "a" * 32 + ",short"),
        ("PORT", "eighty"),
        ("PORT", "0"),
        ("PORT", "70000"),
        ("WEB_CONCURRENCY", "-1"),
        ("TRUSTED_PROXIES", "1.5"),
        ("RATE_LIMIT", "a lot"),
        ("RATE_LIMIT", "0/minute"),
        ("EMAIL_BACKEND", "pigeon"),
        ("SEATS_LETTER", "weekly"),
        ("SELLER_NAME", "Ann\x1b[31m"),
        ("SELLER_ADDRESS", "Main Street\x00"),
        ("SMTP_STARTTLS", "maybe"),
        ("OWNER_EMAIL", "not an address"),
        ("FROM_EMAIL", "a@b\nBcc: c@d"),
        ("APP_URL", "licenses.example.com"),
        ("APP_URL", "javascript:alert(1)"),
        ("ALLOWED_ORIGINS", "*"),
        ("ALLOWED_ORIGINS", "https://a.example/path"),
        ("GUMROAD_API_BASE", "https://evil.example"),
        ("GUMROAD_API_BASE", "http://api.gumroad.com"),
        ("GUMROAD_WEBHOOK_SECRET", "short"),
        ("JVZOO_SECRET_KEY", "two\nlines"),
        ("JVZOO_WEBHOOK_SECRET", "short"),
        ("JVZOO_LEGACY_SIGNATURE", "maybe"),
        ("JVZOO_LEGACY_SIGNATURE", "true"),
        ("JVZOO_KEYGEN", "1"),
        ("JVZOO_AMOUNTS", "pennies"),
        ("SIGNING_KEY", "not a key"),
        ("SIGNING_KEY", base64.b64encode(b"k" * 31).decode()),
        ("SIGNING_KEY", base64.b64encode(b"k" * 32).decode() + ","),
        ("SIGNING_KEY", base64.b64encode(b"k" * 32).decode() + "," + base64.b64encode(b"k" * 33).decode()),
        ("SIGNING_KEY", base64.b64encode(b"k" * 32).decode() + " " + base64.b64encode(b"l" * 32).decode()),
        ("SIGNING_KEY", "-----BEGIN PRIVATE KEY-----\nMC4C\n-----END PRIVATE KEY-----"),
        ("ADMIN_PASSWORD_HASH", "hunter2"),
        ("ADMIN_PASSWORD_HASH", "scrypt:1000:8:1$saltsaltsalt$" + "a" * 128),
        ("ADMIN_PASSWORD_HASH", "scrypt:32768:8:1$saltsaltsalt$" + "a" * 64),
        ("ADMIN_PASSWORD_HASH", "pbkdf2:md5:1000$saltsaltsalt$" + "a" * 32),
        ("ADMIN_PASSWORD_HASH", "plain$saltsaltsalt$" + "a" * 64),
        ("DATA_DIR", __file__),
        ("DATABASE_URL", "postgresql://localhost/keyledger"),
    ],
)
def test_nonsense_is_refused_in_one_line_that_names_the_setting(name, value):
    with pytest.raises(SettingsError) as refused:
        load_settings(GOOD | {name: value})
    assert refused.value.detail.startswith(name)
    assert "\n" not in refused.value.detail


@pytest.mark.parametrize("name", ["SECRET_KEY", "LICENSE_SECRET"])
def test_a_missing_secret_is_refused_by_name(name):
    with pytest.raises(SettingsError, match=name):
        load_settings({key: value for key, value in GOOD.items() if key != name})


def test_a_secret_may_stand_in_a_file(tmp_path):
    (tmp_path / "secret").write_text("from-a-file-from-a-file\n")
    settings = load_settings(GOOD | {"ADMIN_API_KEY_FILE": str(tmp_path / "secret")})
    assert settings.admin_api_key == "from-a-file-from-a-file"
    with pytest.raises(SettingsError, match="ADMIN_API_KEY_FILE"):
        load_settings(GOOD | {"ADMIN_API_KEY_FILE": str(tmp_path / "none")})


def test_the_environment_goes_before_the_file(tmp_path):
    written = tmp_path / ".env"
    written.write_text("PORT=9001\nHOST='0.0.0.0'\nADMIN_API_KEY=in-the-file-in-the-file\n")
    settings = load_settings(GOOD | {"PORT": "9002", "ADMIN_API_KEY": ""}, dotenv=written)
    assert (settings.port, settings.host, settings.admin_api_key) == (9002, "0.0.0.0", "in-the-file-in-the-file")


def test_secrets_do_not_show_when_settings_are_printed():
    assert "a" * 32 not in repr(load_settings(GOOD))
