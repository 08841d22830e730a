"""A1111's text: written as A1111 would, read as it does, nothing dropped without a word."""

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recipes import MODEL, recipe
from safelight.errors import FileError, SafelightError
from safelight.tasks.metadata.infotext import TEXT_LIMIT, infotext, pairs, parse_infotext, quoted
from safelight.tasks.metadata.infotext_request import read_infotext
from safelight.tasks.metadata.reading import Reading
from safelight.tasks.request import (
    Apg,
    Guidance,
    Request,
    SamplerOptions,
    ScheduleOptions,
    Sizes,
)

# The form of expectations 4.5 and of A1111's own documentation.
MODERN = """a cat, (hat:1.2)
second line
Negative prompt: blurry,
bad
Steps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 1, Size: 512x768, \
Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, Denoising strength: 0.7, Clip skip: 2, \
Hires upscale: 2, Hires upscaler: Latent, Lora hashes: "foo: abc, bar: def", Version: v1.10.1"""
OLD = """girl with an artist's beret, determined, blue eyes
Negative prompt: ugly, fat
Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 965400086, Size: 512x512, Model hash: 45dee52b"""


def request_of(reading: Reading) -> Request:
    """The request, which must be there."""
    assert reading.request is not None
    return reading.request


def test_the_text_of_expectations_is_read() -> None:
    reading = read_infotext(MODERN)
    request = request_of(reading)
    assert request.prompt == "a cat, (hat:1.2)\nsecond line"
    assert request.negative_prompt == "blurry,\nbad"
    assert (request.steps, request.sampler, request.schedule) == (25, "DPM++ 2M", "Karras")
    assert (request.cfg_scale, request.seed, request.clip_skip) == (7, 1, 2)
    assert (request.width, request.height) == (512, 768)
    assert request.model == "v1-5-pruned-emaonly" and reading.model_hash == "6ce0161689"
    assert reading.source == "A1111"


def test_what_is_not_taken_over_is_said() -> None:
    told = "\n".join(read_infotext(MODERN).notes)
    assert "nv" in told
    assert "Version" not in told and "hash" not in told


def test_an_old_text_is_read() -> None:
    request = request_of(read_infotext(OLD))
    assert (request.sampler, request.schedule, request.seed) == ("Euler a", "automatic", 965400086)
    assert request.noise_source == "nv", "A1111's default is the graphics card"


@pytest.mark.parametrize(
    ("fields", "sampler", "schedule"),
    [
        ("Sampler: DPM++ 2M Karras", "DPM++ 2M", "Karras"),
        ("Sampler: DPM++ 2M SDE Exponential", "DPM++ 2M SDE", "Exponential"),
        ("Sampler: LMS Karras", "LMS", "Karras"),
        ("Sampler: DPM++ 2M, Schedule type: Automatic, Version: v1.9.4", "DPM++ 2M", "automatic"),
        ("Sampler: DPM++ 2M, Version: v1.8.0", "DPM++ 2M", "Uniform"),
        ("Sampler: DPM++ 2M", "DPM++ 2M", "Uniform"),
        ("Sampler: DPM++ 2M, Version: v1.10.1", "DPM++ 2M", "automatic"),
        ("Sampler: DPM++ 2M, Version: ComfyUI", "DPM++ 2M", "automatic"),
        ("Sampler: DDIM", "DDIM", "automatic"),
        ("Sampler: Euler, Schedule type: SGM Uniform", "Euler", "SGM Uniform"),
        ("Sampler: Undefined", "DPM++ 2M", "automatic"),
        ("Sampler: Euler, Schedule type: Turbo", "Euler", "automatic"),
    ],
)
def test_samplers_of_all_ages_are_understood(fields: str, sampler: str, schedule: str) -> None:
    reading = read_infotext(f"a cat\nSteps: 20, {fields}, CFG scale: 7, Seed: 1")
    request = request_of(reading)
    assert (request.sampler, request.schedule) == (sampler, schedule)
    if "Undefined" in fields or "Turbo" in fields:
        assert any("Undefined" in note or "Turbo" in note for note in reading.notes)


