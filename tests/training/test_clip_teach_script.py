"""The script that asks the teacher: from pictures' words, a dictionary and an encoder to files."""

import importlib.util
import io
import json
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from models_tiny import randomised
from safelight.text.vocabulary import vocabulary_of
from safelight.training.clip.teacher import read_teacher

SCRIPT = Path(__file__).parents[2] / "scripts" / "teach_text.py"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "apple", "dog", "on", "background", ","]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("teach_text_script", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """A sentence encoder of the teacher's kind with weights at random."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder")
    ids = {word: at for at, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=64,
    )  # fmt: skip
    randomised(BertModel(config, add_pooling_layer=False)).save_pretrained(folder)
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    folder = tmp_path / "pairs"
    folder.mkdir()
    with tarfile.open(folder / "emoji-00000.tar", "w") as tar:
        for style in ("flat", "noto"):
            words = {
                "hexcode": "1F34E", "name": "red apple", "keywords": ["fruit"], "group": "food",
                "subgroup": "food-fruit", "style_words": [style],
            }  # fmt: skip
            raw = json.dumps(words).encode()
            member = tarfile.TarInfo(f"{style}_1f34e.json")
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    return folder


def test_embeddings_are_means_of_token_states_whatever_else_is_in_the_batch(
    script, encoder
) -> None:
    from transformers import BertModel

    model = BertModel.from_pretrained(encoder, add_pooling_layer=False).eval()
    phrases = ["a red apple on a background", "dog", "a dog, red", "apple"]
    ids = [[2, 4, 5, 6, 8, 4, 9, 3], [2, 7, 3], [2, 4, 7, 10, 5, 3], [2, 6, 3]]
    with torch.no_grad():
        states = [model(input_ids=torch.tensor([row])).last_hidden_state[0] for row in ids]
    expected = F.normalize(torch.stack([state.mean(0) for state in states]), dim=-1)
    assert torch.allclose(script.embed(encoder, phrases, batch=3), expected, atol=1e-5)


def test_a_concept_drawn_in_two_styles_is_one_concept(script, pairs: Path) -> None:
    concepts, styles = script.read_concepts(pairs)
    assert [concept.name for concept in concepts] == ["red apple"] and styles == ["flat", "noto"]


def test_the_script_writes_a_teacher_and_a_vocabulary(
    script, encoder: Path, pairs: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    wordnet, out = tmp_path / "wordnet", tmp_path / "out"
    wordnet.mkdir()
    for part, letter in (("noun", "n"), ("adj", "a"), ("verb", "v")):
        (wordnet / f"index.{part}").write_text(f"dog {letter} 1 0 1 1 00000100\n")
        (wordnet / f"data.{part}").write_text(
            f"00000100 05 {letter} 01 dog 0 000 | a wolf at home\n"
        )
    (wordnet / "cntlist.rev").write_text("dog%1:05:00:: 1 42\n")
    given = {
        "--pairs": pairs, "--wordnet": wordnet, "--teacher": encoder, "--out": out,
        "--width": 8, "--vocabulary": 560,
    }  # fmt: skip
    argv = [str(text) for pair in given.items() for text in pair]
    monkeypatch.setattr(sys, "argv", ["teach_text.py", *argv])
    script.main()
    teacher = read_teacher(out / "teacher.safetensors")
    assert {"red apple", "fruit", "dog", "dog, a wolf at home"} <= set(teacher.phrases)
    assert teacher.vectors.shape == (len(teacher.phrases), 8)
    assert vocabulary_of((out / "merges.txt").read_text(encoding="utf-8")).size == 560
    assert "kept_energy" in capsys.readouterr().out
