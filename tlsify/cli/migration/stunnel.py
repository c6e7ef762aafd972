"""stunnel's configuration: servers, clients and programs, each a service of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlsify.addresses import Address
from tlsify.cli.migration import by_name, sections, suites, verification
from tlsify.cli.migration.draft import Draft, Setting
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.cli.migration.sections import Service

_LEVELS = ("error", "error", "error", "error", "warning", "notice", "info", "debug")
_LEVEL_NAMES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
_STRICTEST = 2  # OpenSSL's security level, in tlsify
_STARTTLS = {
    "pgsql": "postgres",
    **{name: name for name in ("imap", "ldap", "nntp", "pop3", "smtp")},
}
# What it is told of protocols, besides their names.
_OF_PROTOCOLS = tuple(
    f"protocol{each}"
    for each in ("Authentication", "Domain", "Header", "Host", "Password", "Username")
)
# What says how stunnel runs, not what it does, or what tlsify does by itself.
_NEEDLESS = {
    **dict.fromkeys(
        ("pid", "foreground", "service"), "tlsify runs in the foreground, as systemd has it"
    ),
    **dict.fromkeys(("rndfile", "rndbytes", "rndoverwrite", "egd"), "OpenSSL seeds itself"),
    **dict.fromkeys(
        ("output", "log"), "messages go to stderr, the journal, or syslog (syslog = true)"
    ),
    **dict.fromkeys(
        ("delay", "stack", "logid", "compression", "reset"), "tlsify needs no such setting"
    ),
    **dict.fromkeys(
        ("session", "sessioncachesize", "sessioncachetimeout", "sessionresume", "sessiond"),
        "tlsify resumes no sessions unless resumption = true",
    ),
    **dict.fromkeys(("ticketkeysecret", "ticketmacsecret"), "ticket keys are made at random"),
    "renegotiation": "tlsify never renegotiates",
    "timeoutclose": "the peer has 30 seconds to take the end",
    "dhparam": "tlsify has no finite-field groups",
}
_LOST = {
    "chroot": "workers are confined by Landlock instead (sandbox)",
    "transparent": "tlsify does not use clients' addresses; see proxy-protocol",
    "local": "tlsify leaves the source address to the system",
    "redirect": "a client without a valid certificate is refused",
    "retry": "let systemd start it again",
    "execargs": "there is no program for them",
    "pty": "PROG gets sockets, and no terminal",
}
_UNSAFE = {
    **dict.fromkeys(
        ("engine", "enginectrl", "enginedefault", "engineid", "enginenum", "provider"),
        "tlsify reads keys from files and descriptors only",
    ),
    "fips": "tlsify has no FIPS mode of its own",
    "libwrap": "tlsify reads no hosts.allow: use a firewall",
    "ident": "tlsify asks nobody by IDENT",
    "psksecrets": "tlsify has no pre-shared keys",
    "pskidentity": "tlsify has no pre-shared keys",
    "config": "tlsify passes no commands to OpenSSL",
    "include": "the files in that folder cannot be read here: whatever they say is missing",
}
# Of `options`: what tlsify does in any case, and what it is stricter about.
_ALWAYS = frozenset(
    {
        *("NO_COMPRESSION", "NO_RENEGOTIATION", "ALL", "PRIORITIZE_CHACHA", "TLSEXT_PADDING"),
        *("NO_TICKET", "SINGLE_DH_USE", "SINGLE_ECDH_USE", "CIPHER_SERVER_PREFERENCE"),
        *("NO_SESSION_RESUMPTION_ON_RENEGOTIATION", "DONT_INSERT_EMPTY_FRAGMENTS"),
        *("LEGACY_SERVER_CONNECT", "ALLOW_UNSAFE_LEGACY_RENEGOTIATION", "TLS_ROLLBACK_BUG"),
        *("MICROSOFT_SESS_ID_BUG", "NETSCAPE_CHALLENGE_BUG", "SSLREF2_REUSE_CERT_TYPE_BUG"),
        *("MICROSOFT_BIG_SSLV3_BUFFER", "SSLEAY_080_CLIENT_DH_BUG", "TLS_D5_BUG"),
        *("TLS_BLOCK_PADDING_BUG", "NETSCAPE_REUSE_CIPHER_CHANGE_BUG", "CRYPTOPRO_TLSEXT_BUG"),
    }
)
# Of `socket`: what no peer sees, and what tlsify sets by itself.
_UNSEEN = (
    "TCP_NODELAY",
    "SO_KEEPALIVE",
    "TCP_KEEP",
    "SO_REUSEADDR",
    "SO_LINGER",
    "SO_RCV",
    "SO_SND",
)


# What each says of the oldest version and of the newest; None stands for its value.
_SPANS = {
    "sslVersion": (None, None),
    "sslVersionMin": (None, "all"),
    "sslVersionMax": ("all", None),
}
_TIMES = {"TIMEOUTbusy": "timeout", "TIMEOUTconnect": "connect-timeout", "TIMEOUTidle": "idle"}


def translate(text: str, name: str) -> list[Draft]:
    """Translate a configuration.

    Args:
        text: of the file.
        name: of the file, for messages.

    Raises:
        ConfigError: it is none of stunnel's, or has no service.
    """
    drafts: list[Draft] = []
    slaves = []
    for service in sections.read(text, name):
        client = service.last("client")
        if not sections.is_on(client):
            client = None
        if client is None and (patterns := service.all("sni")):
            slaves.append((service, patterns))
        else:
            drafts.append(_translate(service, client))
    for service, patterns in slaves:
        slave = _translate(service, None, is_slave=True)
        for pattern in patterns:
            by_name.add(drafts, slave, pattern)
    return drafts


def _translate(service: Service, client: Setting | None, *, is_slave: bool = False) -> Draft:
    draft = Draft(service.name)
    of = "backend-" if client is not None else ""
    if client is not None:
        draft.options["connect"] = True
    for setting in service.all("accept"):
        draft.add("listen", _address(setting, _to_listen, Address.to_listen))
    if "listen" not in draft.options and not is_slave:
        draft.miss("accept", "without listen tlsify takes the sockets that systemd passes")
    _translate_target(draft, service, is_client=client is not None)
    _translate_pair(draft, service, of)
    if client is not None:
        verification.of_server(draft, service, client)
        if (name := service.last("sni")) is not None:
            if name.value:
                draft.options["backend-servername"] = name.value
            else:
                draft.lose(name, "tlsify sends the name, unless connect has an address")
    else:
        verification.of_clients(draft, service)
    _translate_tls(draft, service, of)
    _translate_protocol(draft, service, is_client=client is not None)
    _translate_process(draft, service)
    _translate_times(draft, service)
    _remark_on_rest(draft, service)
    return draft


def _to_listen(value: str) -> str:
    if value.startswith("/"):
        return f"unix:{value}"
    host, _, port = value.rpartition(":")
    if host == "::":  # which is for IPv4, too
        return f":{port}"
    return f"{_bracketed(host) or '0.0.0.0'}:{port}"  # noqa: S104 - what it is in stunnel


def _to_connect(value: str) -> str:
    if value.startswith("/"):
        return f"unix:{value}"
    host, _, port = value.rpartition(":")
    return f"{_bracketed(host) or 'localhost'}:{port}"


def _address(
    setting: Setting, translated: Callable[[str], str], check: Callable[[str], object]
) -> str:
    """Translate an address.

    Raises:
        ConfigError: it is none, neither there nor here.
    """
    text = translated(setting.value)
    try:
        check(text)
    except ConfigError as exc:
        raise ConfigError(f"{setting.place}: {setting}: {exc}", hint=exc.hint) from exc
    return text


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _translate_target(draft: Draft, service: Service, *, is_client: bool) -> None:
    """Translate `connect` or `exec`."""
    backends = service.all("connect")
    failover = service.last("failover")
    path = service.last("exec")
    if path is not None and is_client:
        draft.lose(path, 'a client has a backend, and no program: see "tlsify connect --help"')
    elif path is not None:
        if backends:
            draft.lose(backends[0], "connect and exec at once")
        arguments = service.last("execArgs")
        words = arguments.value.split() if arguments is not None else []
        draft.verb, draft.program = "listen", [path.value, *words[1:]]
        return
    found = [_address(each, _to_connect, Address.to_connect) for each in backends]
    draft.operands = [",".join(found)] if found else []
    if not backends:
        draft.miss("connect", "name the backend")
    if len(backends) > 1 and (failover is None or failover.value.lower() != "prio"):
        draft.options["balance"] = "round-robin"


def _translate_pair(draft: Draft, service: Service, of: str) -> None:
    chain, key = service.file("cert"), service.file("key")
    for setting in (chain, key):
        if setting is not None and setting.value.startswith("pkcs11:"):
            draft.endanger(setting, "tlsify reads keys from files and descriptors only")
            return
    if chain is None:
        if key is not None:
            draft.lose(key, "there is no cert for it")
        if not of:
            draft.miss("cert", "name the certificate and its key, in cert and key")
        return
    if chain.value.endswith((".p12", ".pfx")):
        draft.endanger(chain, "write it as PEM: openssl pkcs12 -in FILE -nodes -out FILE.pem")
    path = key.value if key is not None else chain.value
    if of:
        draft.options["backend-cert"], draft.options["backend-key"] = chain.value, path
    else:
        draft.pairs.append((chain.value, path))


def _translate_tls(draft: Draft, service: Service, of: str) -> None:
    lists = [service.last("ciphers"), service.last("ciphersuites")]
    if named := [setting for setting in lists if setting is not None]:
        suites.ciphers(draft, of, *named)
    for name in ("curves", "curve"):
        if (setting := service.last(name)) is not None:
            suites.groups(draft, of, setting)
    if (level := service.last("securityLevel")) is not None:
        if level.value.isdecimal() and int(level.value) <= _STRICTEST:
            draft.note(level, f"OpenSSL's level {_STRICTEST} holds in any case")
        else:
            draft.endanger(level, f"OpenSSL's level is {_STRICTEST} in tlsify")
    _translate_versions(draft, service, of)


def _translate_versions(draft: Draft, service: Service, of: str) -> None:
    known = {f"NO_{name.upper()}": name for name in suites.between("all", "all")}
    allowed, cleared, said = set(known.values()), set[str](), list[Setting]()
    for setting in service.all("options"):
        option = setting.value.upper().removeprefix("-").replace("V1_", "V1.")
        version, is_cleared = known.get(option), setting.value.startswith("-")
        if version in suites.OURS:
            said.append(setting)
            (cleared.add if is_cleared else allowed.discard)(version)
        elif version is not None:
            draft.note(setting, "tlsify never speaks a version older than TLS 1.2")
        elif is_cleared or option in _ALWAYS:
            draft.note(setting, "tlsify decides that by itself")
        else:
            draft.endanger(setting, "tlsify passes no options to OpenSSL")
    allowed |= cleared  # whatever comes first
    for name, (first, last) in _SPANS.items():
        if (limit := service.last(name)) is not None:
            try:
                allowed &= set(suites.between(first or limit.value, last or limit.value))
            except ValueError:
                draft.endanger(limit, "tlsify knows no such version")
            else:
                said.append(limit)
    if said:
        suites.versions(draft, of, allowed, said[-1])


def _translate_protocol(draft: Draft, service: Service, *, is_client: bool) -> None:
    for more in _OF_PROTOCOLS:
        for each in service.all(more):
            draft.lose(each, "tlsify asks for TLS, and for nothing else, in the other protocol")
    setting = service.last("protocol")
    if setting is None:
        return
    name = setting.value.lower()
    if name == "proxy" and not is_client and draft.verb == "forward":
        draft.options["proxy-protocol"] = "1"
    elif is_client and name in _STARTTLS:
        draft.options["backend-starttls"] = _STARTTLS[name]
    else:
        draft.lose(setting, "tlsify does not speak it on this side")


def _translate_process(draft: Draft, service: Service) -> None:
    user, group = service.last("setuid"), service.last("setgid")
    if user is not None:
        draft.options["user"] = user.value + (f":{group.value}" if group is not None else "")
    elif group is not None:
        draft.lose(group, "tlsify changes the group along with the user")
    if service.is_on("syslog"):
        draft.options["syslog"] = True
    if (level := service.last("debug")) is not None:
        name = level.value.rpartition(".")[2]
        if name.isdecimal() and int(name) < len(_LEVELS):
            draft.options["log-level"] = _LEVELS[int(name)]
        elif name in _LEVEL_NAMES:
            draft.options["log-level"] = _LEVELS[_LEVEL_NAMES.index(name)]
        else:
            draft.note(level, "see log-level")


def _translate_times(draft: Draft, service: Service) -> None:
    for theirs, ours in _TIMES.items():
        if (setting := service.last(theirs)) is None:
            continue
        if draft.verb != "forward" and ours != "timeout":
            draft.lose(setting, f"{draft.verb} has no such limit")
        elif ours == "timeout" and draft.options.get("connect"):
            draft.note(setting, "connect-timeout has the handshake in it")
        elif setting.value.isdecimal() and int(setting.value):
            draft.options[ours] = int(setting.value)
        else:
            draft.lose(setting, "tlsify wants seconds, more than 0")


def _remark_on_sockets(draft: Draft, service: Service) -> None:
    for setting in service.all("socket"):
        option = setting.value.partition(":")[2].partition("=")[0].strip().upper()
        if option.startswith(_UNSEEN):
            draft.note(setting, "TCP keepalive and TCP_NODELAY are set")
        elif option == "SO_BINDTODEVICE":
            draft.endanger(setting, "tlsify listens at an address, whatever device leads there")
        else:
            draft.lose(setting, "tlsify sets no such option of its sockets")


def _remark_on_rest(draft: Draft, service: Service) -> None:
    _remark_on_sockets(draft, service)
    for setting in service.rest():
        name = setting.name.lower()
        if name in _NEEDLESS:
            draft.note(setting, _NEEDLESS[name])
        elif setting.value.lower() in {"", "no", "none"} and name in {*_LOST, *_UNSAFE}:
            draft.note(setting, "as it is in tlsify")
        elif name in _LOST:
            draft.lose(setting, _LOST[name])
        else:
            draft.endanger(setting, _UNSAFE.get(name, "tlsify knows no such setting"))
