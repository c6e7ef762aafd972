"""What all scenarios share: configurations, whose contexts are made once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import pytest

from tests.doubles import Lab
from tlsify.codepoints import ProtocolVersion
from tlsify.config import ClientConfig, ServerConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlsify.config import KeyPair, TrustAnchors


Configs: TypeAlias = dict[ProtocolVersion, tuple[ClientConfig, ServerConfig]]
# The certificate's own has to be among them.
_GROUPS = ("x25519", "secp256r1")


class QuickLab(Lab):
    """Makes connections with the same configurations in every test, and the quickest group."""

    def __init__(self, trust: TrustAnchors, key_pair: KeyPair, made: Configs) -> None:
        """Take what there is for each version, which is completed as needed."""
        super().__init__(trust, key_pair)
        self._made = made

    def configs(
        self, version: ProtocolVersion = ProtocolVersion.TLSv1_3
    ) -> tuple[ClientConfig, ServerConfig]:
        """Give a client's and a server's configuration for one version."""
        if version not in self._made:
            client, server = super().configs(version)
            self._made[version] = replace(client, groups=_GROUPS), replace(server, groups=_GROUPS)
        return self._made[version]


@pytest.fixture(scope="session")
def made() -> Configs:
    """Configurations for each version, once there are any."""
    return {}


@pytest.fixture
def lab(trust: TrustAnchors, key_pair: KeyPair, made: Configs) -> Iterator[Lab]:
    """Connections that are taken down at the end."""
    with QuickLab(trust, key_pair, made) as lab:
        yield lab
