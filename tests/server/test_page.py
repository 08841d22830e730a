"""A newcomer's path through the page, in a real browser; nothing is asked of any other host."""

from pathlib import Path
from typing import Any

import pytest

from safelight.server.settings import Key
from server_fake import FakePainter
from server_live import live
from server_page import AXE, MISSING, Visit, serious
from server_replicas import House

pytest.importorskip("playwright.sync_api", reason="no browser driver is installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("shelves"),
    pytest.mark.skipif(MISSING != "", reason=MISSING),
]


def test_a_prompt_becomes_a_picture_that_a_reload_keeps(visit: Visit) -> None:
    page = visit.page
    visit.draw("a (red:1.2) apple")
    page.get_by_text("of 20").first.wait_for()
    page.get_by_text("red ×1.2").wait_for()
    page.get_by_label("Open picture 1").wait_for()
    page.reload()
    assert page.get_by_label("Prompt", exact=True).input_value() == "a (red:1.2) apple"
    page.get_by_role("list", name="Jobs, the newest first").get_by_text("a (red:1.2)").wait_for()
    visit.tab("Gallery")
    page.get_by_label("Open: a (red:1.2) apple").wait_for()
    visit.clean()


def test_settings_of_a_picture_are_taken_up_again(visit: Visit) -> None:
    page = visit.page
    visit.draw("a pear")
    page.get_by_label("Open picture 1").click()
    page.get_by_role("button", name="Reuse these settings").click()
    assert page.get_by_label("Seed", exact=True).input_value() != ""
    seed = page.get_by_label("Seed", exact=True).input_value()
    page.get_by_role("button", name="Draw", exact=True).click()
    visit.status().get_by_text("Drawn").wait_for()
    page.get_by_label("Open picture 1").click()
    page.get_by_text(f"seed {seed}").wait_for()
    visit.clean()


def test_a_job_is_cancelled_by_its_button(browser: Any, tmp_path: Path) -> None:
    with live(tmp_path / "slow", FakePainter(step=0.5)) as port:
        visit = Visit(browser, port)
        visit.draw("a long wait")
        visit.page.get_by_role("button", name="Cancel", exact=True).click()
        visit.status().get_by_text("Cancelled").wait_for()
        visit.clean()
        visit.page.close()


def test_a_mask_is_painted_and_a_border_grown(visit: Visit) -> None:
    page = visit.page
    visit.draw("a pear")
    box = visit.mask().bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.5, steps=5)
    page.mouse.up()
    page.get_by_label("Prompt", exact=True).fill("a hat")
    with page.expect_request(lambda r: r.method == "POST" and "/api/jobs" in r.url) as sent:
        page.get_by_role("button", name="Draw on the picture").click()
    asked = sent.value.post_data_json
    assert asked["prompt"] == "a hat" and len(asked["mask"]["picture"]) == 64
    visit.status().get_by_text("Drawn").wait_for()
    page.get_by_role("button", name="Clear").click()
    page.get_by_label("left", exact=True).fill("64")
    with page.expect_request(lambda r: r.method == "POST" and "/api/jobs" in r.url) as sent:
        page.get_by_role("button", name="Draw on the picture").click()
    assert sent.value.post_data_json["extend"] == {"left": 64}
    assert "mask" not in sent.value.post_data_json
    visit.clean()


def test_a_grid_draws_every_cell(visit: Visit) -> None:
    page = visit.page
    visit.draw("a pear")
    visit.status().get_by_text("Drawn").wait_for()
    visit.tab("Grid")
    page.get_by_label("Values").nth(0).fill("2, 3")
    page.get_by_label("Values").nth(1).fill("1, 5")
    page.get_by_role("button", name="Draw 2 × 2").click()
    for steps, scale in (("2", "1"), ("2", "5"), ("3", "1"), ("3", "5")):
        page.get_by_label(f"Open {steps}, {scale}").wait_for()
    visit.clean()


