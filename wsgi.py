"""The WSGI door: `gunicorn wsgi:app`, uWSGI and PythonAnywhere (`from wsgi import app as application`)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # PythonAnywhere imports this file from elsewhere

from server import create_app
from server.errors import StartRefused

try:
    app = application = create_app()
except StartRefused as refused:
    print(f"keyledger: {refused}", file=sys.stderr, flush=True)
    # gunicorn's WORKER_BOOT_ERROR: the master stops as well. After any other status it would try again forever.
    raise SystemExit(3) from None
