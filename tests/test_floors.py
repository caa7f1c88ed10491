"""The house stands: imports go down only, siblings among the platforms never import each other."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ["errors", "settings", "domain", "storage", "platforms", "services", "wiring", "web", "server"]
# One service may open the configured store, lazily: the owner's `PurchaseAuditLog()`.
ALLOWED_UP = {("server.services.audit", "server.wiring")}


@cache
def modules() -> dict[str, ast.Module]:
    found = {}
    for path in sorted((ROOT / "server").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text())
    return found


def imported(tree: ast.Module) -> set[str]:
    """The modules that a file imports when it runs; imports for type checkers alone do not count."""
    names: set[str] = set()
    typing_only = {
        id(n)
        for b in ast.walk(tree)
        if isinstance(b, ast.If) and "TYPE_CHECKING" in ast.dump(b.test)
        for n in ast.walk(b)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] == "server"}


def floor(module: str) -> int:
    parts = module.split(".")
    return FLOORS.index(parts[1] if len(parts) > 1 else "server")


def test_imports_go_down_only():
    known = modules()
    upward = [
        (name, target)
        for name, tree in known.items()
        for target in imported(tree)
        if target in known and name != "server" and floor(target) > floor(name) and target != "server"
    ]
    assert [pair for pair in upward if pair not in ALLOWED_UP] == []


def test_platforms_do_not_know_each_other():
    """A platform's own rooms begin with its name: stripe, stripe_api, stripe_objects."""
    known = modules()
    shared = {f"server.platforms.{name}" for name in ("base", "fields", "document", "web_client", "pakistan")}
    rooms = {name for name in known if name.startswith("server.platforms.")} - shared
    whose = {name: name.rpartition(".")[2].partition("_")[0] for name in rooms}
    assert [(n, t) for n in rooms for t in imported(known[n]) if t in rooms and whose[t] != whose[n]] == []


def test_the_domain_knows_no_files_no_web_and_no_clock():
    forbidden = {"os", "io", "pathlib", "flask", "time", "threading", "logging", "server.settings"}
    for name, tree in modules().items():
        if name.startswith("server.domain"):
            names = {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
            names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
            assert names & forbidden == set(), name
            calls = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
            assert calls & {"now", "utcnow", "today"} == set(), name


def test_only_the_durable_layer_calls_fsync():
    for name, tree in modules().items():
        calls = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        if name != "server.storage.durable":
            assert calls & {"fsync", "fdatasync"} == set(), name
