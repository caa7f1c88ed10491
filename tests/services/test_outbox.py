"""Every letter that is owed goes out, once, whatever happens to the mail server, to a process or to a disk."""

from __future__ import annotations

import resource
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from server.domain.purchase import EventKind
from server.errors import BadRequest, Conflict, NotFound, Unprocessable
from server.services.letters import DAMAGED, DEAD_LETTER, DELIVERY, PAYMENT_FAILED, REFUND, UNMAPPED
from server.services.mailer import Compose, ConnectionLost, ConsoleMailer, MailError, ServerUnreachable, SmtpMailer
from server.services.sending import BACKOFF, GIVE_UP, PAUSES
from server.storage.base import Letter
from server.storage.letterbox import FileLetterBox
from tests.conftest import some_of
from tests.services.mail_room import OWNER, Clock, Pigeon, PostOffice, Shop, settings_for

ANN, BOB, EVE = "ann@example.com", "bob@example.com", "eve@example.com"
E = EventKind


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "data")


def refuses(*addresses: str, permanent: bool = False) -> Callable[[Letter], None]:
    def look(letter: Letter) -> None:
        if letter.to in addresses:
            raise MailError("550 no such user" if permanent else "451 try later", permanent)

    return look


def down(letter: Letter) -> None:
    raise ServerUnreachable("127.0.0.1:25: Connection refused")


def until_quiet(shop: Shop, within: timedelta) -> None:
    """Call again whenever the outbox says so, until nothing is due within this time."""
    end = shop.clock.now + within
    while (due := shop.outbox.send_due().next_due) is not None and shop.clock.now + timedelta(seconds=due) <= end:
        shop.clock.forward(seconds=due)
    shop.clock.now = end


# ---------------------------------------------------------------------------------------------------- sending
def test_a_sale_s_letter_goes_out_once(shop: Shop) -> None:
    shop.sale("s1")
    report = shop.outbox.send_due()
    assert (report.sent, report.waiting, report.next_due, report.busy) == (1, 0, None, False)
    shop.outbox.send_due()
    Shop(shop.folder, shop.clock).outbox.send_due()
    assert shop.pigeon.sent == [(DELIVERY, ANN)]
    assert shop.states() == {"1:delivery": "sent"}


def test_letters_go_out_over_real_smtp(tmp_path: Path) -> None:
    with PostOffice() as office:
        shop = smtp_shop(tmp_path / "data", office)
        keys = [shop.sale(f"s{n}", f"buyer{n}@example.com").license_keys[0] for n in range(30)]
        assert shop.outbox.send_due().sent == 30
        assert office.recipients == [f"buyer{n}@example.com" for n in range(30)]
        assert all(key in text_of(message) for key, (_, message) in zip(keys, office.inbox, strict=True))
        assert office.connections == 1


def test_a_limit_leaves_the_rest_for_the_next_call(shop: Shop) -> None:
    for n in range(3):
        shop.sale(f"s{n}")
    report = shop.outbox.send_due(limit=1)
    assert (report.sent, report.waiting, report.next_due) == (1, 2, 0.0)
    assert shop.outbox.send_due(limit=1).sent == 1


