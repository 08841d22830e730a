"""A newcomer's whole path on the model that comes with Safelight: nothing of it is made up."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from server_page import MISSING, Visit
from server_process import killed, started

pytest.importorskip("playwright.sync_api", reason="no browser driver is installed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(MISSING != "", reason=MISSING)]
SEEN = "The picture on its way"


def newest(page: Any, address: str) -> np.ndarray:
    """The pixels of the newest picture of the gallery."""
    (found, *_) = page.request.get(f"{address}api/gallery").json()["pictures"]
    data = page.request.get(f"{address}api/pictures/{found['id']}").body()
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def submit(visit: Visit, button: str) -> None:
    """Press a button that draws, and wait until the picture is there."""
    page = visit.page
    with page.expect_response(lambda r: r.url.endswith("/api/jobs")) as answer:
        page.get_by_role("button", name=button, exact=True).click()
    address = f"{visit.address}api/jobs/{answer.value.json()['id']}"
    for _ in range(600):
        if page.request.get(address).json()["state"] not in ("queued", "running"):
            break
        page.wait_for_timeout(50)
    visit.status().get_by_text("Drawn").wait_for()


def test_from_a_prompt_to_a_lesson(browser: Any, models: Path, tmp_path: Path) -> None:
    server = started(tmp_path / "out", models, "--model", "embedded", "--preview-every", "1")
    try:
        port = int(server.url.rstrip("/").split(":")[-1])
        visit = Visit(browser, port)
        page = visit.page

        # the defaults are those of the model that draws
        scale = page.get_by_label("Guidance scale", exact=True)
        page.locator("[data-setting=width][placeholder='128']").wait_for()
        assert (scale.get_attribute("placeholder"), scale.input_value()) == ("3", "")

        page.get_by_label("Prompt", exact=True).fill("a red apple on a blue background")
        page.get_by_label("Seed", exact=True).fill("7")
        page.evaluate(
            """alt => { window.seen = new Set(); new MutationObserver(() => {
                const one = document.querySelector(`img[alt="${alt}"]`);
                if (one !== null) window.seen.add(one.src);
            }).observe(document.body, {subtree: true, childList: true, attributes: true}); }""",
            SEEN,
        )
        submit(visit, "Draw")
        assert page.evaluate("window.seen.size") >= 3  # the preview moved
        page.get_by_label("Open picture 1").wait_for()
        first = newest(page, visit.address)

        page.reload()
        visit.tab("Gallery")
        page.get_by_label("Open: a red apple").first.click()
        page.get_by_role("button", name="Reuse these settings").click()
        submit(visit, "Draw")
        assert np.array_equal(newest(page, visit.address), first)

        box = visit.mask().bounding_box()
        for part in range(1, 7):  # the left half
            x = box["x"] + box["width"] * 0.07 * part
            page.mouse.move(x, box["y"] + 2)
            page.mouse.down()
            page.mouse.move(x, box["y"] + box["height"] - 2, steps=4)
            page.mouse.up()
        page.get_by_label("Prompt", exact=True).fill("a green apple on a blue background")
        page.get_by_label("Strength", exact=True).fill("1")
        submit(visit, "Draw on the picture")
        painted = newest(page, visit.address)
        assert np.array_equal(painted[:, 80:], first[:, 80:])
        assert not np.array_equal(painted[:, :40], first[:, :40])

        page.get_by_role("button", name="Clear", exact=True).click()
        page.get_by_label("right", exact=True).fill("64")
        submit(visit, "Draw on the picture")
        assert newest(page, visit.address).shape == (128, 192, 3)

        visit.tab("Draw")
        page.get_by_label("Steps", exact=True).fill("150")
        page.get_by_role("button", name="Draw", exact=True).click()
        page.get_by_role("button", name="Cancel", exact=True).click()
        visit.status().get_by_text("Cancelled").wait_for()

        visit.tab("Lesson")
        page.get_by_label("Lesson of: a red apple").first.click()
        page.get_by_text("Step 1 of 20 begins").wait_for(timeout=60_000)
        page.get_by_role("slider", name="Step").press("End")
        page.get_by_alt_text("The predicted picture at step 20").evaluate("i => i.decode()")
        page.get_by_text("apple", exact=True).click()
        page.get_by_alt_text("Where “apple” acted at step 20").evaluate("i => i.decode()")
        visit.clean()
        page.close()
    finally:
        killed(server)
