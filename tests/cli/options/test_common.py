"""Tests of common."""

from __future__ import annotations

import os

import pytest

from tests.doubles import Endpoint
from tlsify.cli.options.common import policy, read_key
from tlsify.cli.parser import GlobalOptions
from tlsify.config import KtlsMode, KtlsPolicy
from tlsify.errors import ConfigError


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
