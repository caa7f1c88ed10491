"""The one way out to a platform's web API: bounded in time, without redirects, told apart by what went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from server.errors import PlatformUnreachable
from server.platforms.document import Document

if TYPE_CHECKING:
    from requests import Response

QUICK = (1.5, 2.0)  # seconds to connect and to answer, while a webhook waits
PATIENT = (10.0, 60.0)
LARGEST = 16 * 1024 * 1024


class RateLimited(PlatformUnreachable):
    """Asked too often; `wait` is how many seconds the platform wants to be left alone."""

    def __init__(self, detail: str, wait: float) -> None:
        super().__init__(detail)
        self.wait = wait


def is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def get_json(url: str, params: Mapping[str, str], timeout: tuple[float, float] = QUICK) -> tuple[int, Document]:
    """Status and body of a GET; 404 is an answer too. Raises PlatformUnreachable, in whose words no parameter is."""
    import requests  # only where a platform's API is asked at all

    host = urlsplit(url).hostname
    with requests.Session() as session:
        session.trust_env = not is_loopback(url)  # no proxy stands before a stand-in
        try:
            answered = session.get(
                url,
                params=dict(params),
                headers={"Accept": "application/json"},
                timeout=timeout,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise PlatformUnreachable(f"{host} does not answer ({type(error).__name__})") from None
        return answered.status_code, _document(answered, str(host))


def _document(answered: Response, host: str) -> Document:
    if answered.status_code == 429:
        wait = answered.headers.get("Retry-After", "")
        raise RateLimited(f"{host} wants to be asked more slowly", float(wait) if wait.isdigit() else 5.0)
    if answered.status_code in (401, 403):
        raise PlatformUnreachable(f"{host} refuses the access token ({answered.status_code})", is_refused=True)
    if answered.status_code not in (200, 404) or len(answered.content) > LARGEST:
        raise PlatformUnreachable(f"{host} answers {answered.status_code}")
    try:
        return Document.from_json(answered.content)
    except Exception:
        if answered.status_code == 404:
            return Document({})
        raise PlatformUnreachable(f"{host} answers with something that is not JSON") from None
