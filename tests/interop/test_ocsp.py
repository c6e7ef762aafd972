"""OCSP responses that a server fetches by itself, as OpenSSL's client sees them."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.certificates import certify, respond, save
from tests.cli.forked import Forked
from tests.cli.harness import LOOPBACK
from tests.doubles import until
from tests.ports import free_port
from tests.provision import find
from tests.renewal.answering import Answering, reply
from tests.renewal.test_staples import AUTHORITY
from tlsify.credentials.key_pair import KeyPair
from tlsify.credentials.parse import parse_certificates
from tlsify.renewal.staples import file_of
from tlsify.system.sandbox import refusal

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.interop


def stapled(port: int) -> bool:
    """Return whether a client that asks gets a response."""
    words = [find("openssl"), "s_client", "-status", "-connect", f"{LOOPBACK}:{port}"]
    said = subprocess.run(words, input=b"", capture_output=True, check=False).stdout
    return b"OCSP Response Status: successful" in said


@pytest.mark.own_kernel
@pytest.mark.heavy
def test_server_that_fetches(tmp_path: Path) -> None:
    """It staples what it has fetched, from within its sandbox, and has it after a restart."""
    answers: list[bytes] = []
    with Answering(lambda _: reply(answers[0])) as responder:
        url = responder.url.replace("localhost", LOOPBACK)
        pair = certify(AUTHORITY, "localhost", responder=url)
        answers.append(respond(AUTHORITY, pair))
        issuer = parse_certificates(AUTHORITY.cert_pem.bytes(), "the authority")
        save(KeyPair((*pair.chain, *issuer), pair.key), *2 * (tmp_path / "it.pem",))
        (tmp_path / "site").mkdir()
        port = free_port()
        line: list[str | int | Path] = [
            *("serve", "--ktls=off", "--listen", f"{LOOPBACK}:{port}", "--isolate-key"),
            *(
                "--sandbox",
                "auto" if refusal() else "require",
                "--cert",
                tmp_path / "it.pem",
                "--drain",
                1,
            ),
            *("--ocsp-fetch", "--ocsp-dir", tmp_path / "ocsp", tmp_path / "site"),
        ]
        for _ in range(2):
            with Forked(*line) as server:
                assert "serving" in server.line()
                until(lambda: stapled(port))
                server.ask_to_end()
                assert server.end() == 0
        assert len(responder.requests) == 1
    assert (tmp_path / "ocsp" / file_of(pair.chain[0])).stat().st_mode & 0o777 == 0o600