def test_two_pictures_are_compared_and_found_by_words(visit: Visit) -> None:
    page = visit.page
    for prompt in ("a pear", "an apple"):
        visit.draw(prompt)
        visit.status().get_by_text("Drawn").wait_for()
    visit.tab("Gallery")
    for prompt in ("a pear", "an apple"):
        page.get_by_label(f"Choose to compare: {prompt}").check()
    page.get_by_role("button", name="Compare two").click()
    slider = page.get_by_role("slider")
    slider.wait_for()
    page.wait_for_timeout(300)  # the dialog has moved to its place
    box = slider.bounding_box()
    assert 0 < box["y"] < 900 - box["height"], "it lies in sight, below both pictures"
    picture = page.get_by_alt_text("Right: ").bounding_box()
    page.mouse.click(picture["x"] + 0.8 * picture["width"], picture["y"] + 30)
    assert int(slider.get_attribute("aria-valuenow")) == 80
    page.keyboard.press("Escape")
    page.get_by_label("Search").fill("pear")
    page.get_by_label("Open: an apple").wait_for(state="detached")
    page.get_by_label("Open: a pear").wait_for()
    visit.clean()


def test_a_lesson_is_scrubbed_through_and_played(visit: Visit) -> None:
    page = visit.page
    visit.draw("a pear")
    page.get_by_label("Open picture 1").click()
    page.get_by_role("button", name="Lesson", exact=True).click()
    page.get_by_text("Step 1 of 20 begins").wait_for()
    slider = page.get_by_role("slider", name="Step")
    slider.focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    page.get_by_text("Step 3 of 20 begins").wait_for()
    names = ("noisy latents", "predicted picture", "predicted noise", "guidance difference")
    for name in names:
        shown = page.get_by_alt_text(f"The {name} at step 3", exact=True)
        shown.wait_for()
        # it was decoded, and is not a box of a picture that did not come
        shown.evaluate("image => image.decode()")
        assert shown.evaluate("image => image.naturalWidth") > 0
    page.get_by_text("pear", exact=True).click()
    page.get_by_alt_text("Where “pear” acted at step 3").evaluate("image => image.decode()")
    page.get_by_role("img", name="at step 3 it is").wait_for()
    slider.press("End")
    page.get_by_text("Step 20 of 20 begins").wait_for()
    page.get_by_role("button", name="Play").click()
    page.get_by_text("Step 2 of 20 begins").wait_for()
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Another picture").click()
    page.get_by_label("Lesson of: a pear").click()  # kept: nothing is drawn for it
    page.get_by_text("Step 1 of 20 begins").wait_for()
    visit.clean()


def test_on_a_phone_what_was_asked_for_comes_into_sight(visit: Visit) -> None:
    page = visit.page
    page.set_viewport_size({"width": 390, "height": 844})
    visit.draw("a pear")
    page.get_by_label("Open picture 1").wait_for()
    header = page.get_by_role("banner").bounding_box()
    for seen in (page.get_by_role("status").first, page.get_by_label("Open picture 1")):
        box = seen.bounding_box()
        assert header["y"] + header["height"] <= box["y"] < 844 - box["height"]
    visit.clean()


def test_a_key_is_asked_for_once(browser: Any, tmp_path: Path) -> None:
    keys = (Key("ann", "secret-of-ann"),)
    with live(tmp_path / "out", FakePainter(), keys=keys) as port:
        visit = Visit(browser, port)
        page = visit.page
        page.get_by_label("Key", exact=True).fill("a wrong one")
        page.get_by_role("button", name="Come in").click()
        page.get_by_text("That is not a key of this server.").wait_for()
        assert len(visit.complaints) == 1 and "401" in visit.complaints[0]  # of the wrong key
        visit.complaints.clear()
        page.get_by_label("Key", exact=True).fill("secret-of-ann")
        page.keyboard.press("Enter")
        visit.draw("a pear")
        visit.status().get_by_text("Drawn").wait_for()
        page.get_by_label("Open picture 1").wait_for()
        page.reload()  # a cookie stands for the key, and no script can read it
        page.get_by_label("Prompt", exact=True).wait_for()
        assert page.evaluate("document.cookie") == ""
        stored = page.evaluate("JSON.stringify(localStorage) + JSON.stringify(sessionStorage)")
        assert "secret-of-ann" not in stored
        (cookie,) = page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        page.get_by_role("button", name="Sign out").click()
        page.get_by_label("Key", exact=True).wait_for()
        visit.clean()
        page.close()


