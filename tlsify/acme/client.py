"""ACME (RFC 8555) by the package ``acme``: an account, an order, a certificate, renewal times."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import requests
from acme import challenges, client, errors, messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from josepy import b64, jwa, jwk
from josepy.json_util import field

from tlsify.acme.account import account_key, file_name, pem, register
from tlsify.acme.failures import AcmeError
from tlsify.acme.settings import TLS_ALPN_01
from tlsify.errors import TlsifyError
from tlsify.metrics.counters import Event
from tlsify.renewal import web

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlsify.acme.board import Board
    from tlsify.acme.settings import Authority
    from tlsify.acme.sharing import Sharing
    from tlsify.renewal.folder import Folder

# How often a request is sent again, twice each time, whose nonce the authority does not want.
_NONCES = 3
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,256}")
_REDIRECTIONS = range(300, 400)
_LONGEST_WAIT = 24 * 3600.0


class Client:
    """A client of one authority, for one task."""

    def __init__(self, authority: Authority, folder: Folder, deadline: web.Deadline) -> None:
        """Fetch the authority's directory.

        Args:
            authority: as it is configured.
            folder: with the key of the account, which is made if there is none.
            deadline: for the task.

        Raises:
            AcmeError: the authority does not answer as it should.
            OSError: the folder does not take the key.
        """
        self._authority = authority
        self._deadline = deadline
        self._account = folder.path / file_name(authority.directory)
        self._key = account_key(folder, authority.directory)
        self._network = _Network(self._key, authority, deadline)
        with _explained(self._network):
            directory = client.ClientV2.get_directory(authority.directory, self._network)
            self._client = client.ClientV2(directory, self._network)

    def obtain(
        self,
        names: tuple[str, ...],
        board: Board | Sharing,
        former: x509.Certificate | None = None,
    ) -> bytes:
        """Obtain a certificate with a new key; return its chain, and the key, in PEM.

        Args:
            names: for the certificate.
            board: where challenges are published while they are pending.
            former: the authority's certificate that this one replaces.

        Raises:
            AcmeError: there is none.
            OSError: the folder takes no challenges for other servers.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        with _explained(self._network):
            self._register()
            order = self._order(_request(key, names), former)
            try:
                self._answer(order, names, board)
                order = self._client.poll_authorizations(order, self._end())
            finally:
                board.clear()
            order = self._client.finalize_order(order, self._end())
            chain = str(order.fullchain_pem).encode("ascii")
        return chain.rstrip() + b"\n" + pem(key)

    def _order(self, csr: bytes, former: x509.Certificate | None) -> messages.OrderResource:
        """Order, in the place of a certificate if the authority wants to know (RFC 9773 5).

        It may refuse that, for example if another server has replaced the same one.
        """
        with contextlib.suppress(KeyError):
            self._client.directory["renewalInfo"]
            self._network.replaces = "" if former is None else _identifier(former)
        try:
            return self._client.new_order(csr)
        except (messages.Error, errors.ConflictError) as exc:
            is_limit = isinstance(exc, messages.Error) and exc.code == "rateLimited"
            if is_limit or not self._network.replaces:
                raise
            self._network.replaces = ""
            return self._client.new_order(csr)

    def renewal_time(self, leaf: bytes) -> tuple[float | None, float]:
        """Return when the authority would have a certificate renewed, and when to ask again.

        Args:
            leaf: the certificate, in PEM.

        Returns:
            Seconds since 1970, or None if the authority leaves that to us; and the same for the
            question (RFC 9773).

        Raises:
            AcmeError: the authority does not answer as it should.
        """
        with _explained(self._network):
            when, again = self._client.renewal_time(leaf)
            return None if when is None else when.timestamp(), again.timestamp()

    def _end(self) -> datetime:
        """Return the deadline as the package wants it; the network has its own."""
        return datetime.now() + timedelta(seconds=self._deadline.left(_LONGEST_WAIT))  # noqa: DTZ005

    def _register(self) -> None:
        register(self._client, self._key, self._authority, self._account)

    def _answer(
        self, order: messages.OrderResource, names: tuple[str, ...], board: Board | Sharing
    ) -> None:
        """Publish what the authority is going to look for, and then tell it so."""
        thumbprint = b64.b64encode(self._key.thumbprint()).decode()
        tls, http, pending = {}, {}, []
        for authorization in order.authorizations:
            body = authorization.body
            if body.identifier.value not in names:
                raise AcmeError(Event.ACME_MALFORMED, "the authority asks for another name")
            if body.status == messages.STATUS_VALID:
                continue
            challenge, token = self._choose(body)
            text = f"{token}.{thumbprint}"
            tls[body.identifier.value] = hashlib.sha256(text.encode()).digest()
            http[token] = text
            # The package has no class for TLS-ALPN-01; either answer is an empty object.
            pending.append((challenge, challenges.HTTP01Response(key_authorization=text)))
        is_tls = self._authority.challenge == TLS_ALPN_01
        board.publish(tls if is_tls else {}, {} if is_tls else http)
        for challenge, answer in pending:
            self._client.answer_challenge(challenge, answer)

    def _choose(self, body: messages.Authorization) -> tuple[messages.ChallengeBody, str]:
        wanted, offered = self._authority.challenge, []
        for challenge in body.challenges:
            described: dict[str, Any] = challenge.chall.to_partial_json()
            kind, token = str(described.get("type")), str(described.get("token"))
            if kind == wanted:
                if _TOKEN.fullmatch(token) is None:
                    raise AcmeError(Event.ACME_MALFORMED, f"the token is none: {token[:100]!r}")
                return challenge, token
            offered.append(kind)
        raise AcmeError(
            Event.ACME_REFUSED,
            f"the authority offers no {wanted} for {body.identifier.value}, "
            f"but {', '.join(offered) or 'nothing'}",
            hint="choose another with --acme-challenge",
        )


