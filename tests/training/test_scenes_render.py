"""Pictures of scenes: exact colours, exact places, clean rims, no aliasing."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from safelight.training.scenes.book import SceneBook
from safelight.training.scenes.colours import RECOLOURS
from safelight.training.scenes.cutouts import SIDE, Cutouts, cutouts_of
from safelight.training.scenes.many import FEW, many
from safelight.training.scenes.packed import pack
from safelight.training.scenes.render import pictures_of, render
from safelight.training.scenes.scene import Facts, Layer, Scene
from safelight.training.scenes.sheet import contact_sheet
from scenes_tiny import cutouts, disc, of_one, square

WHITE, BLUE = (255, 255, 255), (20, 40, 220)


def scene(*layers: Layer, background: tuple[int, int, int] = WHITE) -> Scene:
    return Scene(layers, background, "white", "it", "single", Facts("single", ("1F34E",), ("it",)))


def drawn(
    picture: Tensor, *layers: Layer, size: int = 128, on: tuple[int, int, int] = WHITE
) -> Tensor:
    chosen = list(layers) or [Layer(0, 1.0, 0.5, 0.5)]
    return render([scene(*chosen, background=on)], of_one(picture), size)[0]


def test_half_transparent_red_over_white_is_pink() -> None:
    picture = drawn(square((255, 0, 0), 128))
    assert picture.dtype == torch.uint8 and picture.shape == (3, 128, 128)
    inner = picture[:, 2:-2, 2:-2]
    assert (inner[0] == 255).all() and (inner[1:] == 127).all()


def test_at_its_own_size_a_cutout_comes_through_pixel_for_pixel() -> None:
    noise = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (SIDE, SIDE, 4), generator=noise).to(torch.uint8)
    picture[..., 3] = 255
    assert torch.equal(drawn(picture), picture[..., :3].movedim(-1, 0))


def test_without_objects_there_is_only_the_background() -> None:
    picture = render([scene(background=BLUE)], of_one(disc((0, 0, 0))), 16)
    assert (picture[0].movedim(0, -1) == torch.tensor(BLUE)).all()


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("spot", [(0.5, 0.3, 0.6), (0.25, 0.2, 0.8), (0.9, 0.5, 0.48)])
def test_the_box_has_the_asked_size_and_middle(size: int, spot: tuple[float, float, float]) -> None:
    source = square((0, 0, 0), 0)
    source[20:100, 40:110] = torch.tensor([0, 0, 0, 255], dtype=torch.uint8)  # 80 high, 70 wide
    dark = 1 - drawn(source, Layer(0, *spot), size=size)[0].double() / 255
    at = (torch.arange(size) + 0.5) / size
    mass = dark.sum()
    share, x, y = spot
    assert float((dark.sum(0) * at).sum() / mass) == pytest.approx(x, abs=0.002)
    assert float((dark.sum(1) * at).sum() / mass) == pytest.approx(y, abs=0.002)
    assert float(mass) / size**2 == pytest.approx(share**2 * 70 / 80, rel=0.02)


@pytest.mark.parametrize("share", [0.2, 0.33, 0.5, 0.84])
def test_clear_pixels_leave_no_fringe(share: float) -> None:
    # Black under full transparency is what art programs write; a red rim must fade into white only.
    picture = drawn(disc((255, 0, 0), clear=(0, 0, 0)), Layer(0, share, 0.5, 0.5))
    assert (picture[0] >= 254).all()
    assert torch.equal(
        picture, drawn(disc((255, 0, 0), clear=(0, 255, 0)), Layer(0, share, 0.5, 0.5))
    )


def test_shrinking_does_not_alias() -> None:
    stripes = square((0, 0, 0))
    stripes[:, ::2, :3] = 255
    picture = drawn(stripes, Layer(0, 0.25, 0.5, 0.5), on=(128, 128, 128))
    inside = picture[:, 52:76, 52:76]  # the rim fades into the background
    assert (inside.int() - 128).abs().max() <= 2


@pytest.mark.parametrize("side", [32, 48, 80, 100, 128])
def test_scaling_agrees_with_pillow(side: int) -> None:
    noise = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 4, 9, 9, generator=noise)
    smooth = torch.nn.functional.interpolate(coarse, SIDE, mode="bilinear")[0]
    source = (smooth.movedim(0, -1) * 255).to(torch.uint8).contiguous()
    source[..., 3] = 255
    start = (128 - side) // 3
    middle = (start + side / 2) / 128
    found = drawn(source, Layer(0, side / 128, middle, middle))
    wanted = Image.fromarray(source[..., :3].contiguous().numpy()).resize(
        (side, side), Image.Resampling.BILINEAR
    )
    rows = slice(start + 2, start + side - 2)  # Pillow repeats the rim, ours fades out
    pixels = torch.from_numpy(np.array(wanted)).movedim(-1, 0)[:, 2:-2, 2:-2]
    assert (found[:, rows, rows].int() - pixels.int()).abs().max() <= 2


def test_later_layers_cover_earlier_ones() -> None:
    both = cutouts_of(
        torch.stack([square((250, 0, 0)), square((0, 0, 250))]), cutouts().entries[:2]
    )
    large, small = Layer(0, 0.9, 0.5, 0.5), Layer(1, 0.3, 0.5, 0.5)
    front, back = render([scene(large, small), scene(small, large)], both, 32)[
        :, :, 16, 16
    ].tolist()
    assert front == [0, 0, 250] and back == [250, 0, 0]


def test_a_picture_does_not_depend_on_its_batch() -> None:
    chosen = cutouts()
    scenes = SceneBook(chosen, 4).scenes(range(150))  # over two chunks
    together = render(scenes, chosen, 32)
    for index in (0, 63, 64, 149):
        alone = render([scenes[index]], chosen, 32)[0]
        assert (alone.int() - together[index].int()).abs().max() <= 1
    assert torch.equal(render(pack(scenes).take([149, 3]), chosen, 32)[1], together[3])


def test_floating_pictures_go_from_minus_one_to_one() -> None:
    chosen = cutouts()
    scenes = SceneBook(chosen, 4).scenes(range(8))
    whole, real = render(scenes, chosen, 32), render(scenes, chosen, 32, torch.float32)
    assert real.dtype == torch.float32 and real.amin() >= -1 and real.amax() <= 1
    assert ((real + 1) * 127.5 - whole).abs().max() <= 0.501


@pytest.mark.parametrize("colour", RECOLOURS)
def test_a_recoloured_object_has_the_new_hue_and_keeps_shading_and_whites(colour: str) -> None:
    source = disc((200, 120, 40))
    source[: SIDE // 2, :, :3] //= 2  # a shaded half
    source[60:70, 60:70, :3] = 255  # an eye
    picture = drawn(source, Layer(0, 0.9, 0.5, 0.5, colour), on=(0, 0, 0)).float() / 255
    light, dark = picture[:, 100, 64], picture[:, 30, 64]
    for pixel in (light, dark):
        hue, saturation, _ = colorsys.rgb_to_hsv(*pixel.tolist())
        away = abs(hue - RECOLOURS[colour][0])
        assert min(away, 1 - away) < 0.02 and saturation > 0.15
    assert float(dark.amax() / light.amax()) < 0.8
    assert (picture[:, 64, 64] > 0.97).all()
    assert (picture[:, 2, 2] == 0).all()


def test_only_the_layer_that_asks_is_recoloured() -> None:
    layers = Layer(0, 0.4, 0.25, 0.5), Layer(0, 0.4, 0.75, 0.5, "blue")
    picture = drawn(disc((220, 30, 30)), *layers)
    assert picture[:, 64, 32].tolist() == [220, 30, 30]
    red, _, blue = picture[:, 64, 96].tolist()
    assert blue > red + 80


def test_pages_are_the_same_for_any_number_of_workers() -> None:
    chosen = cutouts()
    book = SceneBook(chosen, 8)
    made = many(book, 100, 50, workers=1)
    scenes = book.scenes(range(100, 150))
    assert made.captions == [s.caption for s in scenes] and made.start == 100
    for found, wanted in zip(made.packed.fields(), pack(scenes).fields(), strict=True):
        assert torch.equal(found, wanted)
    pictures, captions = pictures_of(book, range(100, 110), chosen, 16)
    assert captions == made.captions[:10]
    assert torch.equal(pictures, render(made.packed.take(slice(0, 10)), chosen, 16))
    assert len(many(book, 0, 0)) == 0


@pytest.mark.slow
def test_a_pool_of_processes_writes_the_same_pages() -> None:
    book = SceneBook(cutouts(), 8)
    one, two = many(book, 5, FEW + 100, workers=1), many(book, 5, FEW + 100, workers=2)
    assert one.captions == two.captions
    for found, wanted in zip(one.packed.fields(), two.packed.fields(), strict=True):
        assert torch.equal(found, wanted)


def test_a_sheet_shows_every_scene() -> None:
    chosen: Cutouts = cutouts()
    sheet = contact_sheet(SceneBook(chosen, 1).scenes(range(5)), chosen, columns=3, size=32)
    assert sheet.size == (3 * 38 + 6, 2 * 86 + 6)
    pixels = np.asarray(sheet)
    assert (pixels[6:38, 6:38] != 255).any() and (pixels[38:86, 6:38] < 128).any()


@pytest.mark.gpu
def test_a_gpu_draws_what_the_cpu_draws() -> None:
    chosen = cutouts()
    scenes = SceneBook(chosen, 4).scenes(range(200))
    there = render(scenes, chosen.to("cuda"), 128).cpu()
    assert (there.int() - render(scenes, chosen, 128).int()).abs().max() <= 1
