"""Looks at the built site in Chromium: all loads, from here alone, and nothing sticks out.

::

    make docs && .venv/bin/pip install playwright
    .venv/bin/python website/check.py [--shots FOLDER]

Pages are opened at 1280 and at 400 pixels. Without playwright or Chromium it says so.
"""

import argparse
import functools
import http.server
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SITE = ROOT / "site"
WIDTHS = (1280, 400)
SHOTS = (
    "index",
    "questions",
    "how",
    "settings",
    "troubleshooting",
    "transformers",
    "api/torch",
    "benchmark/benchmark",
)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--site", type=Path, default=SITE, help="the built site")
    parser.add_argument("--shots", type=Path, help="a folder for pictures of some pages")
    given = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        return print("Skipped: playwright is missing. Type: pip install playwright")
    if not chromium:
        return print("Skipped: there is no chromium here. On Debian: apt-get install chromium")
    if not (given.site / "index.html").exists():
        sys.exit(f"{given.site} must be a built site; type: make docs")
    handler = functools.partial(Quiet, directory=given.site)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        look = Look(browser, f"http://127.0.0.1:{server.server_port}", given.shots)
        for page in sorted(given.site.rglob("*.html")):
            look.at(page.relative_to(given.site).with_suffix("").as_posix())
        look.search("threshold", look.root)
        look.search("threshold", given.site.resolve().as_uri())
        look.toggle()
        browser.close()
    server.shutdown()
    print(*look.faults, sep="\n")
    print(f"{look.number} views of pages, {len(look.faults)} faults")
    sys.exit(bool(look.faults))


class Look:
    """A browser, and what is wrong with what it sees."""

    def __init__(self, browser: Any, root: str, shots: Path | None) -> None:
        self.root, self.shots = root, shots
        self.faults: list[str] = []
        self.number = 0
        self.where = ""
        self.tab = browser.new_page()
        self.tab.on("console", lambda m: m.type == "error" and self.fault(f"console: {m.text}"))
        self.tab.on("pageerror", lambda error: self.fault(f"error: {error}"))
        self.tab.on("request", self.is_ours)
        self.tab.on("response", lambda r: r.status >= 400 and self.fault(f"{r.status}: {r.url}"))

    def fault(self, words: str) -> None:
        self.faults.append(f"{self.where}: {words}")

    def is_ours(self, request: Any) -> None:
        if not request.url.startswith((self.root, "data:", "blob:", "file:")):
            self.fault(f"asks another site: {request.url}")

    def at(self, name: str) -> None:
        for width in WIDTHS:
            self.where = f"{name} at {width}"
            self.number += 1
            self.tab.set_viewport_size({"width": width, "height": 900})
            self.tab.goto(f"{self.root}/{name}.html", wait_until="load")
            wide = self.tab.evaluate("document.documentElement.scrollWidth")
            if wide > width:
                self.fault(f"scrolls sideways: {wide} pixels wide. {self.culprits(width)}")
            for image in self.tab.evaluate(
                "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
            ):
                self.fault(f"no picture: {image}")
            if not self.tab.title() or (not self.tab.locator("h1").count() and name != "404"):
                self.fault("no title")
            if self.shots and name in SHOTS:
                self.shots.mkdir(parents=True, exist_ok=True)
                path = self.shots / f"{name.replace('/', '-')}-{width}.png"
                self.tab.screenshot(path=path)

    def culprits(self, width: int) -> list[str]:
        """What sticks out, and is not inside of what scrolls."""
        found: list[str] = self.tab.evaluate(
            """width => [...document.querySelectorAll("article *")]
              .filter(x => x.getBoundingClientRect().right > width + 1
                && !x.closest("pre, .md-typeset__scrollwrap"))
              .slice(0, 3).map(x => x.outerHTML.slice(0, 100))""",
            width,
        )
        return found

    def search(self, word: str, root: str) -> None:
        self.where = f"search for {word} in {root}"
        self.tab.set_viewport_size({"width": 1280, "height": 900})
        self.tab.goto(f"{root}/index.html")
        self.tab.locator("input.md-search__input").click()
        self.tab.keyboard.type(word)
        try:
            self.tab.wait_for_selector(".md-search-result__item", timeout=10_000)
        except Exception:
            self.fault("finds nothing")
        if self.shots:
            self.tab.screenshot(path=self.shots / "search.png")
        self.tab.keyboard.press("Escape")

    def toggle(self) -> None:
        """Dark and back, by a click."""
        self.where = "palette"
        self.tab.goto(f"{self.root}/how.html")
        seen = []
        for _ in range(3):
            seen.append(self.tab.evaluate("document.body.dataset.mdColorScheme"))
            self.tab.locator("label.md-header__button[for^=__palette]:not([hidden])").click()
            self.tab.wait_for_timeout(300)
            if self.shots and len(seen) == 1:
                self.tab.screenshot(path=self.shots / "dark.png")
        if seen != ["default", "slate", "default"]:
            self.fault(f"does not toggle: {seen}")


if __name__ == "__main__":
    main()
