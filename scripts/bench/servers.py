"""Every server and terminator of the experiments: how it is configured and started."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from scripts.bench import peers
from scripts.bench.interleave import Missing
from scripts.bench.processes import Program, free_port, started

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from scripts.bench.credentials import Credentials

_PROGRAMS = peers.ROOT / "scripts/bench/programs"
_CONNECTIONS = 16384
_SPARE = 100  # descriptors that a proxy has beside those of connections


class Running(NamedTuple):
    """A server that takes connections: where, and what has to be accounted for."""

    port: int
    programs: tuple[Program, ...]

    def cpu(self, *, descendants: bool = True) -> float:
        """Return processor seconds of all of it."""
        return sum(program.cpu(descendants=descendants) for program in self.programs)

    def memory(self) -> int:
        """Return bytes of memory of all of it."""
        return sum(program.memory() for program in self.programs)


@dataclass(frozen=True)
class Setting:
    """What a server is given.

    Attributes:
        folder: for its configuration.
        credentials: what it shows.
        files: what it serves over HTTP.
        core: where it runs; anywhere if None.
        workers: how many processes or threads do its work.
        backend: port of plain TCP or HTTP behind a terminator.
    """

    folder: Path
    credentials: Credentials
    files: Path
    core: int | None = None
    workers: int = 1
    backend: int = 0


# Called with a setting, it runs a server until its block ends.
Server = "Callable[[Setting], AbstractContextManager[Running]]"


@contextlib.contextmanager
def run_on(
    setting: Setting, words: peers.Words | None, port: int, *others: Program, name: str = ""
) -> Iterator[Running]:
    """Run a program that listens on a port, on the core of the setting."""
    if words is None:
        raise Missing(peers.missing(name) or f"{name} is not there")
    with started(words, port, core=setting.core, folder=setting.folder) as program:
        yield Running(port, (program, *others))


def find(program: str, *arguments: object) -> peers.Words | None:
    """Return a command line, if there is such a program."""
    found = peers.find(program)
    return None if found is None else found.with_arguments(*arguments)


def write(setting: Setting, name: str, text: str) -> Path:
    """Write a configuration."""
    path = setting.folder / name
    path.write_text(text)
    return path


# -- nginx

_NGINX = """
daemon off;
user root;
worker_processes {workers};
worker_rlimit_nofile {files_limit};
error_log stderr crit;
pid {folder}/nginx-{port}.pid;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    sendfile on;
    tcp_nopush on;
    open_file_cache max=100;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
    client_header_timeout 600s;
    server {{
        listen 127.0.0.1:{port} {tls} backlog=4096;
        root {root};
        {more}
    }}
}}
"""


def _nginx(
    setting: Setting, tls: str, more: str, under: peers.Words | None = None
) -> AbstractContextManager[Running]:
    port = free_port()
    text = _NGINX.format(
        workers=setting.workers,
        files_limit=_CONNECTIONS,
        connections=_CONNECTIONS,
        folder=setting.folder,
        root=setting.files,
        port=port,
        tls=tls,
        more=more,
    )
    path = write(setting, f"nginx-{port}.conf", text)
    words = find("nginx", "-e", "stderr", "-p", setting.folder, "-c", path)
    if words is not None and under is not None:
        words = under.with_arguments(*words.words)
    return run_on(setting, words, port, name="nginx")


def nginx_plain(
    setting: Setting, under: peers.Words | None = None
) -> AbstractContextManager[Running]:
    """Run nginx without TLS, under another command if wanted."""
    return _nginx(setting, "", "", under)


def nginx(setting: Setting, *directives: str) -> AbstractContextManager[Running]:
    """Run nginx with TLS in userspace."""
    shown = setting.credentials
    # OpenSSL's default groups, but for those that nginx would leave out.
    lines = [
        f"ssl_certificate {shown.certificate};",
        f"ssl_certificate_key {shown.key};",
        "ssl_protocols TLSv1.2 TLSv1.3;",
        *directives,
    ]
    return _nginx(setting, "ssl", "\n        ".join(lines))


def nginx_ktls(setting: Setting) -> AbstractContextManager[Running]:
    """Run nginx with OpenSSL's kernel TLS."""
    return nginx(setting, "ssl_conf_command Options KTLS;")


# -- terminators

