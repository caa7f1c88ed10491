"""The described API: every route and no other, examples that are true, a page that needs nothing from elsewhere."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest
from openapi_spec_validator import validate

from server.platforms import PLATFORMS
from server.web.openapi import CODES
from server.web.operations import OPERATIONS
from server.web.responses import STATUS
from tests.conftest import Shop

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    from tests.conftest import Clock

    answered = Shop(tmp_path_factory.mktemp("api") / "data", Clock()).client.get("/openapi.json")
    assert (answered.status_code, answered.mimetype) == (200, "application/json")
    return answered.json


def routes(app) -> set[tuple[str, str]]:
    """What the application answers, with each platform by its name; but not the owner's own pages."""
    found = set()
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith(("/admin", "/static/")):
            continue
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule.replace("<name>", "{license}"))
        path = path.replace("{package_name}", "{package}")
        by_post = [name for name, platform in PLATFORMS.items() if "POST" in platform.methods]
        for platform in by_post if "webhooks/{platform}" in path else [""]:
            methods = rule.methods - {"HEAD", "OPTIONS"}
            found |= {(method.lower(), path.replace("{platform}", platform or "{platform}")) for method in methods}
    return found


def test_it_is_openapi(told):
    validate(told)
    assert told["openapi"].startswith("3.1")


def test_every_route_is_in_it_and_nothing_else(shop, told):
    described = {(method, path) for path, methods in told["paths"].items() for method in methods}
    assert described == routes(shop.app) == set(OPERATIONS)


def test_what_asks_for_the_owners_token_is_what_says_so(shop, told):
    for method, path in OPERATIONS:
        asked = {"email": "ann@example.com"} if path.endswith("portal/sign-in") else {}
        answered = shop.client.open(re.sub("{\\w+}", "1", path), method=method, json=asked)
        by_token = {"owner": []} in told["paths"][path][method].get("security", [])
        is_refused = answered.status_code == 401 and answered.headers["WWW-Authenticate"] == "Bearer"
        assert is_refused == by_token, path
        by_session = {"customer": []} in told["paths"][path][method].get("security", [])
        if by_session and path.startswith("/api/"):
            assert (answered.status_code, answered.headers["WWW-Authenticate"]) == (401, "Cookie"), path


@pytest.mark.parametrize(
    ("name", "field", "bound"),
    [
        ("ValidateRequest", "license_key", 128),
        ("ActivateRequest", "hardware_id", 256),
        ("ValidateRequest", "device_name", 128),
        ("DeactivateRequest", "nonce", 128),
        ("IssueRequest", "email", 254),
        ("ValidateLicenseRequest", "email", 254),
        ("GenerateRequest", "userEmail", 254),
        ("TransferRequest", "email", 254),
    ],
)
def test_it_tells_the_bounds_of_fields(told, name, field, bound):
    schema = told["components"]["schemas"][name]["properties"][field]
    assert bound in [schema.get("maxLength"), *(one.get("maxLength") for one in schema.get("anyOf", ()))]


def test_every_field_of_a_body_is_bounded(told):
    """What has no bound of its own may be as long as a body."""
    loose = []
    for name, schema in told["components"]["schemas"].items():
        for field, one in schema.get("properties", {}).items() if name.endswith("Request") else ():
            texts = [kind for kind in (one, *one.get("anyOf", ())) if kind.get("type") in ("string", "array")]
            loose += [(name, field) for kind in texts if not {"maxLength", "maxItems", "format"} & set(kind)]
    assert loose == []


def test_errors_have_one_shape_and_say_when_to_come_again(told):
    refused = told["paths"]["/api/v1/licenses/validate"]["post"]["responses"]["503"]
    assert refused["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Errors"}
    limits = {"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"}
    assert set(refused["headers"]) == {"X-Request-Id", "Retry-After", *limits}
    assert set(told["components"]["schemas"]["Error"]["required"]) == {"code", "title", "detail"}
    named = {int(s) for methods in told["paths"].values() for one in methods.values() for s in one["responses"]}
    assert {status for status, _ in STATUS.values()} <= named


def test_it_tells_which_answers_are_signed(told):
    signed = {
        path
        for path, methods in told["paths"].items()
        for one in methods.values()
        if "Signature" in one["responses"].get("200", {}).get("headers", {})
    }
    assert signed == {f"/api/v1/licenses/{route}" for route in ("validate", "activate", "deactivate", "file")}


