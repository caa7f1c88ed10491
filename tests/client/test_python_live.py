"""The Python kit against gunicorn as a user starts it: on, off and on again; and on the ways that lead through TLS."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import keyledger_client as kit
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.acceptance.servers import Server
from tests.client.between import Between
from tests.client.computers import Windows
from tests.conftest import Shop
from tests.signed_answers import SEED, public_keys

KIT = Path(kit.__file__).parent
EACH = """
import sys
sys.path.insert(0, sys.argv[1])
import keyledger_client as kit
kit.LOCK_PATIENCE = 60
client = kit.LicenseClient(sys.argv[2], "wave", sys.argv[3], sys.argv[4], timeout=60)
results = [client.activate(sys.argv[5]), client.validate(), client.status()]
print([result.state for result in results], results[0].seats_used)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live") / "data"
    running = Server(folder, workers=2, SIGNING_KEY=base64.b64encode(SEED).decode()).start()
    yield running
    running.stop()


def test_a_life_with_a_server_that_comes_and_goes(server, tmp_path, monkeypatch):
    monkeypatch.setattr(kit, "_pause", lambda seconds: None)
    (public,) = public_keys(server.get("/api/v1/licenses/public-key").json).values()
    options = {"public_key": base64.b64encode(public).decode(), "state_dir": tmp_path / "desk", "system": Windows()}
    options["timeout"] = 60
    client = kit.LicenseClient(f"http://127.0.0.1:{server.port}", "wave", **options)
    key = server.sale("s1")
    result = client.activate(key)
    assert (result.valid, result.state, result.source, result.activated) == (True, "valid", "online", True)
    assert (client.validate().source, client.status().state) == ("online", "valid")
    server.stop()
    for result in (client.validate(), client.status()):
        assert (result.valid, result.state, result.source) == (True, "grace", "offline")
    other = kit.LicenseClient(f"http://127.0.0.1:{server.port}", "wave", **options | {"state_dir": tmp_path / "other"})
    assert (other.activate(key).valid, other.activate(key).state) == (False, "unreachable")
    server.start()
    assert client.validate().state == "valid"
    assert client.deactivate().state == "unlicensed"
    assert other.activate(key).activated is True


def test_processes_of_one_app_at_once(server, tmp_path):
    """On this very machine, by its own parts, with one folder; each activates, so that each writes."""
    (public,) = public_keys(server.get("/api/v1/licenses/public-key").json).values()
    given = [str(KIT), f"http://127.0.0.1:{server.port}", base64.b64encode(public).decode(), str(tmp_path / "state")]
    command = [sys.executable, "-I", "-S", "-W", "error", "-c", EACH, *given, server.sale("s2")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=90)[0] for process in processes] == ["['valid', 'valid', 'valid'] 1\n"] * 3


# ------------------------------------------------------------------------------------------------ TLS, and a proxy
@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """For localhost, of nobody that anybody trusts."""
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def secured(tmp_path, clock, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    standing = Between(Shop(tmp_path / "data", clock, signing_key=(SEED,)), tls=context)
    yield standing
    standing.stop()


def client_of(secured, tmp_path, clock, **more) -> kit.LicenseClient:
    public = base64.b64encode(secured.shop.services.signing.get_key().public_key).decode()
    return kit.LicenseClient(
        secured.url, "wave", public, tmp_path / "desk", clock=clock, system=Windows(), timeout=60, **more
    )


@pytest.fixture
def no_proxy(monkeypatch):
    monkeypatch.setattr(kit, "_pause", lambda seconds: None)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def test_over_https(secured, tmp_path, clock, certificate, no_proxy):
    trusting = ssl.create_default_context(cafile=certificate)
    assert client_of(secured, tmp_path, clock, ssl_context=trusting).activate(secured.shop.sale()).valid


def test_a_certificate_that_nobody_trusts_is_no_server_of_ours(secured, tmp_path, clock, no_proxy):
    result = client_of(secured, tmp_path, clock).activate(secured.shop.sale())
    assert (result.valid, result.state, result.code) == (False, "unreachable", "NO_CONNECTION")
    assert "CERTIFICATE_VERIFY_FAILED" in result.detail
    assert secured.heard == []


class Proxy:
    """Takes CONNECT, and carries bytes to where it leads."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> None:
        self.answer, self.asked = answer, list[str]()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listening.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                taken, _ = self.listening.accept()
            except OSError:
                return
            asked = taken.recv(65536).decode()
            self.asked.append(asked)
            taken.sendall(self.answer)
            if b" 200 " not in self.answer:
                taken.close()
                continue
            host, port = asked.split(" ")[1].rsplit(":", 1)
            there = socket.create_connection((host, int(port)))
            for one, other in ((taken, there), (there, taken)):
                threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            other.close()

    def stop(self) -> None:
        self.listening.close()


def test_through_the_systems_proxy(secured, tmp_path, clock, certificate, no_proxy):
    proxy = Proxy()
    no_proxy.setenv("https_proxy", f"http://ann:p%40ss@{proxy.address}")
    client = client_of(secured, tmp_path, clock, ssl_context=ssl.create_default_context(cafile=certificate))
    assert client.activate(secured.shop.sale()).valid
    (asked,) = proxy.asked
    assert asked.startswith(f"CONNECT localhost:{secured.server.server_port} HTTP/1.1\r\n")
    login = base64.b64encode(b"ann:p@ss").decode()
    assert f"\r\nProxy-Authorization: Basic {login}\r\n" in asked
    no_proxy.setenv("no_proxy", "localhost")
    assert client.validate().state == "valid"
    assert len(proxy.asked) == 1
    proxy.stop()


@pytest.mark.parametrize("proxy", ["http://ann:pa/ss@proxy:8080", "http://ann:pass@proxy:http", "http://[proxy:8080"])
def test_a_proxy_that_was_misspelt_is_no_answer_and_its_password_is_not_told(secured, tmp_path, clock, no_proxy, proxy):
    no_proxy.setenv("https_proxy", proxy)
    result = client_of(secured, tmp_path, clock).activate("ANY-KEY")
    assert (result.valid, result.state, result.code) == (False, "unreachable", "NO_CONNECTION")
    assert result.detail == "OSError: the proxy's address makes no sense"


def test_a_proxy_that_refuses_is_no_answer(secured, tmp_path, clock, no_proxy):
    proxy = Proxy(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    no_proxy.setenv("https_proxy", f"http://{proxy.address}")
    result = client_of(secured, tmp_path, clock).activate("ANY-KEY")
    assert (result.valid, result.state, result.code) == (False, "unreachable", "NO_CONNECTION")
    assert "407" in result.detail
    proxy.stop()
