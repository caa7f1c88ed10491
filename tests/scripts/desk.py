"""One process that has imported what the scripts want, and forks one for each command: a start costs a fork.

Asked by a line of JSON, it answers with the exit code when the command has ended. `Desk` in `conftest.py` starts it.
"""

from __future__ import annotations

import atexit
import importlib
import io
import json
import os
import runpy
import sys
from typing import Any, NoReturn

SCRIPTS = "audit backup doctor licenses migrate outbox reconcile".split()
LATER = (
    "psycopg rich.progress rich.table stripe server.wiring server.services.mailer server.storage.postgres".split()
)  # imported where it is wanted


def main() -> None:
    for script in SCRIPTS:
        runpy.run_path(f"scripts/{script}.py", run_name="imported")
    for module in LATER:
        importlib.import_module(module)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            become(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def become(script: str, arguments: list[str], env: dict[str, str], out: str, err: str) -> NoReturn:
    """`python scripts/<script>.py <arguments>`, with what both streams get in a file."""
    os.environ.clear()
    os.environ.update(env)
    for number, path, mode in ((0, os.devnull, os.O_RDONLY), (1, out, os.O_WRONLY), (2, err, os.O_WRONLY)):
        os.dup2(os.open(path, mode | os.O_CREAT), number)
    sys.stdin = open(0)  # noqa: SIM115
    sys.stdout, sys.stderr = stream(1, env), stream(2, env)
    sys.argv = [f"scripts/{script}.py", *arguments]
    code: Any = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        code = 1
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def stream(number: int, env: dict[str, str]) -> io.TextIOWrapper:
    errors = "strict" if number == 1 else "backslashreplace"
    return open(number, "w", encoding=env.get("PYTHONIOENCODING", "utf-8"), errors=errors, closefd=False)


if __name__ == "__main__":
    main()
