#!/usr/bin/env python3
"""Take the pictures of the server's page that the guide shows, with the embedded model.

    python scripts/page_screenshots.py               # needs playwright, and a Chromium on the PATH
    python scripts/page_screenshots.py --out FOLDER  # somewhere else
    python scripts/page_screenshots.py --only key    # the question for the key alone: no drawing

A server is started on a free port of this machine and ended; the page is used as a person would.
What is seen is what was drawn: seeds are given, so a second run shows the same pictures.
"""

import argparse
import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OUT = Path(__file__).parents[1] / "docs" / "pictures" / "page"
GALLERY = (
    "a sunflower on a teal background",
    "a cheeseburger against a white background",
    "lotus, blue background",
    "a giraffe on a yellow background, flat emoji",
    "a birthday cake on a pink background",
    "houses, gradient style",
    "a rocket on a purple background",
    "a yellow car on a grey background",
    "a twemoji emoji of a smiling face with sunglasses, white background",
    "a panda on an orange background",
    "a cat face on a green background",
)
APPLE = "a red apple on a blue background"
KEY = "only-for-this-picture"
QUALITY = 82
WAIT = 120_000  # milliseconds


class Screens:
    """A browser before the page of one server."""

    def __init__(self, browser: Any, address: str, out: Path) -> None:
        self._browser, self.address, self._out = browser, address, out
        self.page: Any = None

    def open(self, scheme: str, width: int, height: int) -> None:
        """Look at the page in these colours, in a window of this size."""
        if self.page is not None:
            self.page.close()
        self.page = self._browser.new_page(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        self.page.set_default_timeout(WAIT)
        self.page.goto(self.address)

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def draw(self, prompt: str, **settings: str) -> None:
        """Draw a picture, and wait for it."""
        self.page.get_by_label("Prompt", exact=True).fill(prompt)
        for label, value in settings.items():
            self.page.get_by_label(label, exact=True).fill(value)
        self.submit("Draw")

    def submit(self, button: str) -> None:
        """Press a button that draws, and wait until that is over and seen."""
        with self.page.expect_response(lambda r: r.url.endswith("/api/jobs")) as answer:
            self.page.get_by_role("button", name=button, exact=True).click()
        self.finish(answer.value.json()["id"])
        self.page.get_by_role("status").first.get_by_text("Drawn").wait_for()
        self.page.get_by_label("Open picture 1").wait_for()

    def finish(self, job: str) -> None:
        """Wait until a job is over."""
        while asked(f"{self.address}/api/jobs/{job}")["state"] in ("queued", "running"):
            time.sleep(0.1)

    def take(self, name: str) -> None:
        """Keep what is seen now as NAME.webp."""
        from PIL import Image

        self.page.mouse.move(0, 0)
        self.page.wait_for_timeout(600)  # what moves has come to rest
        self.page.evaluate("Promise.all([...document.images].map(i => i.decode().catch(() => 0)))")
        shot = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        shot.save(self._out / f"{name}.webp", quality=QUALITY, method=6)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", choices=("page", "key"), help="the page, or what comes before it")
    given = parser.parse_args()
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if browser is None:
        parser.exit(1, "no Chromium on this machine\n")
    from playwright.sync_api import sync_playwright

    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        if given.only != "key":
            with served(Path(folder) / "open") as address:
                take_all(Screens(opened, address, given.out))
        if given.only != "page":
            with served(Path(folder) / "keyed", "--api-key", KEY) as address:
                key(Screens(opened, address, given.out))
        opened.close()
    for path in sorted(given.out.glob("*.webp")):
        print(f"{path.name}: {path.stat().st_size // 1024} KB")


def take_all(screens: Screens) -> None:
    """All pictures, in the order in which somebody new would see the page."""
    for seed, prompt in enumerate(GALLERY):
        job = asked(f"{screens.address}/api/jobs", {"prompt": prompt, "seed": seed})
        screens.finish(job["id"])
    screens.open("light", 1300, 900)
    screens.draw(APPLE, Seed="7")
    screens.take("draw")
    screens.tab("Gallery")
    screens.take("gallery")
    edit(screens)
    grid(screens)
    lesson(screens)
    screens.open("dark", 390, 844)
    screens.draw(APPLE, Seed="7")
    screens.take("phone")


def edit(screens: Screens) -> None:
    """A mask over half of an apple, painted with the brush: another apple grows there."""
    page = screens.page
    page.get_by_label(f"Open: {APPLE}").first.click()
    page.get_by_role("button", name="Draw on it").click()
    page.get_by_role("dialog").wait_for(state="detached")
    box = page.get_by_label("Mask: paint").bounding_box()
    for part in range(1, 10):  # strokes from top to bottom
        x = box["x"] + box["width"] * (0.05 * part)
        page.mouse.move(x, box["y"] + 2)
        page.mouse.down()
        page.mouse.move(x, box["y"] + box["height"] - 2, steps=6)
        page.mouse.up()
    page.get_by_label("Prompt", exact=True).fill("a green apple on a blue background")
    page.get_by_label("Strength", exact=True).fill("1")
    screens.submit("Draw on the picture")
    screens.take("edit")


def grid(screens: Screens) -> None:
    """Steps along the rows, the guidance scale along the columns."""
    page = screens.page
    screens.tab("Draw")
    page.get_by_role("button", name="Reset settings").click()
    page.get_by_label("Prompt", exact=True).fill(APPLE)
    page.get_by_label("Seed", exact=True).fill("7")
    screens.tab("Grid")
    page.get_by_role("button", name="Draw 3 × 3").click()
    for steps in ("4", "8", "16"):
        for scale in ("1", "3", "7"):
            page.get_by_label(f"Open {steps}, {scale}").wait_for()
    screens.take("grid")


def lesson(screens: Screens) -> None:
    """The picture of the first screen in the middle of its steps, in the dark."""
    screens.open("dark", 1300, 1220)
    page = screens.page
    screens.tab("Lesson")
    page.get_by_label(f"Lesson of: {APPLE}").last.click()
    page.get_by_text("Step 1 of 20 begins").wait_for()
    slider = page.get_by_role("slider", name="Step")
    for _ in range(12):
        slider.press("ArrowRight")
    page.get_by_text("Step 13 of 20 begins").wait_for()
    screens.take("lesson")


def key(screens: Screens) -> None:
    """What is seen before the page where a key is needed, after one that is none; then the page."""
    screens.open("light", 760, 312)
    page = screens.page
    page.get_by_label("Key", exact=True).fill("a wrong one")
    page.get_by_role("button", name="Come in").click()
    page.get_by_text("That is not a key of this server.").wait_for()
    screens.take("key")
    page.get_by_label("Key", exact=True).fill(KEY)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Sign out").wait_for()


@contextmanager
def served(folder: Path, *options: str) -> Iterator[str]:
    """The address of a server of its own, whose pictures lie in a folder."""
    folder.mkdir()
    command = [sys.executable, "-m", "safelight", "serve", "--port", "0", "--out", str(folder)]
    command += ["--model", "embedded", *options]
    with open(folder / "log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert server.stdout is not None
    try:
        said = server.stdout.readline()
        yield next(word for word in said.split() if word.startswith("http")).rstrip("/.,;")
    finally:
        server.terminate()
        server.wait(60)
        server.stdout.close()


def asked(address: str, settings: object = None) -> Any:
    """What the native API answers."""
    data = None if settings is None else json.dumps(settings).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main()
