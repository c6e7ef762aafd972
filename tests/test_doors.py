"""What may be used where, as far as imports cannot tell: checked on the syntax trees."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import tlsify

ROOT = Path(tlsify.__file__).parent
MODULES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}


def tree(module: str) -> ast.Module:
    """Parse a module."""
    return ast.parse(MODULES[module].read_text("utf-8"))


def names(module: str) -> list[str]:
    """List every name and attribute that a module uses, in the order of the tree."""
    found = []
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Name):
            found.append(node.id)
        elif isinstance(node, ast.Attribute):
            found.append(node.attr)
        elif isinstance(node, ast.alias):
            found += [node.name, node.asname or ""]
    return found


def users(name: str) -> set[str]:
    """List the modules that use a name."""
    return {module for module in MODULES if name in names(module)}


def test_the_package_is_read() -> None:
    """The checks below look at the whole package."""
    assert {"connection/establish.py", "ktls/ulp.py", "tls/engine.py"} <= set(MODULES)


@pytest.mark.parametrize("name", ["SOL_TLS", "TCP_ULP", "TLS_TX", "TLS_RX"])
def test_kernel_tls_has_one_door(name: str) -> None:
    """The kernel's names occur under ktls/ only."""
    assert all(module.startswith("ktls/") for module in users(name))


def test_sol_tls_is_used() -> None:
    """The check above would not notice a change of name."""
    assert users("SOL_TLS") == {"ktls/uapi.py", "ktls/ulp.py"}


def options(module: str) -> list[str]:
    """Name the options that a module sets."""
    set_here = []
    for node in ast.walk(tree(module)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "setsockopt"
        ):
            option = node.args[1]
            if isinstance(option, ast.Starred):  # passed on
                continue
            set_here.append(option.attr if isinstance(option, ast.Attribute) else ast.dump(option))
    return set_here


def test_setsockopt_has_few_doors() -> None:
    """Outside ulp.py only options of plain TCP are set, each where it belongs."""
    expected = {"ktls/ulp.py", "connection/commit.py", "connection/handoff.py"}
    expected.add("connection/options.py")  # which passes on what the program sets
    expected |= {f"connection/relay/{name}.py" for name in ("inline", "loads", "pump")}
    expected |= {"connection/polling.py", "connection/setup/keepalive.py"}
    expected.add("connection/setup/greeting.py")
    expected.add("connection/upkeep.py")  # which holds back what a program sends
    expected |= {
        "aio/dialing.py",
        "cli/forward.py",
        "connection/plain.py",
        "system/listening.py",
    }  # for whole pieces, ends, and clients that say nothing
    isolation = {"isolation/custody.py", "isolation/remote_engine.py"}  # of local sockets
    expected |= isolation
    expected |= {"wrap/knock.py", "wrap/steering.py"}  # of listeners, and of knocks at them
    expected.add("wrap/relay/pair.py")
    expected.add("wrap/listener_options.py")  # which connections inherit
    expected.add("connection/ending/linger.py")  # which waits for nobody
    assert users("setsockopt") == expected
    assert set(options("system/listening.py")) == {"TCP_DEFER_ACCEPT"}
    assert set(options("aio/dialing.py")) | set(options("cli/forward.py")) == {"TCP_NODELAY"}
    assert set(options("connection/plain.py")) == {"SO_LINGER"}
    assert set().union(*map(options, isolation)) == {"SO_SNDBUF"}
    assert set(options("wrap/knock.py")) == {"SO_LINGER"}
    times = {"TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"}
    assert set(options("connection/setup/keepalive.py")) == {"SO_KEEPALIVE", *times}
    assert set(options("connection/commit.py")) == {"SO_RCVLOWAT"}
    assert set(options("connection/handoff.py")) == {"SO_RCVLOWAT"}
    assert set(options("connection/polling.py")) == {"SO_RCVLOWAT", "SO_RCVTIMEO", "SO_SNDTIMEO"}
    assert set(options("connection/options.py")) == set(), "but what the program sets"


def test_protocol_reads_no_clock() -> None:
    """Under tls/ the time of day is unknown."""
    clocks = {"time", "datetime", "utcnow", "today", "monotonic"}
    for module in MODULES:
        if module.startswith("tls/"):
            assert not clocks & set(names(module)), module


def handlers(module: str) -> list[str]:
    """Name the exceptions that a module catches, and does not raise again whatever happens."""
    caught = []
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ExceptHandler):
            last = node.body[-1]
            if isinstance(last, ast.Raise) and last.exc is None:
                continue
            if node.type is None:
                caught.append("")
            else:
                caught += [n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)]
    return caught


def test_one_fallback() -> None:
    """One place decides what follows from KtlsUnavailable: eligibility.py, once."""
    catching = {
        module: handlers(module).count("KtlsUnavailable")
        for module in MODULES
        if not module.startswith("ktls/") and module != "status/host.py"
    }
    assert {module: count for module, count in catching.items() if count} == {
        "connection/setup/eligibility.py": 1
    }


def test_nothing_is_swallowed() -> None:
    """Everything is caught only where others must go on, at the command's end, of certificates."""
    broad = {
        module for module in MODULES if {"", "Exception", "BaseException"} & set(handlers(module))
    }
    others = {"agent/server.py", "aio/foreign_transport.py", "connection/event_thread.py"}
    others |= {"system/children.py", "status/roster.py", "http/protocol.py"}
    others |= {"isolation/custodian.py", "isolation/holder.py"}
    others |= {"wrap/calls.py", "wrap/supervisor.py"}
    others.add("serving/backend/health.py")
    others.add("acme/client.py")  # where a package reads what an authority sends
    assert broad == {"cli/messages.py", "sslcontext/facts.py"} | others


def test_peers_cause_no_assertion() -> None:
    """There is no assert in the package."""
    for module in MODULES:
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree(module))), module
