"""ghostunnel's flags: a server or a client with mutual authentication."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tlsify.cli.migration import suites
from tlsify.cli.migration.draft import Draft, Setting
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_SWITCHES = frozenset(
    {
        *("allow-all", "disable-authentication", "unsafe-target", "unsafe-listen", "enable-pprof"),
        *("enable-shutdown", "use-workload-api", "proxy-protocol", "auto-acme-agree-to-tos"),
        *("allow-unsafe-cipher-suites", "use-landlock", "disable-landlock", "syslog", "version"),
        *("keychain-require-token", "skip-resolve"),
    }
)
_ODD = {"allow-unsafe-cipher-suites"}  # it allows no client
_UNITS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
# Addresses of sockets that systemd or launchd passes.
_PASSED = ("systemd:", "launchd:")
_DURATION = re.compile(r"([0-9]+\.?[0-9]*)(ns|us|\u00b5s|ms|s|m|h)")
# Names by which peers are accepted: what follows allow- and verify-, in old spellings, too.
_KINDS = {
    "dns": "dns",
    "dns-san": "dns",
    "ip": "ip",
    "ip-san": "ip",
    "uri": "uri",
    "uri-san": "uri",
}
_NEEDLESS = {
    **dict.fromkeys(("unsafe-target", "unsafe-listen", "skip-resolve"), "tlsify warns only"),
    **dict.fromkeys(("use-landlock", "disable-landlock"), "see sandbox, which is on"),
    **dict.fromkeys(("timed-reload",), "tlsify looks at its files every few seconds"),
    **dict.fromkeys(("enable-pprof", "enable-shutdown"), "tlsify has signals for that"),
    "close-timeout": "see send-timeout",
    "quiet": "see log-level",
    "disable-authentication": "as it is in tlsify",
    "allow-all": "any client with a certificate that is trusted",
    "metrics-prefix": "tlsify's metrics begin with tlsify_",
    "metrics-interval": "Prometheus asks by itself",
    "allow-unsafe-cipher-suites": "tlsify has none",
}
# Flags that say where the certificate comes from.
_CERTIFICATES = ("keystore", "cert", "key", "auto-acme-cert", "use-workload-api", "pkcs11-module")
_CIPHERS = {"AES": ["aes-128-gcm", "aes-256-gcm"], "CHACHA": ["chacha20-poly1305"]}
_LOST = {
    **dict.fromkeys(("metrics-graphite", "metrics-url"), "see metrics, for Prometheus"),
    "max-conn-lifetime": "see idle",
    "target-status": 'see health-check = "/PATH"',
    "proxy": "tlsify speaks to backends without a proxy",
    "connect-proxy": "tlsify speaks to backends without a proxy",
}
_UNSAFE = {
    **dict.fromkeys(("storepass",), "tlsify reads PEM without a password"),
    **dict.fromkeys(("cn", "ou"), "tlsify knows peers by subject alternative names (RFC 9525)"),
    **dict.fromkeys(("policy", "query"), "tlsify evaluates no policies"),
    **dict.fromkeys(("use-workload-api", "use-workload-api-addr"), "tlsify speaks no SPIFFE API"),
}


def translate(words: Sequence[str]) -> list[Draft]:
    """Translate a command line.

    Args:
        words: behind the program's name.

    Raises:
        ConfigError: it is none of ghostunnel's.
    """
    settings = list(_without_those_off(_settings(words)))
    settings.sort(key=lambda each: each.name == "auto-acme-testca")  # which replaces auto-acme-ca
    modes = [each.value for each in settings if not each.name]
    if modes not in (["server"], ["client"]):
        raise ConfigError(
            "ghostunnel's command line has server or client, once",
            hint="tlsify config import --from ghostunnel -- server --listen ...",
        )
    is_client = modes == ["client"]
    draft = Draft(f"ghostunnel-{modes[0]}")
    if is_client:
        draft.options["connect"] = True
    names = {each.name for each in settings}
    if not is_client and "disable-authentication" not in names:
        draft.options["client-cert"] = "require"
        draft.options["client-ca"] = "system"
    is_open = "disable-authentication" in names
    if not (is_client or is_open or any(name.startswith("allow-") for name in names - _ODD)):
        draft.endanger(
            Setting("server", "", "word", 1), "ghostunnel wants an allow- flag: see client-ref-id"
        )
    targets = [each.value for each in settings if each.name in {"target", "override-server-name"}]
    hosts = {host.rpartition(":")[0].strip("[]") or host for host in targets[-1:]}
    translation = _Translation(draft, hosts, is_client=is_client, is_open=is_open)
    for setting in settings:
        if setting.name:
            translation.translate(setting)
    if not is_client and names.isdisjoint(_CERTIFICATES):
        draft.miss("keystore", "name it in cert; ghostunnel may have it by $KEYSTORE_PATH")
    return [draft]


def _settings(words: Sequence[str]) -> Iterator[Setting]:
    left = list(words)
    number = 0
    while left:
        number += 1
        word = left.pop(0)
        if not word.startswith("--"):
            yield Setting("", word, "word", number)
            continue
        at = number
        name, equals, value = word.removeprefix("--").partition("=")
        if name.removeprefix("no-") in _SWITCHES:
            if equals:
                raise ConfigError(f"{word}: --{name} takes no value", hint=f"write --{name}")
        elif not equals:
            if not left:
                raise ConfigError(f"--{name} has no value", hint="write the whole command line")
            value, number = left.pop(0), number + 1
        yield Setting(name, value, "word", at)


def _without_those_off(settings: Iterable[Setting]) -> Iterator[Setting]:
    """Leave out switches that are off: of --SWITCH and --no-SWITCH the last one counts."""
    found = list(settings)
    last = {each.name.removeprefix("no-"): each.name for each in found}
    return (each for each in found if last.get(each.name) == each.name)


class _Translation:
    """What the flags say, one after the other."""

    def __init__(self, draft: Draft, hosts: set[str], *, is_client: bool, is_open: bool) -> None:
        self._draft = draft
        self._hosts = hosts
        self._of = "backend-" if is_client else ""
        self._is_client, self._is_open = is_client, is_open
        self._translations: dict[str, Callable[[Setting], None]] = {
            "listen": self._listen,
            "target": self._target,
            **dict.fromkeys(("keystore", "cert", "key"), self._pair),
            "cacert": self._authorities,
            "cipher-suites": self._ciphers,
            "max-tls-version": self._newest,
            "max-concurrent-conns": self._maximum,
            "status": self._status,
            "auto-acme-cert": lambda setting: draft.add("acme", setting.value),
            "auto-acme-email": self._plainly("acme-email"),
            **dict.fromkeys(("auto-acme-ca", "auto-acme-testca"), self._plainly("acme-directory")),
            "auto-acme-agree-to-tos": lambda _: draft.options.update({"acme-agree-tos": True}),
            "override-server-name": self._plainly("backend-servername"),
            "proxy-protocol": lambda _: draft.options.update({"proxy-protocol": "2"}),
            "syslog": lambda _: draft.options.update({"syslog": True}),
            "connect-timeout": self._duration("connect-timeout"),
            "shutdown-timeout": self._duration("drain"),
        }

    def translate(self, setting: Setting) -> None:
        draft, name = self._draft, setting.name
        verb, _, kind = name.partition("-")
        is_peer = verb in {"allow", "verify"}
        if (translation := self._translations.get(name)) is not None:
            translation(setting)
        elif is_peer and kind in _KINDS:
            draft.identify(f"{self._of or 'client-'}ref-id", _KINDS[kind], setting)
            if self._is_client and setting.value not in self._hosts:
                draft.endanger(setting, "instead of the server's name, and not besides it")
        elif is_peer and kind in _UNSAFE:
            draft.endanger(setting, _UNSAFE[kind])
        elif name in _NEEDLESS:
            draft.note(setting, _NEEDLESS[name])
        elif name in _LOST:
            draft.lose(setting, _LOST[name])
        else:
            draft.endanger(setting, _UNSAFE.get(name, "tlsify knows no such flag"))

    def _plainly(self, option: str) -> Callable[[Setting], None]:
        return lambda setting: self._draft.options.update({option: setting.value})

    def _duration(self, option: str) -> Callable[[Setting], None]:
        def translate(setting: Setting) -> None:
            if seconds := _seconds(setting):
                self._draft.options[option] = seconds
            else:
                self._draft.lose(setting, f"{option} is more than 0")

        return translate

    def _listen(self, setting: Setting) -> None:
        if setting.value.startswith(_PASSED):
            self._draft.note(setting, "without listen tlsify takes the sockets that systemd passes")
        else:
            self._draft.add("listen", setting.value)

    def _target(self, setting: Setting) -> None:
        if setting.value.startswith(("http:", "https:", *_PASSED)):
            self._draft.lose(setting, "write HOST:PORT, or unix:PATH")
        else:
            self._draft.operands = [setting.value]

    def _pair(self, setting: Setting) -> None:
        name, value, draft = setting.name, setting.value, self._draft
        if value.endswith((".p12", ".pfx", ".jks", ".jceks")):
            draft.endanger(setting, "write it as PEM: openssl pkcs12 -in FILE -nodes -out FILE.pem")
        elif self._is_client:
            if name != "key":
                draft.options["backend-cert"] = value
            if name != "cert":
                draft.options["backend-key"] = value
        elif name == "key":
            draft.pairs = [(chain, value) for chain, _ in draft.pairs] or [(value, value)]
        else:
            key = draft.pairs[0][1] if draft.pairs and name == "cert" else value
            draft.pairs = [(value, key)]

    def _authorities(self, setting: Setting) -> None:
        if self._is_client:
            self._draft.options["backend-ca"] = setting.value
        elif self._is_open:
            self._draft.note(setting, "clients show no certificate")
        else:
            self._draft.options["client-ca"] = setting.value

    def _ciphers(self, setting: Setting) -> None:
        kinds = [each.strip().upper() for each in setting.value.split(",")]
        if set(kinds) <= set(_CIPHERS):
            found = [each for kind in kinds for each in _CIPHERS[kind]]
            self._draft.options[f"{self._of}ciphers"] = ",".join(found)
        else:
            self._draft.endanger(setting, "tlsify has AES-GCM and ChaCha20 only")

    def _newest(self, setting: Setting) -> None:
        newest = "TLSv" + setting.value.removeprefix("TLS")
        suites.versions(self._draft, self._of, {"TLSv1.2", newest}, setting)

    def _maximum(self, setting: Setting) -> None:
        if setting.value != "0":
            self._draft.options["max-connections"] = setting.value

    def _status(self, setting: Setting) -> None:
        if setting.value.startswith(_PASSED):
            self._draft.lose(setting, "write metrics = HOST:PORT, or unix:PATH")
            return
        self._draft.options["metrics"] = setting.value.partition("://")[2] or setting.value
        self._draft.note(setting, "/metrics and /healthz by plain HTTP, not /_metrics and /_status")


def _seconds(setting: Setting) -> float:
    parts = _DURATION.findall(setting.value)
    if "".join(f"{number}{unit}" for number, unit in parts) != setting.value or not parts:
        raise ConfigError(
            f"--{setting.name}: {setting.value!r} is no duration", hint="ghostunnel has 10s or 5m"
        )
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