def test_progress_is_told(shop: Shop) -> None:
    for n in range(3):
        shop.sale(f"s{n}")
    told: list[tuple[int, int]] = []
    shop.outbox.send_due(progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_mail_is_never_sent_inside_the_folder_lock(shop: Shop) -> None:
    def sell(letter: Letter) -> None:
        if letter.seq == 1:
            thread = threading.Thread(target=lambda: Shop(shop.folder, shop.clock).sale("s2"))
            thread.start()
            thread.join(3)
            assert not thread.is_alive(), "a sale waits for the mail"

    shop.pigeon.trouble = sell
    shop.sale("s1")
    shop.outbox.send_due()
    assert shop.outbox.send_due().sent == 1


# ---------------------------------------------------------------------------------------------------- trouble with one
def test_one_bad_address_never_holds_the_queue(tmp_path: Path) -> None:
    with PostOffice() as office:
        office.on_rcpt = lambda address: {EVE: "550 no such user", BOB: "451 try later"}.get(address)
        shop = smtp_shop(tmp_path / "data", office)
        for n, email in enumerate([EVE, "not an address", "x@y\r\nBcc: z@example.com", BOB, ANN, EVE, ANN]):
            shop.sale(f"s{n}", email)
        report = shop.outbox.send_due()
        assert (report.sent, report.dead, report.failed) == (2, 4, 1)
        assert office.recipients == [ANN, ANN]
        assert shop.letter("2:delivery").error == "this is no valid e-mail address"
        assert shop.letter("1:delivery").error == "550 no such user"


def test_a_letter_that_cannot_be_composed_holds_up_nobody(shop: Shop) -> None:
    shop.outbox.alert("alert_without_a_template", "?")
    shop.outbox.alert(UNMAPPED, "of no ledger line")
    shop.sale("s1")
    report = shop.outbox.send_due()
    assert (report.sent, report.failed) == (1, 2)


def test_a_week_of_retries_then_a_dead_letter_and_an_alert(shop: Shop) -> None:
    shop.pigeon.trouble = tries = Tries(refuses(BOB))
    shop.sale("s1", BOB)
    until_quiet(shop, GIVE_UP - timedelta(seconds=1))
    assert shop.letter("1:delivery").state == "failed"
    assert shop.pigeon.sent == []
    until_quiet(shop, timedelta(seconds=2))
    assert shop.letter("1:delivery").state == "dead"
    assert shop.letter("1:delivery").error == "451 try later"
    waits = [later - earlier for earlier, later in zip(tries.at, tries.at[1:], strict=False) if later > earlier]
    assert waits[: len(BACKOFF)] == list(BACKOFF)
    assert sum(waits, timedelta()) == GIVE_UP
    assert shop.pigeon.sent == [(DEAD_LETTER, OWNER)]
    assert BOB in text_of(shop.pigeon.messages[0])
    assert shop.outbox.send_due().next_due is None


def test_a_dead_letter_to_the_owner_makes_no_further_one(shop: Shop) -> None:
    shop.pigeon.trouble = refuses(OWNER, BOB, permanent=True)
    shop.sale("s1", product="G-NEW")
    shop.sale("s2", OWNER)
    for _ in range(3):
        shop.outbox.send_due()
    assert shop.states() == {"1:alert_unmapped": "dead", "2:delivery": "dead"}
    shop.sale("s3", BOB)
    for _ in range(3):
        shop.outbox.send_due()
    assert Counter(letter.kind for letter in shop.outbox.list("dead"))[DEAD_LETTER] == 1


def test_deaths_that_the_owner_was_not_told_of_yet_wait_for_one_alert(shop: Shop) -> None:
    shop.pigeon.trouble = lambda letter: refuses(OWNER)(letter) or refuses(BOB, permanent=True)(letter)
    for n in range(3):
        shop.sale(f"s{n}", BOB)
        shop.outbox.send_due()
        shop.clock.forward(hours=1)
    shop.pigeon.trouble = None
    shop.clock.forward(days=1)
    shop.outbox.send_due()
    assert shop.pigeon.sent == [(DEAD_LETTER, OWNER)]
    assert text_of(shop.pigeon.messages[0]).count("550 no such user") == 3


def test_an_alert_about_letters_that_are_tried_again_is_not_sent(shop: Shop) -> None:
    shop.pigeon.trouble = refuses(BOB, permanent=True)
    shop.sale("s1", BOB)
    shop.outbox.send_due()
    shop.outbox.retry()
    shop.pigeon.trouble = None
    shop.outbox.send_due()
    assert shop.pigeon.sent == [(DELIVERY, BOB)]


def test_many_deaths_make_one_alert_that_names_them_all(shop: Shop) -> None:
    shop.pigeon.trouble = refuses(BOB, EVE, permanent=True)
    for n, email in enumerate([BOB, EVE, BOB]):
        shop.sale(f"s{n}", email)
    shop.outbox.send_due()
    shop.outbox.send_due()
    assert shop.pigeon.sent == [(DEAD_LETTER, OWNER)]
    assert text_of(shop.pigeon.messages[0]).count("550 no such user") == 3


# ---------------------------------------------------------------------------------------------------- trouble with all
def test_when_the_server_is_down_one_letter_finds_out_and_the_others_wait(shop: Shop) -> None:
    for n in range(5):
        shop.sale(f"s{n}", f"buyer{n}@example.com")
    shop.pigeon.trouble = tries = Tries(down)
    report = shop.outbox.send_due()
    assert (len(tries.at), report.failed, report.waiting) == (1, 1, 5)
    assert report.next_due == PAUSES[0].total_seconds()
    assert report.trouble is not None
    assert Counter(shop.states().values()) == {"failed": 1, "queued": 4}
    assert "reached" in shop.outbox.summary()["trouble"]
    shop.pigeon.trouble = None
    shop.clock.forward(seconds=report.next_due)
    assert shop.outbox.send_due().sent == 5
    assert shop.outbox.summary()["trouble"] is None


def test_while_the_server_is_down_no_process_waits_for_it_again_and_again(shop: Shop) -> None:
    other = Shop(shop.folder, shop.clock)
    shop.pigeon.trouble = other.pigeon.trouble = tries = Tries(down)
    shop.sale("s1")
    shop.outbox.send_due()
    for n in range(2, 12):
        other.sale(f"s{n}")
        assert other.outbox.send_due().next_due == 30
    assert len(tries.at) == 1
    until_quiet(shop, timedelta(hours=1))
    pauses = [later - earlier for earlier, later in zip(tries.at, tries.at[1:], strict=False)]
    assert pauses[:4] == list(PAUSES)
    assert set(pauses[4:]) == {PAUSES[-1]}


def test_a_week_without_a_server_kills_every_letter_of_that_week_and_no_later_one(shop: Shop) -> None:
    shop.pigeon.trouble = down
    for n in range(3):
        shop.sale(f"s{n}", f"buyer{n}@example.com")
    until_quiet(shop, timedelta(days=6))
    shop.sale("s9", BOB)
    until_quiet(shop, timedelta(days=1, minutes=10))
    assert [shop.letter(f"{n}:delivery").state for n in (1, 2, 3)] == ["dead"] * 3
    assert shop.letter("4:delivery").state in ("queued", "failed")
    shop.pigeon.trouble = None
    until_quiet(shop, timedelta(minutes=10))
    assert shop.pigeon.sent == [(DELIVERY, BOB), (DEAD_LETTER, OWNER)]
    assert len(shop.outbox.retry()) == 3
    assert shop.outbox.send_due().sent == 3


def test_an_hour_without_a_server_costs_a_letter_none_of_its_tries(shop: Shop) -> None:
    shop.pigeon.trouble = down
    shop.sale("s1", BOB)
    until_quiet(shop, timedelta(hours=1))
    shop.clock.forward(seconds=PAUSES[-1].total_seconds())
    shop.pigeon.trouble = refuses(BOB)
    shop.outbox.send_due()
    assert shop.letter("1:delivery").next_at == shop.clock.now + BACKOFF[0]


def test_connections_that_break_twice_in_a_row_stop_the_batch(shop: Shop) -> None:
    def breaks(letter: Letter) -> None:
        raise ConnectionLost("the connection broke")

    for n in range(5):
        shop.sale(f"s{n}")
    shop.pigeon.trouble = tries = Tries(breaks)
    report = shop.outbox.send_due()
    assert (len(tries.at), report.failed, report.waiting) == (2, 2, 5)
    assert report.next_due == PAUSES[0].total_seconds()


def test_connections_that_break_now_and_then_do_not(shop: Shop) -> None:
    def breaks(letter: Letter) -> None:
        if letter.seq % 2:
            raise ConnectionLost("the connection broke")

    for n in range(6):
        shop.sale(f"s{n}")
    shop.pigeon.trouble = breaks
    report = shop.outbox.send_due()
    assert (report.sent, report.failed, report.trouble) == (3, 3, None)


def test_a_letter_that_breaks_every_connection_holds_up_nobody(tmp_path: Path) -> None:
    with PostOffice() as office:
        office.on_data = lambda address: "DROP" if address == EVE else None
        shop = smtp_shop(tmp_path / "data", office)
        for n, email in enumerate([ANN, EVE, BOB, ANN]):
            shop.sale(f"s{n}", email)
        report = shop.outbox.send_due()
        assert (report.sent, report.failed, report.trouble) == (3, 1, None)
        assert office.recipients == [ANN, BOB, ANN]


def test_a_server_that_never_answers_costs_one_timeout_for_the_whole_queue(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        settings = settings_for(tmp_path, smtp_port=mute.getsockname()[1])
        shop = Shop(tmp_path / "data", mailer=SmtpMailer(settings, timeout=0.1))
        for n in range(50):
            shop.sale(f"s{n}")
        report = shop.outbox.send_due()
        assert (report.failed, report.waiting) == (1, 50)


# ---------------------------------------------------------------------------------------------------- crashes and disks
KILLED = """
    import os, signal, sys
    from pathlib import Path
    from server.services.mailer import SmtpMailer
    from tests.services.mail_room import Shop, settings_for

    class Killed(SmtpMailer):
        def send(self, letter, compose):
            super().send(letter, compose)
            os.kill(os.getpid(), signal.SIGKILL)

    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    Shop(folder, mailer=Killed(settings_for(folder, smtp_port=port))).outbox.send_due()
"""


def test_killed_between_sending_and_its_account_the_letter_goes_again_under_one_message_id(tmp_path: Path) -> None:
    with PostOffice() as office:
        shop = smtp_shop(tmp_path / "data", office)
        shop.sale("s1", ANN)
        shop.sale("s2", BOB)
        command = [sys.executable, "-c", dedent(KILLED), str(shop.folder), str(office.port)]
        ended = subprocess.run(command, cwd=Path(__file__).parents[2], check=False)
        assert ended.returncode == -signal.SIGKILL
        assert office.recipients == [ANN]
        assert shop.letter("1:delivery").state == "sending"
        assert shop.outbox.send_due().sent == 1
        assert office.recipients == [ANN, BOB]
        shop.clock.forward(seconds=BACKOFF[0].total_seconds())
        assert shop.outbox.send_due().sent == 1
        assert office.recipients == [ANN, BOB, ANN]
        assert office.inbox[0][1]["Message-ID"] == office.inbox[2][1]["Message-ID"]
        assert office.inbox[0][1]["Message-ID"] != office.inbox[1][1]["Message-ID"]


def test_an_interrupted_turn_keeps_its_account(shop: Shop) -> None:
    def interrupt(letter: Letter) -> None:
        if letter.seq == 3:
            raise KeyboardInterrupt

    for n in range(4):
        shop.sale(f"s{n}")
    shop.pigeon.trouble = interrupt
    with pytest.raises(KeyboardInterrupt):
        shop.outbox.send_due()
    assert list(shop.states().values()) == ["sent", "sent", "sending", "queued"]


@pytest.mark.parametrize("every", some_of([9, 1], 1))
def test_a_torn_line_of_a_killed_writer_costs_no_letter(shop: Shop, every: int) -> None:
    """Cut at every so many bytes, and around each end of a line."""
    shop.sale("s1")
    shop.outbox.send_due()
    path = shop.folder / "outbox.jsonl"
    whole = path.read_bytes()
    around = {end + by for end in range(len(whole)) if whole[end] == ord("\n") for by in (-1, 0, 1)}
    for cut in sorted({*range(0, len(whole), every), *around} - {len(whole)}):
        path.write_bytes(whole[:cut])
        again = Shop(shop.folder, shop.clock)
        again.outbox.send_due()
        again.clock.forward(minutes=1)
        again.outbox.send_due()
        assert again.states() == {"1:delivery": "sent"}, cut


def test_a_disk_that_takes_nothing_stops_the_sending_and_heals(shop: Shop) -> None:
    shop.sale("s1")
    with disk_full(shop.folder):
        report = shop.outbox.send_due()
    assert (report.sent, report.trouble is not None) == (0, True)
    assert shop.pigeon.sent == []
    assert shop.outbox.send_due().sent == 1
    assert shop.pigeon.sent == [(DELIVERY, ANN)]


def test_a_disk_that_fills_up_while_sending_stops_it(shop: Shop) -> None:
    for n in range(50):
        shop.sale(f"s{n}")
    shop.outbox.send_due(limit=0)
    with disk_full(shop.folder, room=500):
        report = shop.outbox.send_due()
    assert report.trouble is not None
    assert len(shop.pigeon.sent) <= 2
    shop.clock.forward(minutes=1)
    shop.outbox.send_due()
    assert set(shop.states().values()) == {"sent"}


def test_an_outbox_that_cannot_be_read_is_told_and_no_exception(shop: Shop) -> None:
    (shop.folder / "outbox.jsonl").mkdir()
    shop.sale("s1")
    assert shop.outbox.send_due().trouble is not None
    assert shop.outbox.summary()["trouble"] is not None
    assert shop.outbox.summary()["dead"] == 0


def test_a_damaged_ledger_does_not_stop_the_letters_that_are_queued(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.pigeon.trouble = down
    shop.sale("s1")
    shop.outbox.send_due()
    ledger = shop.folder / "purchases.jsonl"
    ledger.write_bytes(ledger.read_bytes() + b'{"seq": 7}\n{"seq": 8}\n' + ledger.read_bytes())
    shop.pigeon.trouble = None
    shop.clock.forward(minutes=1)
    assert shop.outbox.send_due().sent == 1
    shop.outbox.send_due()
    assert sum("ledger" in record.message for record in caplog.records if record.name.endswith("outbox")) == 1


def test_an_outbox_that_was_lost_sends_no_old_letters_again(shop: Shop) -> None:
    shop.sale("s1", ANN)
    shop.outbox.send_due()
    shop.clock.forward(days=8)
    shop.sale("s2", BOB)
    (shop.folder / "outbox.jsonl").unlink()
    again = Shop(shop.folder, shop.clock)
    again.outbox.send_due()
    assert again.pigeon.sent == [(DELIVERY, BOB)]


def test_a_sender_that_slept_for_a_month_still_sends_what_is_owed(shop: Shop) -> None:
    shop.sale("s1", ANN)
    shop.outbox.send_due()
    shop.sale("s2", BOB)
    shop.clock.forward(days=30)
    shop.outbox.send_due()
    assert shop.pigeon.sent == [(DELIVERY, ANN), (DELIVERY, BOB)]


def test_a_ledger_put_back_from_a_backup_sends_only_what_is_new(shop: Shop) -> None:
    shop.sale("s1", ANN)
    backup = (shop.folder / "purchases.jsonl").read_bytes()
    shop.sale("s2", BOB)
    shop.outbox.send_due()
    shop.clock.forward(hours=1)
    (shop.folder / "purchases.jsonl").write_bytes(backup)
    for name in ("licenses.json", "history.idx"):
        (shop.folder / name).unlink(missing_ok=True)
    again = Shop(shop.folder, shop.clock)
    again.sale("s3", EVE)
    again.outbox.send_due()
    again.outbox.send_due()
    assert again.pigeon.sent == [(DELIVERY, EVE)]


# ---------------------------------------------------------------------------------------------------- several processes
class Meeting(Pigeon):
    """Holds its first letter until somebody else had a chance to send it too."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.go_on = threading.Event(), threading.Event()

    def send(self, letter: Letter, compose: Compose) -> None:
        super().send(letter, compose)
        self.inside.set()
        assert self.go_on.wait(10)


class WithoutTurn(FileLetterBox):
    """What the outbox would be without its lock."""

    @contextmanager
    def turn(self, wait: bool = False) -> Iterator[None]:
        yield


def letters_of_two_processes(folder: Path, box: type[FileLetterBox]) -> list[tuple[str, str]]:
    """One is in the middle of a letter when the other looks what is due."""
    clock, meeting = Clock(), Meeting()
    first, second = Shop(folder, clock, mailer=meeting), Shop(folder, clock)
    for one in (first, second):
        one.outbox._box = one.outbox._sender.box = box(folder / "outbox.jsonl", 4.0)
    first.sale("s1")
    thread = threading.Thread(target=first.outbox.send_due)
    thread.start()
    assert meeting.inside.wait(10)
    report = second.outbox.send_due()
    clock.forward(minutes=2)
    second.outbox.send_due()
    meeting.go_on.set()
    thread.join(10)
    second.outbox.send_due()
    assert report.next_due is None or report.next_due >= 1.0
    return meeting.sent + second.pigeon.sent


def test_two_processes_send_each_letter_once(tmp_path: Path) -> None:
    assert letters_of_two_processes(tmp_path / "data", FileLetterBox) == [(DELIVERY, ANN)]


def test_without_the_turn_they_would_send_it_twice(tmp_path: Path) -> None:
    assert letters_of_two_processes(tmp_path / "data", WithoutTurn) == [(DELIVERY, ANN)] * 2


def test_many_senders_at_once_send_each_of_many_letters_once(tmp_path: Path) -> None:
    with PostOffice() as office:
        shops = [smtp_shop(tmp_path / "data", office) for _ in range(4)]
        wanted = [f"buyer{n}@example.com" for n in range(60)]

        def work(number: int) -> None:
            mine = shops[number]
            for address in wanted[number::4]:
                mine.sale(address, address)
                mine.outbox.send_due()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        shops[0].outbox.send_due()
        assert sorted(office.recipients) == sorted(wanted)


def test_a_busy_outbox_answers_at_once_and_still_takes_what_the_owner_asks_for(shop: Shop) -> None:
    key = shop.sale("s1").license_keys[0]
    shop.outbox.send_due()
    other = FileLetterBox(shop.folder / "outbox.jsonl", 4.0)
    with other.turn():
        report = shop.outbox.send_due()
        assert (report.busy, report.next_due) == (True, 1.0)
        shop.outbox.resend(key)
        shop.outbox.alert(DAMAGED, "a file is damaged")
        other.write([Letter(id="x", kind="delivery", to=ANN, state="sent")])
    assert [letter.kind for letter in other.waiting()] == [DELIVERY, DAMAGED]
    assert shop.outbox.send_due().sent == 2


# ---------------------------------------------------------------------------------------------------- overtaken
def test_a_key_that_was_refunded_before_its_letter_went_out_is_not_sent(shop: Shop) -> None:
    shop.sale("s1")
    shop.refund("s1")
    shop.outbox.send_due()
    assert shop.pigeon.sent == [(REFUND, ANN)]
    assert shop.letter("1:delivery").state == "dropped"
    assert shop.letter("1:delivery").error == "not sent: the license is inactive"


def test_a_key_that_was_given_to_somebody_else_goes_to_him_alone(shop: Shop) -> None:
    key = shop.sale("s1", BOB).license_keys[0]
    shop.licenses.transfer(key, EVE)
    shop.outbox.send_due()
    assert shop.pigeon.sent == [(DELIVERY, EVE)]
    shop.licenses.transfer(key, BOB)
    shop.licenses.transfer(key, ANN)
    shop.outbox.send_due()
    assert shop.pigeon.sent == [(DELIVERY, EVE), (DELIVERY, ANN)]


def test_a_key_that_was_replaced_before_its_letter_went_out_is_not_sent(shop: Shop) -> None:
    old = shop.sale("s1").license_keys[0]
    new = shop.licenses.reissue(old).license_keys[0]
    shop.outbox.send_due()
    (message,) = shop.pigeon.messages
    assert new in text_of(message)
    assert old not in text_of(message)


def test_of_a_bundle_only_what_is_still_active_is_sent(shop: Shop) -> None:
    wave, team = shop.sale("s1", product="G-STUDIO").license_keys
    shop.licenses.revoke(wave)
    shop.outbox.send_due()
    (message,) = shop.pigeon.messages
    assert team in text_of(message)
    assert wave not in text_of(message)


def test_a_failed_payment_that_was_made_good_is_not_told(shop: Shop) -> None:
    said = {"product": "G-TEAM", "subscription_id": "sub1"}
    shop.sale("s1", **said)
    shop.outbox.send_due()
    shop.pigeon.trouble = down
    shop.clock.forward(days=30)
    shop.says(E.PAYMENT_FAILED, None, occurred_at=shop.clock(), purchase_date=None, **said)
    shop.outbox.send_due()
    shop.clock.forward(days=1)
    shop.says(E.RENEWAL, "s2", **said)
    shop.pigeon.trouble = None
    shop.outbox.send_due()
    assert PAYMENT_FAILED not in [kind for kind, _ in shop.pigeon.sent]
    assert shop.letter("2:payment_failed").state == "dropped"


# ---------------------------------------------------------------------------------------------------- the owner
def test_resend_sends_the_license_as_it_is_now(shop: Shop) -> None:
    key = shop.sale("s1", BOB).license_keys[0]
    shop.outbox.send_due()
    letter = shop.outbox.resend(key)
    assert letter.id.startswith("resend:")
    Shop(shop.folder, shop.clock, mailer=shop.pigeon).outbox.send_due()
    assert shop.pigeon.sent == [(DELIVERY, BOB), (DELIVERY, BOB)]
    assert key in text_of(shop.pigeon.messages[1])


def test_what_cannot_be_resent_is_refused(shop: Shop) -> None:
    with pytest.raises(NotFound):
        shop.outbox.resend("no such key")
    nobody = shop.sale("s1", None).license_keys[0]
    with pytest.raises(Unprocessable, match="e-mail"):
        shop.outbox.resend(nobody)
    gone = shop.sale("s2").license_keys[0]
    shop.refund("s2")
    with pytest.raises(Conflict, match="refunded"):
        shop.outbox.resend(gone)


def test_an_alert_is_told_once_a_day_by_all_processes_together(shop: Shop) -> None:
    text = "purchases.jsonl line 17: the chain breaks here"
    assert shop.outbox.alert(DAMAGED, text) is not None
    assert shop.outbox.alert(DAMAGED, text) is None
    assert Shop(shop.folder, shop.clock).outbox.alert(DAMAGED, text) is None
    shop.outbox.send_due()
    assert shop.pigeon.sent == [(DAMAGED, OWNER)]
    assert "line 17" in text_of(shop.pigeon.messages[0])
    shop.clock.forward(days=1)
    assert shop.outbox.alert(DAMAGED, text) is not None


def test_without_an_owner_s_address_an_alert_is_nothing(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "data", owner_email=None)
    assert shop.outbox.alert(DAMAGED, "?") is None
    assert shop.outbox.list() == []


def test_dead_letters_are_tried_again_one_or_all(shop: Shop) -> None:
    shop.pigeon.trouble = refuses(BOB, EVE, permanent=True)
    shop.sale("s1", BOB)
    shop.sale("s2", EVE)
    shop.outbox.send_due()
    shop.pigeon.trouble = None
    assert [letter.to for letter in shop.outbox.retry("1:delivery")] == [BOB]
    shop.outbox.send_due()
    assert (DELIVERY, BOB) in shop.pigeon.sent
    assert [letter.to for letter in shop.outbox.retry()] == [EVE]
    shop.outbox.send_due()
    assert (DELIVERY, EVE) in shop.pigeon.sent
    assert shop.outbox.retry() == []
    with pytest.raises(NotFound):
        shop.outbox.retry("99:delivery")
    with pytest.raises(Conflict):
        shop.outbox.retry("1:delivery")


def test_retry_ends_the_pause_of_the_server(shop: Shop) -> None:
    shop.pigeon.trouble = down
    shop.sale("s1")
    shop.outbox.send_due()
    shop.pigeon.trouble = None
    assert shop.outbox.send_due().sent == 0
    shop.outbox.retry("1:delivery")
    assert shop.outbox.send_due().sent == 1


def test_the_list_and_the_summary(shop: Shop) -> None:
    assert shop.outbox.summary() == {
        **dict.fromkeys(("queued", "sending", "sent", "failed", "dead", "dropped"), 0),
        "oldest_waiting_seconds": None,
        "trouble": None,
    }
    shop.pigeon.trouble = refuses(BOB)
    shop.sale("s1", BOB)
    shop.sale("s2", ANN)
    shop.outbox.send_due()
    shop.clock.forward(seconds=40)
    summary = shop.outbox.summary()
    assert (summary["failed"], summary["sent"], summary["dead"]) == (1, 1, 0)
    assert summary["oldest_waiting_seconds"] == 40
    assert [letter.id for letter in shop.outbox.list("failed")] == ["1:delivery"]
    assert len(shop.outbox.list()) == 2
    with pytest.raises(BadRequest):
        shop.outbox.list("nonsense")


# ---------------------------------------------------------------------------------------------------- cost
def test_the_console_of_a_service_composes_nothing_and_writes_little(tmp_path: Path) -> None:
    class Silent(ConsoleMailer):
        def send(self, letter: Letter, compose: Compose) -> None:
            super().send(letter, never)

    def never() -> Any:
        raise AssertionError("composed")

    shop = Shop(tmp_path / "data", mailer=Silent())
    for n in range(200):
        shop.sale(f"s{n}")
    assert shop.outbox.send_due().sent == 200
    lines = (shop.folder / "outbox.jsonl").read_bytes().splitlines()
    assert len(lines) == 2 * 200 + 1


def test_the_outbox_forgets_what_was_sent_long_ago_and_nothing_else(shop: Shop) -> None:
    path, box = shop.folder / "outbox.jsonl", shop.store.letterbox
    assert isinstance(box, FileLetterBox)
    shop.pigeon.trouble = refuses(BOB, permanent=True)
    shop.sale("s0", BOB)
    for n in range(1, 60):
        shop.sale(f"s{n}")
    shop.outbox.send_due()
    shop.outbox.send_due()
    box._compact_from, before = 0, path.stat().st_size
    shop.outbox.send_due()
    assert path.stat().st_size < before / 2
    assert len(shop.outbox.list()) == 61
    shop.clock.forward(days=31)
    shop.sale("new", EVE)
    box._compact_from = 0
    shop.outbox.send_due()
    assert [(letter.to, letter.state) for letter in shop.outbox.list()] == [(BOB, "dead"), (EVE, "sent")]
    Shop(shop.folder, shop.clock, mailer=shop.pigeon).outbox.send_due()
    assert Counter(shop.pigeon.sent) == {(DELIVERY, ANN): 59, (DELIVERY, EVE): 1, (DEAD_LETTER, OWNER): 1}


def test_a_process_notices_that_the_file_was_replaced(shop: Shop) -> None:
    path = shop.folder / "outbox.jsonl"
    mine, other = FileLetterBox(path, 4.0), FileLetterBox(path, 4.0)
    mine.write([Letter(id="a", kind="delivery", state="queued"), Letter(id="a", kind="delivery", state="sent")])
    assert mine.counts() == {"sent": 1, "dead": 0}
    other._compact_from = 0
    with other.turn():
        other.waiting()
        other.write([Letter(id="a", kind="delivery", state="sent")] * 5)
    other.write([Letter(id=f"b{n}", kind="delivery") for n in range(50)])
    assert [letter.id for letter in mine.waiting()] == [f"b{n}" for n in range(50)]
    assert mine.counts() == {"sent": 1, "queued": 50, "dead": 0}


def test_a_letter_enqueued_while_the_file_is_replaced_is_not_lost(shop: Shop) -> None:
    """The owner asks for letters all the time while every turn compacts the file."""
    key = shop.sale("s1").license_keys[0]
    shop.outbox.send_due()
    other = Shop(shop.folder, shop.clock)
    thread = threading.Thread(target=lambda: [other.outbox.resend(key) for _ in range(40)])
    thread.start()
    while thread.is_alive() or shop.store.letterbox.waiting():
        shop.store.letterbox._compact_from = 0  # type: ignore[attr-defined]
        shop.outbox.send_due()
    thread.join()
    shop.outbox.send_due()
    assert len(shop.pigeon.sent) == 41


def test_what_was_sent_is_on_disk_soon(shop: Shop) -> None:
    """The account of each letter is fsynced, of at most twenty letters or one second at once."""
    accounts: list[int] = []

    class Watched(FileLetterBox):
        def write(self, letters: Sequence[Letter], durably: bool = True) -> None:
            sent = sum(letter.state == "sent" for letter in letters)
            assert durably or not sent
            accounts.extend([sent] if sent else [])
            super().write(letters, durably)

    shop.outbox._box = shop.outbox._sender.box = Watched(shop.folder / "outbox.jsonl", 4.0)
    for n in range(50):
        shop.sale(f"s{n}")
    shop.outbox.send_due()
    assert accounts == [20, 20, 10]
    shop.pigeon.trouble = lambda letter: shop.clock.forward(seconds=1)
    for n in range(50, 53):
        shop.sale(f"s{n}")
    shop.outbox.send_due()
    assert accounts == [20, 20, 10, 2, 1]


def test_nothing_that_is_done_with_stays_in_memory(shop: Shop) -> None:
    for n in range(20):
        shop.sale(f"s{n}")
    shop.outbox.send_due()
    assert shop.store.letterbox.waiting() == []
    assert shop.store.letterbox.counts() == {"sent": 20, "dead": 0}


# ---------------------------------------------------------------------------------------------------- by hand
class Tries:
    """Remembers when something was tried, then lets it fail."""

    def __init__(self, then: Callable[[Letter], None]) -> None:
        self.then, self.at = then, []

    at: list[Any]

    def __call__(self, letter: Letter) -> None:
        if letter.at is not None:
            self.at.append(letter.at)
        self.then(letter)


def smtp_shop(folder: Path, office: PostOffice) -> Shop:
    return Shop(folder, mailer=SmtpMailer(settings_for(folder, smtp_port=office.port)))


@contextmanager
def disk_full(folder: Path, room: int = 0) -> Iterator[None]:
    """No file may grow beyond the outbox's size and a little: writing more fails, as on a full disk."""
    size = (folder / "outbox.jsonl").stat().st_size if (folder / "outbox.jsonl").exists() else 0
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)


def text_of(message: Any) -> str:
    return str(message.get_body(("plain",)).get_content())
