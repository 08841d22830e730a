"""Pictures that are bombs, programs, addresses or nothing, at every place that takes one."""

import base64
import gzip
import io
import pickle
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from server_hostile import IMG2IMG, JOBS, TXT2IMG, Attack, Target, attacked, png, table

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Target]:
    with attacked(tmp_path_factory.mktemp("pictures"), models) as found:
        yield found


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    found = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", found)


def header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def forged(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def saved(kind: str, size: tuple[int, int] = (64, 64), **how: object) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (9, 99, 199)).save(stream, kind, **how)
    return stream.getvalue()


def texts(count: int, length: int, *, packed: bool) -> bytes:
    """A picture with so many text chunks, which inflate to much if they are packed."""
    info = PngImagePlugin.PngInfo()
    for number in range(count):
        info.add_text(f"key{number}", "A" * length, zip=packed)
    return saved("PNG", pnginfo=info)


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch marker",)


SOUND = base64.b64decode(png())
FLAT = chunk(b"IDAT", zlib.compress(bytes(100)))
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(%pipe%touch marker) (w) file\n"
BROKEN: dict[str, bytes] = {
    "nothing": b"\0",
    "bomb-header": forged(header(60_000, 60_000), FLAT),
    "bomb-2e31": forged(header(2**31 - 1, 2**31 - 1), FLAT),
    "bomb-flat": forged(
        header(20_000, 20_000, 1, 0), chunk(b"IDAT", zlib.compress(bytes(2501 * 20_000), 9))
    ),
    "zero-wide": forged(header(0, 64), FLAT),
    "no-data": forged(header(64, 64)),
    "little-data": forged(header(64, 64), FLAT),
    "bad-depth": forged(header(64, 64, 3), FLAT),
    "bad-colour": forged(header(64, 64, 8, 77), FLAT),
    "bad-crc": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(13), 5) + FLAT,
    "crc-in-data": SOUND[:60] + b"\xff\xff" + SOUND[62:],
    "half": SOUND[: len(SOUND) // 2],
    "signature": b"\x89PNG\r\n\x1a\n",
    "length-lies": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**31) + b"IHDR" + bytes(64),
    "text-bomb": texts(1, 60_000_000, packed=True),
    "jpeg-half": saved("JPEG")[:300],
    "jpeg-huge": saved("JPEG").replace(b"\x00\x40\x00\x40\x03", b"\xff\xff\xff\xff\x03", 1),
    "jpeg-start": b"\xff\xd8\xff",
    "webp-half": saved("WEBP", lossless=True)[:30],
    "webp-lies": b"RIFF\xff\xff\xff\x7fWEBPVP8L" + bytes(64),
    "webp-wave": b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(64),
    "gif": saved("GIF"),
    "bmp": saved("BMP"),
    "tiff": saved("TIFF"),
    "ico": saved("ICO"),
    "pdf": b"%PDF-1.7\n" + bytes(64),
    "fits": b"SIMPLE  =                    T" + bytes(64),
    "svg": SVG,
    "svg-xml": b"<?xml version='1.0'?>" + SVG,
    "xxe": b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><svg>&e;</svg>',
    "eps": EPS,
    "html": b"<!DOCTYPE html><script>alert(1)</script>",
    "pickle": pickle.dumps(Code()),
    "pickle-text": b"cos\nsystem\n(S'touch marker'\ntR.",
    "zip": b"PK\x03\x04" + bytes(64),
    "gzip": gzip.compress(SOUND),
    "elf": b"\x7fELF" + bytes(64),
    "words": b"a picture of a cat" * 20,
}


def doors(label: str, data: bytes) -> list[Attack]:
    """A picture at every place that takes one."""
    text = base64.b64encode(data).decode()
    kind = {"Content-Type": "image/png"}
    return [
        Attack(f"upload-{label}", "/api/pictures", data, headers=kind),
        Attack(f"inspect-{label}", "/api/inspect", {"picture": text}),
        Attack(f"img2img-{label}", IMG2IMG, {"init_images": [text], "prompt": "a", "steps": 1}),
    ]


