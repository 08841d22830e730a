"""A request is checked whole at the border, in words a person can act on."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safelight.errors import RequestError, SafelightError
from safelight.tasks.request import (
    WORK_LIMIT,
    FreeU,
    Guidance,
    Pag,
    Request,
    SamplerOptions,
    Sizes,
)

FREEU = FreeU(b1=1.5, b2=1.6, s1=0.9, s2=0.2)
EVERYTHING = Request(
    prompt="a (cat:1.2)\nwith a hat, 猫",
    negative_prompt="blurry",
    dialect="compel",
    emphasis="no norm",
    clip_skip=2,
    model="some model.safetensors",
    width=512,
    height=768,
    count=3,
    seed=2**64 - 10,
    subseed=4,
    subseed_strength=0.25,
    resize_from=(512, 512),
    ensd=-31337,
    noise_source="nv",
    sampler_options=SamplerOptions(eta=0.5, order=2),
    guidance=Guidance(rescale=0.7, pag=Pag(layers=("mid", "up")), freeu=FREEU),
    sizes=Sizes(original=(1024, 1023), crop_left=8),
    exact=True,
)


def refusal(**settings: object) -> str:
    """The message for a request of a cat with these settings."""
    with pytest.raises(RequestError) as caught:
        Request.parse({"prompt": "a cat", **settings}, check_names=False)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("request_", [Request(prompt=""), EVERYTHING])
def test_a_request_survives_json(request_: Request) -> None:
    text = json.dumps(request_.model_dump(mode="json"))
    assert Request.parse(json.loads(text), check_names=False) == request_


def test_importing_the_request_imports_no_torch() -> None:
    code = "import sys; import safelight.tasks.request; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 515}, "width must be a multiple of 8; got 515. The nearest are 512 and 520."),
        ({"steps": 0}, "steps must be a whole number from 1 to 1000; got 0."),
        ({"steps": 2.5}, "steps must be a whole number from 1 to 1000; got 2.5."),
        ({"steps": True}, "steps must be a whole number from 1 to 1000; got True."),
        ({"steps": "many"}, "steps must be a whole number from 1 to 1000; got 'many'."),
        ({"cfg_scale": "nan"}, "cfg_scale must be a finite number from 0 to 100; got 'nan'."),
        ({"step": 3}, "There is no setting 'step'. Did you mean steps?"),
        (
            {"guidance": {"rescal": 1}},
            "There is no setting 'guidance.rescal'. Did you mean guidance.rescale?",
        ),
        (
            {"guidance": {"pag": {"scale": -1}}},
            "guidance.pag.scale must be a finite number from 0 to 100; got -1.",
        ),
        (
            {"dialect": "a111"},
            "dialect must be one of a1111, comfy, compel, plain; got 'a111'. Did you mean a1111?",
        ),
        ({"device": "gpu"}, "device must be auto, cpu, cuda, cuda:N, mps or xpu; got 'gpu'."),
        (
            {"prompt": "x\0"},
            "prompt must not contain a NUL character or half of a surrogate pair.",
        ),
        (
            {"guidance": {"start": 0.5, "end": 0.25}},
            "guidance must not start after it ends; got start 0.5 and end 0.25. "
            "Both are fractions of the steps.",
        ),
        (
            {"sizes": {"original": [1, -2]}},
            "sizes.original.1 must be a whole number from 0 to 65536; got -2.",
        ),
    ],
)
def test_a_refusal_names_the_setting_the_value_and_the_remedy(
    settings: dict[str, object], message: str
) -> None:
    assert refusal(**settings) == message


def test_the_prompt_is_required() -> None:
    with pytest.raises(RequestError, match=r"^prompt is missing\.$"):
        Request.parse({}, check_names=False)


def test_a_direct_request_is_refused_like_a_parsed_one() -> None:
    with pytest.raises(RequestError, match="multiple of 8"):
        Request(prompt="a cat", height=9)
    with pytest.raises(RequestError, match=r"guidance\.pag\.scale"):
        Pag(scale=-1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["cfg_scale", "subseed_strength", "width", "seed", "steps"])
def test_nan_and_infinity_are_refused_everywhere(name: str, value: float) -> None:
    assert name in refusal(**{name: value})


def test_more_work_than_the_limit_is_refused() -> None:
    settings = {"width": 8192, "height": 8192, "steps": 1000}
    assert WORK_LIMIT >= 8192 * 8192 * 1000
    Request.parse({"prompt": "", **settings}, check_names=False)
    assert str(WORK_LIMIT) in refusal(**settings, count=17)


def test_long_values_are_not_echoed() -> None:
    assert len(refusal(dtype="x" * 10_000)) < 300
    assert len(refusal(seed=10**4000)) < 300
    assert len(refusal(**{"y" * 10_000: 1})) < 1000


def test_seeds_of_all_pictures_fit_the_generator() -> None:
    Request(prompt="", seed=2**64 - 1)
    assert "2**64" in refusal(seed=2**64 - 1, count=2)
    assert "2**64" in refusal(seed=2**64 - 2, ensd=2)


def test_numbers_may_be_text() -> None:
    request = Request.parse({"prompt": "", "steps": "30", "cfg_scale": "5.5"}, check_names=False)
    assert (request.steps, request.cfg_scale) == (30, 5.5)


def test_resolving_makes_random_seeds_concrete_and_keeps_given_ones() -> None:
    random = Request(prompt="", seed=-1, subseed_strength=0.5).resolved()
    assert random.seed is not None and 0 <= random.seed < 2**32
    assert random.subseed is not None and 0 <= random.subseed < 2**32
    assert Request(prompt="", seed=0).resolved() == Request(prompt="", seed=0)
    assert Request(prompt="", seed=3, subseed=4).resolved().subseed is None, "it has no effect"
    assert random.resolved() == random


def test_picture_k_alone_has_seed_plus_k() -> None:
    request = Request(prompt="", seed=10, count=4, batch=2)
    assert request.single(3) == Request(prompt="", seed=13)


def test_variations_keep_the_seed_and_count_the_subseed() -> None:
    request = Request(prompt="", seed=10, subseed=5, subseed_strength=0.5, count=4)
    alone = request.single(3)
    assert (alone.seed, alone.subseed, alone.count) == (10, 8, 1)


def test_a_single_picture_of_a_random_request_is_refused() -> None:
    with pytest.raises(RequestError, match="resolve"):
        Request(prompt="", count=2).single(1)


@pytest.mark.parametrize(
    ("sampler", "schedule", "expected"),
    [
        ("dpmpp_2m", "karras", ("DPM++ 2M", "Karras")),
        ("DPM++ 2M Karras", "automatic", ("DPM++ 2M", "Karras")),
        ("EulerDiscreteScheduler", "Automatic", ("Euler", "automatic")),
        ("euler_ancestral", "normal", ("Euler a", "Uniform")),
    ],
)
def test_names_are_stored_under_canonical_labels(
    sampler: str, schedule: str, expected: tuple[str, str]
) -> None:
    request = Request.parse({"prompt": "", "sampler": sampler, "schedule": schedule})
    assert (request.sampler, request.schedule) == expected
    assert request.with_known_names() == request


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"sampler": "Eular"}, "Euler"),
        ({"schedule": "caras"}, "karras"),
        ({"sampler": "DPM++ 2M Karras", "schedule": "simple"}, "Simple"),
        ({"sampler": "Euler", "sampler_options": {"eta": 1}}, "eta"),
        ({"sampler": "Euler", "schedule_options": {"rho": 1}}, "rho"),
    ],
)
def test_an_unknown_name_or_option_is_refused(settings: dict[str, object], word: str) -> None:
    with pytest.raises(RequestError, match=word):
        Request.parse({"prompt": "", **settings})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from([*Request.model_fields, "prmpt", "self", ""]) | st.text(), JSON, max_size=5
    )
)
def test_whatever_is_given_only_our_errors_come_back(settings: dict[str, object]) -> None:
    try:
        request = Request.parse({"prompt": "", **settings}, check_names=False)
    except SafelightError as error:
        message = str(error)
    else:
        message = ""
        again = json.loads(json.dumps(request.model_dump(mode="json")))
        assert Request.parse(again, check_names=False) == request
    assert "\n" not in message
