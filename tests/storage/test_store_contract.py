"""What every store promises, whoever keeps the books: one class of tests that each store inherits."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from server.domain.keys import license_id
from server.domain.license import DeviceEvent, Wanted
from server.domain.purchase import Entry, EventKind, Grant, email_name, event_name
from server.errors import StorageUnavailable
from server.storage.base import Letter, Store
from server.storage.flatfile import FlatFileStore
from server.storage.log import START, Mark
from tests.storage.backroom import NOW, counted, device_line, entry, letter, records, sold
from tests.storage.order_book_contract import OrderBookContract

Open = Callable[[], Store]


def keep(store: Store, *entries: Entry) -> None:
    with store.transaction() as books:
        books.append(entries)


def bind(store: Store, *lines: object) -> None:
    with store.transaction() as books:
        books.append_devices(lines)


def told(entries: list[Entry]) -> list[str]:
    return [found.event_id for found in entries]


class Sold(msgspec.Struct):
    """The ledger's lines as somebody reads them who wants little of them."""

    event_id: str
    seq: int


class StoreContract(OrderBookContract, ABC):
    """Inherited by the tests of each store. `opened` may be called again and again on one place."""

    @abstractmethod
    def opened(self, place: Path) -> Store: ...

    @abstractmethod
    def closed(self, store: Store) -> None: ...

    @abstractmethod
    def impatient(self, store: Store) -> None:
        """Let it wait for nobody who is alone with the order book."""

    @pytest.fixture
    def another(self, tmp_path: Path) -> Iterator[Open]:
        """Opens a further store on the same books, as another worker would."""
        stores: list[Store] = []

        def open_one() -> Store:
            stores.append(self.opened(tmp_path))
            return stores[-1]

        yield open_one
        for store in stores:
            self.closed(store)

    @pytest.fixture
    def store(self, another: Open) -> Store:
        return another()

    # ------------------------------------------------------------------------------------------------ writing
    def test_an_empty_store_knows_nothing_and_is_well(self, store):
        assert store.find_license("KEY-1") is None
        assert store.find_by_id("lic_00000000000000000000") is None
        assert list(store.licenses()) == []
        assert store.device_lines("KEY-1") == []
        assert store.history(["sale\0gumroad\0s1"]) == []
        assert store.find_event(event_name("gumroad", "s1:sale")) is None
        assert list(store.entries()) == []
        state = store.state(probe=True)
        assert (state.trouble, state.licenses, state.ledger_lines, state.notices) == (None, 0, 0, ())

    def test_lines_are_numbered_and_chained_over_all_writers(self, store, another):
        other = another()
        keep(store, sold(1), sold(2))
        keep(other, sold(3))
        keep(store, sold(4))
        lines = [line for _, batch in store.entries() for line in batch]
        assert [line.seq for line in lines] == [1, 2, 3, 4]
        assert lines[0].prev is None
        assert all(re.fullmatch("[0-9a-f]{64}", line.prev or "") for line in lines[1:])
        assert len({line.prev for line in lines}) == 4

    def test_what_was_appended_is_what_is_read(self, store, another):
        line = sold(1, customer_name="Zoë \u2028 \U0001f600 <b>", email="ann@exämple.com", price="29.99", fee="3")
        line.raw = msgspec.Raw(b'{"deep": [1, {"x": null}], "big": 123456789012345678901234567890}')
        keep(store, line)
        found = another().find_event(event_name("gumroad", "s1:sale"))
        assert found is not None
        assert msgspec.structs.replace(found, raw=line.raw) == line
        assert msgspec.json.decode(found.raw) == msgspec.json.decode(line.raw)

    def test_a_transaction_that_fails_appends_nothing_more(self, store):
        def fail() -> None:
            with store.transaction() as books:
                books.append([sold(1)])
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        keep(store, sold(2))
        assert told([line for _, batch in store.entries() for line in batch]) == ["s1:sale", "s2:sale"]

    def test_inside_a_transaction_one_reads_what_one_wrote(self, store):
        with store.transaction() as books:
            books.append([sold(1)])
            assert store.find_license("KEY-1") is not None
            books.append_devices([device_line("KEY-1", "pc")])
            license = store.find_license("KEY-1")
            assert license is not None
            assert license.hardware_id == "pc"

    def test_every_worker_reads_what_any_worker_wrote(self, store, another):
        other = another()
        for number in range(1, 6):
            writer, reader = (store, other) if number % 2 else (other, store)
            keep(writer, sold(number))
            found = reader.find_license(f"KEY-{number}")
            assert found is not None
            assert found.purchase_id == f"s{number}"
            bind(writer, device_line(f"KEY-{number}", "pc"))
            found = reader.find_license(f"KEY-{number}")
            assert found is not None
            assert found.knows("pc")

    # ------------------------------------------------------------------------------------------------ licenses
    def test_a_license_is_found_by_its_exact_key_alone(self, store):
        keep(store, sold(1))
        found = store.find_license("KEY-1")
        assert found is not None
        assert (found.email, found.product_id, found.is_active) == ("ann@example.com", "wave", True)
        assert [store.find_license(key) for key in ("key-1", "KEY-1 ", "KEY-", "")] == [None] * 4

    def test_a_license_is_found_by_its_public_id(self, store):
        keep(store, sold(1), sold(2))
        store.tidy(force=True)
        keep(store, sold(3))
        for number in (1, 2, 3):
            found = store.find_by_id(license_id(f"KEY-{number}"))
            assert found is not None
            assert (found[0], found[1].purchase_id) == (f"KEY-{number}", f"s{number}")
        almost = license_id("KEY-1")[:-1] + ("0" if license_id("KEY-1")[-1] != "0" else "1")
        assert store.find_by_id(almost) is None

    def test_licenses_come_in_the_order_of_their_ids_from_any_of_them_on(self, store, another):
        keep(store, *(sold(number) for number in range(1, 702)))
        store.tidy(force=True)
        keep(store, *(sold(number) for number in range(702, 1204)))
        ids = sorted(license_id(f"KEY-{number}") for number in range(1, 1204))
        for reader in (store, another()):
            assert [license_id(key) for key, _ in reader.licenses()] == ids
            assert [license_id(key) for key, _ in reader.licenses(ids[0])] == ids[1:]
            assert [license_id(key) for key, _ in reader.licenses(ids[499])] == ids[500:]
            assert [license_id(key) for key, _ in reader.licenses(ids[500])] == ids[501:]
            assert list(reader.licenses(ids[-1])) == []
            assert [key for key, _ in reader.licenses("lic_ffffffffffffffffffff")] == []

    def test_events_of_one_purchase_change_its_license_and_no_other(self, store, another):
        keep(store, sold(1), sold(2))
        store.tidy(force=True)
        keep(store, entry(EventKind.REFUND, "s1:refund", said={"sale_id": "s1"}))
        for reader in (store, another()):
            found = dict(reader.licenses())
            assert (found["KEY-1"].is_active, found["KEY-2"].is_active) == (False, True)

    def test_licenses_are_found_by_the_address_they_belong_to_now(self, store, another):
        keep(
            store,
            sold(1, email="Ann@Example.com"),
            sold(2, email=" ann@example.com "),
            sold(3, email="bob@example.com"),
        )
        moved = {"source": "owner", "email": "bob@example.com"}
        store.tidy(force=True)
        keep(store, sold(4), entry(EventKind.OWNER_TRANSFER, "owner:1", said=moved, license_keys=("KEY-1",)))
        for reader in (store, another()):
            assert sorted(key for key, _ in reader.licenses_of("ANN@example.com")) == ["KEY-2", "KEY-4"]
            assert sorted(key for key, _ in reader.licenses_of("bob@example.com ")) == ["KEY-1", "KEY-3"]
            assert [reader.licenses_of(other) for other in ("", "ann", "eve@example.com")] == [[], [], []]
            found = dict(reader.licenses_of("ann@example.com"))
            assert found["KEY-4"] == reader.find_license("KEY-4")

    def test_a_license_whose_later_events_name_nobody_still_has_its_address(self, store, another):
        new = Grant(product_id="wave", license_key="NEW-1", replaces="KEY-1")
        keep(store, sold(1), entry(EventKind.OWNER_REISSUE, "owner:1", new, said={"source": "owner", "email": None}))
        for reader in (store, another()):
            assert sorted(key for key, _ in reader.licenses_of("ann@example.com")) == ["KEY-1", "NEW-1"]

    def test_two_purchases_of_one_address_stay_two(self, store, another):
        keep(store, sold(1), sold(2))
        store.tidy(force=True)
        keep(store, entry(EventKind.REFUND, "s1:refund", said={"sale_id": "s1"}), sold(3))
        for reader in (store, another()):
            assert told(reader.history(["sale\0gumroad\0s1"])) == ["s1:sale", "s1:refund"]
            assert reader.history([email_name("ann@example.com")]) == []
            states = [license.is_active for _, license in reader.licenses_of("ann@example.com")]
            assert states == [False, True, True]

    def test_purchases_are_found_by_every_address_that_was_named_in_them(self, store, another):
        keep(store, sold(1, email="Ann@Example.com"), sold(2), sold(3, email="bob@example.com"))
        store.tidy(force=True)
        moved = {"source": "owner", "email": "bob@example.com"}
        keep(
            store,
            entry(EventKind.REFUND, "s1:refund", said={"sale_id": "s1", "email": None}),
            entry(EventKind.OWNER_TRANSFER, "owner:1", said=moved, license_keys=("KEY-2",)),
        )
        for reader in (store, another()):
            found = [told(one) for one in reader.purchases_of("ANN@example.com ")]
            assert sorted(found) == [["s1:sale", "s1:refund"], ["s2:sale", "owner:1"]]
            assert sorted(map(told, reader.purchases_of("bob@example.com"))) == [["s2:sale", "owner:1"], ["s3:sale"]]
            assert [reader.purchases_of(other) for other in ("", "ann", "eve@example.com")] == [[], [], []]

    # ------------------------------------------------------------------------------------------------ looking for
    def looked_for(self, store: Store, **wanted: object) -> list[str]:
        """The same before and after what is derived was written anew."""
        found = store.find_licenses(Wanted(**wanted), NOW)
        store.tidy(force=True)
        again = store.find_licenses(Wanted(**wanted), NOW)
        assert found == again
        assert found.total == len(found.licenses)
        return [key for key, _ in found.licenses]

    @pytest.mark.parametrize(
        "text",
        [
            "KEY-7",
            "key-7",
            "zoë@",
            "ZOË@Exämple",
            "o'Hara",
            "<B>",
            '"bold"',
            "s7",
            "hw-seventh",
            "Zoë's LAPTOP",
            "second",
        ],
    )
    def test_a_license_is_looked_for_by_any_text_of_it(self, store, text):
        said = {"email": "zoë@exämple.com", "customer_name": 'Zoë O\'Hara <b>"bold"</b>'}
        keep(store, sold(1), sold(7, **said), sold(2))
        bind(store, msgspec.structs.replace(device_line("KEY-7", "HW-SEVENTH"), device_name="Zoë's laptop"))
        bind(store, device_line("KEY-7", "Second-Device", at=1))
        assert self.looked_for(store, text=text) == ["KEY-7"]

    @pytest.mark.parametrize(
        "text", ["customer_name", "purchase_source", "2026-11-20", "is_active", "zoé", "KEY-1\0", "\n"]
    )
    def test_what_only_the_keeping_of_it_says_is_no_text_of_it(self, store, text):
        keep(store, sold(1), sold(2))
        assert self.looked_for(store, text=text) == []

    def test_licenses_are_looked_for_by_their_status_and_product(self, store):
        ended = Grant(product_id="team", license_key="KEY-3", until=NOW - timedelta(days=4))
        graced = Grant(product_id="team", license_key="KEY-4", until=NOW - timedelta(days=2))
        for number, grant in ((3, ended), (4, graced)):
            keep(store, entry(EventKind.SALE, f"s{number}:sale", grant, said={"sale_id": f"s{number}"}))
        keep(store, sold(1), sold(2))
        keep(store, entry(EventKind.REFUND, "s2:refund", said={"sale_id": "s2"}))
        assert self.looked_for(store, status="suspended") == ["KEY-2"]
        assert self.looked_for(store, status="expired") == ["KEY-3"]
        assert self.looked_for(store, status="active", product_id="team") == ["KEY-4"]
        assert self.looked_for(store, status="active", text="key-1") == ["KEY-1"]
        assert self.looked_for(store, status="banned") == []

    def test_a_page_goes_on_behind_the_license_that_the_one_before_ended_with(self, store, another):
        days = {number: NOW - timedelta(days=number % 4) for number in range(1, 11)}
        keep(store, *(sold(number, purchase_date=day) for number, day in days.items()))
        newest = sorted(days, key=lambda number: (days[number], f"KEY-{number}"), reverse=True)
        for one in (store, another()):
            found: list[str] = []
            while (
                len(page := one.find_licenses(Wanted(), NOW, license_id(found[-1]) if found else "", 3).licenses) == 3
            ):
                found += [key for key, _ in page]
            assert [*found, *(key for key, _ in page)] == [f"KEY-{number}" for number in newest]
            assert one.find_licenses(Wanted(), NOW, license_id("KEY-5"), 2).total == 10
            one.tidy(force=True)

    def test_the_device_log_is_read_from_its_end(self, store, another):
        assert list(store.scan_devices()) == []
        keep(store, sold(1))
        bind(store, device_line("KEY-1", "a"), device_line("KEY-1", "b", at=1))
        bind(store, device_line("KEY-1", "a", DeviceEvent.DEACTIVATION, at=2))
        told = [(line.event, line.hardware_id) for line in another().scan_devices()]
        assert told == [("deactivation", "a"), ("activation", "b"), ("activation", "a")]

    def test_letters_are_found_by_the_keys_that_they_speak_of(self, store, another):
        box = store.letterbox
        assert box.letters_about(["KEY-1"]) == []
        one, two = (
            msgspec.structs.replace(letter(name), license_key=key) for name, key in (("1", "KEY-1"), ("2", "KEY-2"))
        )
        box.enqueue([one, two, letter("3"), Letter(id="covers", covers=START)])
        box.enqueue([msgspec.structs.replace(one, state="sent")])
        assert [(a.id, a.state) for a in another().letterbox.letters_about(["KEY-1"])] == [("1", "sent")]
        assert [a.id for a in box.letters_about({"KEY-2", "KEY-1"})] == ["1", "2"]
        assert box.letters_about(["KEY"]) == box.letters_about([]) == []

    # ------------------------------------------------------------------------------------------------ devices
    def test_device_lines_are_kept_in_order_for_each_license(self, store, another):
        keep(store, sold(1), sold(2))
        bind(store, device_line("KEY-1", "a"), device_line("KEY-2", "x"), device_line("KEY-1", "b", at=1))
        store.tidy(force=True)
        bind(store, device_line("KEY-1", "a", DeviceEvent.DEACTIVATION, at=2), device_line("KEY-1", "c", at=3))
        for reader in (store, another()):
            lines = reader.device_lines("KEY-1")
            assert [(line.event, line.hardware_id) for line in lines] == [
                ("activation", "a"),
                ("activation", "b"),
                ("deactivation", "a"),
                ("activation", "c"),
            ]
            assert [line.seq for line in lines] == [1, 3, 4, 5]
            license = reader.find_license("KEY-1")
            assert license is not None
            assert (license.hardware_id, [device.hardware_id for device in license.devices]) == ("b", ["c"])

    def test_devices_bound_before_their_license_was_heard_of_are_kept(self, store, another):
        keep(store, sold(2))  # devices beside a ledger that is empty are no shop that may be opened
        bind(store, device_line("KEY-1", "early"))
        store.tidy(force=True)
        keep(store, sold(1))
        for reader in (store, another()):
            license = reader.find_license("KEY-1")
            assert license is not None
            assert license.hardware_id == "early"

    def test_a_reset_releases_all_devices(self, store):
        keep(store, sold(1))
        bind(store, device_line("KEY-1", "a"), device_line("KEY-1", "b"), device_line("KEY-1", None, DeviceEvent.RESET))
        license = store.find_license("KEY-1")
        assert license is not None
        assert license.devices_used == 0

    # ------------------------------------------------------------------------------------------------ purchases
    def test_the_history_of_a_purchase_is_all_that_is_linked_to_it(self, store, another):
        keep(
            store,
            sold(1, subscription_id="sub"),
            sold(2),
            entry(EventKind.RENEWAL, "s3:sale", said={"sale_id": "s3", "subscription_id": "sub"}),
            entry(EventKind.REFUND, "s3:refund", said={"sale_id": "s3"}),
            entry(EventKind.OWNER_SUSPEND, "owner:1", said={"source": "owner"}, license_keys=("KEY-1",)),
            entry(EventKind.DISPUTE, "s1:dispute", said={"sale_id": "s1", "source": "stripe"}),
        )
        store.tidy(force=True)
        keep(
            store,
            entry(EventKind.CANCELLATION, "sub:cancel", said={"subscription_id": "sub"}),
            entry(EventKind.REFUND, "x:refund", said={"sale_id": "x", "links": ("s1-link",)}),
        )
        whole = ["s1:sale", "s3:sale", "s3:refund", "owner:1", "sub:cancel"]
        for reader in (store, another()):
            for name in ("sale\0gumroad\0s1", "sale\0gumroad\0s3", "subscription\0gumroad\0sub", "KEY-1"):
                assert told(reader.history([name])) == whole
            assert told(reader.history(["sale\0gumroad\0s2"])) == ["s2:sale"]
            assert told(reader.history(["sale\0gumroad\0s1-link"])) == ["x:refund"]
            assert told(reader.history(["sale\0stripe\0s1", "KEY-2"])) == ["s2:sale", "s1:dispute"]
            assert reader.history(["sale\0gumroad\0s", "s1", "", "ann@example.com"]) == []

    def test_a_subscription_that_is_named_later_joins_what_was_apart(self, store, another):
        renewal = entry(EventKind.RENEWAL, "s2:sale", said={"sale_id": "s2", "subscription_id": "sub"})
        keep(store, sold(1), renewal)
        assert told(store.history(["sale\0gumroad\0s1"])) == ["s1:sale"]
        store.tidy(force=True)
        both = {"sale_id": "s1", "subscription_id": "sub"}
        keep(store, entry(EventKind.SUBSCRIPTION_UPDATED, "sub:update", said=both))
        for reader in (store, another()):
            for name in ("sale\0gumroad\0s1", "sale\0gumroad\0s2", "KEY-1"):
                assert told(reader.history([name])) == ["s1:sale", "s2:sale", "sub:update"]

    def test_a_replaced_key_leads_to_its_purchase_as_the_new_one_does(self, store, another):
        new = Grant(product_id="wave", license_key="NEW-1", replaces="KEY-1")
        keep(store, sold(1), entry(EventKind.OWNER_REISSUE, "owner:1", new, said={"source": "owner"}))
        for reader in (store, another()):
            assert told(reader.history(["NEW-1"])) == told(reader.history(["KEY-1"])) == ["s1:sale", "owner:1"]
            found = dict(reader.licenses())
            assert (found["KEY-1"].inactive_reason, found["NEW-1"].is_active) == ("revoked", True)

    def test_the_newest_revision_of_an_event_is_found(self, store, another):
        keep(store, entry(EventKind.SALE, "s1:sale", said={"sale_id": "s1"}))
        store.tidy(force=True)
        mended = entry(EventKind.OWNER_FULFIL, "s1:sale", Grant(product_id="wave", license_key="KEY-1"), revision=1)
        keep(store, mended, entry(EventKind.SALE, "s1:sale", said={"source": "stripe"}))
        for reader in (store, another()):
            found = reader.find_event(event_name("gumroad", "s1:sale"))
            assert found is not None
            assert (found.revision, found.event) == (1, "owner_fulfil")
            assert reader.find_event(event_name("gumroad", "s1:sal")) is None
            assert reader.find_event(event_name("paddle", "s1:sale")) is None

    def test_the_ledger_is_read_in_order_from_any_mark_on(self, store):
        keep(store, *(sold(number) for number in range(1, 6)))
        ((mark, whole),) = store.entries(START)
        assert told(whole) == [f"s{number}:sale" for number in range(1, 6)]
        assert mark.seq == 5
        assert list(store.entries(mark)) == []
        keep(store, sold(6))
        ((later, rest),) = store.entries(mark)
        assert (told(rest), later.seq) == (["s6:sale"], 6)

    def test_the_ledger_is_scanned_as_a_narrower_type_either_way_round(self, store):
        keep(store, sold(1), sold(2), sold(3))
        assert list(store.scan(Sold)) == [Sold("s1:sale", 1), Sold("s2:sale", 2), Sold("s3:sale", 3)]
        assert [line.seq for line in store.scan(Sold, newest_first=True)] == [3, 2, 1]

    def test_the_ledger_is_scanned_below_a_line(self, store):
        keep(store, *map(sold, range(1, 41)))
        for below, expected in ((1, []), (2, [1]), (3, [2, 1]), (40, list(range(39, 0, -1))), (99, range(40, 0, -1))):
            assert [line.seq for line in store.scan(Sold, newest_first=True, below=below)] == list(expected)
            assert [line.seq for line in store.scan(Sold, below=below)] == sorted(expected)

    def test_the_lines_that_name_an_address_are_found_whoever_owns_the_license_now(self, store, another):
        keep(store, sold(1, email="Zoë@Example.com"), sold(2, email="bob@example.com"))
        keep(store, entry(EventKind.PENDING, "p1", said={"email": "zoë@example.COM ", "sale_id": "p1"}))
        keep(store, sold(3, email=None), sold(4, email="zoë@example.com.org"))
        for reader in (store, another()):
            assert [line.seq for line in reader.told_of(" ZOË@example.com")] == [1, 3]
            assert reader.told_of("ann@example.com") == []
        store.tidy(force=True)
        assert [line.seq for line in store.told_of("zoë@example.com")] == [1, 3]

    # ------------------------------------------------------------------------------------------------ the rest
    def test_validations_are_counted(self, store, another):
        keep(store, sold(1), sold(2))
        store.count_usage("KEY-1", NOW)
        store.count_usage("KEY-1", NOW + timedelta(hours=1), times=3)
        store.count_usage("nobody", NOW)
        store.tidy(force=True)
        store.count_usage("KEY-1", NOW + timedelta(hours=2))
        other = another()
        other.count_usage("KEY-1", NOW + timedelta(hours=3))
        other.tidy(force=True)
        store.tidy(force=True)
        for reader in (store, another()):
            assert counted(reader) == {"KEY-1": 6, "KEY-2": 0}
            assert [license.last_validation for _, license in sorted(reader.licenses(), key=lambda pair: pair[0])] == [
                NOW + timedelta(hours=3),
                None,
            ]

    def test_tidying_leaves_nothing_due_and_changes_nothing(self, store):
        keep(store, sold(1))
        bind(store, device_line("KEY-1", "a"))
        before = records(store)
        store.tidy(force=True)
        assert store.tidy() is None
        assert records(store) == before

    def test_the_state_counts_licenses_and_lines(self, store, another):
        keep(store, sold(1), sold(2), entry(EventKind.REFUND, "s1:refund", said={"sale_id": "s1"}))
        for reader in (store, another()):
            state = reader.state(probe=True)
            assert (state.licenses, state.ledger_lines, state.trouble) == (2, 3, None)

    @pytest.mark.parametrize("number", [3, 400])
    def test_a_rebuild_gives_the_same_licenses_as_the_live_ones(self, store, another, number):
        keep(store, *(sold(at) for at in range(1, number + 1)))
        bind(store, device_line("KEY-1", "a"), device_line("KEY-2", "b"))
        store.tidy(force=True)
        keep(store, entry(EventKind.REFUND, "s2:refund", said={"sale_id": "s2"}))
        bind(store, device_line("KEY-1", "a", DeviceEvent.DEACTIVATION))
        live = records(store)
        assert store.rebuild() == number
        assert records(store) == live
        assert records(another()) == live
        assert (len(live), live["KEY-2"]["is_active"], live["KEY-2"]["hardware_id"]) == (number, False, "b")

    def test_an_inspection_of_sound_books_finds_nothing(self, store):
        keep(store, sold(1), sold(2))
        bind(store, device_line("KEY-1", "a"))
        assert [finding for finding in store.inspect() if not finding.is_note] == []
        store.tidy(force=True)
        assert [finding for finding in store.inspect() if not finding.is_note] == []

    # ------------------------------------------------------------------------------------------------ letters
    def test_the_newest_state_of_each_letter_counts(self, store, another):
        box, other = store.letterbox, another().letterbox
        with box.turn():
            box.write([letter("1"), letter("2"), letter("3"), letter("4")])
            box.write([letter("1", "sent"), letter("2", "failed"), letter("3", "dead")])
        for reader in (box, other):
            assert [found.id for found in reader.waiting()] == ["2", "4"]
            assert [found.id for found in reader.dead()] == ["3"]
            assert {found.id: found.state for found in reader.letters()} == {
                "1": "sent",
                "2": "failed",
                "3": "dead",
                "4": "queued",
            }
            assert {state: count for state, count in reader.counts().items() if count} == {
                "sent": 1,
                "failed": 1,
                "dead": 1,
                "queued": 1,
            }
        other.enqueue([letter("3", "queued"), letter("5")])
        assert [found.id for found in box.waiting()] == ["2", "4", "3", "5"]
        assert list(box.dead()) == []

    def test_letters_are_told_from_the_one_that_was_written_last(self, store, another):
        box = store.letterbox
        assert (list(box.newest()), box.named(["1"])) == ([], {})
        with box.turn():
            box.write([letter("1"), letter("2"), letter("3"), letter("4")])
            box.write([letter("2", "sent"), Letter(id="covers", covers=Mark(10, 1, "a")), letter("1", "failed")])
            box.write([letter("5:\u2028<ö>")])
        for reader in (box, another().letterbox):
            assert [one.id for one in reader.newest()] == ["5:\u2028<ö>", "1", "2", "4", "3"]
            assert [(one.id, one.state) for one in reader.newest("queued")] == [
                ("5:\u2028<ö>", "queued"),
                ("4", "queued"),
                ("3", "queued"),
            ]
            assert [one.id for one in reader.newest("failed")] == ["1"]
            named = reader.named(["2", "5:\u2028<ö>", "covers", "nobody", ""])
            assert {name: one.state for name, one in named.items()} == {"2": "sent", "5:\u2028<ö>": "queued"}
            assert next(reader.newest()).to == "ann@example.com"
            assert [one.id for one in reader.newest(skip=2)] == ["2", "4", "3"]
            assert [one.id for one in reader.newest("queued", skip=1)] == ["4", "3"]
            assert list(reader.newest(skip=9)) == []

    def test_notes_are_kept_beside_the_letters(self, store, another):
        with store.letterbox.turn():
            store.letterbox.write([Letter(id="covers", covers=Mark(10, 1, "a"))])
            store.letterbox.write([Letter(id="covers", covers=Mark(20, 2, "b")), letter("1")])
        found = another().letterbox.note("covers")
        assert found is not None
        assert found.covers == Mark(20, 2, "b")
        assert another().letterbox.note("other") is None
        assert [one.id for one in store.letterbox.letters()] == ["1"]

    def test_only_one_has_the_turn_to_send(self, store, another):
        other = another().letterbox
        with store.letterbox.turn(), pytest.raises(StorageUnavailable), other.turn():
            pass
        with other.turn():
            other.write([letter("1")])


class TestFlatFiles(StoreContract):
    def opened(self, place: Path) -> Store:
        return FlatFileStore(place, pace=0.0).open()

    def closed(self, store: Store) -> None:
        assert isinstance(store, FlatFileStore)
        store.close()

    def impatient(self, store: Store) -> None:
        assert isinstance(store, FlatFileStore)
        store.orders._lock.patience = 0
