"""Tests of sslcontext with Python's clients of other protocols, and the servers that people run."""

from __future__ import annotations

import ftplib
import imaplib
import poplib
import smtplib
from typing import TYPE_CHECKING

import pytest

from tests.doubles import OFFLOADS, RELAY
from tests.interop.daemons import dovecot, exim, running, vsftpd
from tests.interop.programs import PATIENCE, TIMEOUT
from tlsify.sslcontext.context import SSLContext
from tlsify.sslcontext.socket import SSLSocket

if TYPE_CHECKING:
    from tests.interop.peers import Site
    from tlsify.config import KtlsPolicy

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]
both = pytest.mark.parametrize("policy", OFFLOADS)
relayed = pytest.mark.parametrize("policy", [RELAY])  # what no guest has the server for


def _context(site: Site, policy: KtlsPolicy) -> SSLContext:
    return SSLContext.for_client(cafile=site.authority, policy=policy)


@both
def test_smtplib(site: Site, policy: KtlsPolicy) -> None:
    """STARTTLS with exim."""
    with running(exim, site.ec) as (program, port):
        program.await_port(port)
        with smtplib.SMTP("localhost", port, timeout=PATIENCE) as client:
            client.starttls(context=_context(site, policy))
            assert isinstance(client.sock, SSLSocket)
            assert client.sock.version() == "TLSv1.3"
            assert client.ehlo()[0] == 250


@relayed
def test_imaplib(site: Site, policy: KtlsPolicy) -> None:
    """STARTTLS with dovecot."""
    with running(dovecot("imap"), site.ec) as (program, port):
        program.await_port(port)
        with imaplib.IMAP4("localhost", port, timeout=PATIENCE) as client:
            client.starttls(_context(site, policy))
            assert isinstance(client.sock, SSLSocket)
            assert "AUTH=PLAIN" in client.capabilities


@relayed
def test_poplib(site: Site, policy: KtlsPolicy) -> None:
    """STLS with dovecot."""
    with running(dovecot("pop3"), site.ec) as (program, port):
        program.await_port(port)
        client = poplib.POP3("localhost", port, timeout=PATIENCE)
        client.stls(_context(site, policy))
        assert "UIDL" in client.capa()
        client.quit()


@relayed
def test_ftplib(site: Site, policy: KtlsPolicy) -> None:
    """AUTH TLS with vsftpd."""
    with running(vsftpd, site.ec) as (program, port):
        program.await_port(port)
        client = ftplib.FTP_TLS(context=_context(site, policy), timeout=PATIENCE)
        client.connect("localhost", port)
        assert client.auth().startswith("234")
        assert isinstance(client.sock, SSLSocket)
        assert client.sendcmd("FEAT").startswith("211")
        client.close()
