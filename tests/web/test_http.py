"""Around every request: ids, sizes, origins, errors in one shape, and logs that name nobody."""

from __future__ import annotations

import errno
import io
import json
import logging
import re

import pytest

from server.services import logs, trace
from server.services.logs import JsonLines, masked
from server.wiring import build
from tests import databases
from tests.conftest import SECRET, Shop, form, sale_ping, settings_for


def test_every_answer_has_a_request_id(shop):
    for answered in (
        shop.client.get("/health"),
        shop.client.get("/nowhere"),
        shop.client.post("/api/verify", data=b"{"),
    ):
        assert re.fullmatch(r"[0-9a-f]{16}", answered.headers["X-Request-Id"])
    assert shop.client.get("/health", headers={"X-Request-Id": "abc-12345"}).headers["X-Request-Id"] == "abc-12345"
    forged = shop.client.get("/health", headers={"X-Request-Id": 'a" onload="x'})
    assert forged.headers["X-Request-Id"] != 'a" onload="x'


def test_errors_have_one_shape(shop):
    for answered, status in (
        (shop.client.get("/nowhere"), 404),
        (shop.client.get("/api/v1/licenses/validate"), 401),  # the owner's page of a license called "validate"
        (shop.client.put("/api/v1/licenses/validate"), 405),
        (shop.client.post("/api/v1/licenses/validate", data=b"x" * 300_000), 413),
    ):
        assert answered.status_code == status
        (error,) = answered.json["errors"]
        assert set(error) == {"code", "title", "detail"}


def test_paths_that_are_known_beforehand_are_matched_like_all_others(shop, caplog):
    caplog.set_level(logging.INFO)
    busy = "/api/v1/webhooks/gumroad"
    assert shop.client.post(busy).status_code == 403
    assert caplog.records[-1].route == "/api/v1/webhooks/<platform>"
    assert shop.client.post(f"{busy}/").status_code == 403
    assert shop.client.get(busy).headers["Allow"] == "OPTIONS, POST"


def test_a_body_shorter_than_its_length_is_refused(shop):
    cut = {"CONTENT_LENGTH": "50", "wsgi.input": io.BytesIO(b"sale_id=s1&")}
    answered = shop.client.post(f"/api/v1/webhooks/gumroad?secret={SECRET}", environ_overrides=cut)
    assert answered.status_code == 400
    assert shop.ledger() == []


def test_the_line_of_a_request_is_the_same_whoever_else_hears_it(shop, capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger("server"), "handlers", [logs._OURS])
    logger, fields = (
        logging.getLogger("server.web.webhooks"),
        {"platform": "gumroad", "why": "ann@example.com", "seq": 7},
    )
    with shop.app.test_request_context():
        trace.request_id.set("abc")
        assert logs._only_ours_hears(logger)
        logs.info(logger, "said", fields)
        logger.addFilter(bool)  # any filter of a host's
        logs.info(logger, "said", fields)
        logger.removeFilter(bool)
    alone, heard_too = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert [*alone] == "ts level logger message request_id platform why seq".split()
    assert alone | {"ts": ""} == heard_too | {"ts": ""}
    assert alone["why"] == "***@***"


def test_the_request_that_brought_a_sale_is_named_all_the_way_to_its_letter(shop, capsys, monkeypatch):
    """The letter goes out later, and by whom it may: the ledger's line says whose it is."""
    monkeypatch.setattr(logging.getLogger("server"), "handlers", [logs._OURS])
    ping = form(sale_ping("s1", "ann@example.com"))
    kind = "application/x-www-form-urlencoded"
    for request_id in ("first-of-ann", "repeat-of-it"):
        headers = {"X-Request-Id": request_id}
        shop.client.post(f"/api/v1/webhooks/gumroad?secret={SECRET}", data=ping, content_type=kind, headers=headers)
    assert [line["request_id"] for line in shop.ledger()] == ["first-of-ann"]
    again = build(settings_for(shop.folder), shop.clock)  # another process
    shop.client.get("/health", headers={"X-Request-Id": "someone-else"})
    again.outbox.send_due()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    path = [(line["message"], line.get("request_id"), line["seq"]) for line in lines if "seq" in line]
    assert path == [
        ("webhook recorded", "first-of-ann", 1),
        ("webhook recorded", "repeat-of-it", 1),
        ("letter", "first-of-ann", 1),
    ]
    (letter,) = [line for line in lines if line["message"] == "letter"]
    assert (letter["kind"], letter["state"], letter["attempts"]) == ("delivery", "sent", 1)


