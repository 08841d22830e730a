"""A contact sheet shows every picture whole, at the place that it says."""

import numpy as np
import pytest
from PIL import Image

from safelight.tasks.sheet import MAX_SIDE, sheet

COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30))


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.new("RGB", size, colour)


def test_each_cell_holds_its_own_picture_untouched() -> None:
    rows = [[picture(COLOURS[0]), picture(COLOURS[1])], [picture(COLOURS[2]), picture(COLOURS[3])]]
    page, cells = sheet(rows, column_labels=["a", "b"], row_labels=["one", "two"], title="title")
    for row, boxes in zip(rows, cells.boxes, strict=True):
        for original, box in zip(row, boxes, strict=True):
            assert np.array_equal(np.asarray(page.crop(box)), np.asarray(original))


def test_labels_leave_ink_outside_the_cells_and_none_without_labels() -> None:
    rows = [[picture((250, 250, 248))]]
    plain, _ = sheet(rows)
    labelled, _ = sheet(rows, column_labels=["column"], row_labels=["row"], title="title")
    assert np.asarray(plain).min() >= 248
    assert np.asarray(labelled).min() < 100
    assert labelled.width > plain.width and labelled.height > plain.height


def test_pictures_of_other_sizes_and_blanks_have_a_place() -> None:
    rows = [[picture(COLOURS[0], (64, 64)), None], [picture(COLOURS[1], (32, 16))]]
    page, cells = sheet(rows)
    left, top, right, bottom = cells.boxes[1][0]
    assert (right - left, bottom - top) == (32, 16)
    assert cells.boxes[0][1][2] == cells.boxes[0][1][0]  # nothing there
    assert page.height >= 128


def test_a_huge_sheet_is_made_smaller_not_refused() -> None:
    page, _ = sheet([[picture(COLOURS[i % 4], (1024, 64)) for i in range(12)]])
    assert page.width <= MAX_SIDE + 200


@pytest.mark.parametrize("label", ["x" * 500, "ein sehr langes Wort " * 40, "\u732b\u72ac", ""])
def test_any_label_fits(label: str) -> None:
    page, _ = sheet([[picture(COLOURS[0])]], column_labels=[label], row_labels=[label], title=label)
    assert page.width < 1000 and page.height < 1000
