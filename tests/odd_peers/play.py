"""A connection with an odd peer: both ends, step by step, and how it went."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.doubles import KERNEL, Endpoint, until
from tests.odd_peers.opening import Halted, OddPeer
from tests.odd_peers.outcome import Outcome, name
from tests.odd_peers.steps import Stage
from tlsify.connection.establish import accept, connect
from tlsify.connection.stream import TLSSocket
from tlsify.errors import TlsifyError
from tlsify.ktls import ulp

if TYPE_CHECKING:
    from tests.doubles import Lab, RawPeer
    from tests.odd_peers.scenario import Case
    from tlsify.config import KtlsPolicy

# In seconds. What takes so long never ends.
_PATIENCE = 20


def play(lab: Lab, case: Case, policy: KtlsPolicy) -> Outcome:
    """Play one case on a carrier; return what came of it."""
    scenario = case.scenario
    ours, theirs = lab.tcp()
    theirs.settimeout(_PATIENCE)
    client, server = lab.configs(case.version)
    lab.peers.append(theirs)
    theirs_config = server if case.role == "client" else client

    beside = ours.dup()  # a door may take the connection out of the socket

    def negotiate() -> RawPeer:
        try:
            with beside:  # no longer, or nobody would see our FIN
                if policy is KERNEL:  # takes no connection that is broken already
                    until(lambda: ulp.ulp_name(beside) == "tls")
            if scenario.opening.foreign:
                # Slow to import, above all under emulation, and rarely wanted there.
                from tests.odd_peers.foreign import ForeignPeer  # noqa: PLC0415 - see above

                return ForeignPeer(theirs, theirs_config, scenario.opening.foreign)
            return OddPeer(theirs, theirs_config, scenario.opening)
        except BaseException:
            theirs.close()  # nobody has to wait for what will not come
            raise

    peer = Endpoint(negotiate)
    try:
        if case.role == "client":
            handoff = connect(ours, client, policy)
        else:
            handoff = accept(ours, server, policy)
    except (TlsifyError, OSError) as exc:
        ours.close()
        try:
            peer.result()
        except Halted as halted:
            return Outcome(b"", name(exc), tuple(map(str, halted.args)))
        raise
    stream = TLSSocket(lab.keep(handoff), scenario.closing)
    stream.settimeout(_PATIENCE)
    stage = Stage(stream, peer.result(), scenario.notes_tickets)
    for step in scenario.play():
        step.play(stage)
    return stage.finish()