@pytest.mark.parametrize(
    ("fields", "source"),
    [
        ("RNG: CPU", "cpu"),
        ("RNG: NV", "nv"),
        ("RNG: GPU", "nv"),
        ("Version: v1.10.1", "nv"),
        ("Version: f2.0.1v1.10.1-previous-669-gdfdcbab6", "nv"),
        ("Version: ComfyUI", "cpu"),
        ("Version: Fooocus v2.5.5", "cpu"),
        ('Civitai resources: [{"type":"checkpoint","modelVersionId":1}]', "cpu"),
    ],
)
def test_the_noise_is_that_of_the_program(fields: str, source: str) -> None:
    text = f"a cat\nSteps: 20, Sampler: Euler, Seed: 1, {fields}"
    assert request_of(read_infotext(text)).noise_source == source


def test_special_settings_find_their_place() -> None:
    reading = read_infotext(
        "a\nSteps: 9, Sampler: Euler, Schedule type: Karras, CFG scale: 5.5, Seed: 3, "
        "Size: 64x64, VAE: fix.safetensors, Variation seed: 4, Variation seed strength: 0.25, "
        "Seed resize from: 128x256, ENSD: 31337, RNG: NV, Sigma churn: 2, Sigma tmin: 0.5, "
        "Schedule rho: 5, Emphasis: No norm, Noise Schedule: Zero Terminal SNR, Tiling: True, "
        "Face restoration: CodeFormer, Version: v1.10.1"
    )
    assert reading.request == Request(
        prompt="a", steps=9, sampler="Euler", schedule="Karras", cfg_scale=5.5, seed=3,
        width=64, height=64, vae="fix.safetensors", subseed=4, subseed_strength=0.25,
        resize_from=(128, 256), ensd=31337, noise_source="nv", emphasis="no norm",
        sampler_options=SamplerOptions(s_churn=2, s_tmin=0.5), zero_terminal_snr=True,
        schedule_options=ScheduleOptions(rho=5), seamless="both",
    )  # fmt: skip
    assert len(reading.notes) == 1 and "Face restoration" in reading.notes[0]


def test_values_out_of_range_are_left_out_with_a_note() -> None:
    reading = read_infotext("a\nSteps: 0, Sampler: Euler, CFG scale: nan, Seed: 5, Size: 512x515")
    request = request_of(reading)
    assert (request.steps, request.cfg_scale, request.height, request.seed) == (20, 7, None, 5)
    told = "\n".join(reading.notes)
    assert "steps must be" in told and "cfg_scale must be" in told and "512 and 520" in told


def test_a_picture_may_not_choose_a_path() -> None:
    text = "a\nSteps: 1, Seed: 1, Sampler: Euler, Model: ../../secret/x.ckpt, VAE: C:\\\\v.pt"
    request = request_of(read_infotext(text))
    assert (request.model, request.vae) == ("x.ckpt", "v.pt")


# --- where the settings stand -----------------------------------------------------------------


def test_a_line_with_fewer_than_three_pairs_belongs_to_the_prompt() -> None:
    parts = parse_infotext("a cat\nSteps: 20, Seed: 1")
    assert parts.prompt == "a cat\nSteps: 20, Seed: 1" and not parts.fields


def test_a_prompt_may_hold_a_line_that_looks_like_settings() -> None:
    parts = parse_infotext("a cat\nSteps: 1, of: 2, stone: 3\nSteps: 20, Seed: 1, CFG scale: 2")
    assert parts.prompt == "a cat\nSteps: 1, of: 2, stone: 3"
    assert parts.fields == {"Steps": "20", "Seed": "1", "CFG scale": "2"}


def test_lines_behind_the_settings_are_kept_apart() -> None:
    text = "a cat\nSteps: 20, Seed: 1, CFG scale: 2\nTemplate: a {cat|dog}"
    parts = parse_infotext(text)
    assert parts.prompt == "a cat" and parts.rest == ("Template: a {cat|dog}",)
    assert parts.fields["Seed"] == "1"
    assert any("after the settings" in note for note in read_infotext(text).notes)


