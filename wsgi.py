"""The WSGI door: `gunicorn wsgi:app`, uWSGI and PythonAnywhere (`from wsgi import app as application`)."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # PythonAnywhere imports this file from elsewhere

from server import create_app
from server.errors import StartPutOff, StartRefused

try:
    app = application = create_app()
except StartRefused as refused:
    print(f"keyledger: {refused}", file=sys.stderr, flush=True)
    is_put_off = isinstance(refused, StartPutOff) and "KEYLEDGER_JOINS" in os.environ  # by deployment/gunicorn.conf.py
    if is_put_off:
        time.sleep(1)
    # 3 is gunicorn's WORKER_BOOT_ERROR: the master stops as well. After any other status it tries again forever, as it
    # must where a worker is replaced while the database is away: the others answer 503 until it is back.
    raise SystemExit(1 if is_put_off else 3) from None
