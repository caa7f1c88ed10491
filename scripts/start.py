"""What `./scripts/server` does once .venv is there: on the first run .env and the data folder; then it says where the
webhooks are, and gunicorn takes this process's place (so that a signal to the script reaches gunicorn). A container,
and systemd, start with this. `--env` prints a .env with fresh secrets, for where none can be written."""

from __future__ import annotations

import base64
import importlib
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from server.errors import SettingsError, StartRefused
from server.platforms import PLATFORMS
from server.settings import ROOT, Settings, load_settings

ENV = ROOT / ".env"


def token() -> str:
    return secrets.token_urlsafe(32)


def signing_seed() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


FRESH: dict[str, Callable[[], str]] = {
    "SECRET_KEY": token,
    "LICENSE_SECRET": token,
    "SIGNING_KEY": signing_seed,
    "ADMIN_API_KEY": token,
    "GUMROAD_WEBHOOK_SECRET": token,
    "JVZOO_WEBHOOK_SECRET": token,
}


def main() -> None:
    os.umask(0o077)  # gunicorn inherits it: nothing that the server writes is for the machine's other users
    new_env = not (ENV.exists() or are_given(os.environ))
    if new_env:
        write_env()
    settings = load_settings()
    prepare(settings.data_dir)
    if new_env:
        print(new_env_notice(settings.data_dir), flush=True)
    rehearse()
    address = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
    print(welcome(settings, f"http://{address}"), flush=True)
    become_gunicorn(address, settings.web_concurrency)


def are_given(environment: Mapping[str, str]) -> bool:
    """Whether what has to be set comes from elsewhere than `.env`, as in a container."""
    return all(environment.get(name) or environment.get(f"{name}_FILE") for name in ("SECRET_KEY", "LICENSE_SECRET"))


def write_env() -> None:
    try:
        put(ENV, env_text(os.environ))
    except OSError as error:
        raise SettingsError(
            f"{ENV} is missing and cannot be written here ({error.strerror}): set SECRET_KEY and LICENSE_SECRET in the "
            "environment. `scripts/start.py --env` prints a new .env with fresh secrets"
        ) from None


def env_text(environment: Mapping[str, str]) -> str:
    """.env.example with fresh secrets in place, except those that the environment gives: they would only contradict."""
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    for name, make in FRESH.items():
        if not (environment.get(name) or environment.get(f"{name}_FILE")):
            text = text.replace(f"\n#{name}=\n", f"\n{name}={make()}\n")
    return text


def prepare(data: Path) -> None:
    """Make the data folder, for its owner's eyes only, with the example for a catalogue if there is none."""
    data.mkdir(parents=True, exist_ok=True)
    if data.stat().st_mode & 0o077:
        data.chmod(0o700)
    if not (data / "products.json").exists():
        put(data / "products.json", (ROOT / "data" / "products.example.json").read_text(encoding="utf-8"))


def put(path: Path, text: str) -> None:
    """Give `path` its first content, mode 0600, whole or not at all. A link never replaces: of two starts one wins."""
    descriptor, temporary = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        Path(temporary).unlink()


def new_env_notice(data: Path) -> str:
    if (data / "purchases.jsonl").exists():
        return (
            f"WARNING: {data} holds a ledger, but there was no .env, so one was made with new secrets. If you\n"
            "have the old one, stop and put it back: keys and signatures come from it, and apps know its public key.\n"
        )
    return f"Made {ENV} with fresh secrets. Keep a copy in a safe place: license keys and signatures come from it.\n"


def rehearse() -> None:
    """Make the app once before gunicorn does: a damaged file is then told in one line, and the start ends.

    From gunicorn the line would come once a worker, between the tracebacks of its master.
    """
    importlib.import_module("wsgi")


def welcome(settings: Settings, here: str) -> str:
    base = here if settings.app_url == Settings.app_url else settings.app_url
    lines = [
        f"Keyledger on {here}, files in {settings.data_dir}",
        f"Your products: {settings.data_dir / 'products.json'} (a change needs no restart)",
        "Webhooks, to paste into the platforms' settings:",
        *(f"  {platform:10}{url}" for platform, url in webhook_urls(settings, base).items()),
    ]
    if urlsplit(base).hostname in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::"):
        lines.append("  (no platform can reach this address: set APP_URL in .env to the public one)")
    lines += ["A first request, as an app sends it (it answers NOT_FOUND):", f"  {first_request(here)}", ""]
    return "\n".join(lines)


def webhook_urls(settings: Settings, base: str) -> dict[str, str]:
    """Of the platforms that are on. Secrets are shown on a terminal only: elsewhere this text ends in a log."""
    url_secrets = {"gumroad": settings.gumroad_webhook_secret, "jvzoo": settings.jvzoo_webhook_secret}
    urls = {
        platform: f"{base}/api/v1/webhooks/{platform}{_query(platform, url_secrets.get(platform))}"
        for platform, kind in PLATFORMS.items()
        if kind.from_settings(settings) is not None
    }
    if "jvzoo" in urls and settings.jvzoo_keygen == "on":
        urls["jvzoo key"] = urls["jvzoo"].replace("/jvzoo", "/jvzoo/keygen")
    return urls


def _query(platform: str, secret: str | None) -> str:
    if secret is None:
        return ""
    return "?secret=" + (
        quote(secret, safe="") if sys.stdout.isatty() else f"<{platform.upper()}_WEBHOOK_SECRET of .env>"
    )


def first_request(here: str) -> str:
    url = here.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:") + "/api/v1/licenses/validate"
    if shutil.which("curl"):
        return f"""curl -H 'Content-Type: application/json' -d '{{"license_key": "TEST"}}' '{url}'"""
    request = rf'Request("{url}", b"{{\"license_key\": \"TEST\"}}", {{"Content-Type": "application/json"}})'
    return f"{sys.executable} -c 'from urllib.request import *; print(urlopen({request}).read().decode())'"


def become_gunicorn(address: str, workers: int) -> None:
    os.environ["WEB_CONCURRENCY"] = str(workers)  # gunicorn reads it even so, and an empty one is its undoing
    options = ["-c", "deployment/gunicorn.conf.py", "-b", address, "-w", str(workers), "wsgi:app"]
    # Not by `-m gunicorn`: a new master (USR2) would then look for Python's own `http` in gunicorn's folder
    os.execv(sys.executable, [sys.executable, str(Path(sys.executable).parent / "gunicorn"), *options])


if __name__ == "__main__":
    try:
        if sys.argv[1:] == ["--env"]:
            print(env_text({}), end="")
        else:
            main()
    except (OSError, StartRefused) as error:
        raise SystemExit(f"keyledger: {error}") from None