def test_a_session_that_ended_asks_for_the_key_again(browser: Any, tmp_path: Path) -> None:
    keys = (Key("ann", "secret-of-ann"),)
    with live(tmp_path / "out", FakePainter(), keys=keys) as port:
        visit = Visit(browser, port)
        page = visit.page
        page.get_by_label("Key", exact=True).fill("secret-of-ann")
        page.keyboard.press("Enter")
        page.get_by_label("Prompt", exact=True).fill("a pear")
        page.context.clear_cookies()
        page.get_by_role("button", name="Draw", exact=True).click()
        page.get_by_label("Key", exact=True).fill("secret-of-ann")
        page.keyboard.press("Enter")
        assert page.get_by_label("Prompt", exact=True).input_value() == "a pear"
        assert all("401" in complaint for complaint in visit.complaints)
        page.close()


def test_who_guesses_keys_is_told_how_long_to_wait(browser: Any, tmp_path: Path) -> None:
    keys = (Key("ann", "secret-of-ann"),)
    with live(tmp_path / "out", FakePainter(), keys=keys) as port:
        visit = Visit(browser, port)
        page = visit.page
        for number in range(11):
            page.get_by_label("Key", exact=True).fill(f"guess-{number}")
            with page.expect_response(lambda r: r.url.endswith("/api/session")):
                page.get_by_role("button", name="Come in").click()
        page.get_by_text("Too many wrong keys came from here. Try again in").wait_for()
        page.close()


def test_several_replicas_are_told_of_and_one_painter_is_not(browser: Any, tmp_path: Path) -> None:
    held = True
    house = House(2, lambda: FakePainter(held=held))
    with live(tmp_path / "two", replicas=house.painters) as port:
        visit = Visit(browser, port)
        page = visit.page
        page.get_by_text("0 of 2 replicas drawing").wait_for()
        for prompt, count in (("a pear", 1), ("an apple", 2)):
            visit.draw(prompt)
            page.get_by_text(f"{count} of 2 replicas drawing", exact=True).wait_for()
        page.get_by_text("2 of 2 replicas drawing").hover()
        page.get_by_text("replica 2: draws a job").wait_for()
        if AXE.exists():
            assert serious(page) == []
        house.refuses = True  # what is begun in its place dies, too
        house.kill(0)
        page.get_by_text("1 of 2 replicas drawing, 1 being begun again").wait_for()
        if AXE.exists():
            assert serious(page) == []
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        house.refuses, held = False, False
        house.fake(1).go.set()
        page.get_by_text("0 of 2 replicas drawing", exact=True).wait_for()
        visit.clean()
        page.close()
    with live(tmp_path / "one", FakePainter()) as port:
        visit = Visit(browser, port)
        visit.draw("a pear")
        visit.status().get_by_text("Drawn").wait_for()
        assert visit.page.get_by_text("replicas").count() == 0
        visit.clean()
        visit.page.close()


def test_what_the_server_refuses_is_shown(visit: Visit) -> None:
    page = visit.page
    page.get_by_label("Width", exact=True).fill("100")
    visit.draw("a pear")
    page.get_by_role("alert").get_by_text("multiple of 8").wait_for()
    assert [c for c in visit.complaints if "422" not in c] == []


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed: npm ci in page/")
@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("width", [1300, 390])
def test_axe_finds_nothing_serious_before_the_key(
    scheme: str, width: int, browser: Any, tmp_path: Path
) -> None:
    keys = (Key("ann", "secret-of-ann"),)
    with live(tmp_path / "out", FakePainter(), keys=keys) as port:
        visit = Visit(browser, port, color_scheme=scheme)
        page = visit.page
        page.set_viewport_size({"width": width, "height": 900})
        page.get_by_label("Key", exact=True).fill("a wrong one")
        assert serious(page) == []
        page.get_by_role("button", name="Come in").click()
        page.get_by_text("That is not a key").wait_for()
        assert serious(page) == []
        page.close()


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed: npm ci in page/")
@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("width", [1300, 390])
def test_axe_finds_nothing_serious(scheme: str, width: int, browser: Any, tmp_path: Path) -> None:
    with live(tmp_path / "out", FakePainter()) as port:
        visit = Visit(browser, port, color_scheme=scheme)
        page = visit.page
        page.set_viewport_size({"width": width, "height": 900})
        visit.draw("a pear")
        visit.status().get_by_text("Drawn").wait_for()
        for tab in ("Draw", "Edit", "Grid", "Gallery", "Lesson"):
            visit.tab(tab)
            page.wait_for_timeout(300)
            assert serious(page) == [], tab
            assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
        page.get_by_label("Lesson of: a pear").click()
        page.get_by_text("Step 1 of 20 begins").wait_for()
        assert serious(page) == [], "a lesson"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.close()
