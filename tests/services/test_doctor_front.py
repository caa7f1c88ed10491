"""The check-up of the store front: modes, addresses, origins, prices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.platforms.payu import PayU
from server.services import doctor, doctor_settings
from server.services.doctor import Check, Status
from server.services.doctor_front import store_front
from tests.platforms.test_easypaisa import KEYS as EASYPAISA
from tests.platforms.test_payu import SETTINGS as PAYU
from tests.services.test_doctor import patient

GOOD = {"app_url": "https://licenses.example.com", "allowed_origins": ("https://shop.example.com",)}
SANDBOX = {"payu_api_url": "https://secure.snd.payu.com"}


def catalogue(folder: Path, **prices: dict[str, str]) -> None:
    products = {name: {"name": name, "published": True, "price": price} for name, price in prices.items()}
    (folder / "products.json").write_text(json.dumps({"products": products}))


def told(folder: Path, **settings: Any) -> list[Check]:
    return list(doctor.run([store_front], patient(folder, **settings)))


def words(found: list[Check], status: Status) -> list[str]:
    return [f"{check.name}: {check.words}" for check in found if check.status is status]


def test_a_store_front_that_can_be_paid_on_is_good(tmp_path: Path) -> None:
    catalogue(tmp_path, wave={"pln": "119.00"}, team={"PLN": "19.00", "usd": "5.00"})
    found = told(tmp_path, **PAYU, **GOOD)
    assert words(found, Status.GOOD) == [
        "payu: is live, as 455512",
        "store front: may be used by https://shop.example.com",
        "packages: 2 published, each with a price for payu",
    ]
    assert len(found) == 3


def test_a_sandbox_is_told_for_each_platform(tmp_path: Path) -> None:
    catalogue(tmp_path, wave={"pln": "119.00", "pkr": "8500.00"})
    found = told(tmp_path, **PAYU, **SANDBOX, **EASYPAISA, **GOOD)
    assert words(found, Status.WARNING) == ["payu: is a sandbox: no money moves, and licenses end after a week"]
    assert "easypaisa: is live" in words(found, Status.GOOD)[0]


@pytest.mark.parametrize("app_url", ["http://127.0.0.1:8000", "https://localhost:8000", "http://licenses.example.com"])
def test_a_live_platform_that_cannot_reach_us_is_wrong(tmp_path: Path, app_url: str) -> None:
    catalogue(tmp_path, wave={"pln": "119.00"})
    assert (
        "no platform tells of a payment there"
        in words(told(tmp_path, **PAYU, **(GOOD | {"app_url": app_url})), Status.WRONG)[0]
    )
    assert words(told(tmp_path, **PAYU, **SANDBOX, **(GOOD | {"app_url": app_url})), Status.WRONG) == []


def test_without_origins_nobody_else_s_page_may_order(tmp_path: Path) -> None:
    catalogue(tmp_path, wave={"pln": "119.00"})
    found = told(tmp_path, **PAYU, **(GOOD | {"allowed_origins": ()}))
    assert words(found, Status.WARNING) == [
        "store front: ALLOWED_ORIGINS is empty: only pages at APP_URL itself may order, and be come back to"
    ]


def test_a_package_that_a_platform_cannot_take_is_named(tmp_path: Path) -> None:
    catalogue(tmp_path, wave={"pln": "119.00"}, team={"pkr": "8500.00"}, solo={})
    found = words(told(tmp_path, **PAYU, **EASYPAISA, **GOOD), Status.WARNING)
    assert found == [
        f"packages: team has no price that payu takes ({', '.join(sorted(PayU.currencies))}): it has pkr",
        "packages: solo is published, and has no price",
        "packages: wave has no price that easypaisa takes (pkr): it has pln",
    ]
    catalogue(tmp_path, **{f"p{number}": {"usd": "1.00"} for number in range(9)})
    assert words(told(tmp_path, **EASYPAISA, **GOOD), Status.WARNING)[-1] == "packages: and 4 more of that kind"


def test_where_nothing_is_published_there_is_nothing_to_order(tmp_path: Path) -> None:
    (tmp_path / "products.json").write_text(json.dumps({"products": {"wave": {"name": "Wave", "published": False}}}))
    assert words(told(tmp_path, **PAYU, **GOOD), Status.WARNING)[0].startswith("packages: none is published")
    (tmp_path / "products.json").write_text("{")
    assert words(told(tmp_path, **PAYU, **GOOD), Status.WARNING)[0].startswith("packages: none is published")


def test_who_has_no_store_front_is_told_nothing(tmp_path: Path) -> None:
    """Stripe's key alone makes none, where no product has a price."""
    catalogue(tmp_path, wave={})
    assert told(tmp_path) == []
    assert told(tmp_path, stripe_webhook_secret=("whsec_x",), stripe_secret_key="rk_live_1") == []
    catalogue(tmp_path, wave={"usd": "1.00"})
    assert told(tmp_path, stripe_webhook_secret=("whsec_x",), stripe_secret_key="rk_live_1", **GOOD) != []


def test_a_package_of_the_store_front_needs_no_ids_of_a_platform(tmp_path: Path) -> None:
    catalogue(tmp_path, wave={"pln": "119.00"})
    who = patient(tmp_path, gumroad_webhook_secret=None, **PAYU)
    assert [check.status for check in doctor.run([doctor_settings.catalogue], who)] == [Status.GOOD]
    who = patient(tmp_path, gumroad_webhook_secret=None)
    (check,) = doctor.run([doctor_settings.catalogue], who)
    assert "wave has no platform_ids" in check.words