def test_no_letter_with_a_link_to_sign_in_is_told_of(shop, capsys, monkeypatch):
    """What became of it would tell whose address is known."""
    monkeypatch.setattr(logging.getLogger("server"), "handlers", [logs._OURS])
    shop.sale()
    shop.client.post("/api/v1/portal/sign-in", json={"email": "ann@example.com"})
    shop.services.outbox.send_due()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["kind"] for line in lines if line["message"] == "letter"] == ["delivery"]


BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def test_health_is_a_page_for_people_and_json_for_machines(shop):
    """Load balancers and Docker send `*/*`, or nothing at all."""
    for accept in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
        told = shop.client.get("/health", headers=accept)
        assert (told.mimetype, [*told.json]) == ("application/json", ["status", "version", "storage", "checks"])
    page = shop.client.get("/health", headers=BROWSER)
    assert (page.status_code, page.mimetype, page.headers["Cache-Control"]) == (200, "text/html", "no-store")
    assert "<h1>All is well</h1>" in page.text
    assert page.headers["Vary"] == "Accept"


def test_the_page_of_health_tells_what_is_wrong_and_escapes_it(shop):
    (shop.folder / "products.json").write_text('{"products": {"<script>": 1}}')
    page = shop.client.get("/health", headers=BROWSER)
    assert (page.status_code, "<h1>Not all is well</h1>" in page.text) == (200, True)
    assert "Catalogue: trouble" in page.text
    assert "<script>" not in page.text


@pytest.mark.files
def test_the_page_of_health_is_503_where_nothing_can_be_written(shop, monkeypatch):
    monkeypatch.setattr("os.fsync", _full)
    for headers in (BROWSER, {}):
        told = shop.client.get("/health", headers=headers)
        shop.app.extensions.pop("keyledger.probed")
        assert (told.status_code, told.headers["Retry-After"]) == (503, "30")


def _full(descriptor):
    raise OSError(errno.ENOSPC, "no space left on device")


class FullDisk(io.StringIO):
    def write(self, text):
        raise OSError(errno.ENOSPC, "no space left on device")


def test_a_log_that_takes_nothing_stops_no_sale(shop, monkeypatch):
    monkeypatch.setattr(logging.getLogger("server"), "handlers", [logs._OURS])
    monkeypatch.setattr(logging, "raiseExceptions", False)
    monkeypatch.setattr("sys.stderr", FullDisk())
    assert shop.sale()


def test_cors_is_for_exact_origins_under_api(tmp_path, clock):
    shop = Shop(tmp_path / "d", clock, allowed_origins=("https://shop.example",))
    asked = {"Origin": "https://shop.example"}
    assert (
        shop.client.post("/api/verify", json={}, headers=asked).headers["Access-Control-Allow-Origin"]
        == asked["Origin"]
    )
    for origin in ("https://shop.example.evil", "https://evil.example", "http://shop.example", "null"):
        answered = shop.client.post("/api/verify", json={}, headers={"Origin": origin})
        assert "Access-Control-Allow-Origin" not in answered.headers
    assert "Access-Control-Allow-Origin" not in shop.client.get("/health", headers=asked).headers


def test_without_origins_there_is_no_cors(shop):
    answered = shop.client.post("/api/verify", json={}, headers={"Origin": "https://shop.example"})
    assert "Access-Control-Allow-Origin" not in answered.headers


