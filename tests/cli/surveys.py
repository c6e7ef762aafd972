"""What there could be to see, for the tests of what `tlsify status` makes of it."""

from __future__ import annotations

from tlsify.codepoints import Aead, ProtocolVersion
from tlsify.connection.handoff import Reason
from tlsify.ktls.diag import Device, Traffic
from tlsify.status.entries import Entry
from tlsify.status.holders import Process
from tlsify.status.sockets import Connection, Survey, Unseen
from tlsify.system.sandbox import Restraint

BUSY = Connection(
    local=("192.0.2.1", 443),
    peer=("192.0.2.7", 50000),
    inode=5,
    uid=33,
    user="www-data",
    processes=(Process(17, "nginx"), Process(18, "nginx")),
    version=ProtocolVersion.TLSv1_3,
    cipher=Aead.AES_GCM_256,
    tx="device",
    rx="kernel",
    traffic=Traffic(sent=3_500_000, acknowledged=3_400_000, received=900, idle=0.25),
)
# What is unknown, hidden, or not there.
BARE = Connection(
    local=("2001:db8::1", 443),
    peer=("2001:db8::7", 50001),
    inode=6,
    uid=0,
    user="root",
    processes=(),
    version=None,
    cipher=None,
    tx="none",
    rx="none",
    traffic=None,
)
COUNTERS = {"TlsCurrTxSw": 0, "TlsCurrTxDevice": 1, "TlsTxDevice": 9, "TlsDecryptError": 0}
HIDDEN = Unseen("processes", "the processes of 1 of the sockets", "run it as root")
SEEN = Survey(available=True, sockets=(BUSY, BARE), counters=COUNTERS, unseen=(HIDDEN,))

# tlsify's own: one that the kernel protects, one that it does not.
OFFLOADED = BUSY._replace(
    inode=7,
    restraint=Restraint(7, seccomp=True),
    processes=(Process(20, "tlsify"),),
    tx="kernel",
    entry=Entry(
        local=BUSY.local,
        peer=BUSY.peer,
        server_name="example.org",
        alpn="h2",
        version="TLSv1.3",
        suite="TLS_AES_256_GCM_SHA384",
        group="X25519MLKEM768",
        resumed=True,
        offload="kernel",
        reason=None,
        age=4000.0,
        rekeys=(2, 1),
        records=(12, 7),
    ),
)
REASON = Reason("no-tls-ulp", "this kernel has no tls ULP", "boot another one")
RELAYED = OFFLOADED._replace(
    restraint=Restraint(),
    inode=8,
    tx="relay",
    rx="relay",
    entry=Entry(
        local=BUSY.local,
        peer=BUSY.peer,
        server_name=None,
        alpn=None,
        version="TLSv1.3",
        suite="TLS_AES_256_GCM_SHA384",
        group="",
        resumed=False,
        offload="relay",
        reason=REASON,
        age=0.5,
        rekeys=None,
        records=None,
    ),
)
OWN = Survey(
    available=True,
    sockets=(BUSY, OFFLOADED, RELAYED),
    counters={"TlsCurrTxSw": 1},
    unseen=(),
    devices=(
        Device(
            "eth0",
            {"tls-hw-tx-offload": "on", "tls-hw-rx-offload": "off", "tls-hw-record": "none"},
        ),
    ),
)
NOTHING = Survey(available=False, sockets=(), counters={}, unseen=())
