"""The only place that knows concrete classes: settings in, services out. Nothing is opened before `build` is called."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from server.domain.rate import Rate
from server.errors import KeyledgerError, StorageUnavailable
from server.platforms import PLATFORMS, Platform
from server.platforms.base import Checkout
from server.services.attention import Attention
from server.services.audit import PurchaseAuditLog
from server.services.backlog import Backlog
from server.services.caretaker import Caretaker, threads_run
from server.services.catalogue_file import CatalogueFile
from server.services.checkout import Desk
from server.services.customers import Customers
from server.services.deliveries import NOBODY, Deliveries, Reason
from server.services.figures import Figures
from server.services.fulfilment import Fulfilment
from server.services.inquiries import Inquiries
from server.services.letters import DAMAGED
from server.services.license_files import LicenseFiles
from server.services.license_manager import OWNER, LicenseManager
from server.services.license_search import LicenseSearch
from server.services.limits import SLOWER, RateLimits
from server.services.mailer import ConsoleMailer, Mailer, SmtpMailer
from server.services.order_refunds import OrderRefunds
from server.services.outbox import Outbox
from server.services.owner_sign_in import LONGEST, OwnerSignIn
from server.services.packages import Packages
from server.services.payments import Payments
from server.services.receipt import Receipts
from server.services.reconcile_steps import ReconcileSteps
from server.services.second_look import SecondLook
from server.services.settlement import Settlement
from server.services.signing import Signing
from server.settings import Settings, load_settings
from server.storage.base import Store
from server.storage.deliveries import DeliveryTable
from server.storage.durable import refuse_unmoved
from server.storage.flatfile import FlatFileStore
from server.storage.tallies import Tallies

if TYPE_CHECKING:
    from server.storage.postgres import PostgresStore  # its library takes a tenth of a second, and most need none

Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Services:
    settings: Settings
    clock: Clock
    store: Store
    catalogue: CatalogueFile
    platforms: dict[str, Platform]
    fulfilment: Fulfilment
    inquiries: Inquiries
    settlement: Settlement
    reconcile: ReconcileSteps
    packages: Packages
    desk: Desk
    refunds: OrderRefunds
    receipts: Receipts
    licenses: LicenseManager
    search: LicenseSearch
    signing: Signing
    files: LicenseFiles
    outbox: Outbox
    customers: Customers
    payments: Payments
    audit: PurchaseAuditLog
    deliveries: Deliveries
    second_look: SecondLook
    limits: RateLimits | None
    tallies: Tallies
    owner: OwnerSignIn | None
    figures: Figures
    backlog: Backlog
    attention: Attention

    def close(self) -> None:
        """Write at once what is still due; what a killed process leaves undone is redone from the ledger."""
        self.tallies.leave(force=True)
        if self.store.tidy() is not None:
            self.store.tidy(force=True)


def utc_now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def closed_store(settings: Settings) -> FlatFileStore | PostgresStore:
    """The configured store, with nothing read or connected yet."""
    if settings.database_url is None:
        return FlatFileStore(settings.data_dir)
    from server.storage.postgres import PostgresStore

    return PostgresStore(settings.database_url)


def open_store(settings: Settings) -> FlatFileStore | PostgresStore:
    """Raises StartRefused: also where books would be passed over, for an empty database beside them."""
    store = closed_store(settings).open()
    if settings.database_url is not None and not store.state().ledger_lines:
        refuse_unmoved(settings.data_dir)
    return store


def build(settings: Settings | None = None, clock: Clock = utc_now) -> Services:
    """Everything, opened. Raises StartRefused with one line that says what to do."""
    settings = settings or load_settings()
    store = open_store(settings)
    catalogue = CatalogueFile(settings.data_dir / "products.json")
    catalogue.current()  # a broken one is told at the start, not with the first sale
    fulfilment = Fulfilment(store, catalogue, settings.license_secret, clock)
    platforms = {name: made for name, kind in PLATFORMS.items() if (made := kind.from_settings(settings))}
    for platform in platforms.values():
        if isinstance(platform, Checkout):
            platform.use_shelf(store.shelf, clock)
    inquiries = Inquiries(store, platforms, fulfilment, clock)
    settlement = Settlement(store, platforms, inquiries, clock)
    packages = Packages(catalogue)
    licenses = LicenseManager(store, catalogue, fulfilment, clock)
    signing = Signing(settings.signing_key)
    figures = Figures(store, clock, settings.data_dir / "figures.idx" if settings.admin_password_hash else None)
    backlog = Backlog(store, catalogue, fulfilment, figures.waiting)
    deliveries = _deliveries(settings, platforms, clock)
    outbox = Outbox(store, _mailer(settings), catalogue, inquiries, settlement, settings, clock)
    rate, password = Rate.of(settings.rate_limit), settings.admin_password_hash
    longest = max(LONGEST, rate.period * max(SLOWER.values()) if rate else 0)  # of all buckets in the one table
    table = store.limit_table(settings.secret_key[0], longest)
    limits = RateLimits(table, rate, licenses.seats) if rate else None
    return Services(
        settings=settings,
        clock=clock,
        store=store,
        catalogue=catalogue,
        platforms=platforms,
        fulfilment=fulfilment,
        inquiries=inquiries,
        settlement=settlement,
        reconcile=ReconcileSteps(store, platforms, fulfilment, inquiries, settlement, settings.data_dir, clock),
        packages=packages,
        desk=Desk(store, packages, platforms, settings, clock, threads_run()),
        refunds=OrderRefunds(store, platforms, inquiries, settlement, settings.refund_window_days, clock),
        receipts=Receipts(store, catalogue),
        licenses=licenses,
        search=LicenseSearch(store, licenses, (*PLATFORMS, OWNER), clock),
        signing=signing,
        files=LicenseFiles(signing, catalogue),
        outbox=outbox,
        customers=Customers(store, catalogue, outbox, settings, clock),
        payments=Payments(store, catalogue),
        audit=PurchaseAuditLog(store),
        deliveries=deliveries,
        second_look=SecondLook(store, platforms, fulfilment, inquiries, settlement, backlog),
        limits=limits,
        owner=OwnerSignIn(password, settings, store.shelf, table, clock) if password else None,
        figures=figures,
        backlog=backlog,
        attention=Attention(store, settings, catalogue, backlog, outbox, deliveries, limits, clock),
        tallies=Tallies(settings.data_dir / "metrics" if settings.admin_api_key else None),
    )


def open_services(settings: Settings | None = None) -> Services:
    """As `build`, and what is still due when this process ends is written then."""
    services = build(settings)
    atexit.register(services.close)
    return services


def caretakers(services: Services) -> tuple[Caretaker, Caretaker]:
    """Two, so that a mail server that hangs never holds up the view."""
    threads = threads_run()

    def tidy() -> float | None:
        dues = (services.tallies.leave(), services.store.tidy())
        with suppress(KeyledgerError, OSError):
            services.figures.keep()
        return min((due for due in dues if due is not None), default=None)

    def mail() -> float | None:
        with suppress(StorageUnavailable):
            for notice in services.store.state().notices:
                services.outbox.alert(DAMAGED, notice)
        return services.outbox.send_due(limit=None if threads else 1).next_due

    return Caretaker("tidy", tidy, threads), Caretaker("mail", mail, threads)


def _deliveries(settings: Settings, on: Collection[str], clock: Clock) -> Deliveries:
    table = DeliveryTable(settings.data_dir / "webhooks.table", (*PLATFORMS, NOBODY), tuple(Reason))
    return Deliveries(table, on, PLATFORMS, clock)


def _mailer(settings: Settings) -> Mailer:
    """Without threads a worker sends between two requests, so there it must not wait long for a mail server."""
    if settings.email_backend == "console":
        return ConsoleMailer()
    return SmtpMailer(settings, timeout=10.0 if threads_run() else 2.0)
