"""Diffusers folders, GGUF files and configs made to break whoever lists or loads them.

Each is a sound thing with one change; see `FOLDERS`, `GGUF`, `YAML`. What carries code would create
the file `hostile_files.MARKER` in the folder that it is told.
"""

import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from hostile_files import HOSTILE

UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
DEEP = 100_000
MANY = 10**9
Spoil = Callable[[Path, Path], None]  # (folder of the model, marker that code would create)


def said(name: str, **values: object) -> Spoil:
    """A JSON file of the folder in which some values are others."""

    def spoil(folder: Path, marker: Path) -> None:
        told = json.loads((folder / name).read_text()) | values
        _replaced(folder / name, json.dumps(told).encode())

    return spoil


def holding(name: str, data: bytes) -> Spoil:
    """A file of the folder that holds something else."""
    return lambda folder, marker: _replaced(folder / name, data)


def without(name: str) -> Spoil:
    """A folder that lacks something."""

    def spoil(folder: Path, marker: Path) -> None:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    return spoil


def led(name: str, where: str) -> Spoil:
    """A file of the folder that is a link to another place."""

    def spoil(folder: Path, marker: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(where)

    return spoil


def pickled(stem: str, pickle: str) -> Spoil:
    """Weights that are a pickle with code in it, and no safetensors beside them."""

    def spoil(folder: Path, marker: Path) -> None:
        path = folder / stem
        path.with_suffix(".safetensors").unlink(missing_ok=True)
        (path.parent / "model.safetensors").unlink(missing_ok=True)
        path.write_bytes(HOSTILE["code"][pickle](marker))

    return spoil


def sharded(where: str) -> Spoil:
    """A U-Net in two shards whose index puts a tensor somewhere else."""

    def spoil(folder: Path, marker: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / UNET)
        (folder / UNET).unlink()
        names = sorted(tensors)
        index: dict[str, str] = {}
        for number, part in enumerate((names[::2], names[1::2]), start=1):
            shard = f"diffusion_pytorch_model-{number:05d}-of-00002.safetensors"
            save_file({name: tensors[name] for name in part}, folder / "unet" / shard)
            index |= dict.fromkeys(part, shard)
        index[names[0]] = where
        path = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
        path.write_text(json.dumps({"metadata": {}, "weight_map": index}))

    return spoil


def piped(folder: Path, marker: Path) -> None:
    """A config that nobody ever writes to: who opens it waits."""
    (folder / "unet" / "config.json").unlink()
    os.mkfifo(folder / "unet" / "config.json")


def halved(folder: Path, marker: Path) -> None:
    """Weights of which half was downloaded."""
    data = (folder / UNET).read_bytes()
    _replaced(folder / UNET, data[: len(data) // 2])


def _replaced(path: Path, data: bytes) -> None:
    path.unlink()  # it may be a second name of the sound one
    path.write_bytes(data)


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


FOLDERS: Mapping[str, Spoil] = {
    # what the index names
    "index-empty": holding("model_index.json", b""),
    "index-no-json": holding("model_index.json", b"!!python/object/apply:os.system ['id']"),
    "index-list": holding("model_index.json", b"[]"),
    "index-deep": holding("model_index.json", nested(DEEP)),
    "index-not-utf8": holding("model_index.json", b'{"_class_name": "\xff\xfe"}'),
    "index-nothing": holding("model_index.json", b"{}"),
    "index-endless": led("model_index.json", "/dev/zero"),
    "class-of-os": said("model_index.json", unet=["os", "system"]),
    "class-of-a-path": said("model_index.json", unet=["..", "../../evil.py"]),
    "class-escapes": said("model_index.json", unet=["diffusers", "\x1b[31mUNet\n"]),
    "class-long": said("model_index.json", unet=["diffusers", "A" * 100_000]),
    "class-transformer": said("model_index.json", transformer=["diffusers", "SD3Transformer"]),
    "no-text-encoder": said("model_index.json", text_encoder=[None, None]),
    # what the parts say of themselves
    "config-lost": without("unet/config.json"),
    "config-deep": holding("unet/config.json", nested(DEEP)),
    "config-large": holding("unet/config.json", b" " * (33 * 2**20) + b"{}"),
    "config-pipe": piped,
    "config-nan": said("vae/config.json", scaling_factor=float("nan")),
    "config-infinite": said("unet/config.json", norm_eps=float("inf")),
    "config-digits": holding("unet/config.json", b'{"norm_eps": ' + b"9" * 4000 + b"}"),
    "number-huge": said("unet/config.json", norm_eps=10**400),
    "scale-huge": said("vae/config.json", scaling_factor=10**400),
    "scale-zero": said("vae/config.json", scaling_factor=0),
    "target": said("unet/config.json", _class_name="os.mkdir", target="os.mkdir"),
    "channels-none": said("unet/config.json", block_out_channels=[]),
    "channels-zero": said("unet/config.json", block_out_channels=[0, 0]),
    "channels-huge": said("unet/config.json", block_out_channels=[2**62, 2**62]),
    "channels-many": said(
        "unet/config.json",
        block_out_channels=[16] * DEEP,
        down_block_types=["DownBlock2D"] * DEEP,
        up_block_types=["UpBlock2D"] * DEEP,
        attention_head_dim=2,
    ),
    "layers-huge": said("unet/config.json", layers_per_block=MANY),
    "depths-huge": said("unet/config.json", transformer_layers_per_block=MANY),
    "heads-zero": said("unet/config.json", attention_head_dim=0),
    "groups-huge": said("unet/config.json", norm_num_groups=2**62),
    "width-other": said("unet/config.json", cross_attention_dim=1024),
    "vae-layers-huge": said("vae/config.json", layers_per_block=MANY),
    "vae-groups-zero": said("vae/config.json", norm_num_groups=0),
    "vae-widths-none": said("vae/config.json", block_out_channels=[]),
    "vae-class": said("vae/config.json", _class_name="subprocess.Popen"),
    "text-layers-huge": said("text_encoder/config.json", num_hidden_layers=MANY),
    "text-width-zero": said("text_encoder/config.json", hidden_size=0),
    "text-rows-huge": said("text_encoder/config.json", vocab_size=2**62),
    "text-context-huge": said("text_encoder/config.json", max_position_embeddings=2**62),
    "times-huge": said("scheduler/scheduler_config.json", num_train_timesteps=MANY * MANY),
    "times-none": said("scheduler/scheduler_config.json", num_train_timesteps=0),
    "betas-text": said("scheduler/scheduler_config.json", beta_start="os.system('id')"),
    "betas-huge": said("scheduler/scheduler_config.json", beta_end=10**400),
    "betas-beyond": said("scheduler/scheduler_config.json", beta_end=5),
    "betas-many": said("scheduler/scheduler_config.json", trained_betas=[0.5] * 1_000_000),
    "prediction-path": said("scheduler/scheduler_config.json", prediction_type="../../evil"),
    "vocabulary-deep": holding("tokenizer/vocab.json", nested(DEEP)),
    # the weights
    "weights-lost": without(UNET),
    "weights-half": halved,
    "weights-web-page": holding(UNET, b"<!DOCTYPE html><html><body>Log in</body></html>"),
    "weights-gguf": holding(UNET, b"GGUF" + struct.pack("<IQQ", 3, 1, 1)),
    "weights-endless": led(UNET, "/dev/zero"),
    "weights-loop": led(UNET, "diffusion_pytorch_model.safetensors"),
    "weights-password": led(UNET, "/etc/passwd"),
    "pickled-unet": pickled("unet/diffusion_pytorch_model.bin", "os-system"),
    "pickled-text": pickled("text_encoder/pytorch_model.bin", "bare"),
    "pickled-renamed": lambda folder, marker: _replaced(
        folder / TEXT, HOSTILE["code"]["exec"](marker)
    ),
    "shard-above": sharded("../../secret.safetensors"),
    "shard-absolute": sharded("/etc/passwd"),
    "shard-other-part": sharded("../vae/diffusion_pytorch_model.safetensors"),
    "shard-number": sharded("diffusion_pytorch_model-00003-of-00002.safetensors"),
    "vae-lost": without("vae"),
}
# What is wrong with these is seen when names and shapes are compared, before they are drawn with
LATE = frozenset({"channels-zero"})
# Without a readable index these are no Diffusers folders at all, and nobody lists them
NOWHERE = frozenset({"index-endless"})


def spoiled(sound: Path, folder: Path, label: str, marker: Path) -> Path:
    """A sound Diffusers folder with one thing changed, below `folder`; the rest are links."""
    path = folder / label
    shutil.copytree(sound, path, copy_function=os.link)
    FOLDERS[label](path, marker)
    return path


def text(words: bytes) -> bytes:
    """A text of GGUF."""
    return struct.pack("<Q", len(words)) + words


def gguf(pairs: bytes = b"", *, version: int = 3, tensors: int = 0, count: int = 0) -> bytes:
    """A GGUF file: magic, version, number of tensors and of pairs, the pairs."""
    return b"GGUF" + struct.pack("<IQQ", version, tensors, count) + pairs


WORD, LIST = struct.pack("<I", 8), struct.pack("<I", 9)  # types of values
GGUF: Mapping[str, bytes] = {
    "gguf-magic": b"GGUF",
    "gguf-plain": gguf(text(b"general.architecture") + WORD + text(b"sd1"), count=1),
    "gguf-version": gguf(version=99),
    "gguf-tensors": gguf(tensors=2**62),
    "gguf-pairs": gguf(count=2**62),
    "gguf-text": gguf(struct.pack("<Q", 2**62) + b"a", count=1),
    "gguf-array": gguf(text(b"a") + LIST + WORD + struct.pack("<Q", 2**62), count=1),
    "gguf-nested": gguf(text(b"a") + (LIST + LIST + struct.pack("<Q", 1)) * DEEP, count=1),
    "gguf-twice": gguf((text(b"general.alignment") + WORD + text(b"7")) * 2, count=2),
    "gguf-tensor": gguf(
        text(b"w") + struct.pack("<IQQQIQ", 3, 2**62, 2**62, 2**62, 0, 2**62), tensors=1
    ),
}
ALIASES = b"a0: &a0 [x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 10)) for n in range(1, 40)
)
# Beside a model they may say what it predicts; nothing else in them is read, and nothing runs
YAML: Mapping[str, Callable[[Path], bytes]] = {
    "apply": lambda marker: f"!!python/object/apply:os.system ['touch {marker}']\n".encode(),
    "new": lambda marker: (
        f"!!python/object/new:subprocess.Popen [[touch, {marker}]]\nx: 1\n".encode()
    ),
    "target": lambda marker: f"model:\n  target: os.mkdir\n  params: {{path: {marker}}}\n".encode(),
    "laughs": lambda marker: ALIASES,
    "deep": lambda marker: b"{" * DEEP,
    "line-ends": lambda marker: b"\n" * 2**20,
    "blanks": lambda marker: b" " * (2**20 - 1),
    "long-word": lambda marker: b"parameterization: " + b"v" * 10**6 + b"!",
    "large": lambda marker: b"parameterization: v\n" + b"#" * 2**20,
    "no-prediction": lambda marker: b"parameterization: ../../evil\n",
    "not-utf8": lambda marker: b"\xff\xfe\x00" * 1000,
    "escapes": lambda marker: b"parameterization: \x1b[31mv\n",
}
