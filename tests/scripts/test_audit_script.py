"""audit.py as the owner runs it: figures, lists, exit codes, and nothing of a customer's that moves the terminal."""

from __future__ import annotations

import csv
import io
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from scripts.printing import bars, plain
from tests.conftest import sale_ping
from tests.scripts.conftest import ROOT

HOSTILE = "\x1b[2J\x1b]0;owned\x07[bold red]Eve[/]\u202egnp\x9b31m"


def test_stats(shop, owner):
    shop.sale("s1")
    shop.sale("s2", price=1000)
    shop.refund("s1")
    shop.ping(sale_ping("u1", "ann@example.com", "UNKNOWN", price=500))
    told = owner.run("audit", "stats").stdout.splitlines()
    assert told == [
        "Purchases   3, 1 of them refunded or charged back",
        "Revenue     15.00 usd  (gross 44.99, refunded 29.99)",
        "Sources     gumroad: 3  15.00 usd",
        "Products    wave: 2  10.00 usd",
        "            Wave (not mapped): 1  5.00 usd",
        "Ledger      4 lines, from 2026-11-20T12:00:00Z to 2026-11-20T12:00:00Z",
        "            sale: 3",
        "            refund: 1",
        "Note        1 sales of products that nobody mapped: see products.json, then scripts/licenses.py fulfil",
    ]
    assert owner.json("audit", "stats")["total_revenue"] == {"usd": "15.00"}


def test_stats_of_an_empty_folder(owner):
    assert owner.json("audit", "stats")["total_purchases"] == 0
    assert "Purchases   0" in owner.run("audit", "stats").stdout


def test_stats_say_so_when_lines_are_missing(shop, owner):
    for sale in ("s1", "s2", "s3"):
        shop.sale(sale)
    path = shop.folder / "purchases.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], b"garbage", *lines[2:]]))
    done = owner.run("audit", "stats", "--json", code=1)
    assert "1 line(s) of the ledger cannot be read: scripts/audit.py verify" in done.stderr


def test_list_as_table_json_and_csv(shop, owner):
    key = shop.sale("s1", "ann@example.com")
    shop.sale("s2", "bob@example.com")
    table = owner.run("audit", "list", "--email", "ANN@example.com").stdout
    assert key in table
    assert "bob@" not in table
    assert [row["sale_id"] for row in owner.json("audit", "list")] == ["s2", "s1"]
    rows = list(csv.DictReader(io.StringIO(owner.run("audit", "list", "--csv").stdout)))
    assert [(row["sale_id"], row["license_key"] != "") for row in rows] == [("s2", True), ("s1", True)]
    done = owner.run("audit", "list", "--limit", "1", "--json")
    assert done.stderr == "more: --below 2\n"
    assert [row["seq"] for row in owner.json("audit", "list", "--below", "2")] == [1]


def test_a_row_is_one_line_where_nobody_looks_at_a_screen(shop, owner):
    shop.sale("s1", "a" * 60 + "@example.com", full_name="Ann\nExample")
    lines = [line for line in owner.run("audit", "list").stdout.splitlines() if line.strip()]
    assert len(lines) == 3  # the heading, a rule, the row


def test_refunds_and_find(shop, owner):
    shop.sale("s1", "ann@example.com")
    shop.sale("s2", "bob@example.com")
    shop.refund("s1")
    assert [row["event"] for row in owner.json("audit", "refunds")] == ["refund"]
    assert {row["sale_id"] for row in owner.json("audit", "find", "bob@")} == {"s2"}
    assert owner.json("audit", "find", "nobody") == []


def test_export_writes_a_safe_file(shop, owner, tmp_path):
    shop.sale("s1", full_name='=HYPERLINK("http://evil")')
    path = tmp_path / "out.csv"
    assert owner.run("audit", "export", str(path), "--source", "gumroad").stdout == f"1 rows in {path}\n"
    with path.open(newline="", encoding="utf-8-sig") as file:
        assert [row["customer_name"] for row in csv.DictReader(file)] == ['\'=HYPERLINK("http://evil")']


def test_an_export_to_nowhere_is_one_line(owner):
    done = owner.run("audit", "export", "/nowhere/at/all.csv", code=3)
    assert done.stderr.startswith("keyledger: ")
    assert len(done.stderr.splitlines()) == 1


def test_csv_on_stdout_is_safe_as_well(shop, owner):
    shop.sale("s1", "@evil@example.com", full_name="-2+3+cmd|' /C calc'!A0")
    (row,) = csv.DictReader(io.StringIO(owner.run("audit", "list", "--csv").stdout))
    assert (row["customer_name"], row["email"]) == ("'-2+3+cmd|' /C calc'!A0", "'@evil@example.com")