_HAPROXY = """
global
    maxconn {connections}
    nbthread {workers}
    log stderr local0 emerg
defaults
    mode {mode}
    timeout client 600s
    timeout server 600s
    timeout connect 10s
frontend f
    bind 127.0.0.1:{port} {tls}
    {action}
{more}
"""


def haproxy_in(
    setting: Setting, mode: str, action: str, more: str = "", *, is_plain: bool = False
) -> AbstractContextManager[Running]:
    """Run haproxy in a mode, for clients with TLS or without."""
    port, descriptors = free_port(), resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    text = _HAPROXY.format(
        connections=min(_CONNECTIONS, descriptors // 2 - _SPARE),  # it wants two for each
        workers=setting.workers,
        mode=mode,
        port=port,
        tls="" if is_plain else f"ssl crt {setting.credentials.both}",
        action=action,
        more=more,
    )
    path = write(setting, f"haproxy-{port}.cfg", text)
    return run_on(setting, find("haproxy", "-f", path), port, name="haproxy")


def haproxy(setting: Setting) -> AbstractContextManager[Running]:
    """Run haproxy, which answers by itself."""
    return haproxy_in(
        setting, "http", 'http-request return status 200 content-type text/plain string "ok"'
    )


def haproxy_relay(setting: Setting) -> AbstractContextManager[Running]:
    """Run haproxy in front of a backend, without looking into what it carries."""
    backend = f"backend b\n    server s 127.0.0.1:{setting.backend}\n"
    return haproxy_in(setting, "tcp", "default_backend b", backend)


def hitch(setting: Setting) -> AbstractContextManager[Running]:
    """Run hitch in front of a backend."""
    port = free_port()
    text = (
        f'frontend = "[127.0.0.1]:{port}"\nbackend = "[127.0.0.1]:{setting.backend}"\n'
        f'pem-file = "{setting.credentials.both}"\nworkers = {setting.workers}\n'
        "daemon = off\nbacklog = 1024\nquiet = on\ntls-protos = TLSv1.2 TLSv1.3\n"
    )
    if os.getuid() == 0:
        text += 'user = "nobody"\n'  # it refuses to be root
    path = write(setting, f"hitch-{port}.conf", text)
    return run_on(setting, find("hitch", f"--config={path}"), port, name="hitch")


def stunnel(setting: Setting) -> AbstractContextManager[Running]:
    """Run stunnel in front of a backend."""
    port = free_port()
    text = (
        f"foreground = yes\npid =\ndebug = 0\n[tls]\naccept = 127.0.0.1:{port}\n"
        f"connect = 127.0.0.1:{setting.backend}\ncert = {setting.credentials.certificate}\n"
        f"key = {setting.credentials.key}\nsslVersionMin = TLSv1.2\nTIMEOUTclose = 0\n"
    )
    path = write(setting, f"stunnel-{port}.conf", text)
    return run_on(setting, find("stunnel4", path), port, name="stunnel4")


def socat(setting: Setting) -> AbstractContextManager[Running]:
    """Run socat in front of a backend: a process for each connection."""
    port, shown = free_port(), setting.credentials
    listen = (
        f"OPENSSL-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,backlog=1024,verify=0,"
        f"cert={shown.certificate},key={shown.key}"
    )
    backend = f"TCP:127.0.0.1:{setting.backend}"
    return run_on(setting, find("socat", "-b65536", listen, backend), port, name="socat")


def ncat(setting: Setting) -> AbstractContextManager[Running]:
    """Run ncat in front of a backend: two processes for each connection."""
    port, shown, inner = free_port(), setting.credentials, find("ncat")
    if inner is None:
        raise Missing(str(peers.missing("ncat")))
    behind = " ".join((*inner.words, "127.0.0.1", str(setting.backend)))
    words = inner.with_arguments("-l", "-k", "--ssl", "--ssl-cert", shown.certificate)
    words = words.with_arguments("--ssl-key", shown.key, "--sh-exec", f"exec {behind}")
    return run_on(setting, words.with_arguments("127.0.0.1", port), port)


def s_server(setting: Setting, *options: str) -> AbstractContextManager[Running]:
    """Run openssl s_server, which takes one connection after the other."""
    port, shown = free_port(), setting.credentials
    words = find("openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-quiet")
    words = words and words.with_arguments("-cert", shown.certificate, "-key", shown.key)
    words = words and words.with_arguments(*(options or ("-www",)))
    place = Setting(setting.files, shown, setting.files, setting.core)  # where it takes files from
    return run_on(place, words, port, name="openssl")


def s_server_ktls(setting: Setting) -> AbstractContextManager[Running]:
    """Run openssl s_server with kernel TLS and sendfile, for files."""
    return s_server(setting, "-WWW", "-ktls", "-sendfile")


# -- ours, and Python's


def python_program(
    setting: Setting, name: str, way: str, *arguments: object
) -> AbstractContextManager[Running]:
    """Run one of the programs in Python that belong to the benchmark."""
    port = free_port()
    words = peers.python().with_arguments(_PROGRAMS / name, way, port, *arguments)
    return run_on(setting, words, port)


def python_server(way: str) -> Callable[[Setting], AbstractContextManager[Running]]:
    """Return what runs one of python_server.py's ways."""

    def start(setting: Setting) -> AbstractContextManager[Running]:
        shown = setting.credentials
        return python_program(setting, "python_server.py", way, shown.certificate, shown.key)

    return start


@contextlib.contextmanager
def agent(setting: Setting) -> Iterator[Running]:
    """Run an agent and a server that has its handshakes done there."""
    shown, place = setting.credentials, setting.folder / f"agent-{free_port()}"
    words = tlsify("agent", "--workers", setting.workers, "--resumption")
    words = words.with_arguments("--cert", shown.certificate, "--key", shown.key, place)
    with started(words, core=setting.core) as process:
        process.await_path(place)
        arguments = ("tlsify_agent", shown.certificate, shown.key, place)
        with python_program(setting, "python_server.py", *arguments) as running:
            yield Running(running.port, (*running.programs, process))


def tlsify(*arguments: object) -> peers.Words:
    """Return a command line of the command that this is all about."""
    return peers.python().with_arguments("-m", "tlsify", *arguments)


def serve(mode: str, *options: str) -> Callable[[Setting], AbstractContextManager[Running]]:
    """Return what runs ``tlsify serve``; mode is --ktls's."""

    def start(setting: Setting) -> AbstractContextManager[Running]:
        port, shown = free_port(), setting.credentials
        words = tlsify(f"--ktls={mode}", "serve", "--listen", f"127.0.0.1:{port}")
        words = words.with_arguments("--cert", shown.certificate, "--key", shown.key)
        words = words.with_arguments("--drain", 0.1, "--workers", setting.workers, "--resumption")
        words = words.with_arguments(*options)
        return run_on(setting, words.with_arguments(setting.files), port)

    return start


def forward(mode: str, *options: str) -> Callable[[Setting], AbstractContextManager[Running]]:
    """Return what runs ``tlsify forward`` in front of a backend."""

    def start(setting: Setting) -> AbstractContextManager[Running]:
        port, shown = free_port(), setting.credentials
        words = tlsify(f"--ktls={mode}", "forward", "--cert", shown.certificate)
        words = words.with_arguments("--key", shown.key, "--drain", 0.1, *options)
        words = words.with_arguments("--workers", setting.workers)
        backend = (f"127.0.0.1:{setting.backend}",) if setting.backend else ()
        return run_on(setting, words.with_arguments(f"127.0.0.1:{port}", *backend), port)

    return start


# -- what stands behind terminators


@contextlib.contextmanager
def backend(core: int | None) -> Iterator[int]:
    """Run a plain TCP server on the load's core; return its port.

    A connection begins with a byte and 8 more, big endian: "<" takes as many bytes and answers one;
    ">" sends as many. One that ends at once is served, too.
    """
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    pid = os.fork()
    if pid == 0:
        try:
            # The harness may have been told to ignore these.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if core is not None:
                os.sched_setaffinity(0, {core})
            while True:
                sock, _ = listener.accept()
                threading.Thread(target=_answer, args=(sock,), daemon=True).start()
        finally:
            sys.stdout.flush()
            os._exit(1)
    with listener:
        try:
            yield listener.getsockname()[1]
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _answer(sock: socket.socket) -> None:
    with sock, contextlib.suppress(OSError):
        command = b""
        while (missing := 9 - len(command)) > 0:
            received = sock.recv(missing)
            if not received:
                return
            command += received
        left = int.from_bytes(command[1:], "big")
        buffer = bytearray(2**20)
        if command[:1] == b">":
            while left:
                left -= sock.send(memoryview(buffer)[: min(left, len(buffer))])
        else:
            while left and (size := sock.recv_into(buffer)):
                left -= size
            sock.sendall(b".")
        while sock.recv_into(buffer):
            pass