@table(*(attack for label, data in BROKEN.items() for attack in doors(label, data)))
def test_what_is_no_sound_picture_is_refused(target: Target, attack: Attack) -> None:
    target.refuses(attack)


@table(*(doors("texts", texts(60, 1_000_000, packed=True))))
def test_texts_that_inflate_to_megabytes_take_no_more_than_seconds(
    target: Target, attack: Attack
) -> None:
    target.survives(attack)


@table(
    *(
        Attack(f"{place}-{label}", path, body)
        for label in ("bomb-header", "half", "svg", "pickle")
        for text in (base64.b64encode(BROKEN[label]).decode(),)
        for place, path, body in (
            ("source", JOBS, {"prompt": "a", "source": {"picture": f"data:;base64,{text}"}}),
            (
                "mask",
                IMG2IMG,
                {"prompt": "a", "init_images": [png()], "mask": text},
            ),
            ("extra", "/sdapi/v1/extra-single-image", {"image": text}),
            ("extras", "/sdapi/v1/extra-batch-images", {"imageList": [{"data": text, "name": ""}]}),
            ("info", "/sdapi/v1/png-info", {"image": text}),
            ("detect", "/controlnet/detect", {"controlnet_input_images": [text]}),
            ("score", "/api/score", {"pictures": [f"data:;base64,{text}"], "texts": ["a"]}),
        )
    )
)
def test_it_is_refused_at_every_other_place(target: Target, attack: Attack) -> None:
    target.refuses(attack)


def control(unit: object) -> dict[str, object]:
    """A call with one ControlNet unit."""
    named = {"model": "evil"} | unit if isinstance(unit, dict) else unit
    return {"prompt": "a", "steps": 1, "alwayson_scripts": {"controlnet": {"args": [named]}}}


ADDRESSES: dict[str, object] = {
    "http": "http://169.254.169.254/latest/meta-data/iam",
    "own": "http://127.0.0.1:7860/metrics",
    "data-http": "data:text/html;base64,PGI+",
    "file": "file:///etc/passwd",
    "path": "/etc/passwd",
    "relative": "../../out/.safelight/jobs.sqlite",
    "unc": "\\\\evil.example\\share\\x.png",
    "gopher": "gopher://127.0.0.1:6379/_FLUSHALL",
    "data-no-base64": "data:image/png,%89PNG",
    "data-long-head": "data:" + "a" * 5000 + ";base64,AAAA",
    "no-base64": "!!!!" * 50,
    "half-base64": "A" * 1001,
    "spaces": " " * 2000,
    "empty": "",
    "number": 7,
    "list": [[["x"]]],
    "object": {"image": {"image": 5}},
}


@table(
    *(
        Attack(f"{place}-{label}", path, body)
        for label, value in ADDRESSES.items()
        for place, path, body in (
            ("source", JOBS, {"prompt": "a", "source": {"picture": value}}),
            ("img2img", IMG2IMG, {"prompt": "a", "init_images": [value]}),
            ("upload", "/api/pictures", {"picture": value}),
            ("extra", "/sdapi/v1/extra-single-image", {"image": value}),
            ("unit", TXT2IMG, control({"image": value})),
        )
    )
)
def test_addresses_and_paths_are_no_pictures(target: Target, attack: Attack) -> None:
    assert "root:" not in target.refuses(attack).text


UNITS: dict[str, object] = {
    "model-path": {"model": "/etc/passwd", "image": png()},
    "model-unknown": {"model": "evil [12345678]", "image": png()},
    "module": {"module": "../../evil", "image": png()},
    "module-none": {"module": "ip-adapter_clip_sd15", "image": png()},
    "weight": {"weight": "much", "image": png()},
    "weight-huge": {"weight": 10**400, "image": png()},
    "steps": {"guidance_start": 0.9, "guidance_end": 0.1, "image": png()},
    "start-huge": {"guidance_start": -1e300, "image": png()},
    "mode": {"control_mode": "A" * 100_000, "image": png()},
    "resize": {"resize_mode": 99, "image": png()},
    "resolution": {"processor_res": 10**9, "module": "canny", "image": png()},
    "threshold": {"threshold_a": {}, "module": "canny", "image": png()},
    "pickled": {"ipadapter_input": [base64.b64encode(BROKEN["pickle"]).decode()]},
    "image-path": {"image": {"image": "/etc/passwd", "mask": None}},
}


