"""The certificates of the command's tests."""

from tests.cli.conftest import pki

__all__ = ["pki"]
