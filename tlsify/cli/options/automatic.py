"""What renews itself: certificates by ACME and OCSP responses, as options say."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tlsify.acme.board import Board
from tlsify.acme.renewal import Renewal
from tlsify.acme.settings import HTTP_01, Authority, Wanted
from tlsify.addresses import Address
from tlsify.cli.options import common as shared
from tlsify.credentials.key_files import Files
from tlsify.credentials.ocsp import objection
from tlsify.credentials.reading import Kind, read_file
from tlsify.errors import ConfigError, UsageError, said
from tlsify.renewal.folder import Folder
from tlsify.renewal.staples import Staples, Subject, file_of, responders
from tlsify.renewal.web import Place
from tlsify.serving.errands import Errand
from tlsify.status.host import Finding
from tlsify.system.modes import make_private
from tlsify.system.os_errors import explain
from tlsify.system.sandbox import Reach, resolvers
from tlsify.trust import store

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from cryptography.x509 import Certificate

    from tlsify.config import ServerConfig
    from tlsify.credentials.key_pair import KeyPair

_log = logging.getLogger("tlsify")

_DNS, _HTTP, _HTTPS = 53, 80, 443
_BINDING_KEY = Kind("key of --acme-eab-key", 2**12)
_BASE64 = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Automatic:
    """What renews itself.

    Attributes:
        certificates: by ACME; None if there are none.
        board: for their challenges.
        responses: folder of OCSP responses; None if none are fetched.
        loaded: certificates by ACME as they were last read, by their files.
    """

    certificates: Renewal | None = None
    board: Board | None = None
    responses: Folder | None = None
    loaded: dict[Path, KeyPair] = field(default_factory=dict)

    def files(self) -> list[Files]:
        """Return where certificates are, or will be."""
        if self.certificates is None:
            return []
        folder, wanted = self.certificates.folder, self.certificates.wanted
        paths = [(it.names[0], folder.path / it.file) for it in wanted]
        return [Files(name, path, path, is_listed=True) for name, path in paths]

    def load(self, tell: Callable[..., None]) -> Iterator[tuple[str, KeyPair]]:
        """Read the certificates by ACME that are there.

        One that is gone, or has become unusable, is shown as it was until it has been replaced.
        """
        for files in self.files():
            path, trouble = files.chain, None
            try:
                if path.exists():
                    self.loaded[path] = files.load()
                elif path in self.loaded:
                    trouble = f"{path} is gone"
            except ConfigError as exc:
                trouble = str(exc)
            if trouble is not None:
                becomes = "kept as it was" if path in self.loaded else "left out"
                tell("%s until ACME replaces it: %s", becomes, trouble)
            if path in self.loaded:
                yield str(path), self.loaded[path]

    def stapled(self, name: str, pair: KeyPair, tell: Callable[..., None]) -> KeyPair:
        """Return a certificate with its response, if there is one of use, and no other."""
        if self.responses is None or pair.ocsp is not None:
            return pair
        if responders(pair.chain[0]) and Subject.of(pair.chain) is None:
            tell("%s: no OCSP response can be fetched without the issuer's certificate", name)
        try:
            der = self.responses.read(file_of(pair.chain[0]))
        except OSError:
            return pair
        is_good = der is not None and not objection(der, pair.chain[0], datetime.now(UTC))
        return replace(pair, ocsp=der) if is_good else pair

    def challenge(self, name: str) -> ServerConfig | None:
        """Return the configuration that shows the challenge for a name, if one is pending."""
        return None if self.board is None else self.board.tls(name)

    def findings(self) -> Iterator[Finding]:
        """Find what a check has to say of it."""
        if self.certificates is not None:
            for names, state, why in self.certificates.survey():
                remedy = "see the server's log; SIGHUP tries again at once" if why else None
                yield Finding(
                    "acme", "ACME", ok=not why, detail=f"{names}: {why or state}", remedy=remedy
                )

    def errands(self, chains: Callable[[], Iterable[Sequence[Certificate]]]) -> list[Errand]:
        """Return what is to be done now and then.

        Args:
            chains: returns the chains of the server's certificates at the moment.
        """
        found = []
        if self.certificates is not None and self.board is not None:
            renewal, authority = self.certificates, self.certificates.authority
            reach = Reach(
                read=(*resolvers(), *store.read_later(authority.trust)),
                write=(str(renewal.folder.path),),
                ports=(_DNS, _HTTPS, Place.parse(authority.directory).port),
            )
            clear, watch = self.board.clear, renewal.sharing.watch
            found.append(Errand("ACME", renewal.work, lambda: reach, clear, watch))
        if self.responses is not None:
            responses, staples = self.responses, Staples(self.responses)

            def reach_responders() -> Reach:
                ports = staples.look(chains())
                write = (str(responses.path),)
                return Reach(read=resolvers(), write=write, ports=(_DNS, _HTTP, _HTTPS, *ports))

            found.append(Errand("OCSP", staples.work, reach_responders))
        return found

    def watched(self) -> list[Path]:
        """Return the files and folders that change."""
        found = [it.chain for it in self.files()]
        return found if self.responses is None else [*found, self.responses.path]


def read(arguments: argparse.Namespace, *, prepare: bool = False) -> Automatic:
    """Return what is to renew itself, and check what it needs.

    Args:
        arguments: parsed.
        prepare: whether to make folders; otherwise they are only found.

    Raises:
        ConfigError: they are not enough, a folder is not private, or a package is missing.
    """
    wanted: Sequence[Wanted] = arguments.acme
    responses = None
    if arguments.ocsp_fetch:
        path = arguments.ocsp_dir or _state("ocsp", prepare=prepare)
        responses = Folder(path, "the folder of OCSP responses")
    if not wanted:
        if responses is not None:
            responses.check(make=prepare, parents=arguments.ocsp_dir is None)
        return Automatic(responses=responses)
    _check(arguments, wanted)
    path = arguments.acme_dir or _state("acme", prepare=prepare)
    folder = Folder(path, "the folder of ACME certificates")
    for each, named in ((folder, arguments.acme_dir), (responses, arguments.ocsp_dir)):
        if each is not None:
            each.check(make=prepare, parents=named is None)
    board = Board()
    renewal = Renewal(_authority(arguments), wanted, folder, board)
    if prepare:
        try:
            renewal.sharing.join()
        except OSError as exc:  # the certificates that are there do without it
            _log.warning("ACME: nothing can be renewed in %s: %s", path, explain(exc))
    return Automatic(renewal, board, responses)


def _check(arguments: argparse.Namespace, wanted: Sequence[Wanted]) -> None:
    if not arguments.acme_agree_tos:
        raise UsageError(
            "--acme without --acme-agree-tos",
            hint="read the authority's terms of service, and add --acme-agree-tos",
        )
    if arguments.acme_challenge == HTTP_01 and not isinstance(arguments.redirect_http, Address):
        raise UsageError(
            "--acme-challenge=http-01 without an address for plain HTTP",
            hint="add --redirect-http=:80, where the authority looks",
        )
    firsts = [it.names[0] for it in wanted]
    if twice := {name for name in firsts if firsts.count(name) > 1}:
        raise UsageError(
            f"two certificates of --acme begin with {min(twice)}", hint="write their names together"
        )
    if (arguments.acme_eab_kid is None) != (arguments.acme_eab_key is None):
        raise UsageError(
            "--acme-eab-kid and --acme-eab-key go together", hint="add the other one, too"
        )
    if find_spec("acme") is None:
        raise ConfigError("--acme needs the package acme", hint='install "tlsify[acme]"')


def _authority(arguments: argparse.Namespace) -> Authority:
    named, kid = arguments.acme_ca, arguments.acme_eab_kid
    binding = None
    if kid is not None:
        key = read_file(arguments.acme_eab_key, _BINDING_KEY).decode("latin-1")
        key = key.strip().rstrip("=")
        if _BASE64.fullmatch(key) is None:
            raise ConfigError(
                f"{arguments.acme_eab_key} holds no key in base64url",
                hint="it must be the text that the authority has given, and no more",
            )
        binding = kid, key
    return Authority(
        directory=arguments.acme_directory,
        email=arguments.acme_email,
        challenge=arguments.acme_challenge,
        trust=store.system()
        if named in {None, "system"}
        else shared.load_trust(named, at_once=True),
        binding=binding,
    )


def _state(name: str, *, prepare: bool) -> Path:
    """Return a folder for state that outlives the server."""
    if given := os.environ.get("STATE_DIRECTORY"):  # systemd's
        folder = Path(given.partition(":")[0])
    elif os.geteuid() == 0:
        folder = Path("/var/lib/tlsify")
    else:
        folder = Path(os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser())
        folder /= "tlsify"
    if prepare:
        try:
            for each in (*reversed(folder.parents), folder):
                make_private(each)
        except OSError as exc:
            raise ConfigError(
                f"cannot make {folder}: {said(exc)}", hint=f"name a folder with --{name}-dir"
            ) from exc
    return folder / name
