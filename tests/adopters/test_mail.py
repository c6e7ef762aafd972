"""Mail over tlsify: swaks sends and fetchmail fetches, over TLS from the start and by STARTTLS."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.adopters.recipes import recipe
from tests.doubles import until
from tests.interop.programs import PATIENCE, TIMEOUT, Program, require
from tests.ports import free_port
from tests.provision import find

if TYPE_CHECKING:
    from collections.abc import Iterator

    import trustme

    from tests.adopters.recipes import Place

pytestmark = [
    pytest.mark.interop,
    pytest.mark.timeout(TIMEOUT),
    pytest.mark.skipif(os.geteuid() != 0, reason="mail servers want to be started by root"),
]

_BODY = "\n\n" + "A line.\n" * 2000
_LETTER = f"From: bob@example.org\nTo: bob@example.org\nSubject: TLS{_BODY}"
_PASSWORD = "secret"
# What a server calls a connection with a password, without TLS of its own and with it (RFC 3848).
_PLAIN, _TLS = "esmtpa", "esmtpsa"
_NO_MAIL = 1  # fetchmail's exit status when there was nothing to fetch
_EXIM = """
primary_hostname = mail.example.org
local_interfaces = <; [127.0.0.1]:{port}
spool_directory = {folder}/spool
log_file_path = {folder}/spool/%slog
pid_file_path = {folder}/spool/pid
keep_environment =
never_users =
deliver_drop_privilege = true
tls_advertise_hosts = *
tls_certificate = {folder}/cert.pem
tls_privatekey = {folder}/key.pem
acl_smtp_rcpt = submission
acl_smtp_data = any
begin acl
submission:
  deny message = no password
       !authenticated = *
  accept
any:
  accept
begin routers
all:
  driver = accept
  transport = box
begin transports
box:
  driver = appendfile
  directory = {folder}/mail
  create_directory
  maildir_format
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and{{{{eq{{$auth2}}{{bob}}}}{{eq{{$auth3}}{{secret}}}}}}}}
  server_set_id = $auth2
