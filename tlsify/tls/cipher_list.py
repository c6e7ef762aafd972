"""OpenSSL's cipher lists: the names of the suites that such a text allows."""

from __future__ import annotations

from OpenSSL import SSL


def allowed(text: str) -> list[str]:
    """Return the names of TLS 1.2's suites that a list allows, in its order, and of TLS 1.3's all.

    Raises:
        ValueError: it is no list, or allows nothing.
    """
    context = SSL.Context(SSL.TLS_METHOD)
    try:
        context.set_cipher_list(text.encode("ascii"))
    except (SSL.Error, UnicodeEncodeError) as exc:
        raise ValueError(f"no cipher list: {text!r}") from exc
    return SSL.Connection(context).get_cipher_list()
