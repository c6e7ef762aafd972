"""Servers that are put under wrap: how each one is started, and what it can do."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

_HERE = Path(__file__).parent


class Ground(NamedTuple):
    """Where a server runs.

    Attributes:
        program: its path.
        root: the folder that it serves; uploads go there, where it stores them.
        place: for its own files.
        port: of 127.0.0.1.
    """

    program: str
    root: Path
    place: Path
    port: int

    def write(self, text: str) -> Path:
        """Write a configuration, with @ROOT@ and the like filled in."""
        for name in ("root", "place", "port"):
            text = text.replace(f"@{name.upper()}@", str(getattr(self, name)))
        path = self.place / "configuration"
        path.write_text(text)
        return path


@dataclass(frozen=True)
class Server:
    """One of them.

    Attributes:
        program: as `tests.provision` knows it.
        words: its command, without its name.
        release: arguments that have it print its version; the name of its Python package instead.
        upload: the method by which it takes one: "PUT" into a file, "POST" for its digest.
        talk: what its clients speak: "http", "redis" or "echo".
        end: the signal that ends it in good order.
        status: its exit status then.
        answers_half: whether it answers a client that has ended its direction.
        keeps_alive: whether it takes a second request on a connection.
        reload: the signal that replaces its processes, while it goes on serving; 0 for none.
        is_proxy: whether another server is behind it.
        is_quick: whether the quick lane tries it: not what takes long to start.
    """

    program: str
    words: Callable[[Ground], list[str | Path]]
    release: tuple[str, ...] | str = ("--version",)
    upload: str = "POST"
    talk: str = "http"
    end: int = signal.SIGTERM
    status: int = 0
    answers_half: bool = True
    keeps_alive: bool = True
    reload: int = 0
    is_proxy: bool = False
    is_quick: bool = False


_NGINX = """
user root; daemon %(daemon)s; worker_processes 2; pid @PLACE@/pid; error_log @PLACE@/log info;
events { worker_connections 512; }
http {
    access_log off; sendfile on; client_max_body_size 64m; client_body_temp_path @PLACE@/a;
    proxy_temp_path @PLACE@/b; fastcgi_temp_path @PLACE@/c; uwsgi_temp_path @PLACE@/d;
    scgi_temp_path @PLACE@/e;
    server {
        listen 127.0.0.1:@PORT@ %(options)s; root @ROOT@; location /upload { dav_methods PUT; }
    }
}
"""


def _nginx(options: str = "", *, daemon: bool = False) -> Callable[[Ground], list[str | Path]]:
    text = _NGINX % {"options": options, "daemon": "on" if daemon else "off"}
    return lambda ground: ["-p", ground.place, "-c", ground.write(text)]


def _lighttpd(ground: Ground) -> list[str | Path]:
    text = """
server.bind = "127.0.0.1"
server.port = @PORT@
server.document-root = "@ROOT@"
server.errorlog = "@PLACE@/log"
server.modules = ( "mod_cgi" )
$HTTP["url"] == "/cgi-bin/upload" { cgi.assign = ( "" => "" ) }
"""
    return ["-D", "-f", ground.write(text)]


def _haproxy(*options: str) -> Callable[[Ground], list[str | Path]]:
    text = """
global
    nbthread 2
    tune.bufsize 32768
    log stderr format raw local0
defaults
    mode http
    log global
    timeout client 1m
    timeout server 1m
    timeout connect 1m
frontend all
    bind 127.0.0.1:@PORT@
    http-request return status 200 content-type text/plain file @ROOT@/page if { path /page }
    default_backend others
backend others
    server one unix@@PLACE@/backend
"""
    return lambda ground: [*options, "-f", ground.write(text)]


def _apache(ground: Ground) -> list[str | Path]:
    modules = ("mpm_event", "authz_core", "alias", "cgid")
    folder = Path(ground.program).resolve().parents[1] / "lib/apache2/modules"
    text = "".join(f"LoadModule {name}_module {folder}/mod_{name}.so\n" for name in modules)
    text += """