# ---------------------------------------------------------------------------------------------------- verify
def test_verify_of_sound_books(shop, owner):
    shop.code(shop.sale("s1"), hardware_id="hw1")
    shop.services.store.tidy(force=True)
    assert owner.run("audit", "verify").stdout == "the books are sound\n"
    assert owner.json("audit", "verify") == {"sound": True, "findings": [], "notes": []}


def test_verify_names_the_damaged_line_and_exits_with_one(shop, owner):
    for sale in ("s1", "s2", "s3"):
        shop.sale(sale)
    path = shop.folder / "purchases.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"s2"', b'"sX"', 1))
    told = owner.run("audit", "verify", code=1).stdout
    assert "WRONG: purchases.jsonl line 2: was changed: the line after it names another hash" in told
    found = owner.json("audit", "verify", code=1)
    assert [one["where"] for one in found["findings"]] == ["purchases.jsonl line 2"]


def test_verify_tells_waiting_sales_and_sealed_tails_as_notes(shop, owner):
    shop.ping(sale_ping("u1", "ann@example.com", "UNKNOWN"))
    with (shop.folder / "purchases.jsonl").open("ab") as file:
        file.write(b'{"seq":2,"tor')
    shop.sale("s2")
    shop.services.store.tidy(force=True)
    told = owner.run("audit", "verify").stdout.splitlines()
    assert told == [
        "note: purchases.jsonl line 2: an unfinished line of a writer that was killed; it is sealed and counts nothing",
        "note: purchases.jsonl number 1 (gumroad u1): waits for a license: scripts/licenses.py fulfil",
        "the books are sound",
    ]


def test_a_damaged_ledger_refuses_what_needs_it_open(shop, owner):
    key = shop.sale("s1")
    shop.sale("s2")
    path = shop.folder / "purchases.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"s1"', b'"sX"', 1))
    done = owner.run("audit", "explain", key, code=2)
    assert done.stderr.splitlines()[-1].startswith("keyledger: purchases.jsonl")


# ---------------------------------------------------------------------------------------------------- explain
def test_explain_tells_the_story(shop, clock, owner):
    key = shop.sale("s1")
    clock.forward(days=1)
    shop.refund("s1")
    told = owner.run("audit", "explain", key.lower(), "--as-of", "2026-11-22").stdout.splitlines()
    assert told[0].startswith(f"{key}  lic_")
    assert told[2:7] == [
        "2026-11-20 12:00  ledger 1: a sale for 29.99 usd; product: Wave (on 2026-11-05 19:38)",
        f"                  -> issued {key} to ann@example.com: wave, 1 seat",
        "                  -> for life",
        "2026-11-21 12:00  ledger 2: the charge was refunded in full",
        "                  -> inactive: refunded",
    ]
    assert told[8:] == [
        "As of 2026-11-22 23:59 UTC this license is suspended (SUSPENDED)",
        "      customer  Jane Doe <ann@example.com>",
        "       product  wave",
        "  paid through  for life",
        "        active  no: refunded",
        "    because of  s1:refund:true",
        "         seats  0 of 1 taken",
        "      purchase  gumroad s1",
    ]


def test_explain_as_of_a_moment(shop, clock, owner):
    key = shop.sale("s1")
    clock.forward(days=1)
    shop.refund("s1")
    before = owner.json("audit", "explain", key, "--as-of", "2026-11-20")
    assert (before["code"], len(before["steps"]), before["moment"]) == ("VALID", 1, "2026-11-20T23:59:59.999999Z")
    assert owner.json("audit", "explain", key, "--as-of", "2026-11-21T12:00:00Z")["code"] == "SUSPENDED"
    assert owner.json("audit", "explain", key, "--as-of", "2026-11-20T13:59:00+02:00")["code"] == "NOT_FOUND"
    assert "--as-of" in owner.run("audit", "explain", key, "--as-of", "then", code=2).stderr


def test_explain_of_an_unknown_key(owner):
    assert owner.run("audit", "explain", "nonsense", code=1).stderr == (
        "keyledger: no license has the key 'nonsense'\n"
    )


