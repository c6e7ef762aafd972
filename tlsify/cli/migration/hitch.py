"""hitch's configuration: frontends, one backend, certificates."""

from __future__ import annotations

import re
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from tlsify.cli.migration import suites
from tlsify.cli.migration.draft import Draft, Setting
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# A brace, an equals sign, a quoted text, a word, or a comment; hitch passes over all else.
_TOKEN = re.compile(r'#[^\n]*|"([^"\n]*)"|([{}=])|([^\s{}="#;,]+)')
_ENDPOINT = re.compile(r"(?:\[(.*)\]|(.*?)):(\d+|\w+)(?:\+(.*))?")
_ON, _OFF = {"on", "true", "t", "yes", "y"}, {"off", "false", "f", "no", "n"}
_VERIFICATIONS = {"required": "require", "optional": "request"}
_ALONE = {
    "workers": "workers",
    "user": "user",
    "group": "group",
    "backend-connect-timeout": "connect-timeout",
    "ssl-handshake-timeout": "timeout",
}
_NEEDLESS = {
    **dict.fromkeys(("daemon", "pidfile"), "tlsify runs in the foreground, as systemd has it"),
    **dict.fromkeys(("quiet", "syslog-facility", "log-filename"), "see log-level and syslog"),
    **dict.fromkeys(("backlog", "keepalive", "tcp-fastopen"), "tlsify has its own value"),
    **dict.fromkeys(("recv-bufsize", "send-bufsize", "ring-slots", "ring-data-len"), "not needed"),
    **dict.fromkeys(
        ("session-cache", "shared-cache-listen", "shared-cache-peer", "shared-cache-if"),
        "no sessions without resumption = true",
    ),
    "backend-refresh": "names are looked up for each connection",
    **dict.fromkeys(("tls", "ssl"), "tlsify speaks TLS 1.2 and 1.3"),
    "prefer-server-ciphers": "tlsify's order prevails",
}
_LOST = {
    "chroot": "workers are confined by Landlock instead (sandbox)",
    "proxy-proxy": "name the proxies: accept-proxy = ADDRESSES, with proxy-protocol = true",
    "write-ip": "write proxy-protocol = true, and have the backend read that",
    "proxy-tlv": "the header has tlsify's fields in any case",
    "pem-dir-glob": "cert-dir has *.pem",
    "match-global-certs": "any certificate is shown at any address",
    "proxy-authority": "the header has the name in any case",
}
_UNSAFE = {
    "sni-nomatch-abort": "tlsify answers unknown names with its default certificate",
    "ssl-engine": "tlsify reads keys from files and descriptors only",
}
_SWITCHED = frozenset(
    {"proxy-proxy", "write-ip", "proxy-tlv", "proxy-authority", "sni-nomatch-abort"}
)
_DEEPEST = 2  # a certificate's block in a frontend's


def translate(text: str, name: str) -> list[Draft]:
    """Translate a configuration.

    Args:
        text: of the file.
        name: of the file, for messages.

    Raises:
        ConfigError: it is none of hitch's.
    """
    draft = Draft("hitch")
    chains: list[tuple[str, str | None, str | None]] = []
    lists: dict[str, Setting] = {}
    verification: dict[str, Setting] = {}
    for setting, block in _flattened(draft, _entries(deque(_tokens(text)), name)):
        if block is None and not setting.value:
            draft.note(setting, "as it is in tlsify")
        elif setting.name == "pem-file":
            chains.append(_pair(draft, setting, block or []))
        elif setting.name in {"ciphers", "ciphersuites"}:
            lists[setting.name] = setting
        elif setting.name in {"client-verify", "client-verify-ca"}:
            verification[setting.name] = setting
        elif setting.name in _ALONE:
            draft.options[_ALONE[setting.name]] = setting.value
        else:
            _translate(draft, setting)
    if lists:
        suites.ciphers(draft, "", *lists.values())
    _add_verification(draft, **{key.replace("-", "_"): it for key, it in verification.items()})
    _add_user(draft)
    _add_pairs(draft, chains)
    if not draft.operands:
        raise ConfigError(f"{name}: there is no backend", hint='hitch has: backend = "[HOST]:PORT"')
    if not draft.pairs and "cert-dir" not in draft.options:
        draft.miss("pem-file", "name the certificate and its key, in cert and key")
    return [draft]


