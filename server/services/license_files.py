"""License files: a license as a signed text, which an app can check without asking anybody.

The text between its two lines is base64 of `{"enc", "sig", "alg"}`: `enc` is base64 of what is said, `sig` the Ed25519
signature over "license/" and `enc`. What is signed as a file is never taken for a signed answer, nor the other way.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from datetime import datetime, timedelta
from textwrap import wrap

import msgspec

from server.domain.catalogue import Product
from server.domain.keys import license_id
from server.domain.license import Device, License, Moment
from server.services.catalogue_file import CatalogueFile
from server.services.seats import Verdict
from server.services.signing import Signing

BEGIN, END = "-----BEGIN LICENSE FILE-----", "-----END LICENSE FILE-----"
CONTEXT = b"license/"
_LINE = 64  # openssl reads no longer ones


class FiledLicense(msgspec.Struct, frozen=True, kw_only=True):
    """`key_sha256` shows which key it is to who has the key, and gives it to nobody else."""

    id: str
    key_sha256: str
    purchase_date: Moment
    expiry_date: Moment | None
    max_devices: int


class FiledProduct(msgspec.Struct, frozen=True, kw_only=True):
    id: str | None
    name: str | None


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """What a file says. `hardware_id` null is for any device, `expires` null for ever; `expires` alone says until when
    the file is good. Names and addresses of customers stand in none."""

    format: int = 1
    kid: str
    license: FiledLicense
    product: FiledProduct
    tier: str | None
    features: list[str]
    hardware_id: str | None
    device_name: str | None
    issued: Moment
    expires: Moment | None
    offline_days: int | None


class LicenseFile(msgspec.Struct, frozen=True):
    text: str
    issued: datetime
    expires: datetime


class LicenseFiles:
    """Every verb raises SigningOff where no key is set."""

    def __init__(self, signing: Signing, catalogue: CatalogueFile) -> None:
        self._signing, self._catalogue = signing, catalogue

    def require_key(self) -> None:
        """To be asked before a seat is taken for a file that cannot be made."""
        self._signing.get_key()

    def for_a_time(self, verdict: Verdict, now: datetime) -> LicenseFile:
        """For the device of a valid verdict: as long as its product says, and no longer than the license itself."""
        assert verdict.key is not None
        assert verdict.license is not None
        assert verdict.device is not None
        license, days = verdict.license, (verdict.product or Product(name="")).offline_days
        expires = now + timedelta(days=days)
        if license.expiry_date is not None:
            expires = min(expires, license.expiry_date + timedelta(days=license.grace_days))
        text = self._signed(self._payload(verdict.key, license, verdict.device, now, expires, days))
        return LicenseFile(text, now, expires)

    def for_ever(self, key: str, license: License, device: Device | None, now: datetime) -> str:
        """Without an end, whatever the license's own is; without a device it is good on any."""
        return self._signed(self._payload(key, license, device, now))

    def _payload(
        self,
        key: str,
        license: License,
        device: Device | None,
        now: datetime,
        expires: datetime | None = None,
        offline_days: int | None = None,
    ) -> Payload:
        catalogue = self._catalogue.current()
        product = catalogue.find(license.product_id)
        return Payload(
            kid=self._signing.get_key().kid,
            license=FiledLicense(
                id=license_id(key),
                key_sha256=hashlib.sha256(key.encode()).hexdigest(),
                purchase_date=license.created_date,
                expiry_date=license.expiry_date,
                max_devices=license.max_devices,
            ),
            product=FiledProduct(id=license.product_id, name=product.name if product else license.product_id),
            tier=license.tier or (product.tier if product else None),
            features=catalogue.features(product, license.tier, license.features),
            hardware_id=device.hardware_id if device else None,
            device_name=device.device_name if device else None,
            issued=now,
            expires=expires,
            offline_days=offline_days,
        )

    def _signed(self, payload: Payload) -> str:
        said = b64encode(msgspec.json.encode(payload))
        signature = b64encode(self._signing.get_key().sign(CONTEXT + said))
        whole = msgspec.json.encode({"enc": said.decode(), "sig": signature.decode(), "alg": "ed25519"})
        return "\n".join([BEGIN, *wrap(b64encode(whole).decode(), _LINE), END, ""])