@table(*(Attack(label, TXT2IMG, control(unit)) for label, unit in UNITS.items()))
def test_a_control_unit_that_cannot_be_is_refused(target: Target, attack: Attack) -> None:
    target.refuses(attack)


LARGER: tuple[dict[str, object], ...] = (
    {"upscaling_resize": 0},
    {"upscaling_resize": -2},
    {"upscaling_resize": 10**9},
    {"upscaling_resize": 10**400},
    {"upscaling_resize": "x"},
    {"resize_mode": 1, "upscaling_resize_w": 10**9, "upscaling_resize_h": 10**9},
    {"resize_mode": 1, "upscaling_resize_w": 0},
    {"resize_mode": 1, "upscaling_resize_w": {}, "upscaling_resize_h": []},
    {"upscaler_1": "evil"},
    {"upscaler_1": ["A" * 100_000]},
)


@table(
    *(
        Attack(f"scripts-{number}", TXT2IMG, {"prompt": "a", "steps": 1, "alwayson_scripts": value})
        for number, value in enumerate(
            (
                "controlnet",
                ["controlnet"],
                5,
                {"controlnet": {"args": "x"}},
                {"controlnet": {"args": {"image": "x"}}},
                {"controlnet": "x"},
                {"evil script": {"args": [True]}},
                {"A" * 10_000: {"args": [1]}},
            )
        )
    ),
    Attack("script", TXT2IMG, {"prompt": "a", "script_name": "custom code", "script_args": ["1"]}),
    Attack("images-number", IMG2IMG, {"prompt": "a", "init_images": 5}),
    Attack("images-none", IMG2IMG, {"prompt": "a", "init_images": []}),
    Attack("resize-mode", IMG2IMG, {"prompt": "a", "init_images": [png()], "resize_mode": 9}),
    Attack("fill", IMG2IMG, {"init_images": [png()], "mask": png(), "inpainting_fill": -1}),
    Attack("mask-object", IMG2IMG, {"init_images": [png()], "mask": {"path": "/etc/passwd"}}),
    Attack("blur", IMG2IMG, {"init_images": [png()], "mask": png(), "mask_blur": 10**9}),
    Attack("strength", IMG2IMG, {"init_images": [png()], "denoising_strength": 10**400}),
    Attack("detect-none", "/controlnet/detect", {}),
    Attack("detect-text", "/controlnet/detect", {"controlnet_input_images": "x"}),
    Attack(
        "detect-threshold",
        "/controlnet/detect",
        {
            "controlnet_input_images": [png()],
            "controlnet_module": "canny",
            "controlnet_threshold_a": [],
        },
    ),
    *(
        Attack(f"extra-{number}", "/sdapi/v1/extra-single-image", {"image": png(), **more})
        for number, more in enumerate(LARGER)
    ),
    Attack("extras-list", "/sdapi/v1/extra-batch-images", {"imageList": "x"}),
    Attack("extras-data", "/sdapi/v1/extra-batch-images", {"imageList": [{"name": "x"}]}),
    Attack("info-none", "/sdapi/v1/png-info", {}),
    Attack("interrogate", "/sdapi/v1/interrogate", {"image": png(), "model": "clip"}),
    Attack("options-model", "/sdapi/v1/options", {"sd_model_checkpoint": {"a": 1}}),
    Attack("use-number", "/api/model", {"name": 5}),
    Attack("score-many", "/api/score", {"pictures": [png()] * 65, "texts": ["a"] * 65}),
    Attack("score-mixed", "/api/score", {"pictures": [1], "texts": [None]}),
    Attack("prompt-steps", "/api/prompt", {"text": "a", "steps": 10**400}),
    Attack("preprocess", "/api/preprocess", {"picture": 5}),
)
def test_other_calls_of_a1111_and_ours_are_checked_as_well(target: Target, attack: Attack) -> None:
    target.refuses(attack)