class _Token(NamedTuple):
    """A token: a mark, which is a brace or an equals sign, or a text."""

    text: str
    mark: str
    number: int
    is_quoted: bool


class _Entry(NamedTuple):
    """A setting, and those in its block if it has one."""

    setting: Setting
    block: list[_Entry] | None = None


def _entries(left: deque[_Token], name: str, depth: int = 0) -> list[_Entry]:
    """Take all settings up to the end, or to that of a block."""
    found = []
    while left and not (depth and left[0].mark == "}"):
        found.append(_entry(left, name, depth))
    if depth and left:
        left.popleft()
    elif depth:
        raise ConfigError(f"{name}: a block does not end", hint="write } behind it")
    return found


def _entry(left: deque[_Token], name: str, depth: int) -> _Entry:
    """Take one setting."""
    option, equals, value = (*islice(left, 3), None, None, None)[:3]
    if option is None or equals is None or value is None or equals.mark != "=" or option.mark:
        raise _no_setting(name, left[0])
    number = option.number
    for _ in range(3):
        left.popleft()
    if value.mark == "{" and depth < _DEEPEST:
        return _Entry(Setting(option.text, "", name, number), _entries(left, name, depth + 1))
    if value.mark:
        raise _no_setting(name, option)
    words = [value.text]
    # Words without quotes go on up to the next setting: versions are such a list.
    while not value.is_quoted and left and not (left[0].mark or left[0].is_quoted):
        if len(left) > 1 and left[1].mark == "=":
            break
        words.append(left.popleft().text)
    return _Entry(Setting(option.text, " ".join(words), name, number))


def _no_setting(name: str, token: _Token) -> ConfigError:
    return ConfigError(
        f"{name}:{token.number}: this is no setting",
        hint="hitch's are OPTION = VALUE, or OPTION = { ... }",
    )


def _tokens(text: str) -> Iterator[_Token]:
    """Return each token and the number of its line."""
    for number, line in enumerate(text.split("\n"), 1):
        for found in _TOKEN.finditer(line):
            quoted, mark, word = found.groups()
            if mark or word or quoted is not None:
                yield _Token(word or quoted or "", mark or "", number, quoted is not None)


def _flattened(draft: Draft, entries: list[_Entry]) -> Iterator[_Entry]:
    """Return all settings but the addresses: what is said of the only frontend is said of all."""
    frontends = [each for each in entries if each.setting.name == "frontend"]
    yield from (each for each in entries if each.setting.name != "frontend")
    for setting, block in frontends:
        if block is None and not setting.value:
            continue
        found = _frontend(draft, setting, block)
        if len(frontends) == 1:
            yield from found
            continue
        for each in found:
            why = "tlsify has the same at each address: write two files"
            is_certificate = each.setting.name in {"pem-file", "match-global-certs"}
            (draft.lose if is_certificate else draft.endanger)(each.setting, why)


def _frontend(draft: Draft, setting: Setting, block: list[_Entry] | None) -> list[_Entry]:
    """Add an address; return what else is said of it."""
    if block is None:
        host, port, chain = _endpoint(setting)
        draft.add("listen", f"{host}:{port}")
        return [] if chain is None else [_Entry(setting._replace(name="pem-file", value=chain))]
    found = {each.setting.name: each.setting.value for each in block}
    draft.add("listen", f"{_host(found.get('host', ''))}:{found.get('port') or '443'}")
    return [each for each in block if each.setting.name not in {"host", "port"}]


def _add_pairs(draft: Draft, chains: list[tuple[str, str | None, str | None]]) -> None:
    # hitch's default is the last one, tlsify's the first.
    for chain, key, answer in reversed(chains):
        draft.pairs.append((chain, key or chain))
        if answer is not None:
            draft.add("ocsp", answer)


def _pair(
    draft: Draft, setting: Setting, block: list[_Entry]
) -> tuple[str, str | None, str | None]:
    """Return the files of a certificate: its chain, its key, and its OCSP response."""
    found = {each.setting.name: each.setting for each in block}
    taken = [found.pop(name, None) for name in ("cert", "private-key", "ocsp-resp-file")]
    for each in found.values():
        if each.name.startswith("ocsp-"):
            _translate(draft, each)
        else:
            draft.endanger(each, "tlsify knows no such setting of a certificate")
    chain, key, answer = (each and each.value for each in taken)
    return chain or setting.value, key, answer


