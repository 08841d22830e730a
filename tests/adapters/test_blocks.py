"""Words for the blocks of a U-Net, against the rows that name the original code's modules."""

import pytest

from safelight.adapters.attach import Layer
from safelight.adapters.blocks import block_paths, block_weights
from safelight.adapters.strengths import Strengths
from safelight.checkpoints.keymap import KeyMap
from safelight.checkpoints.rows_unet import unet_rows
from safelight.errors import RequestError
from safelight.models.clip import ClipText, ClipTextConfig
from safelight.models.unet import UNet
from unet_published import FAMILIES, tiny

TEXT = ClipText(ClipTextConfig(1, 16, 2, 24, "gelu", 12, 30, 16, 29))


def unet(family: str) -> UNet:
    return UNet(tiny(FAMILIES[family].ours))


def original(family: str) -> dict[str, str]:
    """The word of each layer by the name that its weight has in original files."""
    network = unet(family)
    paths = [f"{p}.weight" for p, m in network.named_modules() if isinstance(m, Layer)]
    words = {}
    for link in KeyMap(unet_rows(network.config)).links(paths):
        block, _, rest = link.theirs.partition(".")
        number = rest.partition(".")[0]
        word = {"input_blocks": f"IN{number:0>2}", "output_blocks": f"OUT{number:0>2}"}
        for path in link.ours if isinstance(link.ours, tuple) else (link.ours,):
            words[path.removesuffix(".weight")] = word.get(
                block, "M00" if block == "middle_block" else "BASE"
            )
    return words


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl", "sdxl-refiner", "ssd-1b", "small-sd"])
def test_every_layer_lies_in_the_block_that_the_original_code_has_it_in(family: str) -> None:
    network = unet(family)
    parts = {"unet": network, "text_encoder": TEXT}
    words = original(family)
    assert len(words) > 50
    for number, word in enumerate(block_paths(parts)):
        strengths = Strengths(blocks=block_weights(parts, {word: 0.5}))
        inside = {p for p in words if strengths.of("unet", p) == 0.5}
        assert inside == {p for p, w in words.items() if w == word}, (number, word)
        read = strengths.of("text_encoder", "text_model.encoder.layers.0.mlp.fc1")
        assert read == (0.5 if word == "BASE" else 1.0)


@pytest.mark.parametrize(
    ("family", "every", "looking"), [("sd15", 26, 17), ("sd21", 26, 17), ("sdxl", 20, 12)]
)
def test_a_list_is_of_all_blocks_or_of_those_with_attention(
    family: str, every: int, looking: int
) -> None:
    parts = {"unet": unet(family), "text_encoder": TEXT}
    words = list(block_paths(parts))
    assert len(words) == every
    full = block_weights(parts, [float(n) for n in range(every)])
    short = block_weights(parts, [float(n) for n in range(looking)])
    assert set(short) < set(full)
    assert full["mid_block"] == words.index("M00")
    assert short["mid_block"] == {17: 7, 12: 5}[looking]
    with pytest.raises(RequestError, match=f"takes {every} .* or {looking} "):
        block_weights(parts, [1.0] * 5)


def test_words_in_any_case_and_starts_of_paths_are_taken_and_nothing_else() -> None:
    parts = {"unet": unet("sd15"), "text_encoder": TEXT}
    assert block_weights(parts, {"mid": 0.5}) == block_weights(parts, {"M00": 0.5})
    assert block_weights(parts, {"down_blocks.1": 0.5}) == {"down_blocks.1": 0.5}
    assert block_weights(parts, {"text_encoder": 0.5}) == {"text_encoder": 0.5}
    assert block_weights(parts, {"in00": 2.0}) == {"conv_in": 2.0}
    for wrong in ("IN12", "down_block.1", ""):
        with pytest.raises(RequestError, match="no block of this model; name one of BASE, IN00 to"):
            block_weights(parts, {wrong: 0.5})
    with pytest.raises(RequestError, match="this model has none"):
        block_weights({"text_encoder": TEXT}, {"IN00": 1.0})
