"""HTTP/2: what it costs that files travel in frames, over TLS here and there."""

from __future__ import annotations

import contextlib
import subprocess
import time
from typing import TYPE_CHECKING

from scripts.bench import client, peers, servers
from scripts.bench.credentials import make
from scripts.bench.interleave import Contender, Experiment, Missing
from scripts.bench.processes import free_port, started
from scripts.bench.servers import Running
from scripts.bench.suites.bulk import Work, write_file
from scripts.bench.web import Site, carried_by

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from scripts.bench.interleave import Turn
    from scripts.bench.plan import Plan
    from scripts.bench.servers import Setting

_WORKS = (Work(1 << 20, 256, 1), Work(4 << 10, 2048, 1))
_SMOKE = (Work(4 << 10, 4, 1),)
_VERSIONS = {"h2": "--http2", "1.1": "--http1.1"}
_NOTE = (
    "Processor time of the server for each file; curl fetches them over one connection, one after "
    "the other. hypercorn's application reads a file in pieces, whatever the protocol."
)


def _hypercorn(way: str) -> Callable[[Setting], AbstractContextManager[Running]]:
    @contextlib.contextmanager
    def start(setting: Setting) -> Iterator[Running]:
        if not peers.python_has("hypercorn"):
            raise Missing("hypercorn is not installed for this Python")
        port, shown = free_port(), setting.credentials
        program = peers.ROOT / "scripts/bench/programs/h2_server.py"
        words = peers.python().with_arguments(program, way, port, shown.certificate, shown.key)
        with started(words, port, core=setting.core, folder=setting.files) as process:
            yield Running(port, (process,))

    return start


def _nginx(*directives: str) -> Callable[[Setting], AbstractContextManager[Running]]:
    return lambda setting: servers.nginx(setting, *directives)


SERVERS = {
    "tlsify + hypercorn, kernel": Site(_hypercorn("auto"), ktls=True),
    "tlsify + hypercorn, relay": Site(_hypercorn("off")),
    "hypercorn + ssl": Site(_hypercorn("ssl")),
    "nginx, kernel": Site(_nginx("http2 on;", "ssl_conf_command Options KTLS;"), ktls=True),
    "nginx": Site(_nginx("http2 on;")),
}


def experiments(plan: Plan) -> Iterator[Experiment]:
    """Return one experiment for each size of file, with both versions of HTTP."""
    for work in _SMOKE if plan.smoke else _WORKS:
        yield Experiment(
            title=work.title,
            contenders=tuple(
                _contender(plan, name, version, work) for name in SERVERS for version in _VERSIONS
            ),
            figure="server CPU",
            unit="µs per file",
            reference="nginx, h2",
            note=_NOTE,
        )


def _contender(plan: Plan, name: str, version: str, work: Work) -> Contender:
    @contextlib.contextmanager
    def start() -> Iterator[Turn]:
        if (curl := peers.find("curl")) is None:
            raise Missing(str(peers.missing("curl")))
        path = write_file(plan.folder, work.size)
        shown = make(plan.folder, "ECDSA")
        with SERVERS[name].start(plan.setting(shown)) as running:
            wishes = plan.folder / f"{running.port}.curl"
            url = f"https://localhost:{running.port}/{path}"
            wishes.write_text(f'url = "{url}"\noutput = "/dev/null"\n' * work.times)
            words = [*curl.words, _VERSIONS[version], "--silent", "--show-error", "--fail"]
            words += ["--ipv4", "--cacert", str(shown.authority), "--config", str(wishes)]

            def turn() -> dict[str, float]:
                before = running.cpu()
                with carried_by(kernel=SERVERS[name].ktls):
                    (seconds,) = client.in_children(
                        plan.load_core, _fetch, words, version, work.size, work.times
                    )
                return {
                    "server CPU": 1e6 * (running.cpu() - before) / work.times,
                    "wall": 1e6 * seconds / work.times,
                }

            yield turn

    return Contender(f"{name}, {version}", start)


def _fetch(words: list[str], version: str, size: int, times: int) -> float:
    """Fetch with curl; return the seconds that it took.

    Raises:
        RuntimeError: it did not, or not as it was told to.
    """
    begun = time.perf_counter()
    told = ["--write-out", "%{http_version} %{size_download} %{num_connects}\\n"]
    done = subprocess.run([*words, *told], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    number = version.lstrip("h")
    lines = done.stdout.split("\n")[:-1]
    if done.returncode or len(lines) != times:
        raise RuntimeError(f"curl: {done.stderr.strip() or done.returncode}")
    first, *others = lines
    if first != f"{number} {size} 1" or set(others) - {f"{number} {size} 0"}:
        raise RuntimeError(f"curl said {first}, {others[:1]}")
    return seconds
