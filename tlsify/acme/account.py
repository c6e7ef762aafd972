"""The account with an authority (RFC 8555 7.3): its key, which a folder keeps, and what is told."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING

from acme import client, errors, messages
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from josepy import jwk

from tlsify.acme.failures import AcmeError
from tlsify.metrics.counters import Event

if TYPE_CHECKING:
    from pathlib import Path

    from tlsify.acme.settings import Authority
    from tlsify.renewal.folder import Folder


def file_name(directory: str) -> str:
    """Return the name of the file with the key of the account with an authority."""
    return f".account-{hashlib.sha256(directory.encode()).hexdigest()[:16]}.pem"


def account_key(folder: Folder, directory: str) -> jwk.JWKEC:
    """Return the key of the account with an authority, made if there is none.

    Raises:
        AcmeError: there is another thing in its place, which may be worth keeping.
        OSError: the folder does not take the key.
    """
    name = file_name(directory)
    kept = folder.read(name)
    if kept is None:
        made = ec.generate_private_key(ec.SECP256R1())
        folder.write(name, pem(made))
        return jwk.JWKEC(key=made)
    key = None
    with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm):
        key = serialization.load_pem_private_key(kept, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise AcmeError(
            Event.ACME_NOT_STORED,
            f"{folder.path / name} is no unencrypted key for P-256",
            hint="move it away to begin with a new account",
        )
    return jwk.JWKEC(key=key)


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a key in PEM, unencrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def register(acme: client.ClientV2, key: jwk.JWKEC, authority: Authority, file: Path) -> None:
    """Use the account of a key, which the authority makes if it has none.

    Args:
        acme: gets the account.
        key: of the account.
        authority: as it is configured.
        file: with the key, for messages.

    Raises:
        AcmeError: the authority refuses the account, or wants it bound to another one.
        Exception: what the package raises.
    """
    binding = None
    if authority.binding is not None:
        binding = messages.ExternalAccountBinding.from_data(
            key.public_key(), *authority.binding, acme.directory
        )
    elif acme.external_account_required():
        raise AcmeError(
            Event.ACME_REFUSED,
            "the authority wants an account with it to be named",
            hint="add --acme-eab-kid and --acme-eab-key",
        )
    wanted = messages.NewRegistration.from_data(
        email=authority.email,
        terms_of_service_agreed=True,
        external_account_binding=binding,
    )
    try:
        acme.new_account(wanted)
    except messages.Error as exc:
        if exc.code != "unauthorized":
            raise
        # RFC 8555 7.3.6: an account that was deactivated stays so.
        raise AcmeError(
            Event.ACME_REFUSED,
            f"the authority refuses the account: {exc}",
            hint=f"move {file} away to begin with a new account",
        ) from exc
    except errors.ConflictError as exc:
        account = messages.RegistrationResource(body=messages.Registration(), uri=exc.location)
        acme.net.account = account
        if authority.email is not None:  # which may be another than before (RFC 8555 7.3.2)
            change = messages.Registration.from_data(email=authority.email)
            acme.update_registration(account, change)
