"""A page with a hundred files and a film, which says itself whether all of it works."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from lane.peers import BROWSER

if TYPE_CHECKING:
    from pathlib import Path

STYLES, SCRIPTS, IMAGES = 30, 30, 40
FILES = STYLES + SCRIPTS + IMAGES
FILM = "film.webm"
# Longer than what a browser fetches in advance, so that it has to ask for the rest by ranges.
_SECONDS, _BITS = 60, 2_000_000

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>a hundred files</title>
<link rel="icon" href="data:,">
{links}
<style>
body {{ font: 16px sans-serif; margin: 24px }}
#images {{ width: 660px }}
#images img {{ width: 60px; height: 60px; margin: 2px }}
#styles span {{ display: inline-block; width: 18px; height: 18px; background: #c00 }}
video {{ width: 320px; height: 240px; background: #ccc }}
</style>
<h1>{files} files and a film</h1>
<p>Scripts that have run: <b id="ran">0</b></p>
<p id="styles">{spans}</p>
<p id="images">{images}</p>
<video src="{film}" preload="auto" muted controls></video>
{scripts}
</html>
"""


def make(folder: Path) -> None:
    """Write the page and its files.

    Args:
        folder: where to; made.
    """
    folder.mkdir()
    for at in range(STYLES):
        hue = 360 * at // STYLES
        (folder / f"{at}.css").write_text(f"#styles #s{at} {{ background: hsl({hue} 70% 55%) }}\n")
    for at in range(SCRIPTS):
        script = "const ran = document.getElementById('ran');\n" if at == 0 else ""
        (folder / f"{at}.js").write_text(
            f"{script}ran.textContent = Number(ran.textContent) + 1;\n"
        )
    for at in range(IMAGES):
        (folder / f"{at}.svg").write_text(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 60 60" width="60" height="60">'
            f'<circle cx="30" cy="30" r="28" fill="hsl({9 * at} 60% 50%)"/>'
            f'<text x="30" y="38" text-anchor="middle" font-size="24" fill="#fff">{at}</text></svg>'
        )
    (folder / "index.html").write_text(
        _PAGE.format(
            links="\n".join(f'<link rel="stylesheet" href="{at}.css">' for at in range(STYLES)),
            files=FILES,
            spans=" ".join(f'<span id="s{at}"></span>' for at in range(STYLES)),
            images="".join(f'<img src="{at}.svg" alt="{at}">' for at in range(IMAGES)),
            film=FILM,
            scripts="\n".join(f'<script src="{at}.js"></script>' for at in range(SCRIPTS)),
        )
    )


def make_film(folder: Path) -> None:
    """Add the film, of noise: it is as large as it is long.

    Raises:
        LaneError: ffmpeg cannot be had.
        subprocess.CalledProcessError: it cannot make this.
    """
    picture = f"testsrc2=size=320x240:rate=12:duration={_SECONDS},noise=alls=40:allf=t"
    ffmpeg = str(BROWSER.program("ffmpeg"))
    words = f"-v error -f lavfi -i {picture} -c:v libvpx -deadline realtime -cpu-used 8"
    subprocess.run(
        [ffmpeg, *words.split(), "-b:v", str(_BITS), "-minrate", str(_BITS), folder / FILM],
        check=True,
    )
