"""Programs that speak TLS to a server behind them, to clients without TLS or with it, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripts.bench.processes import free_port
from scripts.bench.servers import find, haproxy_in, run_on, tlsify, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from scripts.bench.servers import Running, Setting

    Start = Callable[[Setting], AbstractContextManager[Running]]


def forward(mode: str, *, is_client: bool) -> Start:
    """Return what runs ``tlsify forward``; mode is --ktls's."""

    def start(setting: Setting) -> AbstractContextManager[Running]:
        port, shown = free_port(), setting.credentials
        own = ["--connect"] if is_client else ["--cert", shown.certificate, "--key", shown.key]
        words = tlsify(f"--ktls={mode}", "forward", *own, "--backend-ca", shown.authority)
        words = words.with_arguments("--drain", 0.1, "--workers", setting.workers)
        there = f"tls:localhost:{setting.backend}"
        return run_on(setting, words.with_arguments(f"127.0.0.1:{port}", there), port)

    return start


def stunnel(*, is_client: bool) -> Start:
    """Return what runs stunnel; with TLS on both sides it takes two services of it."""

    def start(setting: Setting) -> AbstractContextManager[Running]:
        port, shown, between = free_port(), setting.credentials, free_port()
        text = "foreground = yes\npid =\ndebug = 0\nsslVersionMin = TLSv1.2\nTIMEOUTclose = 0\n"
        if not is_client:
            text += (
                f"[in]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{between}\n"
                f"cert = {shown.certificate}\nkey = {shown.key}\n"
            )
        text += (
            f"[out]\nclient = yes\naccept = 127.0.0.1:{port if is_client else between}\n"
            f"connect = 127.0.0.1:{setting.backend}\nCAfile = {shown.authority}\n"
            "verifyChain = yes\ncheckHost = localhost\n"
        )
        path = write(setting, f"stunnel-{port}.conf", text)
        return run_on(setting, find("stunnel4", path), port, name="stunnel4")

    return start


def haproxy(*, is_client: bool) -> Start:
    """Return what runs haproxy, without looking into what it carries."""

    def start(setting: Setting) -> AbstractContextManager[Running]:
        there = (
            f"backend b\n    server s 127.0.0.1:{setting.backend} ssl verify required "
            f"ca-file {setting.credentials.authority} verifyhost localhost sni str(localhost)\n"
        )
        return haproxy_in(setting, "tcp", "default_backend b", there, is_plain=is_client)

    return start
