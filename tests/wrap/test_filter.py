"""Tests of filter: what each call meets, by an interpreter of classic BPF."""

from __future__ import annotations

import errno
import fcntl
import struct

import pytest

from tlsify.system.bpf import IF_ANY_BIT, IF_EQUAL, LOAD, RETURN, UNLESS_BELOW
from tlsify.system.forbidden_calls import ARCHITECTURES
from tlsify.wrap import filter as wrap_filter
from tlsify.wrap.filter import Questions

ALLOWED, ASKED = 0x7FFF0000, 0x7FC00000
NOT_THERE = 0x50000 | errno.ENOSYS
BASE = 256
MACHINES = pytest.mark.parametrize("machine", ARCHITECTURES)


def run(code: bytes, number: int, arch: int, first: int, second: int = 0, third: int = 9) -> int:
    """Interpret a filter, on struct seccomp_data."""
    data = struct.pack("<iIQ6Q", number, arch, 0, first, second, third, *range(3))
    program = list(struct.iter_unpack("=HBBI", code))
    at = accumulator = 0
    while True:
        operation, then, otherwise, value = program[at]
        at += 1
        if operation == LOAD:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif operation == RETURN:
            return int(value)
        else:
            found = {
                IF_EQUAL: accumulator == value,
                UNLESS_BELOW: accumulator >= value,
                IF_ANY_BIT: accumulator & value,
            }[operation]
            at += then if found else otherwise


def table(machine: str) -> dict[str, int]:
    """Return the numbers of the calls by name."""
    return {name: number for number, name in wrap_filter.names(machine).items()}


@MACHINES
def test_calls(machine: str) -> None:
    """Listening and ends of processes always, connections by their numbers, nothing else."""
    code = wrap_filter.build(machine, BASE, Questions(names=True))
    numbers = table(machine)
    found = {
        name: tuple(run(code, number, ARCHITECTURES[machine], fd) for fd in (BASE - 1, BASE, 2**20))
        for name, number in numbers.items()
    }
    always = {"listen", "accept", "accept4", "bind", "exit_group", "shutdown", "clone"}
    always |= set(wrap_filter.NAMES)
    always |= {"fork", "vfork", "pidfd_getfd", "socketpair"} & set(numbers)
    expected = dict.fromkeys(numbers, (ALLOWED, ASKED, ASKED)) | dict.fromkeys(always, (ASKED,) * 3)
    expected |= dict.fromkeys(("sendmsg", "sendmmsg"), (ASKED, ALLOWED, ALLOWED))
    assert found == expected | {"socket": (ALLOWED,) * 3}
    others = set(range(500)) - set(numbers.values()) - {425, 435}
    assert {run(code, each, ARCHITECTURES[machine], BASE) for each in others} == {ALLOWED}


@MACHINES
def test_calls_that_depend_on_what_they_do(machine: str) -> None:
    """A thread shares descriptors, and only UNIX domain sockets carry some."""
    code = wrap_filter.build(machine, BASE, Questions())
    numbers = table(machine)

    def ask(name: str, first: int, second: int = 0) -> bool:
        return run(code, numbers[name], ARCHITECTURES[machine], first, second) == ASKED

    thread = 0x3D0F00
    assert [ask("clone", flags) for flags in (17, thread, 0x4111)] == [True, False, True]
    assert [ask("socket", family) for family in (1, 2, 10, 16)] == [True, False, False, False]
    commands = [fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC, fcntl.F_GETFL, fcntl.F_SETFD]
    assert [ask("fcntl", BASE, each) for each in commands] == [True, True, False, False]
    assert [ask("fcntl", BASE - 1, each) for each in commands] == [False] * 4


@MACHINES
def test_reads_of_stdin(machine: str) -> None:
    """They are asked about where that is wanted, but for those of single bytes."""
    code = wrap_filter.build(machine, BASE, Questions(stdin=True))
    numbers, arch = table(machine), ARCHITECTURES[machine]
    for name in wrap_filter.READS:
        found = [
            run(code, numbers[name], arch, fd, third=size) == ASKED
            for fd in (0, 1, BASE - 1, BASE, 2**20)
            for size in (1, 2)
        ]
        assert found == [name != "read", True, *[False] * 4, *[True] * 4]


@MACHINES
def test_bare(machine: str) -> None:
    """Reads, and names, are left alone, ends of connections are not."""
    code = wrap_filter.build(machine, BASE, Questions(reads=False))
    numbers = table(machine)
    found = {
        name for name, n in numbers.items() if run(code, n, ARCHITECTURES[machine], BASE) == ASKED
    }
    others = {*wrap_filter.READS, *wrap_filter.NAMES, "sendmsg", "sendmmsg", "socket"}
    assert found == set(numbers) - others


@MACHINES
def test_ways_past_the_filter(machine: str) -> None:
    """Calls by other numbers, and io_uring, are not there."""
    code = wrap_filter.build(machine, BASE, Questions())
    own = ARCHITECTURES[machine]
    for number in table(machine).values():
        assert run(code, number, 0x40000003, BASE) == NOT_THERE  # i386's
        assert run(code, number | 0x40000000, own, BASE) == NOT_THERE  # x32's
    assert [run(code, each, own, 8) for each in (425, 435)] == [NOT_THERE] * 2


def test_other_architectures() -> None:
    """An architecture whose numbers are unknown has no filter."""
    assert [wrap_filter.is_supported(each) for each in ("x86_64", "riscv64", "i686")] == [
        True,
        False,
        False,
    ]
