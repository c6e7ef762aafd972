"""Check of a configuration file, without starting anything."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from importlib import import_module
from itertools import starmap
from typing import TYPE_CHECKING

from tlsify.cli import parser
from tlsify.cli.options import common as shared
from tlsify.cli.options import config_file
from tlsify.config import KtlsMode
from tlsify.connection import establish
from tlsify.connection.setup.eligibility import host_refusal
from tlsify.credentials import crls
from tlsify.credentials.key_files import amiss
from tlsify.errors import ExitCode, UsageError
from tlsify.logs.messages import check_syslog
from tlsify.status.host import Finding
from tlsify.system.os_errors import explain

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from pathlib import Path

    from cryptography.x509 import CertificateRevocationList

    from tlsify.config import KtlsPolicy, ServerConfig
    from tlsify.credentials.key_pair import KeyPair
    from tlsify.errors import KtlsUnavailable
    from tlsify.serving.backend.address import Backend

    Examine = Callable[[argparse.Namespace], ServerConfig | None]
    Reach = Callable[[argparse.Namespace, KtlsPolicy], dict[Backend, Exception | None]]

_REMEDY = "start it, or correct its address"


def examine(path: Path) -> tuple[ExitCode, list[Finding]]:
    """Read a configuration, and all the files that it names, as the verb in it would.

    Returns:
        What the exit status has to be, and what was found.

    Raises:
        ConfigError: it could not be started with.
    """
    words = config_file.read(path)
    ours, rest = parser.divide(words.spell([], []))
    verb, options = parser.read_options(ours)
    given = parser.read_words(verb, rest)
    module = import_module(f"tlsify.cli.{verb}")
    look: Examine | None = getattr(module, "examine", None)
    if look is None:
        raise UsageError(
            f"{path}: no check for {verb}",
            hint="check configurations of serve, forward, listen or wrap",
        )
    key = _key_of_unit(path, given)
    if key is not None:
        os.environ["KEYFILE"] = str(key)
    if options.syslog:
        check_syslog()
    config, policy = look(given), shared.policy(options)
    pairs: tuple[KeyPair, ...] = ()
    if config is not None:
        establish.prepare(config, policy)
        pairs = () if config.provisional else (config.key_pair, *config.more_key_pairs)
    refusal = host_refusal(policy)
    reach: Reach | None = getattr(module, "reach_backends", None)
    findings = [
        Finding("configuration", "configuration", ok=True, detail=f"{path}, for {verb}"),
        *([] if key is None else [_named_by_unit(key)]),
        *map(_certificate, pairs),
        *map(_revocation_list, () if config is None else config.crls),
        *(() if given.automatic is None else given.automatic.findings()),
        *(() if reach is None else starmap(_backend, reach(given, policy).items())),
        _offload(refusal, policy),
    ]
    blocked = any(finding.blocking for finding in findings)
    return ExitCode.KTLS if blocked else ExitCode.OK, findings


def _key_of_unit(path: Path, given: argparse.Namespace) -> Path | None:
    """Return the key that `tlsify@.service` names where nothing else does, if it is there."""
    key = path.with_suffix(".key")
    is_named = given.key or given.key_fd is not None or "KEYFILE" in os.environ
    return key if not is_named and key.exists() else None


def _named_by_unit(key: Path) -> Finding:
    return Finding("key", "key", ok=None, detail=f"KEYFILE={key}, as tlsify@.service sets it")


def _certificate(pair: KeyPair) -> Finding:
    complaints = list(amiss(pair))
    days = (pair.not_after - datetime.now(UTC)) / timedelta(days=1)
    detail = f"{', '.join(pair.names) or 'no name'}"
    if days >= 0:
        detail += f": {int(days)} days left"
    return Finding(
        "certificate",
        "certificate",
        ok=not complaints,
        detail="; ".join([detail, *complaints]),
        remedy="replace it" if complaints else None,
    )


def _revocation_list(found: CertificateRevocationList) -> Finding:
    complaint = crls.amiss(found)
    return Finding(
        "revocation-list",
        "revocation list",
        ok=complaint is None,
        detail=complaint or f"of {found.issuer.rfc4514_string()}",
        remedy=None if complaint is None else "fetch the issuer's latest one",
    )


def _backend(backend: Backend, failure: Exception | None) -> Finding:
    told = "takes connections"
    if failure is not None:
        told = explain(failure) if isinstance(failure, OSError) else str(failure)
    return Finding(
        "backend",
        f"backend {backend}",
        ok=failure is None,
        detail=told,
        remedy=None if failure is None else getattr(failure, "hint", _REMEDY),
    )


def _offload(refusal: KtlsUnavailable | None, policy: KtlsPolicy) -> Finding:
    if refusal is None:
        return Finding("offload", "offload", ok=True, detail="by the kernel")
    if policy.mode is KtlsMode.OFF:
        return Finding(refusal.code, "offload", ok=None, detail="relayed, as configured")
    return Finding(
        refusal.code,
        "offload",
        ok=False if policy.mode is KtlsMode.REQUIRE else None,
        detail=f"relayed: {refusal.sentence}" if policy.mode is KtlsMode.AUTO else str(refusal),
        remedy=refusal.hint,
        blocking=policy.mode is KtlsMode.REQUIRE,
    )
