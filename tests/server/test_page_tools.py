"""What the page offers besides its main path: settings, hints, drops, controls, grids, keys."""

import base64
from pathlib import Path
from typing import Any

import pytest

from safelight.cli.options import SETTINGS
from server_fake import FakePainter
from server_live import live
from server_page import AXE, MISSING, Visit, serious

pytest.importorskip("playwright.sync_api", reason="no browser driver is installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("shelves"),
    pytest.mark.skipif(MISSING != "", reason=MISSING),
]
OF_THE_SERVER = {"device", "dtype", "engine", "offload", "batch", "look_up"}
BY_HAND = {"loras", "controls", "source.picture", "mask.picture", "mask_alpha", "extend"}
CALLED = {"size": "width", "crop": "sizes.crop_left", "freeu": "guidance.freeu"}
DROP = """bytes => {
    const dropped = new DataTransfer();
    const data = Uint8Array.from(atob(bytes), c => c.charCodeAt(0));
    dropped.items.add(new File([data], "some.png", {type: "image/png"}));
    window.dispatchEvent(new DragEvent("drop", {dataTransfer: dropped, cancelable: true}));
}"""


def sent(page: Any) -> Any:
    """What happens within is a job that is asked for."""
    return page.expect_request(lambda r: r.method == "POST" and r.url.endswith("/api/jobs"))


def choose(page: Any, name: str, value: str) -> None:
    page.get_by_role("combobox", name=name, exact=True).click()
    page.get_by_role("option", name=value, exact=True).click()


def drawn_on(visit: Visit) -> Any:
    """A picture is drawn, and opened to be drawn on; the canvas of its mask."""
    page = visit.page
    visit.draw("a pear")
    page.get_by_label("Open picture 1").click()
    page.get_by_role("button", name="Draw on it").click()
    page.get_by_role("dialog").wait_for(state="detached")
    canvas = page.get_by_label("Mask: paint")
    canvas.wait_for()
    return canvas


def test_every_setting_of_the_command_line_has_a_control_with_its_meaning(visit: Visit) -> None:
    page = visit.page
    there: set[str] = set()
    for tab in ("Draw", "Edit"):
        visit.tab(tab)
        page.get_by_label("Find a setting").wait_for()
        if AXE.exists():
            assert serious(page) == [], f"{tab}, before anything is drawn"
        closed = page.locator("button[aria-expanded=false][data-accordion-control]")
        while closed.count() > 0:
            closed.first.click()
        page.wait_for_timeout(1000)  # the last of them is open
        there |= set(
            page.evaluate(
                "[...document.querySelectorAll('[data-setting]')].map(e => e.dataset.setting)"
            )
        )
        if AXE.exists():
            assert serious(page) == [], tab
    wanted = {CALLED.get(one.field, one.field) for one in SETTINGS} - OF_THE_SERVER - BY_HAND
    assert wanted - there == set()
    assert page.get_by_text("How much of it is drawn anew: 0 returns it.").count() > 0
    visit.clean()


def test_a_setting_is_found_by_words_and_what_is_on_by_default_can_be_off(visit: Visit) -> None:
    page = visit.page
    page.get_by_label("Find a setting").fill("tiles")
    page.get_by_label("Tiles: size").fill("512x256")
    page.get_by_label("Find a setting").fill("same bits")
    choose(page, "Same bits in any batch", "off")
    page.get_by_label("Find a setting").fill("no such thing")
    page.get_by_text("There is no setting of these words.").wait_for()
    with sent(page) as asked:
        visit.draw("a pear")
    body = asked.value.post_data_json
    assert body["tiles"] == {"size": [512, 256]} and body["exact"] is False
    visit.clean()


