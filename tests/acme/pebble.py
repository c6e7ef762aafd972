"""Pebble: Let's Encrypt's small ACME authority for tests, with a name server that leads here."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from tests.doubles import until
from tests.ports import free_port
from tests.provision import find

if TYPE_CHECKING:
    from pathlib import Path

    import trustme

# An account elsewhere, to which an account can be bound.
BINDING = ("kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W")


class Pebble:
    """The authority's two processes.

    It refuses one good nonce in twenty, and looks at each challenge three times.

    Attributes:
        directory: URL.
        ca: PEM file of the authority that has issued its server's certificate.
        tls_port: where it looks for TLS-ALPN-01.
        http_port: where it looks for HTTP-01.
    """

    def __init__(self, folder: Path, authority: trustme.CA, *, bound: bool = False) -> None:
        """Write what it needs.

        Args:
            folder: for that.
            authority: issues its server's certificate.
            bound: whether accounts have to be bound to one elsewhere.
        """
        ports = [free_port() for _ in range(6)]
        self._port, self._management, self._names, self._names_management = ports[:4]
        self.tls_port, self.http_port = ports[4:]
        self.directory = f"https://localhost:{self._port}/dir"
        self.ca = folder / "ca.pem"
        self._log, self._config = folder / "pebble.log", folder / "pebble.json"
        leaf = authority.issue_cert("localhost")
        authority.cert_pem.write_to_path(self.ca)
        leaf.private_key_pem.write_to_path(folder / "server.key")
        leaf.cert_chain_pems[0].write_to_path(folder / "server.pem")
        config = {
            "listenAddress": f"127.0.0.1:{self._port}",
            "managementListenAddress": f"127.0.0.1:{self._management}",
            "certificate": str(folder / "server.pem"),
            "privateKey": str(folder / "server.key"),
            "httpPort": self.http_port,
            "tlsPort": self.tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": bound,
            "externalAccountMACKeys": dict([BINDING]) if bound else {},
        }
        self._config.write_text(json.dumps({"pebble": config}))
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Start both, and wait until they listen."""
        names = f"127.0.0.1:{self._names}"
        off = [
            word for name in ("http01", "https01", "tlsalpn01", "doh") for word in (f"-{name}", "")
        ]
        management = f"127.0.0.1:{self._names_management}"
        self._start(
            find("pebble-challtestsrv"),
            *off,
            *("-dns01", names, "-management", management, "-defaultIPv6", ""),
        )
        self._start(find("pebble"), "-config", str(self._config), "-dnsserver", names)
        until(lambda: b"ACME directory available" in self._log.read_bytes())
        return self

    def _start(self, *words: str) -> None:
        log = self._stack.enter_context(self._log.open("ab"))
        environment = {**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_AUTHZREUSE": "0"}
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)

    def __exit__(self, *_: object) -> None:
        """End both."""
        self._stack.close()

    def count(self, what: str) -> int:
        """Return how often its log says something."""
        return self._log.read_text().count(what)

    @property
    def orders(self) -> int:
        """Number of orders so far."""
        return self.count("Added order ")
