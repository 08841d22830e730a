"""Textual inversions from files of every published layout mean what Diffusers makes of them."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.loaders.textual_inversion import TextualInversionLoaderMixin
from safetensors.torch import save_file
from torch import Tensor, nn

from cli_tiny import tiny_model
from hostile_files import MARKER
from pipelines_tiny import text_model, tokenizer
from safelight.checkpoints.embedding_file import embedding_for, read_embedding
from safelight.errors import CheckpointError, FileError, UnsafeFileError
from safelight.model import Model
from safelight.models.clip import ClipText, ClipTextConfig
from safelight.text.conditioner import Conditioner
from safelight.text.spec import Size, TextRole, TextSpec

WIDTH, WIDE = 64, 128
L_CONFIG = ClipTextConfig(layers=3, width=WIDTH, heads=1, mlp_width=2 * WIDTH)
G_CONFIG = ClipTextConfig(3, WIDE, 2, 2 * WIDE, "gelu", projection=40)


def vectors(rows: int, width: int = WIDTH, seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def diffusers_bin(path: Path, table: Tensor) -> None:
    torch.save({"<glow>": table}, path)


def diffusers_row(path: Path, table: Tensor) -> None:
    save_file({"<glow>": table[0].clone()}, path)


def diffusers_safetensors(path: Path, table: Tensor) -> None:
    save_file({"<glow>": table}, path)


def a1111_pickle(path: Path, table: Tensor) -> None:
    torch.save(
        {
            "string_to_token": {"*": 265},
            "string_to_param": {"*": table},
            "name": "another name",
            "step": 500,
            "sd_checkpoint": "c6bbc15e",
            "sd_checkpoint_name": None,
        },
        path,
    )


def first_pickle(path: Path, table: Tensor) -> None:
    """As the program of the paper saved it: a module that holds the parameter."""
    value = {
        "string_to_token": {"*": torch.tensor(265)},
        "string_to_param": nn.ParameterDict({"*": nn.Parameter(table)}),
    }
    torch.save(value, path)


def old_pickle(path: Path, table: Tensor) -> None:
    """In PyTorch's container of before 2020."""
    torch.save({"<glow>": table}, path, _use_new_zipfile_serialization=False)


def a1111_safetensors(path: Path, table: Tensor) -> None:
    save_file({"emb_params": table}, path)


ONE_TABLE: dict[str, tuple[str, Callable[[Path, Tensor], None], int]] = {
    "Diffusers, pickled": ("glow.bin", diffusers_bin, 3),
    "Diffusers, one row": ("glow.safetensors", diffusers_row, 1),
    "Diffusers": ("glow.safetensors", diffusers_safetensors, 3),
    "A1111, pickled": ("glow.pt", a1111_pickle, 3),
    "the paper's": ("glow.pt", first_pickle, 2),
    "Diffusers, old container": ("glow.bin", old_pickle, 3),
    "A1111": ("glow.safetensors", a1111_safetensors, 3),
}