def test_windows_line_ends_are_read() -> None:
    parts = parse_infotext("a cat\r\nNegative prompt: b\r\nSteps: 20, Seed: 1, CFG scale: 2\r\n")
    assert (parts.prompt, parts.negative_prompt) == ("a cat", "b")
    assert parts.fields["CFG scale"] == "2"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('a1: "x, y: z", b1: 2', {"a1": "x, y: z", "b1": "2"}),
        ('a1: "x \\"y\\"", b1: 2', {"a1": 'x "y"', "b1": "2"}),
        ('a1: "open, b1: 2', {"a1": '"open', "b1": "2"}),
        ('a1: "x" y, b1: 2', {"a1": '"x" y', "b1": "2"}),
        ("a1: , b1: 2", {"a1": "", "b1": "2"}),
        ("a: 1, b1: 2", {"b1": "2"}),
        ("--a b/c-d: 1", {"a b/c-d": "1"}),
        ('r1: [{"type": "lora", "w": 1}], b1: 2', {"r1": '[{"type": "lora", "w": 1}]', "b1": "2"}),
        ("t1: 2024-05-01T01:12:13, b1: 2", {"t1": "2024-05-01T01:12:13", "b1": "2"}),
        ("Größe: 4", {"Größe": "4"}),
    ],
)
def test_pairs_follow_the_rules(line: str, expected: dict[str, str]) -> None:
    assert dict(pairs(line)) == expected


RULE = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


@given(st.text(alphabet='ab_ :-/,"\\\t', max_size=40))
@example('aa:"\\",')
def test_pairs_equal_the_published_rule(line: str) -> None:
    """The regular expression of the format, which is quadratic, says what a pair is."""
    found = [(key, value) for key, value in pairs(line)]
    expected = RULE.findall(line)
    assert [key for key, _ in found] == [key for key, _ in expected]
    for (_, mine), (_, theirs) in zip(found, expected, strict=True):
        if not theirs.startswith('"'):
            assert mine == theirs.strip()


@pytest.mark.parametrize(
    "text",
    [
        "a" * 900_000,
        "a b" * 300_000,
        "ab:" * 300_000,
        'ab: "' * 180_000,
        "ab: [" * 180_000,
        "ab: {" * 180_000,
        '"\\' * 400_000 + ":",
        "Steps: [a, " * 80_000,
        "Steps: \n" * 100_000,
        "-/ " * 300_000 + ":",
        " " * 900_000 + "a: b",
    ],
)
def test_reading_takes_linear_time(text: str) -> None:
    start = time.perf_counter()
    parse_infotext(text)
    assert time.perf_counter() - start < 5


def test_a_text_without_end_is_refused() -> None:
    with pytest.raises(FileError, match=str(TEXT_LIMIT)):
        parse_infotext("x" * (TEXT_LIMIT + 1))


# --- writing ----------------------------------------------------------------------------------


def test_the_text_is_that_of_a1111() -> None:
    made = recipe(
        prompt="a cat\nwith a hat", negative_prompt="bad", width=512, height=768, seed=1,
        schedule="Karras", clip_skip=2, ensd=31337, subseed=5, subseed_strength=0.25,
        cfg_scale=7.5, emphasis="no norm", sampler_options=SamplerOptions(eta=0.5),
    )  # fmt: skip
    assert infotext(made) == (
        "a cat\nwith a hat\n"
        "Negative prompt: bad\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 1, "
        "Size: 512x768, Model hash: 6c6c6c6c6c, Model: tiny model, Variation seed: 5, "
        "Variation seed strength: 0.25, Clip skip: 2, ENSD: 31337, RNG: CPU, Eta: 0.5, "
        "Emphasis: No norm, Version: safelight 0.1.0"
    )


