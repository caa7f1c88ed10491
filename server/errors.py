"""What can go wrong, as a tree; web/responses.py turns each into its status in one table.

KeyledgerError
├── StartRefused            the service must not start; one line that says what to do
│   ├── StartPutOff         its database is away: try again
│   ├── SettingsError       a setting is missing or nonsense
│   └── DamagedFile         a file of the data folder cannot be trusted; names file, line and remedy
├── BadRequest              the caller's input; names the field
│   └── Unprocessable       well-formed, but it cannot be done (unknown product, nothing to extend)
├── NotFound                no such license, route or platform
│   ├── PlatformOff         a webhook of a platform that is not configured
│   └── SigningOff          a license file where no key is set that could sign it
├── Unverified              a webhook's proof is missing or wrong, or what shows that a page of ours sent a request
│   └── BadSignature        the same, told as 400 where the platform expects that
├── PlatformUnreachable     a platform's API cannot be asked now; nothing is known
│   └── AlreadyBegun        it has this order from an earlier try, and does not say again where it is paid
├── Disowned                a platform's API says that what was told in its name is not so
├── Unauthorized            the owner's bearer token is missing or wrong
│   └── NotSignedIn         a customer's session is missing or over
├── Conflict                the request contradicts what is already there
├── TooManyRequests         a rate limit; says how many seconds to wait
└── StorageUnavailable      nothing was promised: try again later (disk full, read-only, lock held, database away)
    └── Contended           and nothing was written: another transaction came first, so it can be tried again at once
"""

from __future__ import annotations


class KeyledgerError(Exception):
    """Base of all errors that Keyledger raises on purpose; `code` is what machines read."""

    code = "ERROR"

    def __init__(self, detail: str, code: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or type(self).code


class StartRefused(KeyledgerError):
    code = "START_REFUSED"


class StartPutOff(StartRefused):
    """The database is away, as it may be for a moment: the same start may succeed later."""


class SettingsError(StartRefused):
    code = "SETTINGS"


class DamagedFile(StartRefused):
    """`line` counts physical lines from 1; 0 means the file as a whole."""

    code = "DAMAGED_FILE"

    def __init__(self, file: str, line: int, trouble: str, remedy: str) -> None:
        place = f"{file} line {line}" if line else file
        super().__init__(f"{place}: {trouble}. {remedy}")
        self.file, self.line = file, line


class BadRequest(KeyledgerError):
    code = "BAD_REQUEST"


class Unprocessable(BadRequest):
    code = "UNPROCESSABLE"


class NotFound(KeyledgerError):
    code = "NOT_FOUND"


class PlatformOff(NotFound):
    code = "PLATFORM_NOT_CONFIGURED"


class SigningOff(NotFound):
    code = "SIGNING_NOT_CONFIGURED"


class Unverified(KeyledgerError):
    code = "UNVERIFIED"


class BadSignature(Unverified):
    code = "BAD_SIGNATURE"


class PlatformUnreachable(KeyledgerError):
    """`is_refused`: it answers, but refuses our credentials, which only the owner can mend."""

    code = "PLATFORM_UNREACHABLE"

    def __init__(self, detail: str, is_refused: bool = False) -> None:
        super().__init__(detail)
        self.is_refused = is_refused


class AlreadyBegun(PlatformUnreachable):
    """`reference` is the platform's own id of the order, where it tells it. The line of whoever got the first answer
    is the truth; where nobody did, the order can only expire."""

    def __init__(self, detail: str, reference: str | None = None) -> None:
        super().__init__(detail)
        self.reference = reference


class Disowned(KeyledgerError):
    code = "DISOWNED"


class Unauthorized(KeyledgerError):
    """`challenge` is what is asked for, as `WWW-Authenticate` names it."""

    code = "UNAUTHORIZED"
    challenge = "Bearer"


class NotSignedIn(Unauthorized):
    code = "NOT_SIGNED_IN"
    challenge = "Cookie"


class Conflict(KeyledgerError):
    code = "CONFLICT"


class TooManyRequests(KeyledgerError):
    code = "RATE_LIMITED"

    def __init__(self, detail: str, limit: int, reset: int, retry_after: int) -> None:
        super().__init__(detail)
        self.limit, self.reset, self.retry_after = limit, reset, retry_after


class StorageUnavailable(KeyledgerError):
    code = "STORAGE_UNAVAILABLE"


class Contended(StorageUnavailable):
    pass
