"""gunicorn as Keyledger wants it; host, port and number of workers come from `./scripts/server` or the command line."""

import json
import logging
import os
import time
from typing import Any


class JsonLines(logging.Formatter):
    """gunicorn's own lines in the shape of Keyledger's. Not by `server.services.logs`: the master must not import the
    application, or a reload would go on with its old code."""

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "ts": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        return json.dumps(said)


def post_fork(server: Any, worker: Any) -> None:
    """A worker that takes another's place while the database is away is told so: it must not end those that wait for
    its return, as one of the first would, whose settings may be wrong."""
    if worker.age > server.cfg.workers:
        os.environ["KEYLEDGER_JOINS"] = "1"


worker_class = "sync"  # nearly twice the requests of gthread here: they are short and wait for one fsync at most
timeout = 30  # seconds in one request until its worker is replaced; what the app asks of others times out sooner
graceful_timeout = 20  # seconds that requests get to finish after SIGTERM; systemd waits 90, docker 10 unless told
accesslog = None  # the app logs its requests itself, with license keys and addresses masked
control_socket_disable = True  # its path in $HOME is shared by every gunicorn of this user, and nothing here uses it
preload_app = False  # each worker makes its own locks and descriptors after the fork; shared ones would not lock
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": JsonLines}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"level": "WARNING", "handlers": ["stderr"]},
    "loggers": {"gunicorn.error": {"level": "INFO", "handlers": ["stderr"], "propagate": False}},
}

# Left as gunicorn has them, on purpose:
# forwarded_allow_ips   whom to believe about the client's address is TRUSTED_PROXIES, decided in the app
# worker_tmp_dir        the heartbeat file is only touched, never synced: any folder serves
# keepalive             sync workers close every connection; the proxy in front keeps them open
