"""What is asked of EasyPaisa: the mobile account payment, and how a payment stands; and what its hosted page is sent.

REST v4, as its integrators have it (the guide itself is not public), and the Merchant Integration Guide of Easypay.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

import msgspec

from server.errors import PlatformUnreachable, SettingsError, Unprocessable
from server.platforms.document import Document
from server.platforms.web_client import send

DONE, UNKNOWN_ORDER = "0000", "0003"
ASKING = (3.0, 8.0)  # seconds to connect and to answer
PAYING = (10.0, 120.0)  # it answers when the buyer has agreed on his phone, or has not
# 0010 is the credentials, 0004 and 0005 the merchant's account, 0006 and 0007 the store.
REFUSALS = frozenset({"0004", "0005", "0006", "0007", "0010"})
_KEYS = (16, 24, 32)


def hashed_request(fields: Mapping[str, str], key: str) -> str:
    """The request encrypted by ECB, which is EasyPaisa's choice: it keeps a payer from changing a sum, and signs no
    answer. Names sorted, empty values left out, nothing url-encoded."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.padding import PKCS7

    text = "&".join(f"{name}={fields[name]}" for name in sorted(fields) if fields[name])
    padder, cipher = PKCS7(128).padder(), Cipher(algorithms.AES(key.encode()), modes.ECB()).encryptor()  # noqa: S305
    padded = padder.update(text.encode()) + padder.finalize()
    return base64.b64encode(cipher.update(padded) + cipher.finalize()).decode()


def require_hash_key(key: str) -> str:
    if len(key.encode()) not in _KEYS:
        raise SettingsError(f"EASYPAISA_HASH_KEY is {len(key.encode())} bytes long: it must be 16, 24 or 32")
    return key


class EasyPaisaApi:
    def __init__(self, url: str, store: str, username: str, password: str, account: str | None) -> None:
        self._service, self._store, self._account = f"{url}/easypay-service/rest/v4", store, account
        self._credentials = base64.b64encode(f"{username}:{password}".encode()).decode()

    def pay(self, fields: Mapping[str, str]) -> Document:
        """Ask the buyer on his phone. The answer is a hint; that none comes says nothing. Never sent twice.

        Raises Unprocessable where nothing was asked of him, PlatformUnreachable where that is not known."""
        answer = self._post("initiate-ma-transaction", {**fields, "transactionType": "MA"}, PAYING)
        code = _code(answer)
        if code in ("0002", UNKNOWN_ORDER):
            raise Unprocessable(f"EasyPaisa does not take the order ({code})")
        if code != DONE:
            raise PlatformUnreachable(f"EasyPaisa answers {code}: perhaps the buyer was asked")
        return answer

    def inquire(self, order_id: str) -> Document | None:
        """How the payment stands; None where EasyPaisa does not know it (yet). Raises PlatformUnreachable."""
        account = {"accountNum": self._account} if self._account else {}
        answer = self._post("inquire-transaction", {"orderId": order_id, **account}, ASKING)
        code = _code(answer)
        if code == "0002" and not self._account:
            raise PlatformUnreachable("EasyPaisa wants the account's number: set EASYPAISA_ACCOUNT", is_refused=True)
        if code not in (DONE, UNKNOWN_ORDER):
            raise PlatformUnreachable(f"EasyPaisa answers {code}")
        return answer if code == DONE else None

    def _post(self, call: str, fields: Mapping[str, str], timeout: tuple[float, float]) -> Document:
        headers = {"Content-Type": "application/json", "Credentials": self._credentials}
        body = msgspec.json.encode({**fields, "storeId": self._store})
        status, answer = send("POST", f"{self._service}/{call}", body, headers, timeout)
        if _code(answer) in REFUSALS or status in (401, 403):
            whose = "EASYPAISA_USERNAME, EASYPAISA_PASSWORD or EASYPAISA_STORE_ID"
            raise PlatformUnreachable(f"EasyPaisa refuses {whose} ({_code(answer) or status})", is_refused=True)
        if status != 200:
            raise PlatformUnreachable(f"EasyPaisa answers {status}")
        return answer


def _code(answer: Document) -> str:
    return (text_of(answer, "responseCode") or "")[:20]


def text_of(answer: Document, name: str) -> str | None:
    """A value as text: EasyPaisa tells some as texts and as numbers."""
    value = answer.values.get(name)
    return None if value is None or isinstance(value, bool | dict | list) else str(value)
