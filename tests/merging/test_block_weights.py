"""Block weights mean the blocks that Merge Block Weighted means, for every U-Net."""

import re

import pytest

from safelight.checkpoints.keymap import KeyMap
from safelight.checkpoints.parts import shapes_of
from safelight.checkpoints.rows_unet import unet_rows
from safelight.checkpoints.unet_numbering import block_finder, block_names
from safelight.errors import RequestError
from safelight.families import SD15, SDXL, TINY_SD
from safelight.merging.weights import Weights, block_weights, number
from safelight.models.unet import UNetConfig

SD, XL = SD15.backbone, SDXL.backbone
SD_NAMES = (
    *(f"IN{n:02d}" for n in range(12)),
    "M00",
    *(f"OUT{n:02d}" for n in range(12)),
)


def place(original: str, blocks: int) -> int:
    """The index that Merge Block Weighted computes from an original name."""
    if "time_embed" in original or "label_emb" in original:
        return 0
    if original.startswith("out."):
        return 2 * blocks
    if found := re.match(r"input_blocks\.(\d+)\.", original):
        return int(found[1])
    if found := re.match(r"output_blocks\.(\d+)\.", original):
        return blocks + 1 + int(found[1])
    assert original.startswith("middle_block.")
    return blocks


def test_stable_diffusion_has_25_blocks_and_xl_19() -> None:
    assert block_names(SD) == SD_NAMES
    assert block_names(XL) == (*SD_NAMES[:9], "M00", *SD_NAMES[13:22])


def test_a_unet_without_a_middle_has_no_m00() -> None:
    assert "M00" not in block_names(TINY_SD.backbone)


@pytest.mark.parametrize(("unet", "blocks"), [(SD, 12), (XL, 9)])
def test_every_tensor_is_of_the_block_that_its_original_name_tells(
    unet: UNetConfig, blocks: int
) -> None:
    names, find, keymap = block_names(unet), block_finder(unet), KeyMap(unet_rows(unet))
    for name in shapes_of(unet):
        original = keymap.links([name])[0].theirs
        assert find(name) == names[place(original, blocks)], name


def test_25_numbers_are_of_the_blocks_in_order() -> None:
    numbers = [n / 100 for n in range(25)]
    where = Weights(weight=0.9, blocks=",".join(map(str, numbers))).where(SD)
    assert where("unet", "conv_in.weight") == 0.0
    assert where("unet", "time_embedding.linear_1.bias") == 0.0
    assert where("unet", "down_blocks.1.attentions.0.proj_in.weight") == 0.04
    assert where("unet", "mid_block.resnets.0.conv1.weight") == 0.12
    assert where("unet", "up_blocks.0.resnets.0.conv1.weight") == 0.13
    assert where("unet", "conv_out.bias") == 0.24
    assert where("vae", "encoder.conv_in.weight") == 0.9
    assert where("text_encoder", "text_model.final_layer_norm.bias") == 0.9


def test_the_first_of_26_numbers_is_of_all_outside_the_unet() -> None:
    where = Weights(weight=0.9, vae=0.5, blocks="0.1," + ",".join(["0.2"] * 25)).where(SD)
    assert where("text_encoder", "x") == 0.1
    assert where("vae", "x") == 0.5, "what is said of the part itself wins"
    assert where("unet", "conv_in.weight") == 0.2


def test_names_may_be_blocks_or_modules_and_the_most_particular_wins() -> None:
    blocks = "BASE:0.1, in04:0.2 down_blocks.1.attentions.0.proj_in:0.3,mid_block:0.4,conv_in:0.5"
    where = Weights(weight=0.9, unet=0.8, blocks=blocks).where(SD)
    assert where("unet", "down_blocks.1.attentions.0.norm.weight") == 0.2
    assert where("unet", "down_blocks.1.attentions.0.proj_in.weight") == 0.3
    assert where("unet", "mid_block.attentions.0.norm.weight") == 0.4
    assert where("unet", "conv_in.bias") == 0.5
    assert where("unet", "conv_out.bias") == 0.8
    assert where("text_encoder", "x") == where("vae", "x") == 0.1


def test_parts_have_their_own_weights() -> None:
    where = Weights(unet=0.1, text=0.2, vae=0.3).where(SD)
    assert [where(part, "x.weight") for part in ("text_encoder", "text_encoder_2", "vae")] == [
        0.2,
        0.2,
        0.3,
    ]
    assert where("unet", "conv_out.bias") == 0.1
    assert Weights().where(SD)("unet", "conv_out.bias") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (",".join(["1"] * 24), "blocks has 24 numbers; this U-Net has 25 blocks, IN00 to OUT11"),
        (",".join(["1"] * 27), "give 25 numbers, or 26 with BASE first"),
        ("IN12:1", "this U-Net has no IN12; it has BASE, IN00 to OUT11, and modules such as"),
        ("IN01:much", "IN01 must be a number; got 'much'"),
        ("up_blocks:nan", "up_blocks must be a finite number; got 'nan'"),
        ("1,IN02:1", "blocks must be a number; got 'IN02:1'"),
    ],
)
def test_what_is_no_block_weight_is_said(text: str, said: str) -> None:
    with pytest.raises(RequestError) as error:
        block_weights(text, SD)
    assert said in str(error.value)


def test_a_number_is_read_as_python_writes_it() -> None:
    assert number("-1.5e-1", "weight") == -0.15
