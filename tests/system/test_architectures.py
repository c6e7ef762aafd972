"""Tests of what differs from one architecture to the next, against the kernel's own headers."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests import provision
from tests.docs.examples import PROJECT
from tlsify.connection import polling
from tlsify.system import forbidden_calls, sandbox
from tlsify.wrap import filter as wrap_filter

_HEADERS = {"x86_64": "x86", "aarch64": "arm64"}


@cache
def _defined(header: Path) -> dict[str, str]:
    """Return what a header defines, by name."""
    return dict(re.findall(r"^#define\s+(\w+)\s+(\w+)", header.read_text(), re.MULTILINE))


@pytest.mark.parametrize("machine", forbidden_calls.ARCHITECTURES)
def test_numbers_of_system_calls(machine: str) -> None:
    """Those of the filter and of Landlock, and the architecture's own number."""
    root = provision.tree() / "usr"
    numbers = _defined(root / f"lib/linux/uapi/{_HEADERS[machine]}/asm/unistd_64.h")
    for name, each in forbidden_calls._CALLS.items():
        assert numbers[f"__NR_{name}"] == str(each[machine == "aarch64"]), name
    at = machine == "aarch64"
    ours = {"seccomp": wrap_filter._SECCOMP[at], "splice": wrap_filter._SPLICE[at]}
    ours |= {"io_uring_setup": wrap_filter._IO_URING_SETUP}
    for name, number in {**ours, **{v: k for k, v in wrap_filter.names(machine).items()}}.items():
        assert numbers[f"__NR_{name}"] == str(number), name
    for name, number in (
        ("create_ruleset", sandbox._CREATE_RULESET),
        ("add_rule", sandbox._ADD_RULE),
        ("restrict_self", sandbox._RESTRICT_SELF),
    ):
        assert numbers[f"__NR_landlock_{name}"] == str(number), name
    elf = _defined(root / "include/linux/elf-em.h")[f"EM_{machine.upper()}"]
    # linux/audit.h: 64 bits, little-endian.
    assert forbidden_calls.ARCHITECTURES[machine] == int(elf) | 0x80000000 | 0x40000000


def test_layouts_are_the_same_everywhere() -> None:
    """Each spells out the sizes of its members and all padding, except for times in longs."""
    native = {
        (path.name, layout)
        for path in (PROJECT / "tlsify").rglob("*.py")
        for layout in re.findall(r"struct\.\w+\(\s*\"([^\"]*)\"", path.read_text())
        if layout[0] not in "=!<>"
    }
    assert native == set()
    # A C library whose time is longer than its longs has another option for it.
    assert '"=qq" if socket.SO_RCVTIMEO == _NEW else "@ll"' in Path(polling.__file__).read_text()
    generic = _defined(provision.tree() / "usr/include/asm-generic/socket.h")
    assert generic["SO_RCVTIMEO_NEW"] == str(polling._NEW)
