"""Debian's servers of the protocols that change to TLS: run in a folder, as an ordinary process."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.interop.programs import PATIENCE, Program
from tests.ports import free_port
from tests.provision import find

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.interop.peers import Identity

_IS_ROOT = os.geteuid() == 0
# Who servers may become that insist on becoming somebody.
_SOMEBODY = pwd.getpwnam("nobody") if _IS_ROOT else pwd.getpwuid(os.geteuid())
_GROUP = grp.getgrgid(_SOMEBODY.pw_gid).gr_name


@dataclass(frozen=True)
class Ground:
    """Where a server runs.

    Attributes:
        folder: everybody may enter it; its own files go there.
        chain: its certificate, in the folder.
        key: likewise; everybody may read it.
        port: of 127.0.0.1.
        tls: whether it is to offer TLS.
    """

    folder: Path
    chain: Path
    key: Path
    port: int
    tls: bool

    def write(self, name: str, *lines: str, tls: str = "") -> str:
        """Write a configuration; return its path.

        Args:
            name: of the file.
            lines: of its text.
            tls: lines that are left out where TLS is not to be offered.
        """
        path = self.folder / name
        text = "\n".join([*lines, tls if self.tls else ""]) + "\n"
        for placeholder, value in (
            ("@FOLDER@", self.folder),
            ("@CHAIN@", self.chain),
            ("@KEY@", self.key),
            ("@PORT@", self.port),
            ("@USER@", _SOMEBODY.pw_name),
            ("@GROUP@", _GROUP),
        ):
            text = text.replace(placeholder, str(value))
        path.write_text(text)
        return str(path)

    def writable(self, name: str) -> Path:
        """Make a folder in which everybody may write."""
        path = self.folder / name
        path.mkdir()
        path.chmod(0o777)
        return path


@contextmanager
def running(
    start: Callable[[Ground], list[str]], identity: Identity, *, tls: bool = True
) -> Iterator[tuple[Program, int]]:
    """Run a server; return its port too."""
    with ExitStack() as stack:
        # Not pytest's folder, which is closed to the users that servers become.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tlsify-")))
        folder.chmod(0o755)
        chain, key = folder / "chain.pem", folder / "key.pem"
        shutil.copy(identity.chain, chain)
        shutil.copy(identity.key, key)
        key.chmod(0o644)  # it is worth nothing
        ground = Ground(folder, chain, key, free_port(), tls)
        with Program(start(ground)) as server:
            yield server, ground.port
            server.terminate()
            with suppress(AssertionError):  # how soon it ends is not ours to judge
                server.status()


def exim(ground: Ground) -> list[str]:
    """SMTP."""
    program = find("exim4")
    if not _IS_ROOT:
        pytest.skip("exim wants to be started by root")
    ground.writable("spool")
    path = ground.write(
        "exim.conf",
        "primary_hostname = mail.example.org",
        "local_interfaces = <; [127.0.0.1]:@PORT@",
        "spool_directory = @FOLDER@/spool",
        "log_file_path = @FOLDER@/spool/%slog",
        "pid_file_path = @FOLDER@/spool/pid",
        "keep_environment =",
        f"tls_advertise_hosts = {'*' if ground.tls else ''}",
        tls="tls_certificate = @CHAIN@\ntls_privatekey = @KEY@",
    )
    return [program, "-C", path, "-bdf"]


_DOVECOT_SERVICES = {
    "imap": ("imap-login", "imap", "imaps"),
    "pop3": ("pop3-login", "pop3", "pop3s"),
    "sieve": ("managesieve-login", "sieve", ""),
    "lmtp": ("lmtp", "lmtp", ""),
}


def dovecot(protocol: str) -> Callable[[Ground], list[str]]:
    """IMAP, POP3, LMTP or ManageSieve."""

    def start(ground: Ground) -> list[str]:
        program = find("dovecot")
        service, listener, other = _DOVECOT_SERVICES[protocol]
        path = ground.write(
            "dovecot.conf",
            "dovecot_config_version = 2.4.0",
            "dovecot_storage_version = 2.4.0",
            f"protocols = {protocol}",
            "base_dir = @FOLDER@/run",
            "state_dir = @FOLDER@/run",
            "log_path = /dev/stderr",
            "listen = 127.0.0.1",
            "default_internal_user = @USER@",
            "default_login_user = @USER@",
            "default_internal_group = @GROUP@",
            "mail_driver = maildir",
            "mail_path = @FOLDER@/mail",
            "passdb static {\n password = secret\n}",
            "userdb static {\n fields {\n  uid = @USER@\n  gid = @GROUP@\n  home = @FOLDER@\n }\n}",
            f"service {service} {{\n chroot =",
            f" inet_listener {listener} {{\n  port = @PORT@\n }}",
            f" inet_listener {other} {{\n  port = 0\n }}" if other else "",
            "}",
            "service anvil {\n chroot =\n}",
            "service stats {\n chroot =\n}",
            f"ssl = {'yes' if ground.tls else 'no'}",
            tls="ssl_server_cert_file = @CHAIN@\nssl_server_key_file = @KEY@",
        )
        return [program, "-F", "-c", path]

    return start


def vsftpd(ground: Ground) -> list[str]:
    """FTP."""
    program = find("vsftpd")
    path = ground.write(
        "vsftpd.conf",
        "listen=YES",
        "listen_address=127.0.0.1",
        "listen_port=@PORT@",
        "background=NO",
        "run_as_launching_user=YES",
        "ftp_username=@USER@",
        tls="ssl_enable=YES\nrsa_cert_file=@CHAIN@\nrsa_private_key_file=@KEY@\nssl_ciphers=HIGH",
    )
    return [program, path]


def inspircd(ground: Ground) -> list[str]:
    """IRC."""
    program = find("inspircd")
    ground.writable("data")
    path = ground.write(
        "inspircd.conf",
        '<server name="irc.example.org" description="test" network="Test">',
        '<admin name="x" nick="x" email="x@example.org">',
        '<bind address="127.0.0.1" port="@PORT@" type="clients">',
        '<connect allow="*" resolvehostnames="no">',
        '<pid file="@FOLDER@/data/pid">',
        '<path configdir="@FOLDER@" datadir="@FOLDER@/data" logdir="@FOLDER@/data">',
        '<module name="cap">',
        tls='<module name="ssl_gnutls">\n<module name="starttls">\n'
        '<sslprofile name="Clients" provider="gnutls" cafile="" certfile="@CHAIN@" '
        'keyfile="@KEY@">',
    )
    return [program, "--config", path, "--nofork", *(["--runasroot"] if _IS_ROOT else [])]


def slapd(ground: Ground) -> list[str]:
    """LDAP."""
    program = find("slapd")
    path = ground.write(
        "slapd.conf",
        "pidfile @FOLDER@/pid",
        "database config",
        tls="TLSCertificateFile @CHAIN@\nTLSCertificateKeyFile @KEY@",
    )
    return [program, "-d", "0", "-f", path, "-h", f"ldap://127.0.0.1:{ground.port}/"]


def prosody(kind: str) -> Callable[[Ground], list[str]]:
    """XMPP: "c2s" for clients, or "s2s" for servers."""

    def start(ground: Ground) -> list[str]:
        program = find("prosody")
        (ground.folder / "certs").mkdir()
        tls = "'tls'" if ground.tls else ""
        path = ground.write(
            "prosody.lua",
            f"run_as_root = {str(_IS_ROOT).lower()}",
            'pidfile = "@FOLDER@/pid"',
            'data_path = "@FOLDER@"',
            'interfaces = { "127.0.0.1" }',
            f"c2s_ports = {{ {'@PORT@' if kind == 'c2s' else ''} }}",
            f"s2s_ports = {{ {'@PORT@' if kind == 's2s' else ''} }}",
            "c2s_require_encryption = false",
            "s2s_require_encryption = false",
            f"modules_enabled = {{ 'saslauth', 'disco', 'dialback', {tls} }}",
            'log = { { levels = { min = "info" }, to = "console" } }',
            'ssl = { certificate = "@CHAIN@"; key = "@KEY@" }',
            'VirtualHost "localhost"',
        )
        return [program, "--config", path, "-F"]

    return start


def postgres(ground: Ground) -> list[str]:
    """PostgreSQL, which refuses to be root."""
    initdb, program = find("initdb"), find("postgres")
    become = []
    data = ground.folder / "data"
    data.mkdir(mode=0o700)
    ground.key.chmod(0o600)
    if _IS_ROOT:
        become = ["env", f"TLSIFY_PEER_UID={_SOMEBODY.pw_uid}"]  # vm/lane/usr.c has it believe so
        for path in (data, ground.key):
            os.chown(path, _SOMEBODY.pw_uid, _SOMEBODY.pw_gid)
    subprocess.run(
        [*become, initdb, "-D", data, "-A", "trust", "-U", "postgres", "--no-sync"],
        check=True,
        capture_output=True,
        timeout=PATIENCE,
        cwd=ground.folder,
    )
    settings = {"listen_addresses": "127.0.0.1", "port": ground.port, "unix_socket_directories": ""}
    if ground.tls:
        settings |= {"ssl": "on", "ssl_cert_file": ground.chain, "ssl_key_file": ground.key}
    words = [f"{name}={value}" for name, value in settings.items()]
    return [*become, program, "-D", str(data), *(w for word in words for w in ("-c", word))]


def mariadb(ground: Ground) -> list[str]:
    """MySQL's protocol."""
    program = find("mariadbd")
    data = ground.writable("data")
    words = [f"--datadir={data}", f"--socket={data}/socket", f"--pid-file={data}/pid"]
    words += ["--bind-address=127.0.0.1", f"--port={ground.port}", "--skip-grant-tables"]
    words += ["--skip-networking=0", "--skip-innodb", "--default-storage-engine=Aria"]
    words += ["--default-tmp-storage-engine=Aria", *(["--user=root"] if _IS_ROOT else [])]
    if ground.tls:
        words += [f"--ssl-cert={ground.chain}", f"--ssl-key={ground.key}"]
    else:
        words += ["--skip-ssl"]
    return [program, "--no-defaults", *words]
