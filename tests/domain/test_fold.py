"""The short way of the fold says what the long one says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from server.domain import fold as folding
from server.domain.fold import fold
from server.domain.purchase import CHARGES, Entry, EventKind, Grant, Inquiry, Outcome, PurchaseEvent, Standing

texts = st.sampled_from(["", "a", "b"])
maybe_text = st.none() | texts
moments = st.integers(0, 400).map(lambda days: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=days))
maybe_moment = st.none() | moments
grants = st.builds(
    Grant,
    product_id=texts,
    license_key=texts,
    max_devices=st.integers(1, 3),
    until=maybe_moment,
    grace_days=st.integers(0, 5),
    features=st.none() | st.just(("x",)),
    tier=maybe_text,
    replaces=st.none() | st.just("earlier"),
)
said = {
    "event": st.sampled_from(sorted(CHARGES)),
    "sale_id": maybe_text,
    "email": maybe_text,
    "customer_name": maybe_text,
    "purchase_date": maybe_moment,
    "quantity": st.integers(1, 3),
    "is_recurring": st.booleans(),
    "is_refunded": st.booleans(),
    "is_test": st.booleans(),
    "occurred_at": maybe_moment,
    "effective_at": maybe_moment,
    "paid_until": maybe_moment,
    "links": st.lists(st.sampled_from(["a", "c"]), max_size=2).map(tuple),
    "standing": st.none() | st.sampled_from(Standing),
    "is_final": st.booleans(),
    "may_issue": st.booleans(),
    "inquiry": st.none() | st.sampled_from(Inquiry),
    "is_withdrawn": st.booleans(),
}


@st.composite
def entries(draw):
    event = PurchaseEvent(event_id="e", source="gumroad", **draw(st.fixed_dictionaries(said)))
    return Entry(
        **msgspec.structs.asdict(event),
        seq=1,
        timestamp=draw(moments),
        prev=None,
        product_id=None,
        tier=None,
        license_keys=(),
        outcome=Outcome.ISSUED,
        expiry_date=None,
        grants=tuple(draw(st.lists(grants, min_size=1, max_size=2))),
        overrides=draw(st.sampled_from([(), ("e",)])),
        revision=draw(st.integers(0, 1)),
    )


def the_long_way(entry):
    live, charges = folding._latest_revisions([entry]), folding.charge_groups([entry])
    return dict(pair for root in folding._roots(live) for pair in folding._Lineage(root, live, charges).records())


@given(entries())
def test_a_single_entry(entry):
    assert fold([entry]) == the_long_way(entry)


@given(entries())
def test_a_sale_with_a_key_and_a_product_takes_the_short_way(entry):
    grant = Grant(product_id="wave", license_key="k", until=None)
    sale = msgspec.structs.replace(entry, event=EventKind.SALE, grants=(grant,), is_withdrawn=False)
    assert folding._is_plain_sale(sale)
    assert fold([sale]) == the_long_way(sale)
