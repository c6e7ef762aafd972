"""A real Chromium loads a page of a hundred files, and a film, from `tlsify serve`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser import site
from tests.doubles import until
from tests.provision import WITH_BROWSER, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    import trustme

    from tests.browser.chromium import Browser
    from tests.browser.servers import Here, There

chromium = pytest.importorskip("tests.browser.chromium", reason="selenium is not installed")
servers = pytest.importorskip("tests.browser.servers")

pytestmark = [
    pytest.mark.skipif(
        not WITH_BROWSER or refusal() is not None,
        reason=refusal() or "TLSIFY_BROWSER=1, which has Chromium fetched, is not set",
    ),
    pytest.mark.timeout(600),
]
# Where to keep the pictures; a folder.
PICTURES = os.environ.get("TLSIFY_PICTURES")

_PLAY = """
const [to, done] = arguments, film = document.querySelector('video');
film.currentTime = to;
film.onseeked = () => { film.onseeked = null; film.play(); };
film.ontimeupdate = () => {
  if (film.seeking || film.currentTime < to + 0.5) return;
  film.ontimeupdate = null;
  film.pause();
  done([film.currentTime, film.duration, film.videoWidth]);
};
film.onerror = () => done(film.error.message);
"""
_FILES = """
return performance.getEntriesByType('resource').map(
  each => [each.name.split('/').pop(), each.responseStatus, each.nextHopProtocol]);
"""
_LOOKS = """
const broken = [...document.images].filter(each => !each.naturalWidth).length;
const colors = new Set([...document.querySelectorAll('#styles span')].map(
  each => getComputedStyle(each).backgroundColor));
return [Number(document.getElementById('ran').textContent), broken, colors.size];
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site."""
    made = tmp_path_factory.mktemp("browser") / "site"
    site.make(made)
    site.make_film(made)
    return made


@pytest.fixture(scope="module")
def pair(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The server's certificate and key, for localhost."""
    issued, place = authority.issue_cert("localhost"), tmp_path_factory.mktemp("pair")
    issued.cert_chain_pems[0].write_to_path(place / "cert.pem")
    issued.private_key_pem.write_to_path(place / "key.pem")
    (place / "key.pem").chmod(0o600)
    return place / "cert.pem", place / "key.pem"


@pytest.fixture(params=["relay", "kernel"])
def server(
    request: pytest.FixtureRequest, folder: Path, pair: tuple[Path, Path]
) -> Iterator[Here | There]:
    """The server, on either path."""
    if request.param == "relay":
        made = servers.Here(folder, *pair)
    elif os.environ.get("TLSIFY_GUEST") or not _has_guests():
        pytest.skip("no guest can be run here")
    else:
        made = servers.There(folder, *pair)
    with made:
        yield made


def _has_guests() -> bool:
    """Return whether guests have been run here before: nobody is to wait for their first boot."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (cache / "tlsify/vm").is_dir()


@pytest.fixture
def browser(tmp_path: Path, authority: trustme.CA) -> Iterator[Browser]:
    """A browser that trusts the test authority, by its own database of anchors."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with chromium.Browser(tmp_path, tmp_path / "ca.pem") as made:
        made.driver.set_script_timeout(120)
        made.driver.set_page_load_timeout(120)
        yield made


def _responses(browser: Browser) -> list[dict[str, Any]]:
    """Return every answer that the browser got, as its network log has it."""
    messages = [json.loads(each)["message"] for each in browser.log("performance")]
    return [
        message["params"]["response"]
        for message in messages
        if message["method"] == "Network.responseReceived"
        and message["params"]["response"]["url"].startswith("https:")
    ]


def test_page(server: Here | There, browser: Browser, request: pytest.FixtureRequest) -> None:
    """All files arrive whole; the film plays, also from where nothing of it was loaded before."""
    driver = browser.driver
    driver.set_window_size(760, 820)
    driver.get(f"https://localhost:{server.port}/index.html")
    until(lambda: len(driver.execute_script(_FILES)) > site.FILES, 60)
    files = {name: rest for name, *rest in driver.execute_script(_FILES)}
    del files[site.FILM]  # it is still being loaded
    assert len(files) == site.FILES
    assert {tuple(each) for each in files.values()} == {(200, "http/1.1")}
    assert driver.execute_script(_LOOKS) == [site.SCRIPTS, 0, site.STYLES]
    for to in (0, 50, 25):
        at, duration, width = driver.execute_async_script(_PLAY, to)
        assert to + 0.5 <= at < to + 5
        assert (round(duration), width) == (60, 320)
    report = server.report()
    picture = driver.get_screenshot_as_png()
    if PICTURES is not None:
        name = request.node.callspec.id
        Path(PICTURES).mkdir(exist_ok=True)
        (Path(PICTURES) / f"browser-{name}.png").write_bytes(picture)
    responses = _responses(browser)
    ranges = [each for each in responses if each["url"].endswith(site.FILM)]
    assert {each["status"] for each in ranges} == {206}
    starts = {each["headers"]["Content-Range"].partition("-")[0] for each in ranges}
    assert len(starts) >= 2, "the film was loaded in one piece"
    assert {each["securityDetails"]["protocol"] for each in responses} == {"TLS 1.3"}
    assert browser.log("browser") == []
    _check_report(report, responses[0]["securityDetails"])


def _check_report(report: dict[str, Any], security: dict[str, Any]) -> None:
    """See that `tlsify status` knows the browser's connections, and who protects them."""
    status = report["status"]
    own = [each for each in status["sockets"] if each["tlsify"] is not None]
    assert own
    for each in own:
        assert each["tlsify"]["server_name"] == "localhost"
        assert each["tlsify"]["alpn"] == "http/1.1"
        assert each["tlsify"]["group"] == security["keyExchangeGroup"]
    if "sendfiles" not in report:
        assert {each["tlsify"]["reason"] for each in own} == {"policy-off"}
        return
    assert {(each["tx"], each["rx"]) for each in own} == {("kernel", "kernel")}
    assert status["counters"]["TlsTxSw"] >= len(own)
    assert status["counters"]["TlsDecryptError"] == 0
    assert report["sendfiles"] >= site.FILES
    assert report["sent"] > 1_000_000
