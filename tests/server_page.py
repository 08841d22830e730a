"""The page in a real browser: what is done there, what it complains of, where it asks."""

import shutil
from pathlib import Path
from typing import Any

from safelight.server.page.door import built

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
AXE = Path(__file__).parents[1] / "page" / "node_modules" / "axe-core" / "axe.min.js"
MISSING = (  # why no page can be looked at here; empty: it can be
    "no Chromium on this machine"
    if BROWSER is None
    else "the page was not built"
    if built() is None
    else ""
)


class Visit:
    """A page that keeps what its browser complained of, and where it asked."""

    def __init__(self, browser: Any, port: int, **options: Any) -> None:
        self.page = browser.new_page(
            viewport={"width": 1300, "height": 900}, reduced_motion="reduce", **options
        )
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._asked)
        self.page.set_default_timeout(15_000)
        self.address = f"http://127.0.0.1:{port}/"
        self.page.goto(self.address)

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith(("data:", "blob:")):
            self.hosts.add(request.url.split("/")[2])

    def draw(self, prompt: str) -> None:
        self.page.get_by_label("Prompt", exact=True).fill(prompt)
        self.page.get_by_role("button", name="Draw", exact=True).click()

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def mask(self) -> Any:
        """The canvas for a mask on the picture that was drawn last."""
        self.page.get_by_label("Open picture 1").click()
        self.page.get_by_role("button", name="Draw on it").click()
        self.page.get_by_role("dialog").wait_for(state="detached")
        canvas = self.page.get_by_label("Mask: paint")
        canvas.wait_for()
        return canvas

    def status(self) -> Any:
        return self.page.get_by_role("status").first

    def clean(self) -> None:
        """Nothing was complained of, and nobody but this server was asked."""
        assert self.complaints == []
        assert self.hosts == {self.address.split("/")[2]}


def serious(page: Any) -> list[tuple[str, list[str]]]:
    """What axe finds that keeps people out: the rules, and where they are broken."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")
    return [
        (one["id"], [node["html"][:200] for node in one["nodes"]])
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]