@contextlib.contextmanager
def _explained(network: _Network) -> Iterator[None]:
    """Turn what the package raises, of an authority that may send anything, into an AcmeError."""
    try:
        yield
    except AcmeError:
        raise
    except Exception as exc:
        if isinstance(exc, OSError) and exc.errno:  # the folder's; requests' own have none
            raise
        event, why, hint = _explain(exc)
        raise AcmeError(event, why, wait=network.wait, hint=hint) from exc


_IN_TIME = "the authority has not decided in time"
_REACHABLE = (
    "it has to reach this server under each name, at port 443 (tls-alpn-01) or 80 (http-01)"
)


def _explain(exc: Exception) -> tuple[Event, str, str | None]:
    """Return as what to count an error of the package, what it says, and a remedy."""
    said = f"the authority refuses: {getattr(exc, 'error', exc)}"
    if isinstance(exc, messages.Error) and exc.code == "rateLimited":
        return Event.ACME_RATE_LIMITED, said, None
    found: dict[type[Exception], tuple[Event, str, str | None]] = {
        web.WebError: (Event.ACME_UNREACHABLE, str(exc), getattr(exc, "hint", None)),
        errors.TimeoutError: (Event.ACME_TOO_SLOW, _IN_TIME, None),
        TimeoutError: (Event.ACME_TOO_SLOW, _IN_TIME, None),
        messages.Error: (Event.ACME_REFUSED, said, None),
        errors.IssuanceError: (Event.ACME_REFUSED, said, None),
        TlsifyError: (Event.ACME_REFUSED, str(exc), getattr(exc, "hint", None)),
    }
    if isinstance(exc, errors.ValidationError):
        return Event.ACME_CHALLENGE_FAILED, "; ".join(_failed(exc)), _REACHABLE
    answer = next(iter(exc.args), None)
    what = f"{type(exc).__name__}: {exc}"
    if isinstance(answer, requests.Response):
        what = f"status {answer.status_code}"
    unknown = Event.ACME_MALFORMED, f"the authority's answer is not understood: {what}", None
    return next((found[kind] for kind in found if isinstance(exc, kind)), unknown)


