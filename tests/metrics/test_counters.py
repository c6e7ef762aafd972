"""Tests of counters."""

from __future__ import annotations

import subprocess
import sys

from tests.doubles import Endpoint
from tlsify.metrics.counters import Event, beat, beats, count, counters, occupy, reserve, vacate


def test_every_event_has_its_number() -> None:
    """A report names all of them, those too that never happened."""
    found = counters()
    assert list(found) == [event.value for event in Event]
    assert all(number >= 0 for number in found.values())


def test_only_what_happened_is_counted() -> None:
    """One more is one more, and a report that was given stays as it is."""
    before = counters()
    count(Event.KEY_LIMIT_REACHED)
    after = counters()
    assert after.pop("key_limit_reached") == before.pop("key_limit_reached") + 1
    assert after == before


def test_counting_from_many_threads() -> None:
    """None gets lost between two threads."""
    before = counters()["ticket_received"]

    def count_on() -> None:
        for _ in range(1000):
            count(Event.TICKET_RECEIVED)

    threads = [Endpoint(count_on) for _ in range(4)]
    for thread in threads:
        thread.result()
    assert counters()["ticket_received"] == before + 4000


# -- shared among processes, each test in one of its own, since there is no way back

_PRELUDE = """
import os, signal, sys
from tlsify import counters as _function
from tlsify.metrics.counters import *
from tlsify.metrics.counters import SLOTS, _WIDTH
count(Event.TRUNCATED, 5)
descriptor = share()

def child(slot, work):
    reserve(slot)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        occupy(slot)
        work()
        os.write(writer, b".")
        signal.pause()
    os.read(reader, 1)
    return pid

def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""


def _run(program: str) -> None:
    subprocess.run([sys.executable, "-c", _PRELUDE + program], check=True, timeout=60)


def test_sums_of_processes() -> None:
    """What was counted before is kept, and each process's own is added, killed or not."""
    _run("""
def work():
    for _ in range(1000):
        count(Event.TRUNCATED)
    change(Gauge.CONNECTIONS, 3)
    relayed("no-tls-ulp")
    relayed("something new")
    handshake_took(0.003)
    handshake_took(99.0)

pids = [child(slot, work) for slot in (1, 2, 7)]
assert counters()["truncated"] == 3005
assert gauge(Gauge.CONNECTIONS) == 9
end(pids[0])
assert counters()["truncated"] == 3005, "a dead worker's counts stay"
vacate(1)
assert gauge(Gauge.CONNECTIONS) == 6, "its gauges do not"
assert counters()["truncated"] == 3005
assert relayed_by_reason()["no-tls-ulp"] == 3
assert relayed_by_reason()["other"] == 3
assert counters()["relayed"] == 6
times = handshake_times()
assert times.counts[0] == 0 and times.counts[1] == 3 and times.counts[-1] == 6
assert abs(times.seconds - 3 * 99.003) < 1e-6
put(Gauge.WORKERS, 4)
put(Gauge.WORKERS, 2)
assert gauge(Gauge.WORKERS) == 2
end(pids[1]); end(pids[2])
""")


def test_slot_of_another_before() -> None:
    """Who gets a dead worker's slot counts on from where it was."""
    _run("""
for total in (1, 2, 3):
    pid = child(1, lambda: count(Event.RESUMED))
    assert counters()["resumed"] == total
    end(pid)
pid = child(SLOTS - 1, lambda: count(Event.RESUMED))
assert counters()["resumed"] == 4
end(pid)
""")


def test_counts_outlive_the_program() -> None:
    """A successor that counts alike goes on, with workers of before that count, too."""
    _run("""
pid = child(1, lambda: count(Event.RESUMED))
os.set_inheritable(descriptor, True)
text = f'''
import os, signal
from tlsify.metrics.counters import *
assert share({descriptor}) == {descriptor}
assert counters()["resumed"] == 1
assert counters()["truncated"] == 5
count(Event.RESUMED)
assert counters()["resumed"] == 2
os.kill({pid}, signal.SIGKILL)
os.waitpid({pid}, 0)
'''
os.execv(sys.executable, [sys.executable, "-c", text])
""")


def test_memory_of_another_version() -> None:
    """It is not gone on with, nor left open."""
    _run("""
before = set(os.listdir("/proc/self/fd"))
for size, text in ((0, b""), (os.fstat(descriptor).st_size, b"other")):
    other = os.memfd_create("other")
    os.ftruncate(other, size)
    os.pwrite(other, text, 8)
    made = share(other)
    assert counters()["truncated"] == 5
    os.close(made)
assert set(os.listdir("/proc/self/fd")) == before
""")


def test_slots_where_nothing_is_shared() -> None:
    """They mean nothing: a forked process counts for itself."""
    before = counters()["resumed"]
    occupy(5)
    reserve(5)
    count(Event.RESUMED)
    vacate(5)
    assert counters()["resumed"] == before + 1
    beat()
    assert beats(5) == 0


def test_heartbeats() -> None:
    """Each process shows its own, by its slot; the next one there begins anew."""
    _run("""
def work():
    for _ in range(3):
        beat()
pids = [child(slot, work) for slot in (1, 2)]
assert [beats(slot) for slot in (0, 1, 2, 3)] == [0, 3, 3, 0]
end(pids[0])
vacate(1)
assert [beats(slot) for slot in (1, 2)] == [0, 3]
end(pids[1])
""")
