"""Chromium without a screen, with a profile of its own that trusts one authority more."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Self

from lane.peers import BROWSER
from selenium import webdriver

if TYPE_CHECKING:
    from pathlib import Path

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--autoplay-policy=no-user-gesture-required",
)


class Browser:
    """A browser that is there for the length of a block.

    Attributes:
        driver: Selenium's.
    """

    def __init__(self, folder: Path, authority: Path | None = None) -> None:
        """Prepare.

        Args:
            folder: for its profile, and its home, where Chromium looks for anchors.
            authority: PEM; trusted as a certificate authority.
        """
        self._folder = folder
        self._authority = authority
        self.driver: webdriver.Chrome

    def __enter__(self) -> Self:
        """Start it."""
        home = self._folder / "home"
        anchors = home / ".pki/nssdb"
        anchors.mkdir(parents=True)
        if self._authority is not None:
            certutil = str(BROWSER.program("certutil"))
            database = ("-d", f"sql:{anchors}")
            subprocess.run([certutil, "-N", *database, "--empty-password"], check=True)
            subprocess.run(
                [certutil, "-A", *database, "-t", "C,,", "-n", "test", "-i", self._authority],
                check=True,
            )
        options = webdriver.ChromeOptions()
        options.binary_location = str(BROWSER.program("chromium"))
        for flag in (*_FLAGS, f"--user-data-dir={self._folder / 'profile'}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        # Named, so that Selenium fetches none.
        service = webdriver.ChromeService(
            executable_path=str(BROWSER.program("chromedriver")),
            env={"HOME": str(home), **BROWSER.environment()},
        )
        self.driver = webdriver.Chrome(options, service)
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.driver.quit()

    def log(self, kind: str) -> list[str]:
        """Return what it has logged since it was last asked.

        Args:
            kind: "browser" for its console, "performance" for its network, in JSON.
        """
        entries = self.driver.get_log(kind)  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in entries]