# ---------------------------------------------------------------------------------------------------- revenue
def test_revenue_plots_each_currency(shop, owner):
    today = datetime.now(UTC)
    before = today.replace(day=1) - timedelta(days=1)
    shop.sale("s1", price=2000, sale_timestamp=today.isoformat())
    shop.sale("s2", price=1000, sale_timestamp=before.isoformat())
    told = owner.run("audit", "revenue", COLUMNS="60").stdout.splitlines()
    assert told == [
        "",
        "usd, net of refunds, by month",
        f"{before:%Y-%m}     10.00      1  ████████████████▌",
        f"{today:%Y-%m}     20.00      1  █████████████████████████████████",
    ]
    rows = owner.json("audit", "revenue", "--by", "day", "--last", "60")
    assert [(row["start"], row["net"]) for row in rows if row["purchases"]] == [
        (f"{before:%Y-%m-%d}", "10.00"),
        (f"{today:%Y-%m-%d}", "20.00"),
    ]
    assert len(rows) == 60
    assert owner.run("audit", "revenue", "--csv").stdout.startswith("start,currency,purchases,gross,refunded,net\n")


def test_revenue_of_nothing(owner):
    assert owner.run("audit", "revenue").stdout == "nothing came in\n"
    assert owner.json("audit", "revenue") == []


def test_bars_are_in_proportion(monkeypatch):
    monkeypatch.setattr("scripts.printing._prints_blocks", lambda: True)
    assert bars([0, 1, 2, 4, -3], 4) == ["", "█", "██", "████", ""]
    assert bars([1, 16], 2) == ["▏", "██"]
    monkeypatch.setattr("scripts.printing._prints_blocks", lambda: False)
    assert bars([1, 4], 4) == ["#", "####"]
    assert bars([1, 8], 4) == [".", "####"]


# ---------------------------------------------------------------------------------------------------- the terminal
def test_customers_text_moves_no_terminal(shop, owner):
    key = shop.sale("s1", full_name=HOSTILE, product_name=HOSTILE)
    story = ["explain", key, "--as-of", "2027-01-01"]
    for command in (["list"], ["stats"], ["find", "eve"], story, ["list", "--json"], ["list", "--csv"], ["verify"]):
        told = on_a_terminal(owner, *command)
        for evil in ("\x1b[2J", "\x1b]", "\x07", "\u202e", "\x9b"):
            assert evil not in told, command


def test_customers_text_is_no_markup(shop, owner):
    shop.sale("s1", "[red]eve[/red]@example.com")
    assert "[red]eve[/red]@example.com" in owner.run("audit", "list").stdout


def on_a_terminal(owner, *command):
    """What the owner's terminal would get."""
    master, slave = pty.openpty()
    done = subprocess.Popen(
        [sys.executable, "scripts/audit.py", *command],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "TERM": "xterm", "COLUMNS": "300"} | owner.settings,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    told = b""
    try:
        while data := os.read(master, 65536):
            told += data
    except OSError:
        pass  # the terminal is gone with its last process
    os.close(master)
    assert done.wait(60) == 0
    return told.decode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Zoë Müller, 日本", "Zoë Müller, 日本"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x85\u2028\u2066\ud800", "\\x85\\u2028\\u2066\\ud800"),
        (None, ""),
        (["a", "b\x00"], "a b\\x00"),
    ],
)
def test_plain(text, shown):
    assert plain(text) == shown


# ---------------------------------------------------------------------------------------------------- usage
@pytest.mark.parametrize(
    "command",
    [["nonsense"], ["list", "--event", "nonsense"], ["list", "--since", "yesterday"], ["explain"], ["stats", "--xml"]],
)
def test_wrong_usage_exits_with_two(owner, command):
    assert owner.run("audit", *command, code=2).stderr


def test_wrong_settings_exit_with_two_in_one_line(owner):
    done = owner.run("audit", "stats", code=2, SECRET_KEY="short")
    assert done.stderr == "keyledger: SECRET_KEY is too short: use at least 16 random characters\n"
    done = owner.run("audit", "stats", code=2, DATA_DIR="/nowhere/at/all")
    assert done.stderr == "keyledger: DATA_DIR: there is no folder /nowhere/at/all\n"


def test_a_closed_pipe_is_no_error(shop, owner):
    shop.sale("s1")
    done = subprocess.run(
        f"{sys.executable} scripts/audit.py list --json | true",
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]} | owner.settings,
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""


def test_statistics_load_no_web_no_mail_and_no_table(owner):
    code = "import sys; sys.argv = ['audit.py', 'stats']; sys.path.insert(0, 'scripts'); import runpy; " + (
        'exec(\'try: runpy.run_path("scripts/audit.py", run_name="__main__")\\nexcept SystemExit: pass\'); '
        "print(sorted({'flask', 'stripe', 'cryptography', 'rich', 'jinja2', 'smtplib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]} | owner.settings,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