ServerName localhost
User nobody
Group nogroup
PidFile @PLACE@/pid
ErrorLog @PLACE@/log
LogLevel info
DefaultRuntimeDir @PLACE@
ScriptSock @PLACE@/scripts
ScriptAlias /cgi-bin/ @ROOT@/cgi-bin/
Listen 127.0.0.1:@PORT@
DocumentRoot @ROOT@
EnableSendfile On
"""
    return ["-D", "FOREGROUND", "-d", ground.place, "-f", ground.write(text)]


def _redis(ground: Ground) -> list[str | Path]:
    text = """
bind 127.0.0.1
port @PORT@
dir @PLACE@
logfile @PLACE@/log
save ""
locale-collate C
"""
    return [ground.write(text)]


def _python(*words: str) -> Callable[[Ground], list[str | Path]]:
    def fill(ground: Ground) -> list[str | Path]:
        return ["-m", *(word.replace("@PORT@", str(ground.port)) for word in words)]

    return fill


def _busybox(ground: Ground) -> list[str | Path]:
    return ["httpd", "-f", "-p", f"127.0.0.1:{ground.port}", "-h", ground.root]


def _netcat(ground: Ground) -> list[str | Path]:
    return ["nc", "-ll", "-p", str(ground.port), "-e", "cat"]


def _socat(ground: Ground) -> list[str | Path]:
    return [f"TCP-LISTEN:{ground.port},bind=127.0.0.1,reuseaddr,fork", "EXEC:cat"]


_KILLED = 128 + signal.SIGTERM
_APPLICATION = "tests.wrap.servers.application"
_GUNICORN = ("gunicorn", "--bind=127.0.0.1:@PORT@", "--workers=2", f"{_APPLICATION}:wsgi")
_UVICORN = ("uvicorn", "--port=@PORT@", "--lifespan=off", f"{_APPLICATION}:asgi")


def _any_nginx(options: str = "", *, daemon: bool = False, is_quick: bool = False) -> Server:
    return Server(
        "nginx",
        _nginx(options, daemon=daemon),
        ("-v",),
        "PUT",
        end=signal.SIGQUIT,
        reload=signal.SIGHUP,
        is_quick=is_quick,
    )


SERVERS = {
    "nginx": _any_nginx(is_quick=True),
    "nginx, reuseport": _any_nginx("reuseport"),
    "nginx, deferred": _any_nginx("reuseport deferred", is_quick=True),
    "nginx, daemon": _any_nginx(daemon=True),
    "lighttpd": Server("lighttpd", _lighttpd, ("-v",), end=signal.SIGINT, reload=signal.SIGUSR1),
    "haproxy": Server("haproxy", _haproxy(), ("-v",), status=_KILLED, is_proxy=True, is_quick=True),
    "haproxy, master": Server(
        "haproxy", _haproxy("-W"), ("-v",), reload=signal.SIGUSR2, is_proxy=True
    ),
    "Apache, event": Server("apache2", _apache, ("-v",), reload=signal.SIGUSR1),
    "node": Server(
        "node",
        lambda ground: [_HERE / "server.js", str(ground.port), ground.root],
        status=_KILLED,
        answers_half=False,
    ),
    "Go, static": Server(
        "go-server",
        lambda ground: [f"127.0.0.1:{ground.port}", ground.root],
        (),
        status=_KILLED,
    ),
    "gunicorn": Server(
        sys.executable,
        _python(*_GUNICORN),
        "gunicorn",
        keeps_alive=False,
        reload=signal.SIGHUP,
    ),
    "gunicorn, threads": Server(
        sys.executable, _python(*_GUNICORN, "--threads=4"), "gunicorn", reload=signal.SIGHUP
    ),
    "uvicorn": Server(sys.executable, _python(*_UVICORN), "uvicorn", status=_KILLED),
    "busybox httpd": Server(
        "busybox", _busybox, (), keeps_alive=False, status=_KILLED, is_quick=True
    ),
    "busybox httpd, static": Server(
        "busybox-static", _busybox, (), keeps_alive=False, status=_KILLED
    ),
    "busybox nc, inetd's way": Server(
        "busybox", _netcat, (), talk="echo", status=_KILLED, is_quick=True
    ),
    "redis": Server("redis-server", _redis, talk="redis"),
    "socat": Server("socat", _socat, ("-V",), talk="echo", status=_KILLED, is_quick=True),
}
