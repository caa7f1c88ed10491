"""The site of `deployment/nginx`, in a real nginx with a certificate of its own, before a real gunicorn."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from stripe import WebhookSignature

from tests.acceptance.servers import PATIENCE, ROOT, Answer, Server, free_port
from tests.conftest import SECRET, form, sale_ping

SITE = ROOT / "deployment" / "nginx" / "keyledger.conf"
NAME = "licenses.example.com"
STRIPE = "whsec_of_the_tests_1234"
LIMIT = 20  # in an hour
FORM = "application/x-www-form-urlencoded"
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")

pytestmark = pytest.mark.system
if NGINX is None and os.environ.get("NGINX_TESTS") != "required":
    pytest.skip("no nginx here: apt install nginx", allow_module_level=True)


class Proxy:
    """nginx, with the site as it is but for its ports, its certificate and where it logs."""

    def __init__(self, folder: Path, upstream: str) -> None:
        self.folder, self.plain_port, self.port = folder, free_port(), free_port()
        self.access, self.errors = folder / "access.log", folder / "error.log"
        make_certificate(folder)
        changes = {
            "127.0.0.1:8000": upstream,
            "    listen [::]:80;\n": "",
            "    listen [::]:443 ssl;\n": "",
            "listen 80;": f"listen 127.0.0.1:{self.plain_port};",
            "listen 443 ssl;": f"listen 127.0.0.1:{self.port} ssl;",
            f"/etc/letsencrypt/live/{NAME}": str(folder),
            "/var/log/nginx/keyledger.log": str(self.access),
            "/var/log/nginx/keyledger-error.log": str(self.errors),
        }
        site = SITE.read_text()
        for old, new in changes.items():
            assert site.count(old) >= 1, old
            site = site.replace(old, new)
        (folder / "site.conf").write_text(site)
        (folder / "nginx.conf").write_text(self._frame())
        self.trust = ssl.create_default_context(cafile=folder / "fullchain.pem")
        self._process: subprocess.Popen[bytes] | None = None

    def _frame(self) -> str:
        kinds = "client_body proxy fastcgi uwsgi scgi".split()
        folders = "".join(f"{kind}_temp_path {self.folder}/{kind};\n" for kind in kinds)
        user = "user root;" if os.geteuid() == 0 else ""
        return (
            f"{user} worker_processes 1; daemon off; pid {self.folder}/pid; error_log {self.folder}/main.log;\n"
            f"events {{}}\nhttp {{\n{folders}access_log off;\ninclude {self.folder}/site.conf;\n}}\n"
        )

    def start(self) -> Proxy:
        command = [str(NGINX), "-e", str(self.folder / "main.log"), "-p", str(self.folder), "-c", "nginx.conf"]
        subprocess.run([*command, "-t"], check=True, capture_output=True, timeout=30)
        self._process = subprocess.Popen(command)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self.call("GET", "/health")
            except OSError:
                time.sleep(0.02)
            else:
                return self
        raise AssertionError((self.folder / "main.log").read_text())

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)

    def call(self, method: str, path: str, body: Any = b"", plain: bool = False, **headers: str) -> Answer:
        """By its name and its certificate, which are checked."""
        if plain:
            connection = http.client.HTTPConnection("127.0.0.1", self.plain_port, timeout=15)
        else:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=15, context=self.trust)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {"Host": NAME} | named)
            answered = connection.getresponse()
            return Answer(answered.status, answered.read(), dict(answered.headers))
        finally:
            connection.close()

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return self.call("POST", path, json.dumps(body).encode(), Content_Type="application/json", **headers)

    def lines(self, server: Server, word: str, number: int = 1) -> list[str]:
        """The access log's lines with this word; nginx writes one when the answer has gone."""

        def found() -> list[str]:
            return [line for line in self.access.read_text().splitlines() if word in line]

        assert server.until(lambda: len(found()) >= number)
        return found()


