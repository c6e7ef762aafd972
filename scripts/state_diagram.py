"""Draw docs/states.md from tls/session.py's tables; with --check, only say if it is up to date."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tlsify.codepoints import (
    AlertDescription,
    AlertLevel,
    CipherSuite,
    ContentType,
    HandshakeType,
    ProtocolVersion,
)
from tlsify.tls.messages import (
    MAX_TICKET_MESSAGE,
    KeyUpdateRequest,
    encode_key_update,
)
from tlsify.tls.ration import BYTES_FOR_ONE, MOST
from tlsify.tls.session import (
    Action,
    Fail,
    InstallKeys,
    PeerClosed,
    SendRecord,
    Session,
    StoreTicket,
    UpdateKeys,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

TARGET = ROOT / "docs/states.md"

HEAD = f"""# States

This page shows how a session handles each control record, role by role. `scripts/state_diagram.py`
writes it: the script feeds every kind of record to `tlsify/tls/session.py` and records the result,
so the table shows the code's real behaviour.

```mermaid
stateDiagram-v2
    [*] --> Open: the kernel has the keys
    Open --> Open: a whole message, an ignored alert
    Open --> Message: part of a handshake message
    Message --> Message: a further part
    Message --> Open: its last part
    Message --> Failed: any other record, alerts excepted
    Open --> PeerClosed: close_notify
    Open --> Failed: an error alert, anything unexpected, the budget spent
    PeerClosed --> [*]
    Failed --> [*]
```

A handshake message may have up to {MAX_TICKET_MESSAGE} bytes, and span records. An unacceptable
message is refused at its first byte; an alert takes effect even between the parts of a message. A
peer may send {MOST} control records at once, and one more for each {BYTES_FOR_ONE // 1024} KiB and
each second.
"PeerClosed" ends the receiving direction only: data may still be sent.

"""
ROLES = list(product(reversed(ProtocolVersion), (True, False)))
TICKET = bytes(8) + b"\x01n" + b"\x00\x01t" + b"\x00\x00"


def events() -> Iterator[tuple[str, int, bytes]]:
    """Return every kind of record there is: in words, its content type, its payload."""
    yield "empty data record", ContentType.application_data, b""
    for description in (AlertDescription.close_notify, AlertDescription.user_canceled):
        yield f"alert {description.name}", ContentType.alert, bytes([1, description])
    for level in AlertLevel:
        payload = bytes([level, AlertDescription.handshake_failure])
        yield f"any other alert, level {level.name}", ContentType.alert, payload
    yield "any alert, another level", ContentType.alert, b"\0\x28"
    yield "alert of another length than 2", ContentType.alert, bytes(3)
    yield "empty handshake record", ContentType.handshake, b""
    yield "part of new_session_ticket", ContentType.handshake, b"\x04\x00"
    for kind in HandshakeType:
        if kind is HandshakeType.key_update:
            for request in KeyUpdateRequest:
                words = f"KeyUpdate, {request.name}"
                yield words, ContentType.handshake, encode_key_update(request)
            yield "KeyUpdate, any other value", ContentType.handshake, b"\x18\0\0\1\2"
            yield "KeyUpdate and more in one record", ContentType.handshake, b"\x18\0\0\1\0\x18"
        else:
            body = TICKET if kind is HandshakeType.new_session_ticket else b""
            message = bytes([kind]) + len(body).to_bytes(3, "big") + body
            yield kind.name, ContentType.handshake, message
    yield "handshake message of another type", ContentType.handshake, b"\xc8\0\0\0"
    yield ContentType.change_cipher_spec.name, ContentType.change_cipher_spec, b"\1"
    yield "record of another type", 99, b"?"


def words(action: Action) -> str:
    """Return what has to be done."""
    match action:
        case SendRecord(_, payload):
            return f"send {AlertDescription(payload[1]).name}"
        case InstallKeys(direction):
            return f"next {direction.value} key"
        case UpdateKeys():
            return "KeyUpdate and next TX key, before the next data record"
        case StoreTicket():
            return "store the ticket"
        case PeerClosed():
            return "**peer closed**"
        case Fail(error):
            alert = error.alert.name if error.alert else "no alert"
            return f"**end**: {type(error).__name__}, {alert}"


def outcome(version: ProtocolVersion, kind: int, payload: bytes, *, is_client: bool) -> str:
    """Feed one record to a fresh session; two where it matters whether the kernel can rekey."""
    suite = next(suite for suite in CipherSuite if suite.version is version)
    found = []
    for can_rekey in (True, False):
        secrets = (bytearray(32), bytearray(32))
        rekeys = can_rekey and version is ProtocolVersion.TLSv1_3
        session = Session(suite, is_client, rekeys, *secrets)
        actions = session.receive(kind, payload)
        found.append("; ".join(map(words, actions)) or "-")
    if found[0] == found[1]:
        return found[0]
    return f"{found[0]} (no rekey: {found[1]})"


def page() -> str:
    """Build the whole page; events with the same outcomes share a row."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, kind, payload in events():
        cells = tuple(outcome(v, kind, payload, is_client=client) for v, client in ROLES)
        rows.setdefault(cells, []).append(name)
    heads = [f"{v.label} {'client' if client else 'server'}" for v, client in ROLES]
    table = [["record received", *heads], ["---"] * (len(heads) + 1)]
    table += [[", ".join(names), *cells] for cells, names in rows.items()]
    return HEAD + "\n".join(f"| {' | '.join(row)} |" for row in table) + "\n"


def main() -> None:
    """Write the page, or compare it."""
    if "--check" not in sys.argv:
        TARGET.write_text(page())
    elif not TARGET.exists() or TARGET.read_text() != page():
        sys.exit("docs/states.md is out of date: run scripts/state_diagram.py")


if __name__ == "__main__":
    main()