def test_defaults_are_left_out_and_whole_numbers_short() -> None:
    assert infotext(recipe(prompt="", files=())) == (
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Automatic, CFG scale: 7, Seed: 7, "
        "Size: 64x64, Model: tiny, RNG: CPU, Version: safelight 0.1.0"
    )


def test_what_a1111_has_no_key_for_is_one_quoted_value() -> None:
    text = infotext(recipe(guidance=Guidance(rescale=0.5), dialect="comfy"))
    assert 'Safelight settings: "{\\"dialect\\":\\"comfy\\",\\"guidance\\":{' in text


VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


@given(VALUES.filter(bool))
def test_any_value_survives_quoting(value: str) -> None:
    line = f"aa: 1, key: {quoted(value)}, bb: 2"
    assert dict(pairs(line)) == {"aa": "1", "key": value, "bb": "2"}


def lines() -> st.SearchStrategy[str]:
    """Prompts that A1111's form can hold: it strips every line and reserves one beginning."""
    return (
        st.lists(VALUES, max_size=3)
        .map(lambda parts: "\n".join(line.strip() for part in parts for line in part.split("\n")))
        .map(str.strip)
        .filter(lambda text: "Negative prompt:" not in text)
    )


REQUESTS = st.builds(
    Request,
    prompt=lines(),
    negative_prompt=lines(),
    steps=st.integers(1, 200),
    sampler=st.just("Euler"),
    schedule=st.sampled_from(["automatic", "Karras", "Beta", "Beta (timesteps)", "SGM Uniform"]),
    cfg_scale=st.floats(0, 30),
    seed=st.integers(0, 2**63),
    width=st.just(64),
    height=st.just(72),
    clip_skip=st.none() | st.integers(1, 12),
    subseed=st.just(9),
    subseed_strength=st.floats(0.1, 1),
    ensd=st.integers(-100, 100),
    noise_source=st.sampled_from(["cpu", "nv"]),
    emphasis=st.sampled_from(["original", "no norm", "ignore", "none", "comfy"]),
    dialect=st.sampled_from(["a1111", "compel"]),
    vae=st.none() | st.just("some, vae.pt"),
    sampler_options=st.builds(
        SamplerOptions, s_churn=st.none() | st.floats(0, 1), s_noise=st.none() | st.floats(0, 2)
    ),
    guidance=st.builds(Guidance, rescale=st.floats(0, 1), apg=st.none() | st.just(Apg(eta=0.3))),
    sizes=st.builds(Sizes, original=st.none() | st.just((100, 200))),
    start=st.sampled_from(["a1111", "unit"]),
)


@given(REQUESTS)
def test_every_request_survives_the_text(request_: Request) -> None:
    reading = read_infotext(infotext(recipe(request_, files=())))
    assert reading.request == request_
    assert reading.notes == () and reading.source == "Safelight"


def test_the_model_is_told_by_name_and_hash() -> None:
    reading = read_infotext(infotext(recipe(files=(MODEL, MODEL.replace(role="vae", name="v.pt")))))
    assert reading.model_hash == "6c" * 5
    assert request_of(reading).model == "tiny model" and request_of(reading).vae == "v.pt"


KEYS = ["Steps", "Sampler", "Size", "Seed", "RNG", "Version", "Emphasis", "Safelight settings"]


@given(
    st.text()
    | st.lists(
        st.tuples(
            st.sampled_from([*KEYS, "Eta", "Schedule type", "Seed resize from", "Model"]),
            st.text(max_size=20)
            | st.sampled_from(
                ['"{\\"sampler_options\\": 5}"', '"{\\"steps\\": 3}"', "1e999", "[" * 9]
            ),
        ),
        min_size=3,
    ).map(lambda fields: "p\n" + ", ".join(f"{key}: {value}" for key, value in fields))
)
def test_whatever_the_text_only_our_errors_come_back(text: str) -> None:
    try:
        reading = read_infotext(text)
    except SafelightError:
        return
    assert all("\n" not in note for note in reading.notes)
