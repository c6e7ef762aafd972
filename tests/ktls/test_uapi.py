"""Tests of uapi."""

from __future__ import annotations

import errno
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.provision import tree
from tlsify.ktls import uapi

NAMES = [name for name in vars(uapi) if name.isupper() and name != "KERNEL_TAG"]
_DEFINE = re.compile(r"^#define\s+(\w+)\s+(0x[0-9A-Fa-f]+|\d+)\b", re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_value_is_a_number(name: str) -> None:
    """The module holds numbers under the kernel's names, and nothing else."""
    assert isinstance(getattr(uapi, name), int)


def test_numbers_that_the_standard_library_knows() -> None:
    """Where Python has the constant, ours is the same."""
    assert socket.IPPROTO_TCP == uapi.SOL_TCP
    assert errno.EKEYEXPIRED == uapi.EKEYEXPIRED


def test_versions_are_the_wire_versions() -> None:
    """The kernel's version is major and minor in one number."""
    assert (uapi.TLS_1_2_VERSION, uapi.TLS_1_3_VERSION) == (0x0303, 0x0304)


def test_kernel_tag() -> None:
    """The numbers say which kernel they were taken from."""
    assert re.fullmatch(r"v\d+\.\d+", uapi.KERNEL_TAG)


def test_numbers_agree_with_a_kernels_headers() -> None:
    """What Debian's headers define too has the same value there."""
    text = "".join((tree() / "usr/include/linux" / name).read_text() for name in ("tls.h", "tcp.h"))
    defined = {name: int(value, 0) for name, value in _DEFINE.findall(text)}
    common = {name: defined[name] for name in NAMES if name in defined}
    assert common
    assert {name: getattr(uapi, name) for name in common} == common


def test_numbers_agree_with_the_newest_kernels_header() -> None:
    """So does all that the newest of the guests' kernels defines, which the script fetches once."""
    tree()  # a host that has no peers' programs cannot fetch that either
    script = Path(__file__).resolve().parents[2] / "scripts/uapi_diff"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "constants agree" in done.stdout