def test_health_says_how_it_is(shop):
    answered = shop.client.get("/health")
    assert (answered.status_code, answered.json["status"], answered.json["storage"]) == (
        200,
        "ok",
        databases.store_kind(),
    )


def test_a_broken_catalogue_keeps_the_last_good_one_and_shows(shop):
    (shop.folder / "products.json").write_text('{"products": {"wave": {"name": "W", "max_devices": 0}}}')
    key = shop.sale()
    assert shop.code(key) == "VALID"
    told = shop.client.get("/health")
    assert (told.status_code, told.json["status"]) == (200, "degraded")
    assert "products.wave.max_devices" in told.json["checks"]["catalogue"]["detail"]
    shop.write_catalogue({"products": {}})
    assert shop.ping(sale_ping("s2", "ann@example.com"))["outcome"] == "unmapped"
    assert shop.client.get("/health").json["status"] == "ok"


@pytest.mark.parametrize(
    "text",
    [
        "mail to ann@example.com failed",
        "key 11NJ18-ZSQEKA-JGAVSB-621P1Z-0EDQCA is gone",
        "POST /api/v1/webhooks/gumroad?secret=hush-hush-hush-hush",
        "Authorization: Bearer hush-hush-hush-hush",
        "Error handling request /portal/sign-in/hush.hush_hush-hush",
        "Error handling request /licenses/portal/sign-in/hush.hush_hush-hush/again",
        "Error handling request /order/K7Q2M4X9P1R8T5V3W6Z0?claim=hushhushhushhush",
    ],
)
def test_logs_mask_what_must_not_be_read(text):
    line = masked(text)
    assert "***" in line
    assert not re.search("ann@|ZSQEKA|hush", line)


def test_a_log_line_is_one_json_object_even_with_a_traceback():
    try:
        raise ValueError("ann@example.com\nsecond line")
    except ValueError:
        record = logging.makeLogRecord(
            {"msg": "went wrong", "exc_info": __import__("sys").exc_info(), "name": "server.x"}
        )
    line = JsonLines().format(record)
    assert "\n" not in line
    assert "ann@" not in line
    assert json.loads(line)["message"] == "went wrong"


def test_the_log_of_a_whole_story_names_nobody(shop, capfd):
    key = shop.sale(email="ann@example.com", full_name="Ann Lee")
    shop.code(key, hardware_id="hw1", email="ann@example.com")
    shop.owner("POST", f"/licenses/{key}/suspend")
    shop.refund()
    shop.post(sale_ping("s2", "ann@example.com"), secret="wrong-secret-wrong-secret")
    printed = capfd.readouterr()
    assert "webhook recorded" in printed.err
    for canary in ("ann@example.com", "Ann Lee", key, "gumroad-secret", "owner-key", "wrong-secret"):
        assert canary not in printed.err + printed.out


def test_a_browser_may_ask_before_it_calls_the_owners_api(tmp_path, clock):
    shop = Shop(tmp_path / "d", clock, allowed_origins=("https://shop.example",))
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    answered = shop.client.options("/api/v1/licenses", headers=asked)
    assert (answered.status_code, answered.headers["Access-Control-Allow-Origin"]) == (200, "https://shop.example")


def test_nothing_redirects_with_the_secret_to_another_host(shop):
    answered = shop.client.post("/api/v1//webhooks/gumroad?secret=s", headers={"Host": "evil.example"})
    assert (answered.status_code, "Location" in answered.headers) == (404, False)


def test_a_process_that_starts_beside_a_broken_catalogue_has_the_last_good_one(shop, clock):
    shop.sale("s1")
    (shop.folder / "products.json").write_text("{")
    other = Shop.__new__(Shop)
    other.services = build(settings_for(shop.folder), clock)
    assert other.services.catalogue.current().find("wave").name == "Wave"
