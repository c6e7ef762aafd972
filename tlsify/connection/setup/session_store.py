"""Resumption state in a private folder: take, keep, expire."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import secrets
import stat
import time
from dataclasses import astuple, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from tlsify.connection.setup import session_writer
from tlsify.credentials.parse import encoded
from tlsify.errors import ConfigError, unusable
from tlsify.system.modes import make_private, open_private, own_alone
from tlsify.tls.certificates import digest, digest_of_anchors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import StrPath

    from tlsify.codepoints import Aead
    from tlsify.config import ClientConfig
    from tlsify.tls.negotiated import Resumable
    from tlsify.tls.ticket_reader import TicketReader

# Sessions kept for one origin, and in the whole folder; the oldest are removed first.
PER_ORIGIN = 8
IN_FOLDER = 1024
# Seconds for which sessions may follow one full handshake: each resumption brings new tickets, and
# without a limit the peer would never be verified again (RFC 8446 4.6.1).
RENEWABLE = 604800
_MAX_SIZE = 2**18  # a ticket of 2**16 bytes and the peer's certificate, with room to spare
_ABANDONED = 60.0  # seconds after which a file that is being written has lost its writer
_MOMENT = 1.0  # seconds for this process's own sessions to reach the folder

_MAGIC = b"tlsify session 1\n"
_DIGEST_LENGTH, _TIME_LENGTH = 32, 8
# Origin, time of writing in nanoseconds, expiry in seconds, random bits. Files of other names are
# not touched: the folder may hold more than sessions.
_NAME = re.compile(
    r"(?P<origin>[0-9a-f]{64})-(?P<written>[0-9a-f]{16})-(?P<expires>[0-9a-f]{16})-[0-9a-f]{16}"
    r"\.(?P<kind>session|partial)"
)
_log = logging.getLogger("tlsify")


@dataclass(frozen=True, slots=True)
class Origin:
    """Origin of a session: a resumed handshake verifies no path, so every field must match.

    Attributes:
        host: name sent as SNI, or the peer's address if none is.
        port: the peer's; of a UNIX socket the path.
        alpn: protocols offered.
        identities: reference identifiers, spelled out.
        verify: whether the peer was verified at all.
        trust: digest of the trust anchors, the system's included.
        pins: keys accepted.
        crls: digest of the revocation lists; empty if there are none.
        crl_check_all: whether every issuer must have one.
        certificate: digest of the client's own certificate; empty if it has none.
        versions: protocol versions offered.
        aeads: record protection offered. A server may insist on a TLS 1.2 session's own.
    """

    host: str
    port: int | str
    alpn: tuple[bytes, ...]
    identities: tuple[str, ...]
    verify: bool
    trust: bytes
    pins: tuple[bytes, ...]
    crls: bytes
    crl_check_all: bool
    certificate: bytes
    versions: tuple[int, ...]
    aeads: tuple[str, ...]

    @classmethod
    def of(
        cls,
        config: ClientConfig,
        address: tuple[Any, ...] | str | bytes,
        aeads: tuple[Aead, ...] | None = None,
    ) -> Self:
        """Return the origin of a connection.

        Args:
            config: the client's.
            address: the peer's, as ``getpeername`` gives it.
            aeads: as `tls.engine.Engine` was given them.
        """
        chain = config.key_pair and config.key_pair.chain
        host, port = _place(address)
        return cls(
            host=config.server_name or host,
            port=port,
            alpn=config.alpn,
            identities=tuple(sorted(map(str, config.identities))),
            verify=config.verify,
            trust=digest_of_anchors(config.trust),
            pins=tuple(sorted(config.pins)),
            crls=digest(*sorted(map(encoded, config.crls))) if config.crls else b"",
            crl_check_all=config.crl_check_all,
            certificate=digest(encoded(chain[0])) if chain else b"",
            versions=tuple(sorted(config.versions)),
            aeads=tuple(aead.name for aead in (config.aeads if aeads is None else aeads)),
        )

    def digest(self) -> bytes:
        """Return a 32-byte digest that identifies this origin."""
        return digest(*map(_encode, astuple(self)))


def _place(address: tuple[Any, ...] | str | bytes) -> tuple[str, int | str]:
    """Return the host and port of an address; of a UNIX socket, which has neither, its path."""
    if not isinstance(address, tuple):
        path = f"unix:{os.fsdecode(address)}"  # empty for a socketpair
        return path, path
    host, port, *rest = address
    zone = f"%{rest[1]}" if len(rest) > 1 and rest[1] else ""
    return f"{host}{zone}", port


def _encode(value: object) -> bytes:
    """Encode a field of an origin; its position implies its type."""
    if isinstance(value, tuple):
        return b"".join(len(p).to_bytes(8, "big") + p for p in map(_encode, value))
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


class StoredSession(NamedTuple):
    """Contents of a session file.

    Attributes:
        session: OpenSSL's DER of it.
        expires: end of its validity, in seconds since the epoch.
        renewable: likewise, for all sessions of handshakes that resume it.
    """

    session: bytes
    expires: float
    renewable: float

    def __repr__(self) -> str:
        """Show everything except the secrets."""
        return f"StoredSession(expires={self.expires}, renewable={self.renewable})"


def encode(origin: bytes, kept: StoredSession) -> bytes:
    """Encode a file's content.

    With a digest: a server may end the handshake if it is offered a damaged session.
    """
    times = (max(0, int(at)).to_bytes(_TIME_LENGTH, "big") for at in kept[1:])
    body = origin + b"".join(times) + kept.session
    return _MAGIC + hashlib.sha256(body).digest() + body


def decode(origin: bytes, content: bytes) -> StoredSession | None:
    """Decode a file's content; return None if it is damaged, or another origin's."""
    body = content[len(_MAGIC) + _DIGEST_LENGTH :]
    session = body[_DIGEST_LENGTH + 2 * _TIME_LENGTH :]
    intact = content == _MAGIC + hashlib.sha256(body).digest() + body
    if not intact or not session or body[:_DIGEST_LENGTH] != origin:
        return None
    expires, renewable = (
        int.from_bytes(body[start : start + _TIME_LENGTH], "big")
        for start in (_DIGEST_LENGTH, _DIGEST_LENGTH + _TIME_LENGTH)
    )
    return StoredSession(session, expires, renewable)


class SessionStore:
    """A private folder of sessions for later connections.

    Any number of processes may use it. Apart from the constructor nothing here raises: without a
    session there is a full handshake.
    """

    def __init__(self, path: StrPath) -> None:
        """Use a folder; create it if it does not exist.

        Raises:
            ConfigError: it cannot be created, or other users could read or change its files.
        """
        self.path = path
        try:
            make_private(path)
            with self._opened():
                pass
        except OSError as exc:
            hint = "name a folder of your own, not a link, in one that exists"
            raise unusable(f"cannot use session folder {path}", exc, hint) from exc

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """Open the folder, so that all work is done in this one even if its name changes.

        Raises:
            ConfigError: it is another user's, or open to other users.
            OSError: it cannot be opened.
        """
        folder = open_private(self.path, "session folder")
        try:
            yield folder
        finally:
            os.close(folder)

    def take(self, origin: Origin) -> StoredSession | None:
        """Remove and return the newest session of an origin.

        It is removed first, so that it is never used twice (RFC 8446 C.4).
        """
        digest = origin.digest()
        session_writer.wait_for(origin, _MOMENT)
        try:
            with self._opened() as folder:
                for entry in _sessions(folder, digest.hex()):
                    kept = _take_file(folder, entry.string, digest)
                    if kept is None or _is_of_the_future(entry):
                        continue
                    if kept.expires > time.time():
                        return kept
        except (OSError, ConfigError) as exc:
            _log.warning("no session to resume: %s", exc)
        return None

    def keep(self, origin: Origin, kept: StoredSession) -> None:
        """Store a session in the folder, and sweep it; an expired session is not stored."""
        if kept.expires <= time.time():
            return
        digest = origin.digest()
        content = encode(digest, kept)
        if len(content) > _MAX_SIZE:
            return
        name = "-".join(
            [
                digest.hex(),
                f"{time.time_ns():016x}",
                f"{int(kept.expires):016x}",
                secrets.token_hex(8),
            ]
        )
        try:
            with self._opened() as folder:
                _write_file(folder, name, content)
                _sweep(folder, digest.hex())
        except (OSError, ConfigError) as exc:
            _log.warning("session not kept: %s", exc)

    def slot(self, origin: Origin) -> SessionSlot:
        """Return a session to resume for one connection, and the place for its new sessions."""
        return SessionSlot(self, origin, self.take(origin))


@dataclass(slots=True, eq=False)
class SessionSlot:
    """One connection's session to resume, and its place in the store for new ones."""

    store: SessionStore
    _origin: Origin
    _taken: StoredSession | None = field(repr=False)

    @property
    def session(self) -> bytes | None:
        """Session to resume, as `tls.engine.Engine` takes it; None for a full handshake."""
        return None if self._taken is None else self._taken.session

    def keep(self, found: Resumable) -> None:
        """Store the connection's session, no longer than its last full handshake is valid.

        It is in the folder a moment later: the caller may be a thread that runs other connections.
        """
        renewable = time.time() + RENEWABLE
        if found.resumed:
            renewable = 0.0 if self._taken is None else self._taken.renewable
        kept = StoredSession(found.session, min(found.expires, renewable), renewable)
        session_writer.write(self._origin, partial(self.store.keep, self._origin, kept))


