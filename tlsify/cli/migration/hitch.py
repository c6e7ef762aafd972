"""hitch's configuration: frontends, one backend, certificates."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from tlsify.cli.migration import suites
from tlsify.cli.migration.draft import Draft, Setting
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# A brace, an equals sign, a quoted text, a word, or a comment, which is passed over.
_TOKEN = re.compile(r'#[^\n]*|"([^"\n]*)"|([{}=])|([^\s{}="#]+)')
_ENDPOINT = re.compile(r"(?:\[(.*)\]|(.*?)):(\d+|\w+)(?:\+(.*))?")
_ON = {"on", "true", "yes"}
_ALONE = {
    "workers": "workers",
    "user": "user",
    "group": "group",
    "pem-dir": "cert-dir",
    "client-verify-ca": "client-ca",
    "backend-connect-timeout": "connect-timeout",
    "ssl-handshake-timeout": "timeout",
}
_NEEDLESS = {
    **dict.fromkeys(("daemon", "pidfile"), "tlsify runs in the foreground, as systemd has it"),
    **dict.fromkeys(("quiet", "syslog-facility", "log-filename"), "see log-level and syslog"),
    **dict.fromkeys(("backlog", "keepalive", "tcp-fastopen"), "tlsify has its own value"),
    **dict.fromkeys(("recv-bufsize", "send-bufsize", "ring-slots", "ring-data-len"), "not needed"),
    **dict.fromkeys(("shared-cache", "session-cache"), "no sessions without resumption = true"),
    "backend-refresh": "names are looked up for each connection",
    **dict.fromkeys(("tls", "ssl"), "tlsify speaks TLS 1.2 and 1.3"),
    "prefer-server-ciphers": "tlsify's order prevails",
}
_LOST = {
    "chroot": "workers are confined by Landlock instead (sandbox)",
    "proxy-proxy": "name the proxies: accept-proxy = ADDRESSES, with proxy-protocol = true",
    "write-ip": "write proxy-protocol = true, and have the backend read that",
    "proxy-tlv": "the header has tlsify's fields in any case",
    "pem-dir-glob": "cert-dir has *.pem, with *.key beside them",
    "proxy-authority": "the header has the name in any case",
}
_UNSAFE = {
    "sni-nomatch-abort": "tlsify answers unknown names with its default certificate",
    "ssl-engine": "tlsify reads keys from files and descriptors only",
}
_SWITCHED = frozenset({"proxy-proxy", "write-ip", "proxy-tlv", "proxy-authority"})


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
    for setting, block in _settings(text, name):
        if setting.name == "frontend":
            _add_frontend(draft, setting, block)
        elif setting.name == "pem-file":
            chains.append(_pair(draft, setting, block))
        elif setting.name in {"ciphers", "ciphersuites"}:
            lists[setting.name] = setting
        elif setting.name in _ALONE:
            draft.options[_ALONE[setting.name]] = setting.value
        else:
            _translate(draft, setting)
    if lists:
        suites.ciphers(draft, "", *lists.values())
    if "user" in draft.options and "group" in draft.options:
        draft.options["user"] = f"{draft.options['user']}:{draft.options['group']}"
    draft.options.pop("group", None)
    _add_pairs(draft, chains)
    if not draft.operands:
        raise ConfigError(f"{name}: there is no backend", hint='hitch has: backend = "[HOST]:PORT"')
    return [draft]


class _Token(NamedTuple):
    """A token: a mark, which is a brace or an equals sign, or a text."""

    text: str
    mark: str
    number: int


def _settings(text: str, name: str) -> Iterator[tuple[Setting, list[Setting]]]:
    """Return each setting at the top, and what is in its block."""
    tokens = list(_tokens(text))
    at = 0
    while at < len(tokens):
        setting, at, is_block = _setting(tokens, at, name)
        block: list[Setting] = []
        if is_block:
            while at < len(tokens) and tokens[at].mark != "}":
                inner, at, _ = _setting(tokens, at, name)
                block.append(inner)
            at += 1
        yield setting, block


def _setting(tokens: list[_Token], at: int, name: str) -> tuple[Setting, int, bool]:
    """Return the setting at a place, where the next is, and whether a block begins there."""
    if at + 2 >= len(tokens) or tokens[at + 1].mark != "=" or tokens[at + 2].mark in {"}", "="}:
        number = tokens[min(at, len(tokens) - 1)].number
        raise ConfigError(
            f"{name}:{number}: this is no setting",
            hint="hitch's are OPTION = VALUE, or OPTION = { ... }",
        )
    option, _, number = tokens[at]
    at += 2
    if tokens[at].mark == "{":
        return Setting(option, "", name, number), at + 1, True
    # Words without quotes go on to the end of the line: versions are such a list.
    words = []
    while at < len(tokens) and tokens[at].number == number and tokens[at].mark != "}":
        words.append(tokens[at].text or tokens[at].mark)
        at += 1
    return Setting(option, " ".join(words), name, number), at, False


def _tokens(text: str) -> Iterator[_Token]:
    """Return each token and the number of its line."""
    for number, line in enumerate(text.splitlines(), 1):
        for found in _TOKEN.finditer(line):
            quoted, mark, word = found.groups()
            if mark or word or quoted is not None:
                yield _Token(word or quoted or "", mark or "", number)


def _add_pairs(draft: Draft, chains: list[tuple[str, str | None, str | None]]) -> None:
    # hitch's default is the last one, tlsify's the first.
    for chain, key, answer in reversed(chains):
        draft.pairs.append((chain, key or chain))
        if answer is not None:
            draft.add("ocsp", answer)


def _pair(
    draft: Draft, setting: Setting, block: list[Setting]
) -> tuple[str, str | None, str | None]:
    """Return the files of a certificate: its chain, its key, and its OCSP response."""
    found = {each.name: each for each in block}
    taken = [found.pop(name, None) for name in ("cert", "private-key", "ocsp-resp-file")]
    for each in found.values():
        draft.endanger(each, "tlsify knows no such setting of a certificate")
    chain, key, answer = (each and each.value for each in taken)
    return chain or setting.value, key, answer


def _add_frontend(draft: Draft, setting: Setting, block: list[Setting]) -> None:
    if not block:
        host, port, chain = _endpoint(setting)
        if chain is not None:
            draft.lose(setting, "tlsify has the same certificates at each address: use two files")
        draft.add("listen", f"{host}:{port}")
        return
    found = {each.name: each for each in block}
    host = _host(found.pop("host").value) if "host" in found else ""
    port = found.pop("port").value if "port" in found else "443"
    draft.add("listen", f"{host}:{port}")
    for each in found.values():
        draft.endanger(each, "tlsify has the same settings at each address: use two files")


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


def _add_verification(draft: Draft, setting: Setting) -> None:
    if setting.value != "none":
        draft.options["client-cert"] = "require" if setting.value == "required" else "request"


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
    "client-verify": _add_verification,
    "write-proxy": _add_header,
    "write-proxy-v1": _add_header,
    "write-proxy-v2": _add_header,
    "syslog": _add_syslog,
    "log-level": _add_level,
}


def _is_on(setting: Setting) -> bool:
    return setting.value.lower() in _ON


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
    elif not _is_on(setting) and name in {*_SWITCHED, *_UNSAFE}:
        draft.note(setting, "as it is in tlsify")
    elif name in _LOST:
        draft.lose(setting, _LOST[name])
    else:
        draft.endanger(setting, _UNSAFE.get(name, "tlsify knows no such setting"))
