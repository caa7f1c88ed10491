"""An example of every body and every answer, made of its schema and of what a field of that name holds."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

KEY = "1XSP9F-DA8C12-7AF57V-AA3V5F-G0MQMD"
_MOMENT = "2026-11-20T18:31:57Z"
_LICENSE_ID, _ORDER_ID = "lic_97fd713d8966ef056896", "K7Q2M4X9P1R8T5V3W6Z0"
HELD: Json = {
    "amount": "29.99",
    "attempts": 1,
    "category": "tools",
    "code": "VALID",
    "compared": 1,
    "createdAt": _MOMENT,
    "csrf_token": "NmI0ZmE2",
    "currency": "usd",
    "customer_name": "Ann Example",
    "detail": "is valid",
    "devices_used": 1,
    "device_name": "Laptop",
    "duration": 30,
    "duration_days": 30,
    "email": "ann@example.com",
    "error": None,
    "event": "sale",
    "event_id": "first-sale==:sale:false",
    "expiry_date": None,
    "expiresAt": 1798761600000,
    "features": ["batch"],
    "hardware_id": "pc-1",
    "id": _LICENSE_ID,
    "kid": "3f1c9a6b2d7e4850",
    "kind": "delivery",
    "ledger_lines": 17,
    "license": KEY,
    "license_file": "-----BEGIN LICENSE FILE-----\nZXhhbXBsZQ==\n-----END LICENSE FILE-----\n",
    "license_ids": [_LICENSE_ID],
    "license_key": KEY,
    "license_keys": [KEY],
    "max_devices": 1,
    "method": "POST",
    "name": "ImageWave Converter",
    "next_cursor": None,
    "next_due": None,
    "note": "a friend of the house",
    "number": 1,
    "oldest_waiting_seconds": None,
    "order_id": _ORDER_ID,
    "order_number": "ORD-20261128-7QX2",
    "outcome": "issued",
    "package_id": "imagewave",
    "package_ids": ["imagewave"],
    "payment_provider": "stripe",
    "payment_url": "https://checkout.stripe.com/c/pay/cs_live_a1",
    "pem": "-----BEGIN PUBLIC KEY-----\nZXhhbXBsZQ==\n-----END PUBLIC KEY-----\n",
    "price": "29.99",
    "prices": {"usd": "29.99"},
    "product": "imagewave",
    "product_id": "imagewave",
    "product_name": "ImageWave Converter",
    "public_key": "ZXhhbXBsZQ==",
    "purchase_id": "first-sale==",
    "purchase_source": "gumroad",
    "quantity": 1,
    "refund_id": "r1",
    "sale_id": "first-sale==",
    "seq": 17,
    "slug": "imagewave",
    "source": "gumroad",
    "state": "sent",
    "status_url": f"https://licenses.example.com/order/{_ORDER_ID}",
    "storage": "flat files",
    "tier": "pro",
    "to": "ann@example.com",
    "userEmail": "ann@example.com",
    "userId": "u1",
    "valid": True,
    "verdict": "gumroad since 2026-11-01: 1 charge and 0 other events compared; the ledger agrees",
    "version": "1.0.0",
}


def example_of(schema: Json, components: Json, name: str = "") -> Any:
    """A value of this schema. What HELD says of the field's name goes before, where the schema allows it."""
    if "$ref" in schema:
        return example_of(components[schema["$ref"].rpartition("/")[2]], components, name)
    if name in HELD and allows(schema, HELD[name]):
        return HELD[name]
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return example_of(next(one for one in schema["anyOf"] if one != {"type": "null"}), components, name)
    return _of_type(schema, components)


def allows(schema: Json, value: Any) -> bool:
    """By the kinds of values alone; `tests/web/test_openapi.py` holds all examples against their schemas."""
    if "anyOf" in schema:
        return any(allows(one, value) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return value in schema.get("enum", [schema.get("const")])
    if schema.get("format") == "date-time":
        return False
    kinds = {str: "string", bool: "boolean", int: "integer", list: "array", dict: "object", type(None): "null"}
    return "$ref" not in schema and schema.get("type") == kinds[type(value)]


def _of_type(schema: Json, components: Json) -> Any:
    kind = schema.get("type")
    if kind == "object":
        return _object(schema, components)
    if kind == "array":
        items = schema.get("prefixItems") or ([schema["items"]] if schema.get("items") else [])
        return [example_of(one, components) for one in items]
    if kind == "string":
        return _MOMENT if schema.get("format") == "date-time" else "a word"[: schema.get("maxLength", 6)]
    return {"integer": schema.get("minimum", 0), "number": 0.5, "boolean": False}.get(str(kind))


def _object(schema: Json, components: Json) -> Json:
    """The fields that are always there, and those that one would fill in where none is."""
    fields = schema.get("properties", {})
    shown = schema.get("required") or [name for name in fields if name in HELD]
    if not fields and isinstance(more := schema.get("additionalProperties"), dict):
        return {"usd": example_of(more, components)}
    return {name: example_of(fields[name], components, name) for name in shown}