def test_every_body_and_every_json_answer_has_an_example(told):
    lacking = [
        (method, path)
        for path, methods in told["paths"].items()
        for method, one in methods.items()
        for part in (one.get("requestBody", {}), *one["responses"].values())
        for media, content in part.get("content", {}).items()
        if "example" not in content
        and "html" not in media
        and path not in ("/openapi.json", "/api/v1/webhooks/easypaisa")
    ]
    assert lacking == []


def test_every_code_of_an_error_is_told_with_its_status(told):
    """Those of the tree of errors, and those that stand as a word where one is raised."""
    source = "\n".join(path.read_text() for path in (ROOT / "server").rglob("*.py"))
    kinds = "|".join(kind.__name__ for kind in STATUS)
    raised = set(re.findall(rf'(?:{kinds})\(\s*f?"[^"]*", "([A-Z_]+)"\s*\)', source))
    of_the_tree = {kind.code for kind in STATUS}
    assert {"UNKNOWN_TIER", "CSRF", "LIFETIME"} <= raised
    assert raised | of_the_tree <= {code for codes in CODES.values() for code in codes}
    for status, codes in CODES.items():
        answer = told["paths"]["/api/v1/licenses"]["post"]["responses"].get(str(status))
        assert answer is None or all(f"`{code}`" in answer["description"] for code in codes)


def test_the_examples_are_of_the_types_they_stand_for(told):
    contents = [
        content
        for methods in told["paths"].values()
        for one in methods.values()
        for part in (one.get("requestBody", {}), *one["responses"].values())
        for content in part.get("content", {}).values()
        if "example" in content
    ]
    assert len(contents) >= 20
    for content in contents:
        schema = content["schema"] | {"components": told["components"]}
        jsonschema.Draft202012Validator(schema).validate(content["example"])


def test_the_examples_are_those_of_the_readme(told):
    said = told["paths"]["/api/v1/licenses/validate"]["post"]
    (block,) = [text for text in re.findall(r"```json\n(.*?)```", README, re.S) if '"devices_used"' in text]
    assert json.loads(block) == said["responses"]["200"]["content"]["application/json"]["example"]
    key = said["requestBody"]["content"]["application/json"]["example"]["license_key"]
    assert f'"license_key": "{key}"' in README


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/api/v1/licenses/public-key"])
def test_who_has_it_already_is_told_so(shop, path):
    first = shop.client.get(path)
    assert first.headers["Cache-Control"] == "public, max-age=300"
    again = shop.client.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", first.headers["ETag"])


def test_the_address_in_it_is_the_owners_and_never_the_callers(tmp_path, clock):
    shop = Shop(tmp_path / "d", clock, app_url="https://licenses.shop.example")
    for path in ("/openapi.json", "/docs"):
        text = shop.client.get(path, headers={"Host": "evil.example"}).text
        assert "https://licenses.shop.example" in text
        assert "evil.example" not in text


# ---------------------------------------------------------------------------------------------------- the page
class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data


def test_the_page_names_every_route_and_every_type(shop, told):
    page = Page(shop.client.get("/docs").text)
    for method, path in OPERATIONS:
        assert re.search(rf"{method.upper()}\s+{re.escape(path)}\s", page.words)
    for name in told["components"]["schemas"]:
        assert ("section", {"id": f"type-{name}"}) in page.tags
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert len(ids) == len(set(ids))
    assert {link for link in links if link != "/openapi.json"} <= {f"#{id}" for id in ids}


def test_the_page_needs_no_script_and_nothing_from_elsewhere(shop):
    answered = shop.client.get("/docs")
    page = Page(answered.text)
    assert {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "form", "base"} == set()
    assert not any({"src", "style"} & set(attrs) or any(n.startswith("on") for n in attrs) for _, attrs in page.tags)
    assert "@import" not in answered.text
    assert "url(" not in answered.text


def test_the_policy_allows_this_style_alone(shop):
    answered = shop.client.get("/docs")
    (style,) = re.findall(r"<style>(.*?)</style>", answered.text, re.S)
    allowed = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{allowed}'" in answered.headers["Content-Security-Policy"]
    assert "default-src 'none'" in answered.headers["Content-Security-Policy"]
    assert "unsafe" not in answered.headers["Content-Security-Policy"]
