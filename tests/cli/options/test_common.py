"""Tests of common."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.doubles import Endpoint
from tlsify.cli.options.common import count, policy, read_key, seconds
from tlsify.cli.parser import GlobalOptions
from tlsify.config import KtlsMode, KtlsPolicy
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (seconds, "0.5", 0.5),
        (seconds, "1e6", 1e6),
        (count, "1", 1),
        (count, "1024", 1024),
    ],
)
def test_readable(read: Callable[[str], Any], text: str, value: object) -> None:
    """Everything within bounds is read as what it says."""
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "text"),
    [
        *((seconds, text) for text in ("", "soon", "0", "-1", "nan", "inf", "1e7", "1e300")),
        *((count, text) for text in ("", "many", "0", "-1", "1025", "1.5")),
    ],
)
def test_out_of_bounds(read: Callable[[str], Any], text: str) -> None:
    """Anything else is a ValueError, which argparse reports as misuse."""
    with pytest.raises(ValueError):  # noqa: PT011 - the message is argparse's
        read(text)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (GlobalOptions(), KtlsPolicy(KtlsMode.AUTO)),
        (GlobalOptions(ktls="off"), KtlsPolicy(KtlsMode.OFF)),
        (
            GlobalOptions(ktls="require", ktls_rekey="require", ktls_any_kernel=True),
            KtlsPolicy(KtlsMode.REQUIRE, rekey_required=True, any_kernel=True),
        ),
    ],
)
def test_policy(options: GlobalOptions, expected: KtlsPolicy) -> None:
    """The global options say when to offload: without --ktls where the kernel can."""
    assert policy(options) == expected


def test_key_from_a_descriptor_that_does_not_wait() -> None:
    """A parent may have set O_NONBLOCK: the key is waited for, and read to its end."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    reading = Endpoint(lambda: read_key(reader))
    for part in (b"one", b"two"):
        os.write(writer, part)
    os.close(writer)
    assert reading.result() == b"onetwo"
    assert os.read(reader, 1) == b"", "a reload finds nothing there"
    os.close(reader)
    with pytest.raises(ConfigError, match="descriptor 12345"):
        read_key(12345)