"""
_DOVECOT = """
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
protocols = imap
base_dir = {folder}/run
state_dir = {folder}/run
log_path = /dev/stderr
listen = 127.0.0.1
ssl = yes
default_internal_user = nobody
default_login_user = nobody
default_internal_group = nogroup
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
ssl_server_cert_file = {folder}/cert.pem
ssl_server_key_file = {folder}/key.pem
mail_driver = maildir
mail_path = {folder}/mail
passdb static {{
  password = {password}
}}
userdb static {{
  fields {{
    uid = nobody
    gid = nogroup
    home = {folder}
  }}
}}
"""


class Server(NamedTuple):
    """A mail server on 127.0.0.1, which begins in plain text.

    Attributes:
        port: where it listens.
        box: Bob's letters.
    """

    port: int
    box: Path


@contextmanager
def _folder(place: Place) -> Iterator[Path]:
    """Make one that users which servers become can get to, unlike pytest's, with the key in it."""
    with tempfile.TemporaryDirectory(prefix="tlsify-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for part in ("spool", "mail"):
            (folder / part).mkdir()
            (folder / part).chmod(0o777)
        for part in ("cert.pem", "key.pem"):
            (folder / part).write_bytes((place.folder / part).read_bytes())
        yield folder


@pytest.fixture
def stranger(place: Place, authority: trustme.CA) -> None:
    """Servers show a certificate of somebody else's."""
    place.certify(authority.issue_cert("elsewhere.example"))


@pytest.fixture
def smtp(place: Place) -> Iterator[Server]:
    """Exim, which takes letters from Bob for everybody into one box."""
    program = find("exim4")
    port = free_port()
    with _folder(place) as folder:
        (folder / "conf").write_text(_EXIM.format(folder=folder, port=port))
        with Program([program, "-C", str(folder / "conf"), "-bdf"]) as server:
            server.await_port(port)
            yield Server(port, folder / "mail/new")


@pytest.fixture
def imap(place: Place) -> Iterator[Server]:
    """Dovecot, with a letter for Bob."""
    program = find("dovecot")
    port = free_port()
    with _folder(place) as folder:
        for part in ("cur", "new", "tmp"):
            (folder / "mail" / part).mkdir()
        (folder / "mail/new/1.letter").write_text(_LETTER)
        for path in (folder / "mail").rglob("*"):
            path.chmod(0o777)
        text = _DOVECOT.format(folder=folder, port=port, password=_PASSWORD)
        (folder / "conf").write_text(text)
        with Program([program, "-F", "-c", str(folder / "conf")]) as server:
            server.await_port(port)
            yield Server(port, folder / "mail/new")
            server.terminate()
            server.status()


def _prepare_letter(place: Place) -> None:
    require("swaks")
    place.write("swaksrc", f"auth-user bob\nauth-password {_PASSWORD}\n")
    place.write("letter", _LETTER)


def _expect_letter(server: Server, protocol: str) -> None:
    until(lambda: list(server.box.glob("*")), PATIENCE)
    (path,) = server.box.glob("*")
    letter = path.read_text()
    assert f"with {protocol} " in letter
    assert _LETTER in letter


def test_sending(place: Place, smtp: Server) -> None:
    """Swaks sends a letter over TLS, to a server that has none on this port."""
    _prepare_letter(place)
    own: dict[str, object] = {"0.0.0.0:465": "127.0.0.1:0", "587": smtp.port}
    with place.serving(recipe("smtp-serve", own)) as port, place.carried(connections=1):
        place.succeed(recipe("smtp-send", {"mail.example.org:465": f"localhost:{port}"}))
    _expect_letter(smtp, _PLAIN)


@pytest.mark.full_run
def test_sending_by_starttls(place: Place, smtp: Server) -> None:
    """Swaks sends a letter to a server that changes to TLS, which swaks does not see."""
    _prepare_letter(place)
    place.write_script("smtp-starttls")
    own = {"mail.example.org 587": f"localhost {smtp.port}"}
    with place.carried(connections=1, ends=1):
        said = place.succeed(recipe("smtp-starttls-send", own))
    assert "STARTTLS" not in said
    _expect_letter(smtp, _TLS)


@pytest.mark.full_run
@pytest.mark.usefixtures("stranger")
def test_sending_to_somebody_else(place: Place, smtp: Server) -> None:
    """Swaks fails, and nothing arrives, where the certificate names somebody else."""
    _prepare_letter(place)
    own: dict[str, object] = {"0.0.0.0:465": "127.0.0.1:0", "587": smtp.port}
    with place.serving(recipe("smtp-serve", own), said=".* alert bad_certificate.*") as port:
        done = place.run(recipe("smtp-send", {"mail.example.org:465": f"localhost:{port}"}))
    assert done.returncode != 0
    assert "elsewhere.example" in done.stdout
    assert not smtp.box.exists()


@pytest.mark.full_run
def test_fetching(place: Place, imap: Server) -> None:
    """Fetchmail fetches a letter over TLS, from a server that has none on this port."""
    require("fetchmail")
    own: dict[str, object] = {"0.0.0.0:993": "127.0.0.1:0", "143": imap.port}
    with place.serving(recipe("imap-serve", own)) as port, place.carried(connections=1):
        own = {"mail.example.org": "localhost", "993": port}
        place.write("fetchmailrc", recipe("imap-fetch-rc", own))
        place.succeed(recipe("imap-fetch", {}))
    assert _BODY in (place.folder / "inbox").read_text()


@pytest.mark.full_run
def test_fetching_by_starttls(place: Place, imap: Server) -> None:
    """Fetchmail fetches a letter from a server that changes to TLS, which it does not see."""
    require("fetchmail")
    place.write_script("imap-starttls")
    own = {"mail.example.org": "localhost", "143": imap.port}
    place.write("fetchmailrc", recipe("imap-starttls-rc", own))
    with place.carried(connections=1, ends=1):
        place.succeed(recipe("imap-fetch", {}))
    assert _BODY in (place.folder / "inbox").read_text()


@pytest.mark.full_run
@pytest.mark.usefixtures("stranger")
def test_fetching_from_somebody_else(place: Place, imap: Server) -> None:
    """Fetchmail fails, and has nothing, where the certificate names somebody else."""
    require("fetchmail")
    place.write_script("imap-starttls")
    own = {"mail.example.org": "localhost", "143": imap.port}
    place.write("fetchmailrc", recipe("imap-starttls-rc", own))
    done = place.run(recipe("imap-fetch", {}))
    assert done.returncode not in {0, _NO_MAIL}
    assert "elsewhere.example" in done.stdout
    assert not (place.folder / "inbox").exists()
