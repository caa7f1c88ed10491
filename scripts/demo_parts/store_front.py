"""Dorota buys a bundle where the shop itself sells it, pays it at PayU, and gets her money back in two parts."""

from __future__ import annotations

import re
from typing import Any

from scripts.demo_parts.shop import Shop
from scripts.demo_parts.telling import say, show, show_letter, text_of, verdict

BUYER = {"email": "dorota@example.com", "name": "Dorota Example"}
LINK = re.compile(r"^https?://\S+/portal/sign-in/\S+", re.MULTILINE)


def sell_bundle(shop: Shop) -> None:
    say("Dorota orders the Studio bundle at your own store front: POST /api/v1/checkout/initiate")
    order = shop.post("checkout/initiate", {"package_ids": ["studio"], "payment_provider": "payu", **BUYER})
    show(f"order {order['order_number']}: {order['amount']} {order['currency']}, {order['status']}")
    show(f"she pays at {order['payment_url']}")
    payu_id = pay(shop, order)
    receive_letter(shop)
    say("PayU tells it again: the same two licenses, and no second letter")
    show(f"PayU's notice: answered {shop.payu.deliver(shop.payu.notice(payu_id), payu_id)}")
    show_licenses(shop)
    say("You give her a part back: POST /api/v1/orders/<order>/refund; it counts when PayU has confirmed it")
    give_back(shop, order, payu_id, amount="49.00")
    say("Then all the rest, and both licenses are suspended")
    give_back(shop, order, payu_id)
    show(f"letter: {shop.letter()['Subject']}")


def pay(shop: Shop, order: dict[str, Any]) -> str:
    """PayU's own id of the order."""
    say("She pays on the page of PayU (a stand-in of the tests), whose signed notice is there before she is back")
    (payu_id,) = shop.payu.orders
    shop.visit(order["payment_url"])
    place, page = shop.visit(f"{shop.payu.url}/pay/{payu_id}", "choice=pay")
    show(f"PayU's notice: answered {shop.payu.delivered[-1][1]}")
    show(f"she is back at {place}, which shows {sum(key in page for key in licenses(shop))} license keys")
    show_order(shop, order)
    return payu_id


def receive_letter(shop: Shop) -> None:
    say("One letter brings both licenses, and a new customer's link to her account")
    letter = shop.letter()
    show_letter(letter)
    say("She follows the link and presses its button: there are her order and her licenses")
    if link := LINK.search(text_of(letter)):
        shop.visit(link[0], "")
    for order in shop.send("me/orders")["orders"]:
        show(f"order {order['order_number']}: {order['status']}")
    say("She starts both apps")
    show_licenses(shop)


def give_back(shop: Shop, order: dict[str, Any], payu_id: str, **asked: str) -> None:
    refund = shop.post(f"orders/{order['order_id']}/refund", asked, **shop.owner)
    show(f"{refund['amount']} {refund['currency']}: {refund['refund_status']}; the order is still {refund['status']}")
    shop.payu.settle(payu_id)
    show(f"PayU's confirmation: answered {shop.payu.deliver(shop.payu.refund_notice(payu_id), payu_id)}")
    show_order(shop, order)
    show_licenses(shop)


# ---------------------------------------------------------------------------------------------------- what is shown
def show_order(shop: Shop, order: dict[str, Any]) -> None:
    stands = shop.send(f"checkout/order/{order['order_id']}")
    refunded = f", {stands['refunded_amount']} given back" if float(stands["refunded_amount"]) else ""
    show(f"order {stands['order_number']}: {stands['status']}{refunded}")


def show_licenses(shop: Shop) -> None:
    """As her apps find them."""
    for key, product in licenses(shop).items():
        show(verdict(product, shop.ask("validate", license_key=key, hardware_id="laptop-D")))


def licenses(shop: Shop) -> dict[str, str]:
    """Her keys with their products, as the owner's API tells them."""
    found = shop.send(f"licenses?email={BUYER['email']}", headers=shop.owner)["licenses"]
    return {one["license_key"]: one["product_id"] for one in sorted(found, key=lambda one: str(one["product_id"]))}