class SessionIntake:
    """Stores the sessions of tickets that a handed-off connection receives, in ``folder``."""

    def __init__(self, reader: TicketReader, slot: SessionSlot) -> None:
        """Store a connection's ticket reader, and its place in the store."""
        self._reader = reader
        self._slot = slot
        self.folder = slot.store.path

    def take(self, message: bytes) -> None:
        """Read one complete NewSessionTicket message.

        Raises:
            PeerMisbehaved: it is malformed.
        """
        found = self._reader.add(message)
        if found is not None:
            self._slot.keep(found)

    def wipe(self) -> None:
        """Free the connection that reads tickets."""
        self._reader.wipe()


def _entries(folder: int) -> list[re.Match[str]]:
    """Return the names of our files, parsed, newest first."""
    found = [entry for name in os.listdir(folder) if (entry := _NAME.fullmatch(name))]
    return sorted(found, key=lambda entry: entry["written"], reverse=True)


def _is_of_the_future(entry: re.Match[str]) -> bool:
    """Return whether the clock was ahead when the file was written, so its age is unknown."""
    return int(entry["written"], 16) > time.time_ns()


def _sessions(folder: int, origin: str) -> list[re.Match[str]]:
    return [e for e in _entries(folder) if e["kind"] == "session" and e["origin"] == origin]