def _endpoint(setting: Setting) -> tuple[str, str, str | None]:
    found = _ENDPOINT.fullmatch(setting.value)
    if found is None:
        raise ConfigError(
            f"{setting.place}: {setting.value!r} is no address", hint="hitch has [HOST]:PORT"
        )
    return _host(found[1] or found[2] or ""), found[3], found[4]


def _host(text: str) -> str:
    if text in {"*", ""}:
        return ""
    return f"[{text}]" if ":" in text else text


def _add_backend(draft: Draft, setting: Setting) -> None:
    if setting.value.startswith("/"):
        draft.operands = [f"unix:{setting.value}"]
    else:
        host, port, _ = _endpoint(setting)
        draft.operands = [f"{host or 'localhost'}:{port}"]


def _add_versions(draft: Draft, setting: Setting) -> None:
    suites.versions(draft, "", setting.value.replace("TLSv1.0", "TLSv1").split(), setting)


def _add_protocols(draft: Draft, setting: Setting) -> None:
    for protocol in setting.value.split(","):
        draft.add("alpn", protocol.strip())


def _add_verification(
    draft: Draft, client_verify: Setting | None = None, client_verify_ca: Setting | None = None
) -> None:
    if client_verify is None or client_verify.value == "none":
        for setting in (client_verify, client_verify_ca):
            if setting is not None:
                draft.note(setting, "no client is asked for a certificate, as in tlsify")
        return
    if client_verify.value not in _VERIFICATIONS:
        draft.endanger(client_verify, "hitch has none, optional and required")
    draft.options["client-cert"] = _VERIFICATIONS.get(client_verify.value, "require")
    if client_verify_ca is None:
        draft.endanger(client_verify, "there are no authorities (client-verify-ca)")
    else:
        draft.options["client-ca"] = client_verify_ca.value


def _add_user(draft: Draft) -> None:
    group = draft.options.pop("group", None)
    if group is not None and "user" in draft.options:
        draft.options["user"] = f"{draft.options['user']}:{group}"
    elif group is not None:
        why = "tlsify changes the group along with the user"
        draft.lose(Setting("group", str(group), draft.name), why)


def _add_header(draft: Draft, setting: Setting) -> None:
    if _is_on(setting):
        draft.options["proxy-protocol"] = "1" if setting.name.endswith("v1") else "2"


def _add_syslog(draft: Draft, setting: Setting) -> None:
    if _is_on(setting):
        draft.options["syslog"] = True


def _add_level(draft: Draft, setting: Setting) -> None:
    draft.options["log-level"] = {"0": "error", "1": "notice"}.get(setting.value, "debug")


_TRANSLATIONS: dict[str, Callable[[Draft, Setting], None]] = {
    "backend": _add_backend,
    "ecdh-curve": lambda draft, setting: suites.groups(draft, "", setting),
    "tls-protos": _add_versions,
    "alpn-protos": _add_protocols,
    "write-proxy": _add_header,
    "write-proxy-v1": _add_header,
    "write-proxy-v2": _add_header,
    "syslog": _add_syslog,
    "log-level": _add_level,
}


def _is_on(setting: Setting) -> bool:
    """Return whether a switch is on.

    Raises:
        ConfigError: it is none.
    """
    value = setting.value.lower()
    if value not in {*_ON, *_OFF}:
        raise ConfigError(
            f"{setting.place}: {setting}: this is no switch", hint="hitch's are on and off"
        )
    return value in _ON


def _translate(draft: Draft, setting: Setting) -> None:
    name = setting.name
    translation = _TRANSLATIONS.get(name)
    if translation is not None:
        translation(draft, setting)
    elif name in _NEEDLESS:
        draft.note(setting, _NEEDLESS[name])
    elif name == "ocsp-dir":
        draft.options["ocsp-fetch"] = True
        draft.note(setting, "responses are kept in tlsify's own folder")
    elif name.startswith("ocsp-"):
        draft.note(setting, "tlsify decides that by itself")
    elif name == "pem-dir":
        draft.options["cert-dir"] = setting.value
        draft.lose(setting, "of its files tlsify reads *.pem: rename the others")
    elif name in _SWITCHED and not _is_on(setting):
        draft.note(setting, "as it is in tlsify")
    elif name in _LOST:
        draft.lose(setting, _LOST[name])
    else:
        draft.endanger(setting, _UNSAFE.get(name, "tlsify knows no such setting"))
