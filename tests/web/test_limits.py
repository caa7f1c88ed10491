"""Rate limits as a client sees them: one application, a clock that only moves when a test says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from werkzeug.middleware.proxy_fix import ProxyFix

from server.services.limits import network_of
from server.storage.limits import LimitTable
from tests.conftest import OWNER_KEY, Shop, sale_ping

HEADERS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
UNKNOWN = "11NJ18-ZSQEKA-JGAVSB-621P1Z-0EDQCA"


class Ticks:
    def __init__(self) -> None:
        self.now = 10**15

    def __call__(self) -> int:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += int(seconds * 10**9)


class Counter(Shop):
    """A shop with a limit: who comes from where, and how many of his requests were answered."""

    def __init__(self, folder: Path, clock: Any, rate: str = "5/minute", **settings: Any) -> None:
        super().__init__(folder, clock, rate_limit=rate, **settings)
        self.ticks = Ticks()
        assert self.services.limits is not None
        self.services.limits.clock = self.ticks

    def knock(
        self, key: str = UNKNOWN, client: str = "198.51.100.7", path: str = "/api/v1/licenses/validate", **more: Any
    ) -> Any:
        headers = {"X-Forwarded-For": more.pop("forwarded")} if "forwarded" in more else {}
        return self.client.post(
            path, json={"license_key": key} | more, headers=headers, environ_overrides={"REMOTE_ADDR": client}
        )

    def statuses(self, tries: int, key: str = UNKNOWN, **more: Any) -> list[int]:
        return [self.knock(key, **more).status_code for _ in range(tries)]


@pytest.fixture
def counter(tmp_path: Path, clock: Any) -> Counter:
    return Counter(tmp_path / "data", clock)


def told(answered: Any) -> list[int]:
    return [int(answered.headers[name]) for name in HEADERS]


def keys(counter: Counter, number: int) -> list[str]:
    return [counter.sale(f"s{n}") for n in range(number)]


# ------------------------------------------------------------------------------------------------ the answer
def test_the_limit_is_let_through_and_told(counter):
    key = counter.sale()
    assert [told(counter.knock(key)) for _ in range(5)] == [[5, 4, 12], [5, 3, 24], [5, 2, 36], [5, 1, 48], [5, 0, 60]]
    refused = counter.knock(key)
    assert refused.status_code == 429
    (error,) = refused.json["errors"]
    assert (error["code"], error["title"]) == ("RATE_LIMITED", "Too many requests")
    assert refused.headers["Retry-After"] == "12"
    assert told(refused) == [5, 0, 60]


@pytest.mark.files
def test_it_is_lifted_after_the_time_that_was_told(counter):
    key = counter.sale()
    assert counter.statuses(6, key) == [200] * 5 + [429]
    counter.ticks.forward(11.9)
    assert counter.knock(key).headers["Retry-After"] == "1"
    counter.ticks.forward(0.1)
    assert counter.statuses(2, key) == [200, 429]
    counter.ticks.forward(60)
    assert counter.statuses(6, key) == [200] * 5 + [429]


@pytest.mark.parametrize("seconds", [-3600, -61, 61, 86_400 * 365])
@pytest.mark.files
def test_a_clock_that_jumps_shuts_nobody_out(counter, seconds):
    key = counter.sale()
    assert counter.statuses(6, key)[-1] == 429
    counter.ticks.forward(seconds)
    assert counter.statuses(6, key) == [200] * 5 + [429]


def test_all_doors_of_apps_count_alike(counter):
    first, second = keys(counter, 2)
    assert counter.knock(first, path="/api/v1/licenses/activate", hardware_id="hw").status_code == 200
    assert counter.knock(first, path="/api/v1/licenses/deactivate", hardware_id="hw").status_code == 200
    assert counter.knock(second, path="/api/validate-license", email="ann@example.com").status_code == 200
    assert counter.knock(path="/api/verify", license=first).json["valid"]
    assert told(counter.knock(second)) == [5, 0, 60]
    ours = [f"/api/v1/licenses/{route}" for route in ("validate", "activate", "deactivate", "file")]
    for path in (*ours, "/api/validate-license", "/api/verify"):
        assert counter.knock(second, path=path, hardware_id="hw", email="ann@example.com", license=second).json[
            "errors"
        ][0]["code"] == ("RATE_LIMITED")


def test_malformed_requests_count_too(counter):
    answered = [counter.client.post("/api/v1/licenses/validate", data=b"{") for _ in range(6)]
    assert [answer.status_code for answer in answered] == [400] * 5 + [429]
    assert told(answered[0]) == [5, 4, 12]


def test_a_refused_activation_takes_no_seat(counter):
    key = counter.sale()
    counter.statuses(5, key)
    assert counter.knock(key, path="/api/v1/licenses/activate", hardware_id="hw").status_code == 429
    assert counter.services.store.find_license(key).devices_used == 0


def test_off_limits_nothing_and_says_nothing(shop):
    key = shop.sale()
    answered = [shop.client.post("/api/v1/licenses/validate", json={"license_key": key}) for _ in range(200)]
    assert {answer.status_code for answer in answered} == {200}
    assert not set(HEADERS) & set(answered[-1].headers)
    assert not (shop.folder / "limits.table").exists()


def test_other_routes_are_not_limited(counter):
    for _ in range(20):
        assert counter.client.get("/health").status_code == 200
        assert counter.owner("GET", "/stats").status_code == 200
        answered = counter.post(sale_ping("s1", "ann@example.com"))
        assert (answered.status_code, set(HEADERS) & set(answered.headers)) == (200, set())


def test_a_browsers_first_question_is_free_and_it_may_read_the_headers(tmp_path, clock):
    counter = Counter(tmp_path / "data", clock, allowed_origins=("https://shop.example",))
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    for _ in range(9):
        assert counter.client.options("/api/v1/licenses/validate", headers=asked).status_code == 200
    answered = counter.client.post("/api/v1/licenses/validate", json={"license_key": counter.sale()}, headers=asked)
    assert told(answered) == [5, 4, 12]
    assert set(HEADERS) <= set(answered.headers["Access-Control-Expose-Headers"].split(", "))


# ------------------------------------------------------------------------------------------------ whose
def test_one_address_does_not_pay_for_another(counter):
    first, second = keys(counter, 2)
    assert counter.statuses(6, first)[-1] == 429
    assert counter.statuses(6, second, client="203.0.113.9") == [200] * 5 + [429]


def test_a_key_has_a_limit_of_its_own_over_all_addresses(counter):
    leaked, other = keys(counter, 2)
    crowd = [f"203.0.113.{number}" for number in range(6)]
    assert [counter.knock(leaked, client=client).status_code for client in crowd] == [200] * 5 + [429]
    refused = counter.knock(leaked)
    assert "this license key" in refused.json["errors"][0]["detail"]
    assert [refused.headers.getlist(name) for name in HEADERS] == [["5"], ["0"], ["60"]]
    assert [counter.knock(other, client=client).status_code for client in crowd[:5]] == [200] * 5


def test_the_bucket_that_is_nearest_to_its_end_is_told(counter):
    first, second = keys(counter, 2)
    assert [told(counter.knock(first, client=f"203.0.113.{n}"))[1] for n in range(3)] == [4, 3, 2]
    assert [told(counter.knock(second))[1], told(counter.knock(second))[1]] == [4, 3]
    assert told(counter.knock(first))[1] == 1  # the key's; the address has two left
    assert told(counter.knock(second))[1] == 1  # the address's; this key has two left


def test_a_key_is_one_key_however_it_is_spelt(counter):
    key = counter.sale()
    spelt = [key, key.lower(), key.replace("-", ""), key.replace("-", " "), f" {key}".replace("1", "I"), key]
    told_codes = [counter.knock(text, client=f"203.0.113.{n}").status_code for n, text in enumerate(spelt)]
    assert told_codes == [200] * 5 + [429]


@pytest.mark.parametrize("claimed", ["203.0.113.{}", "10.0.0.{}, 127.0.0.1", "127.0.0.{}", "unknown{}"])
def test_a_spoofed_header_does_not_move_the_bucket(counter, claimed):
    key = counter.sale()
    answered = [counter.knock(key, forwarded=claimed.format(number)).status_code for number in range(7)]
    assert answered == [200] * 5 + [429] * 2


def test_mutant_an_application_that_believes_the_header_is_fooled(counter):
    counter.app.wsgi_app = ProxyFix(counter.app.wsgi_app, x_for=1)
    ten = keys(counter, 10)
    answered = [counter.knock(key, forwarded=f"203.0.113.{n}").status_code for n, key in enumerate(ten)]
    assert answered == [200] * 10


def test_behind_a_trusted_proxy_only_the_proxys_word_counts(tmp_path, clock):
    counter = Counter(tmp_path / "data", clock, trusted_proxies=1)
    first, second = keys(counter, 2)
    spoofed = [counter.knock(first, "10.0.0.1", forwarded=f"{n}.1.1.1, 203.0.113.9").status_code for n in range(6)]
    assert spoofed == [200] * 5 + [429]
    assert counter.knock(second, "10.0.0.1", forwarded="203.0.113.10").status_code == 200


@pytest.mark.parametrize(
    ("address", "bucket"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("198.51.100.7:4711", "198.51.100.7"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::1]:4711", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("\udcff", "\udcff"),
    ],
)
def test_an_ipv6_address_is_in_the_bucket_of_its_64(address, bucket):
    assert network_of(address) == bucket


def test_a_client_with_a_whole_64_has_one_bucket(counter):
    key = counter.sale()
    answered = [counter.knock(key, f"2001:db8:1:2::{number:x}").status_code for number in range(6)]
    assert answered == [200] * 5 + [429]


# ------------------------------------------------------------------------------------------------ harder
def guesses(counter: Counter, number: int, **more: Any) -> list[int]:
    return [counter.knock(f"guess-{n}", **more).status_code for n in range(number)]


@pytest.mark.files
def test_keys_that_nobody_holds_are_limited_harder(tmp_path, clock):
    counter = Counter(tmp_path / "data", clock, rate="20/minute")
    assert guesses(counter, 8) == [200] * 5 + [429] * 3
    refused = counter.knock("guess")
    assert (told(refused), refused.headers["Retry-After"]) == ([5, 0, 60], "12")
    assert guesses(counter, 6, client="203.0.113.9") == [200] * 5 + [429]
    counter.ticks.forward(12)
    assert guesses(counter, 2) == [200, 429]


def test_who_guessed_too_often_cannot_tell_right_from_wrong_and_his_neighbours_go_on(tmp_path, clock):
    counter = Counter(tmp_path / "data", clock, rate="20/minute")
    key, other = keys(counter, 2)
    assert counter.knock(key, hardware_id="office-pc").json["valid"]
    guesses(counter, 6)
    for right in (
        counter.knock(key),
        counter.knock(key, hardware_id="guessed"),
        counter.knock(other, hardware_id="office-pc"),
        counter.knock(path="/api/verify", license=key),
    ):
        wrong = counter.knock("guess")
        assert (right.status_code, right.json) == (wrong.status_code, wrong.json)
    assert counter.knock(key, hardware_id="office-pc").json["valid"]
    assert counter.knock(key, client="203.0.113.9").json["valid"]
    assert counter.services.store.find_license(other).devices_used == 0


def test_the_older_doors_count_unknown_keys(tmp_path, clock):
    counter = Counter(tmp_path / "data", clock, rate="8/minute")
    assert counter.knock(path="/api/verify", license=UNKNOWN).status_code == 401
    assert counter.knock(path="/api/validate-license", email="a@b.example").status_code == 200
    assert counter.knock(path="/api/verify", license=UNKNOWN).status_code == 429
    assert counter.knock(path="/api/validate-license", email="a@b.example").status_code == 429


# ------------------------------------------------------------------------------------------------ proofs
@pytest.mark.files
def test_failed_webhooks_are_limited_and_proven_ones_never(tmp_path, clock):
    counter = Counter(tmp_path / "data", clock, rate="3/minute")
    forged = [counter.post(sale_ping(f"f{n}", "eve@example.com"), secret="wrong" * 5) for n in range(5)]
    assert [answer.status_code for answer in forged] == [403] * 3 + [429] * 2
    assert forged[-1].headers["Retry-After"] == "20"
    assert forged[-1].json["errors"][0]["code"] == "RATE_LIMITED"
    for number in range(40):
        counter.sale(f"s{number}")
    assert counter.post(sale_ping("f9", "eve@example.com"), secret=None).status_code == 429
    counter.ticks.forward(20)
    assert counter.post(sale_ping("f9", "eve@example.com"), secret=None).status_code == 403
    assert len(counter.ledger()) == 40


def test_a_failed_webhook_that_is_told_as_400_is_limited_as_well(tmp_path, clock):
    counter = Counter(tmp_path / "data", clock, rate="2/minute", stripe_webhook_secret=("whsec_test",))
    forged = [counter.client.post("/api/v1/webhooks/stripe", data=b"{}").status_code for _ in range(3)]
    assert forged == [400, 400, 429]


def test_failed_webhooks_do_not_stop_the_apps_of_the_same_address(counter):
    key = counter.sale()
    for _ in range(5):
        counter.post(sale_ping("f", "eve@example.com"), secret="wrong" * 5)
    assert counter.knock(key, client="127.0.0.1").json["valid"]


def test_wrong_tokens_are_limited_and_the_right_one_never(tmp_path, clock):
    counter = Counter(tmp_path / "data", clock, rate="12/minute")
    wrong = {"Authorization": "Bearer wrong-wrong-wrong-wrong"}
    tried = [counter.client.get("/api/v1/stats", headers=wrong).status_code for _ in range(4)]
    tried.append(counter.client.post("/api/generate", json={}).status_code)
    assert tried == [401] * 3 + [429] * 2
    right = {"Authorization": f"Bearer {OWNER_KEY}"}
    assert {counter.client.get("/api/v1/stats", headers=right).status_code for _ in range(40)} == {200}


# ------------------------------------------------------------------------------------------------ trouble
def health(counter: Counter) -> dict[str, Any]:
    answered = counter.client.get("/health")
    assert answered.status_code == 200
    return dict(answered.json)


@pytest.mark.files
def test_without_a_table_everybody_is_let_in_it_is_told_once_and_heals(counter, capfd):
    key, path = counter.sale(), counter.folder / "limits.table"
    path.mkdir()
    for _ in range(10):
        answered = [counter.knock(key), counter.knock("guess", path="/api/v1/licenses/validate")]
        assert [answer.status_code for answer in answered] == [200, 200]
        counter.ticks.forward(0.7)
    assert not set(HEADERS) & set(answered[0].headers)
    said = "limits.table cannot be used, so no rate limit is kept: Is a directory"
    assert capfd.readouterr().err.count(said) == 1
    assert health(counter)["status"] == "degraded"
    assert health(counter)["checks"]["limits"] == {"ok": False, "detail": said}
    path.rmdir()
    counter.ticks.forward(1)
    assert counter.statuses(6, key) == [200] * 5 + [429]
    assert capfd.readouterr().err.count("rate limits are kept again") == 1
    assert health(counter)["checks"]["limits"] == {"ok": True, "detail": None}


@pytest.mark.files
def test_health_knows_of_trouble_before_any_request_does(counter):
    assert health(counter)["checks"]["limits"]["ok"]
    (counter.folder / "limits.table").unlink()
    (counter.folder / "limits.table").mkdir()
    counter.ticks.forward(2)
    assert not health(counter)["checks"]["limits"]["ok"]


@pytest.mark.files
def test_a_table_in_trouble_is_left_alone_for_a_while(counter, monkeypatch):
    """A holder that was stopped costs a worker its patience once a second, not with every request."""
    tried = []

    def held(*_: object) -> None:
        tried.append(1)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(LimitTable, "take", held)
    key = counter.sale()
    assert set(counter.statuses(50, key)) == {200}
    assert len(tried) == 1
    counter.ticks.forward(1)
    assert counter.statuses(1, key) == [200]
    assert len(tried) == 2


@pytest.mark.files
def test_the_rest_ends_where_the_clock_jumps(counter):
    key, path = counter.sale(), counter.folder / "limits.table"
    path.mkdir()
    counter.statuses(1, key)
    path.rmdir()
    counter.ticks.forward(-3600)
    assert counter.statuses(6, key) == [200] * 5 + [429]


def test_a_flood_is_a_line_now_and_then_and_not_one_a_request(counter, capfd):
    key = counter.sale()
    capfd.readouterr()
    assert counter.statuses(100, key).count(429) == 95
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if "too many requests from this address" in line] == lines[-1:]
    assert len(lines) == 1
    counter.ticks.forward(11)
    counter.statuses(1, key)
    assert '"refused":95' in capfd.readouterr().err


def test_a_proxy_that_nobody_trusts_is_told(counter, capfd):
    key = counter.sale()
    counter.knock(key, client="8.8.8.8", forwarded="1.1.1.1")  # a stranger says so
    assert health(counter)["checks"]["limits"]["detail"] is None
    for _ in range(3):
        counter.knock(key, client="127.0.0.1", forwarded="1.1.1.1")
    assert "TRUSTED_PROXIES" in health(counter)["checks"]["limits"]["detail"]
    assert health(counter)["status"] == "ok"
    assert capfd.readouterr().err.count("TRUSTED_PROXIES is 0") == 1


@pytest.mark.files
def test_a_restart_forgets_nothing_and_a_lost_table_is_made_anew(tmp_path, clock):
    counter = Counter(tmp_path / "data", clock)
    key = counter.sale()
    assert counter.statuses(4, key) == [200] * 4
    again = Counter(tmp_path / "data", clock)
    assert again.statuses(2, key) == [200, 429]
    (tmp_path / "data" / "limits.table").unlink()
    again.ticks.forward(1)
    assert again.statuses(6, key) == [200] * 5 + [429]