def _remove(folder: int, name: str) -> bool:
    """Remove a file; return False if it was already gone, or cannot be removed."""
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        return False
    return True


def _take_file(folder: int, name: str, origin: bytes) -> StoredSession | None:
    """Remove a file and read it; return None if it is unusable, or another process was quicker."""
    try:
        # NONBLOCK, or opening a FIFO would wait for its other end.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(name, flags, dir_fd=folder)
    except OSError:
        _remove(folder, name)
        return None
    try:
        if not _remove(folder, name) or not stat.S_ISREG(os.fstat(file).st_mode):
            return None
        return decode(origin, os.read(file, _MAX_SIZE))
    finally:
        os.close(file)


def _write_file(folder: int, name: str, content: bytes) -> None:
    """Write a file atomically."""
    partial = f"{name}.partial"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(partial, flags, 0o600, dir_fd=folder)
    try:
        try:
            own_alone(file)
            written = os.write(file, content)
        finally:
            os.close(file)
        if written < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.rename(partial, f"{name}.session", src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        _remove(folder, partial)
        raise


def _sweep(folder: int, origin: str) -> None:
    """Remove expired, abandoned and excess files."""
    now = time.time()
    sessions = 0
    of_origin = 0
    for entry in _entries(folder):
        if _is_of_the_future(entry):
            useless = True
        elif entry["kind"] == "partial":
            useless = int(entry["written"], 16) < (now - _ABANDONED) * 1e9
        else:
            sessions += 1
            of_origin += entry["origin"] == origin
            useless = (
                int(entry["expires"], 16) <= now
                or sessions > IN_FOLDER
                or (entry["origin"] == origin and of_origin > PER_ORIGIN)
            )
        if useless:
            _remove(folder, entry.string)