def test_regions_are_given_one_by_one(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("button", name="Words for places").click()
    for words, box in (("a pear", "left"), ("a plum", "right")):
        page.get_by_role("button", name="Add to regions").click()
        group = page.get_by_role("group", name="Regions")
        group.get_by_label("Prompt", exact=True).last.fill(words)
        group.get_by_label("Box", exact=True).last.fill(box)
    page.get_by_label("Leave out Regions, number 1").click()
    page.get_by_label("Prompt", exact=True).first.fill("fruit")
    with sent(page) as asked:
        page.get_by_role("button", name="Draw", exact=True).click()
    assert asked.value.post_data_json["regions"] == [{"prompt": "a plum", "box": "right"}]


def test_the_inspector_shows_when_words_hold_and_takes_up_another_dialect(visit: Visit) -> None:
    page = visit.page
    page.get_by_label("Prompt", exact=True).fill("a [red:green:0.5] ball++")
    reading = page.get_by_role("group", name="How the prompt is read")
    reading.get_by_text("steps 1 to 10:").wait_for()
    reading.get_by_text("steps 11 to 20:").wait_for()
    reading.get_by_text("looks like compel's").first.wait_for()
    reading.get_by_role("button", name="Read it as compel does").click()
    reading.get_by_text("ball ×1.21").wait_for()
    assert reading.get_by_text("looks like compel's").count() == 0
    page.get_by_label("Negative prompt", exact=True).fill("(grey:0.5)")
    page.get_by_role("group", name="How the negative prompt is read").wait_for()
    visit.clean()


def test_a_dropped_picture_tells_its_recipe_and_gives_its_settings(visit: Visit) -> None:
    page = visit.page
    page.get_by_label("Seed", exact=True).fill("77")
    visit.draw("a pear")
    page.get_by_label("Open picture 1").wait_for()
    found = page.request.get(f"{visit.address}api/gallery").json()["pictures"][0]["id"]
    data = page.request.get(f"{visit.address}api/pictures/{found}").body()
    page.get_by_role("button", name="Reset settings").click()
    page.evaluate(DROP, base64.b64encode(data).decode())
    page.get_by_text("It carries settings of Safelight. Its pixels are those").wait_for()
    page.get_by_text("seed 77").wait_for()
    page.get_by_role("button", name="Reuse these settings").click()
    assert page.get_by_label("Seed", exact=True).input_value() == "77"
    visit.clean()


def test_a_control_network_is_given_a_picture_and_its_map_is_seen(
    visit: Visit, tmp_path: Path
) -> None:
    page = visit.page
    drawn_on(visit)
    choose(page, "Add a control network", "edges")
    found = page.request.get(f"{visit.address}api/gallery").json()["pictures"][0]["id"]
    data = page.request.get(f"{visit.address}api/pictures/{found}").body()
    file = {"name": "a.png", "mimeType": "image/png", "buffer": data}
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Its picture").click()
    chooser.value.set_files(file)
    choose(page, "Preprocessor", "Canny")
    shown = page.get_by_alt_text("Its map")
    shown.wait_for()
    shown.evaluate("image => image.decode()")
    with sent(page) as asked:
        page.get_by_role("button", name="Draw on the picture").click()
    (control,) = asked.value.post_data_json["controls"]
    assert control["net"] == "edges" and control["preprocessor"] == "canny"
    visit.clean()


def test_a_lora_is_put_on_with_a_weight(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("button", name="LoRAs and learned words").click()
    choose(page, "Put on a LoRA", "style")
    page.get_by_label("style", exact=True).fill("0.6")
    with sent(page) as asked:
        visit.draw("a pear")
    assert asked.value.post_data_json["loras"] == [{"file": "style", "weight": 0.6}]
    visit.clean()


def test_a_grid_of_three_axes_outlives_a_reload(visit: Visit) -> None:
    page = visit.page
    page.get_by_label("Prompt", exact=True).fill("a red pear")
    visit.tab("Grid")
    choose(page, "Rows", "words of the prompt")
    choose(page, "Pages", "seed")
    for place, values in enumerate(("red, green", "1, 5", "7, 8, 9")):
        page.get_by_label("Values").nth(place).fill(values)
    page.get_by_role("button", name="Draw 2 × 2 × 3").click()
    page.get_by_label("Open green, 5, 9").wait_for()
    page.reload()
    visit.tab("Grid")
    for page_ in ("7", "8", "9"):
        page.get_by_role("table", name=f"Grid {page_}", exact=True).wait_for()
    page.get_by_label("Open green, 5, 9").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("a green pear", exact=True).wait_for()
    dialog.get_by_text("guidance 5 · seed 9").wait_for()
    if AXE.exists():
        assert serious(page) == []
    visit.clean()


def test_a_queue_longer_than_a_browser_has_connections_leaves_the_page_alive(
    browser: Any, tmp_path: Path
) -> None:
    painter = FakePainter(held=True)
    with live(tmp_path / "out", painter) as port:
        visit = Visit(browser, port)
        page = visit.page
        page.get_by_label("Prompt", exact=True).fill("a pear")
        visit.tab("Grid")
        page.get_by_label("Values").nth(0).fill("2, 3, 4, 5, 6, 7")
        page.get_by_label("Values").nth(1).fill("1, 2, 3, 4, 5, 6")
        page.get_by_role("button", name="Draw 6 × 6").click()
        page.get_by_text("36 to draw").wait_for()
        painter.go.set()
        page.get_by_label("Open 2, 1", exact=True).wait_for()
        page.get_by_label("Open 7, 6", exact=True).wait_for()
        assert page.get_by_role("button", name="Open ").count() == 36
        visit.clean()
        page.close()


def test_a_mask_is_painted_by_keys_alone_and_the_frame_is_pulled(visit: Visit) -> None:
    page = visit.page
    canvas = drawn_on(visit)
    before = canvas.evaluate("c => c.toDataURL()")
    canvas.focus()
    page.keyboard.press("ArrowLeft")
    assert canvas.evaluate("c => c.toDataURL()") == before  # the brush moved, and painted nothing
    page.keyboard.down(" ")
    for _ in range(4):
        page.keyboard.press("ArrowDown")
    page.keyboard.up(" ")
    assert canvas.evaluate("c => c.toDataURL()") != before
    handle = page.locator(".frame-handle[data-side=bottom]").bounding_box()
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y + 120, steps=5)
    page.mouse.up()
    pixels = int(page.get_by_label("bottom", exact=True).input_value())
    assert pixels > 0 and pixels % 8 == 0
    with sent(page) as asked:
        page.get_by_role("button", name="Draw on the picture").click()
    body = asked.value.post_data_json
    assert body["extend"] == {"bottom": pixels} and len(body["mask"]["picture"]) == 64
    visit.clean()


def test_a_picture_is_drawn_and_opened_by_keys_alone(visit: Visit) -> None:
    page = visit.page
    page.get_by_label("Prompt", exact=True).wait_for()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "TEXTAREA":
            break
    page.keyboard.type("a pear")
    page.keyboard.press("Control+Enter")
    page.get_by_label("Open picture 1").wait_for()
    page.get_by_label("Open picture 1").focus()
    page.keyboard.press("Enter")
    page.get_by_role("dialog").get_by_text("a pear", exact=True).wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="detached")
    visit.clean()