def make_certificate(folder: Path) -> None:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.DNSName(NAME), x509.IPAddress(ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "fullchain.pem").write_bytes(made.public_bytes(Encoding.PEM))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "privkey.pem").write_bytes(private)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {"TRUSTED_PROXIES": "1", "STRIPE_WEBHOOK_SECRET": STRIPE, "APP_URL": f"https://{NAME}"}
    folder = tmp_path_factory.mktemp("behind") / "data"
    running = Server(folder, workers=2, RATE_LIMIT=f"{LIMIT}/hour", **settings).start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def proxy(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    running = Proxy(tmp_path_factory.mktemp("nginx"), f"127.0.0.1:{server.port}").start()
    yield running
    running.stop()


def test_a_sale_comes_through_with_its_secret(proxy, server):
    answered = proxy.call(
        "POST",
        f"/api/v1/webhooks/gumroad?secret={SECRET}",
        form(sale_ping("through-nginx", "ann@example.com", sale_timestamp=server.today.isoformat())),
        Content_Type=FORM,
    )
    assert (answered.status, answered.json["outcome"]) == (200, "issued")
    assert answered.headers["Strict-Transport-Security"]
    assert proxy.post("/api/v1/licenses/validate", {"license_key": answered.json["license_keys"][0]}).json["valid"]


def test_not_a_byte_of_a_body_is_touched(proxy):
    """A signature over blanks, escapes and line ends, and over chunks of whatever size."""
    body = '{ "id": "evt_odd",\r\n\t"type" : "ping.\\u00e9é",  "livemode":true, "data": {"object": {}} }\n'
    header = WebhookSignature.generate_signature_header(body, STRIPE)
    for sent in (body.encode(), (bytes([byte]) for byte in body.encode())):
        answered = proxy.call("POST", "/api/v1/webhooks/stripe", sent, Stripe_Signature=header)
        assert (answered.status, answered.json["outcome"]) == (200, "ignored")
    forged = proxy.call("POST", "/api/v1/webhooks/stripe", body.encode() + b" ", Stripe_Signature=header)
    assert forged.status == 400


def test_a_body_of_more_than_the_limit_is_refused_in_our_words(proxy, server):
    answered = proxy.call("POST", f"/api/v1/webhooks/gumroad?secret={SECRET}", b"x" * (256 * 1024 + 1))
    assert (answered.status, answered.json["errors"][0]["code"]) == (413, "REQUEST_ENTITY_TOO_LARGE")
    straight = server.call("POST", f"/api/v1/webhooks/gumroad?secret={SECRET}", b"x" * (256 * 1024 + 1))
    assert straight.json == answered.json
    whole = proxy.call("POST", "/api/v1/licenses/validate", b" " * (256 * 1024))
    assert whole.status == 400, "the largest that is taken reaches Keyledger"


@pytest.mark.parametrize(
    "path",
    [
        "/data/purchases.jsonl",
        "/data/licenses.json",
        "/data",
        "/.env",
        "/.git/config",
        "/server/settings.py",
        "/shop/../data/licenses.json",
        "/shop/..%2fdata/licenses.json",
        "/%2e%2e/data/licenses.json",
        "//data/licenses.json",
        "/deployment/nginx/keyledger.conf",
    ],
)
def test_no_file_is_served(proxy, path):
    answered = proxy.call("GET", path)
    assert answered.status in (400, 404)
    assert b"purchase" not in answered.body.lower()


def test_the_log_holds_no_secret_and_no_key(proxy, server):
    key = "1XSP9F-DA8C12-7AF57V-AA3V5F-G0MQMD"
    asked = [
        ("/api/v1/webhooks/gumroad?secret=in-the-address", "/api/v1/webhooks/gumroad "),
        ("/portal/sign-in/link-of-somebody", "/portal/sign-in/*** "),
        ("/order/order-of-somebody?claim=in-the-address", "/order/*** "),
        (f"/api/v1/licenses/{key}", "/api/v1/licenses/*** "),
        (f"/api/v1/licenses/{key}/devices", "/api/v1/licenses/*** "),
        ("/api/v1/orders/order-of-somebody", "/api/v1/orders/*** "),
        ("/api/v1/licenses/public-key", "/api/v1/licenses/public-key "),
    ]
    for path, logged in asked:
        request_id = proxy.call("GET", path).headers["X-Request-Id"]
        (line,) = proxy.lines(server, request_id)
        assert f" GET {logged}" in line
        assert line.startswith("127.0.0.1 ")
    told = proxy.access.read_text() + (proxy.errors.read_text() if proxy.errors.exists() else "")
    for word in ("in-the-address", "of-somebody", key, SECRET):
        assert word not in told


def test_one_id_is_in_both_logs_and_in_the_answer(proxy, server):
    answered = proxy.call("GET", "/api/v1/stats", X_Request_Id="chosen-by-the-client")
    request_id = answered.headers["X-Request-Id"]
    assert re.fullmatch("[0-9a-f]{32}", request_id)
    assert server.until(lambda: request_id in server.log.read_text())
    assert "chosen-by-the-client" not in server.log.read_text()


def test_who_asks_is_whom_nginx_sees(proxy, server):
    """All spoofed headers fill one bucket, and it is not another address's."""

    def refused(**headers: str) -> Answer:
        return proxy.post("/api/v1/webhooks/gumroad?secret=wrong-wrong-wrong", {}, **headers)

    for number in range(LIMIT):
        refused(X_Forwarded_For=f"203.0.113.{number}", X_Real_IP=f"203.0.113.{number}")
    assert refused(X_Forwarded_For="198.51.100.7").status == 429
    assert refused(X_Forwarded_For="::1, 10.0.0.1", Forwarded="for=192.0.2.1").status == 429
    elsewhere = server.call("POST", "/api/v1/webhooks/gumroad?secret=wrong", b"", X_Forwarded_For="198.51.100.9")
    assert elsewhere.status == 403, "what nginx tells is what counts: another address has a bucket of its own"
    refusals = [json.loads(x) for x in server.log.read_text().splitlines() if '"webhook refused"' in x]
    assert {line["client"] for line in refusals} == {"127.0.0.1", "198.51.100.9"}


def test_the_name_in_an_answer_is_the_owners(proxy):
    assert proxy.call("GET", "/openapi.json", Host="evil.example").json["servers"] == [{"url": f"https://{NAME}"}]


def test_without_tls_a_page_is_redirected_and_a_webhook_is_not_taken(proxy):
    answered = proxy.call("GET", "/shop?category=tools", plain=True)
    assert (answered.status, answered.headers["Location"]) == (301, f"https://{NAME}/shop?category=tools")
    for path in ("/api/v1/webhooks/gumroad?secret=x", "/ipn?secret=x", "/webhooks/stripe"):
        assert proxy.call("POST", path, plain=True).status == 404
    split = proxy.call("GET", "/shop%0d%0aSet-Cookie:%20a=b", plain=True)
    assert "Set-Cookie" not in split.headers


def test_while_the_service_is_away_platforms_are_told_to_come_again(tmp_path, server):
    """502 is what every platform repeats; and nginx writes no secret into its log of errors, though it holds this for
    critical: no socket at all, as a door that the system shuts, and a disk that is full."""
    proxy = Proxy(tmp_path, f"unix:{tmp_path}/nobody").start()
    try:
        answered = proxy.call("POST", f"/api/v1/webhooks/gumroad?secret={SECRET}", b"sale_id=1")
        assert (answered.status, answered.headers["Retry-After"]) == (502, "30")
        assert answered.json["errors"][0]["code"] == "AWAY"
        too_large = proxy.call("POST", f"/api/v1/webhooks/gumroad?secret={SECRET}", b"x" * 300_000)
        assert too_large.status == 413, "nginx itself refuses it, and before anybody else sees a byte"
        for path, size in (("/api/v1/webhooks/gumroad", 2_000_000), ("/.well-known/acme-challenge/none", 0)):
            assert proxy.call("POST", f"{path}?secret={SECRET}", b"x" * size, plain=True).status in (404, 405, 413)
        assert len(proxy.lines(server, "/api/v1/webhooks/gumroad", 2)) == 2
        assert SECRET not in proxy.errors.read_text() + proxy.access.read_text() + (tmp_path / "main.log").read_text()
    finally:
        proxy.stop()