def _failed(exc: errors.ValidationError) -> Iterator[str]:
    for authorization in exc.failed_authzrs:
        for challenge in authorization.body.challenges:
            if challenge.error is not None:
                yield f"{authorization.body.identifier.value}: {challenge.error}"


class _Network(client.ClientNetwork):
    """The package's requests, by `web`.

    Attributes:
        wait: seconds that the authority has asked for in its last answer.
        replaces: identifier of the certificate that an order replaces; empty for none.
    """

    def __init__(self, key: jwk.JWK, authority: Authority, deadline: web.Deadline) -> None:
        super().__init__(key, alg=jwa.ES256, user_agent="tlsify")
        self.wait = 0.0
        self.replaces = ""
        self.session.trust_env = False
        self.session.adapters.clear()
        self.session.mount("", _Adapter(self, authority, deadline))

    def post(self, url: str, body: Any, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request, again if its nonce is not wanted: the authority may have restarted."""
        if self.replaces and isinstance(body, messages.NewOrder):
            body = _Replacement(identifiers=body.identifiers, replaces=self.replaces)
        for _ in range(_NONCES - 1):
            try:
                return super().post(url, body, *args, **kwargs)
            except messages.Error as exc:
                if exc.code != "badNonce":
                    raise
        return super().post(url, body, *args, **kwargs)


class _Replacement(messages.NewOrder):
    """An order as the package does not know it yet."""

    replaces: str = field("replaces", omitempty=True)


class _Adapter(requests.adapters.BaseAdapter):
    """The way of the package `requests` to the network."""

    def __init__(self, network: _Network, authority: Authority, deadline: web.Deadline) -> None:
        super().__init__()
        self._network = network
        self._authority = authority
        self._deadline = deadline

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        """Send a request.

        Raises:
            WebError: there is no answer, or one that leads elsewhere.
        """
        url = request.url or ""
        if not url.startswith("https://"):
            raise web.WebError(f"not by https: {url[:200]!r}", hint="see RFC 8555, 6.1")
        body = request.body or b""
        if not isinstance(body, str | bytes):
            raise TypeError("the package sends text")
        fields = {"Content-Type": str(request.headers["Content-Type"])} if body else {}
        content = body.encode() if isinstance(body, str) else body
        wanted = web.Request(url, request.method or "GET", content, fields)
        answer = web.fetch(wanted, self._deadline, self._authority.trust)
        if answer.status in _REDIRECTIONS:
            raise web.WebError(f"{url[:200]}: it leads elsewhere", hint="name the place itself")
        self._network.wait = _seconds(answer.fields.get("Retry-After"))
        response = requests.Response()
        response.status_code = answer.status
        response.headers.update(answer.fields.items())
        response.raw = io.BytesIO(answer.content)
        response.url, response.request = url, request
        return response

    def close(self) -> None:
        """Do nothing: nothing is kept."""


def _seconds(field: str | None) -> float:
    """Return the seconds that a Retry-After has, as a number or as a date (RFC 9110 10.2.3)."""
    if field is None:
        return 0.0
    if field.isascii() and field.isdigit():
        return min(float(field[:12]), _LONGEST_WAIT)
    try:
        moment = datetime.strptime(field, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    except ValueError:
        return 0.0
    return max((moment - datetime.now(UTC)).total_seconds(), 0.0)


def _identifier(certificate: x509.Certificate) -> str:
    """Return how an authority knows its certificate (RFC 9773 4.1); empty if it does not."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except (x509.ExtensionNotFound, ValueError):
        return ""
    number = certificate.serial_number
    serial = number.to_bytes(number.bit_length() // 8 + 1, "big")  # as DER has it
    issuer = found.key_identifier
    return "" if issuer is None else ".".join(b64.b64encode(it).decode() for it in (issuer, serial))


def _request(key: ec.EllipticCurvePrivateKey, names: tuple[str, ...]) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    builder = builder.add_extension(alternatives, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