class Words(TextualInversionLoaderMixin):
    """What of a Diffusers pipeline a textual inversion is loaded into."""

    hf_device_map = None
    components: dict[str, object] = {}  # noqa: RUF012

    def __init__(self, *pairs: tuple[object, object]) -> None:
        self.pairs = [copy.deepcopy(pair) for pair in pairs]
        self.tokenizer, self.text_encoder = self.pairs[0]

    def states(self, prompt: str, which: int = 0) -> tuple[Tensor, ...]:
        words, encoder = self.pairs[which]
        ids = words(
            self.maybe_convert_prompt(prompt, words),
            padding="max_length",
            max_length=77,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        with torch.no_grad():
            return encoder(ids, output_hidden_states=True)


def tower(config: ClipTextConfig, theirs: nn.Module) -> ClipText:
    ours = ClipText(config).requires_grad_(False)
    state = theirs.state_dict()
    if not any(name.startswith("text_model.") for name in state):
        state = {f"text_model.{name}": tensor for name, tensor in state.items()}
    ours.load_state_dict({n: t for n, t in state.items() if "position_ids" not in n})
    return ours


@pytest.fixture(scope="module")
def sd1() -> Model:
    """A model whose text encoder is that of `pipelines_tiny`, and nothing else of it matters."""
    spec = TextSpec((TextRole(L_CONFIG),))
    text = Conditioner(spec, [tower(L_CONFIG, text_model(WIDTH))])
    return with_text(text)


@pytest.fixture(scope="module")
def sdxl() -> Model:
    roles = (
        TextRole(L_CONFIG, hidden=-2, final_norm=False),
        TextRole(G_CONFIG, hidden=-2, final_norm=False, pad=0, pooled=True),
    )
    pair = [
        tower(L_CONFIG, text_model(WIDTH, seed=3)),
        tower(G_CONFIG, text_model(WIDE, gelu=True, projection=40, seed=4)),
    ]
    return with_text(Conditioner(TextSpec(roles, "sdxl", size_width=8), pair))


def with_text(text: Conditioner) -> Model:
    from dataclasses import replace

    return replace(tiny_model(), text=text)


def close(ours: Tensor, theirs: Tensor) -> bool:
    return bool((ours - theirs).abs().max() <= 1e-4 * theirs.std())


@pytest.mark.parametrize("layout", ONE_TABLE)
def test_a_word_is_encoded_as_by_diffusers(layout: str, sd1: Model, tmp_path: Path) -> None:
    name, write, rows = ONE_TABLE[layout]
    table = vectors(rows)
    write(tmp_path / name, table)
    theirs = Words((tokenizer("<|endoftext|>"), text_model(WIDTH)))
    theirs.load_textual_inversion({"emb_params": table}, token="<glow>")
    embedding = embedding_for(sd1, read_embedding(tmp_path / name))
    told = sd1.text.with_embeddings([embedding])
    ours = told.condition("a glow cat, on a table", dialect="plain").context[0]
    assert close(ours, theirs.states("a <glow> cat, on a table").last_hidden_state[0])
    bare = sd1.text.condition("a glow cat, on a table", dialect="plain").context[0]
    assert not close(ours, bare)


def test_the_word_that_a_diffusers_file_names_is_understood_beside_the_files_name(
    sd1: Model, tmp_path: Path
) -> None:
    diffusers_safetensors(tmp_path / "cat_toy.safetensors", vectors(2))
    embedding = embedding_for(sd1, read_embedding(tmp_path / "cat_toy.safetensors"))
    assert embedding.words == ("cat_toy", "<glow>")
    told = sd1.text.with_embeddings([embedding])
    contexts = [told.condition(f"a {word}, red").context for word in embedding.words]
    assert torch.equal(*contexts)
    renamed = embedding_for(sd1, read_embedding(tmp_path / "cat_toy.safetensors"), "thing")
    assert renamed.words == ("thing", "<glow>")


@pytest.mark.parametrize("names", [("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1")])
def test_sdxls_two_tables_reach_its_two_encoders(
    names: tuple[str, str], sdxl: Model, tmp_path: Path
) -> None:
    tables = vectors(2), vectors(2, WIDE, seed=1)
    save_file(dict(zip(names, tables, strict=True)), tmp_path / "glow.safetensors")
    theirs = Words(
        (tokenizer("<|endoftext|>"), text_model(WIDTH, seed=3)),
        (tokenizer("!"), text_model(WIDE, gelu=True, projection=40, seed=4)),
    )
    for (words, encoder), table in zip(theirs.pairs, tables, strict=True):
        theirs.load_textual_inversion(
            {"emb_params": table}, token="<glow>", tokenizer=words, text_encoder=encoder
        )
    told = sdxl.text.with_embeddings(
        [embedding_for(sdxl, read_embedding(tmp_path / "glow.safetensors"))]
    )
    ours = told.condition("a glow cat", size=Size(64, 64), dialect="plain")
    first, second = (theirs.states("a <glow> cat", which) for which in (0, 1))
    context = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
    assert close(ours.context, context)
    assert ours.vector is not None
    assert close(ours.vector[:, :40], second.text_embeds)


def test_an_encoder_alone_takes_the_second_of_sdxls_tables(sdxl: Model, tmp_path: Path) -> None:
    save_file({"clip_l": vectors(2), "clip_g": vectors(2, WIDE)}, tmp_path / "glow.safetensors")
    second = sdxl.text.encoders[1]
    refiner = with_text(Conditioner(TextSpec((sdxl.text.spec.roles[1],)), [second]))
    (table,) = embedding_for(refiner, read_embedding(tmp_path / "glow.safetensors")).vectors
    assert torch.equal(table, vectors(2, WIDE))


def test_another_width_names_both_families(sd1: Model, sdxl: Model, tmp_path: Path) -> None:
    save_file({"emb_params": torch.zeros(4, 768)}, tmp_path / "old.safetensors")
    save_file(
        {"clip_l": torch.zeros(4, 768), "clip_g": torch.zeros(4, 1280)}, tmp_path / "xl.safetensors"
    )
    message = r"old\.safetensors .* for SD 1\.x \(token width 768\), but .* \(token width 64\)"
    with pytest.raises(CheckpointError, match=message):
        embedding_for(sd1, read_embedding(tmp_path / "old.safetensors"))
    message = r"for SDXL \(token widths 768 and 1280\), but .* \(token width 64\)"
    with pytest.raises(CheckpointError, match=message):
        embedding_for(sd1, read_embedding(tmp_path / "xl.safetensors"))
    save_file({"emb_params": vectors(1)}, tmp_path / "half.safetensors")
    with pytest.raises(CheckpointError, match=r"token width 64.*token widths 64 and 128"):
        embedding_for(sdxl, read_embedding(tmp_path / "half.safetensors"))


BROKEN: dict[str, tuple[dict[str, Tensor], str]] = {
    "several words": ({"a": vectors(1), "b": vectors(1)}, "holds 2 tensors"),
    "too many rows": ({"emb_params": vectors(76)}, "1 to 75 vectors"),
    "no row": ({"emb_params": vectors(0)}, "1 to 75 vectors"),
    "whole numbers": ({"emb_params": torch.ones(2, 64, dtype=torch.int64)}, "of int64"),
    "another rank": ({"emb_params": torch.ones(2, 4, 8)}, r"\[2, 4, 8\]"),
    "a LoRA": (
        {f"lora_unet_x.lora_{n}.weight": torch.ones(4, 4, 1, 1) for n in ("up", "down")},
        "low-rank changes",
    ),
    "unequal tables": ({"clip_l": vectors(2), "clip_g": vectors(3, WIDE)}, "2 and 3 vectors"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_what_is_no_textual_inversion_is_refused(fault: str, tmp_path: Path) -> None:
    tensors, message = BROKEN[fault]
    save_file(tensors, tmp_path / "broken.safetensors")
    with pytest.raises(CheckpointError, match=message):
        read_embedding(tmp_path / "broken.safetensors")


def test_nan_is_refused_by_name(tmp_path: Path) -> None:
    table = vectors(2)
    table[1, 7] = float("nan")
    save_file({"emb_params": table}, tmp_path / "burnt.safetensors")
    with pytest.raises(FileError, match=r"burnt.*emb_params.*NaN"):
        read_embedding(tmp_path / "burnt.safetensors")


class Hostile:
    """Its pickle creates a file where it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.marker), "w")


def test_a_pickle_that_asks_to_run_code_is_refused_and_nothing_of_it_runs(tmp_path: Path) -> None:
    marker = tmp_path / MARKER
    torch.save(
        {"string_to_param": {"*": vectors(1)}, "name": Hostile(marker)},
        tmp_path / "evil.pt",
        pickle_module=pickle,
    )
    with pytest.raises(UnsafeFileError, match="evil"):
        read_embedding(tmp_path / "evil.pt")
    assert not marker.exists()
