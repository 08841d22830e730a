"""What the network is told at each call, for prompts that change, combine or are weighed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.latent_consistency_models.pipeline_latent_consistency_text2img import (
    LatentConsistencyModelPipeline,
)
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from torch import Tensor, nn

from models_tiny import random
from pipelines_tiny import BETAS, HASTE, drawn_latents, save, sd_parts, settings
from safelight.checkpoints.load import load
from safelight.condition import Condition
from safelight.diffusion.denoiser import Denoiser
from safelight.diffusion.samplers import SAMPLERS
from safelight.engines.sentinel import Sentinel
from safelight.model import Model
from safelight.tasks.generate import settled
from safelight.tasks.plan import plan
from safelight.tasks.request import Request

pytestmark = pytest.mark.slow

SIGMA = torch.tensor(3.0, dtype=torch.float64)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(save(StableDiffusionPipeline(**sd_parts("sd15")), tmp_path_factory.mktemp("sd15")))


def request(prompt: str, negative: str = "dull", **changes: object) -> Request:
    return settings(prompt=prompt, negative_prompt=negative, **{"steps": 6, **changes})


@dataclass
class Spy:
    """The names of the texts that the network was told, a tuple for each call."""

    texts: Mapping[str, Tensor]
    calls: list[tuple[str, ...]] = field(default_factory=list)

    def __call__(self, unet: nn.Module, args: tuple[Tensor, ...], kwargs: object) -> None:
        self.calls.append(tuple(self.name(row) for row in args[2]))

    def name(self, row: Tensor) -> str:
        return next(name for name, text in self.texts.items() if torch.equal(text[0], row))


@contextmanager
def spying(model: Model, texts: Sequence[str]) -> Iterator[Spy]:
    with torch.no_grad():
        spy = Spy({text: model.text.condition(text).context for text in texts})
    handle = model.network.unet.register_forward_pre_hook(spy, with_kwargs=True)
    try:
        yield spy
    finally:
        handle.remove()


def told(model: Model, request: Request, texts: Sequence[str]) -> list[tuple[str, ...]]:
    with spying(model, texts) as spy:
        drawn_latents(model, request)
    return spy.calls


def positives(calls: list[tuple[str, ...]], negative: str = "dull") -> list[str]:
    """The text of each call of two rows, of which the first is the negative."""
    assert all(call[0] == negative and len(call) == 2 for call in calls)
    return [call[1] for call in calls]


# --- schedules -----------------------------------------------------------------------------------

# Calls of a run of 6 steps, and how many of them are its first half: a sampler that asks twice a
# step is counted twice a step, though it may spare itself the last call.
TWICE = ("heun", "dpm2", "dpm2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "restart")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_prompt_switches_at_its_call_with_every_sampler(model: Model, sampler: str) -> None:
    options = {"sampler_options": HASTE} if sampler == "dpm_adaptive" else {}
    asked = request("[cow:horse:0.5]", sampler=sampler, **options)
    seen = positives(told(model, asked, ["cow", "horse", "dull"]))
    half = 6 if sampler in TWICE else 9 if sampler == "heunpp2" else 3
    assert seen == ["cow"] * half + ["horse"] * (len(seen) - half)
    if SAMPLERS[sampler].fixed_steps:
        assert half < len(seen) <= 2 * half + (sampler == "plms")  # which starts with two calls
    whole = positives(told(model, asked.replace(prompt="[cow:horse:2]"), ["cow", "horse", "dull"]))
    assert whole == ["cow", "cow"] + ["horse"] * (len(whole) - 2)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", *TWICE])
def test_words_alternate_from_call_to_call(model: Model, sampler: str) -> None:
    texts = ["cow", "horse", ""]
    asked = request("[cow|horse|]", sampler=sampler)
    seen = positives(told(model, asked, [*texts, "dull"]))
    assert seen == [texts[i % 3] for i in range(len(seen))]
    assert len(seen) == (11 if sampler in TWICE else 6)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("[cow:horse:1]", "chhhhh"),
        ("[cow:horse:1.0]", "cccccc"),
        ("[cow:horse:0]", "hhhhhh"),
        ("[cow:horse:-1]", "hhhhhh"),
        ("[cow:horse:25]", "cccccc"),
        ("[cow:horse:0.34]", "cchhhh"),
        ("[horse:2]", "__hhhh"),
        ("[cow::4]", "cccc__"),
        ("[cow:[horse::5]:2]", "cchhh_"),
        ("[cow|[horse:fog:4]]", "chchcf"),
        ("[[cow|horse]:fog:3]", "chcfff"),
    ],
)
def test_schedules_reach_the_network_as_they_are_written(
    model: Model, prompt: str, expected: str
) -> None:
    texts = {"cow": "c", "horse": "h", "fog": "f", "": "_", "dull": "-"}
    calls = told(model, request(prompt), list(texts))
    assert "".join(texts[text] for text in positives(calls)) == expected


def test_the_negative_prompt_has_a_schedule_of_its_own(model: Model) -> None:
    calls = told(model, request("[cow:horse:4]", "[dull|grey]"), ["cow", "horse", "dull", "grey"])
    assert calls == [
        ("dull", "cow"),
        ("grey", "cow"),
        ("dull", "cow"),
        ("grey", "cow"),
        ("dull", "horse"),
        ("grey", "horse"),
    ]


def test_parts_joined_by_and_change_each_in_its_time(model: Model) -> None:
    calls = told(
        model, request("[cow:horse:2] AND [fog|rain]"), ["cow", "horse", "fog", "rain", "dull"]
    )
    assert calls[:4] == [
        ("dull", "cow", "fog"),
        ("dull", "cow", "rain"),
        ("dull", "horse", "fog"),
        ("dull", "horse", "rain"),
    ]


# --- combination ---------------------------------------------------------------------------------


def estimate(model: Model, request: Request, x: Tensor) -> Tensor:
    """The guided estimate at the first call of a request."""
    with torch.no_grad():
        return plan(model, settled(request, model), Sentinel()).denoise(x, SIGMA)


def parts(model: Model, x: Tensor, *texts: str) -> list[Tensor]:
    """The estimate under each text alone."""
    denoiser = Denoiser(model.network, model.process)
    with torch.no_grad():
        return [denoiser(x, SIGMA, model.text.condition(text)) for text in texts]


def close(ours: Tensor, expected: Tensor) -> bool:
    return bool((ours - expected).abs().max() <= 1e-4 * expected.std())


@pytest.mark.parametrize("scale", [7.0, 1.0])
def test_and_adds_up_the_ways_from_the_negative(model: Model, scale: float) -> None:
    x = 3 * random(1, 4, 8, 8)
    asked = request("cow :0.7 AND horse:1.2 AND fog:-0.5", cfg_scale=scale)
    cow, horse, fog, dull = parts(model, x, "cow", "horse", "fog", "dull")
    expected = dull + scale * (0.7 * (cow - dull) + 1.2 * (horse - dull) - 0.5 * (fog - dull))
    assert close(estimate(model, asked, x), expected)


def test_a_number_at_the_end_weighs_a_single_prompt_too(model: Model) -> None:
    x = 3 * random(1, 4, 8, 8)
    cow, dull = parts(model, x, "cow", "dull")
    assert close(estimate(model, request("cow:0.5"), x), dull + 7 * 0.5 * (cow - dull))


def test_break_starts_a_chunk_and_the_negative_is_filled_up(model: Model) -> None:
    seen: list[Tensor] = []
    handle = model.network.unet.register_forward_pre_hook(lambda _, args: seen.append(args[2]))
    drawn_latents(model, request("cow BREAK horse", steps=1))
    handle.remove()
    with torch.no_grad():
        cow, horse, dull, nothing = (
            model.text.condition(text).context[0] for text in ("cow", "horse", "dull", "")
        )
    negative, positive = seen[0]
    assert positive.shape == (2 * 77, cow.shape[1])
    assert torch.equal(positive, torch.cat([cow, horse]))
    assert torch.equal(negative, torch.cat([dull, nothing]))


def test_texts_of_one_schedule_are_told_at_equal_length(model: Model) -> None:
    seen: list[Tensor] = []
    handle = model.network.unet.register_forward_pre_hook(lambda _, args: seen.append(args[2]))
    drawn_latents(model, request("[cow:cow BREAK horse:1]", steps=2))
    handle.remove()
    assert [context.shape[1] for context in seen] == [2 * 77, 2 * 77]


# --- what is not computed ------------------------------------------------------------------------


def encoded_texts(model: Model, request: Request) -> int:
    """How many texts were encoded."""
    runs: list[object] = []
    handle = model.text.encoders[0].register_forward_pre_hook(lambda *_: runs.append(None))
    drawn_latents(model, request)
    handle.remove()
    return len(runs)


@pytest.mark.parametrize("guidance", [{}, {"rescale": 0.7}, {"apg": {}}, {"thresholding": {}}])
def test_at_scale_1_the_network_never_sees_the_negative(
    model: Model, guidance: dict[str, object]
) -> None:
    for prompt, texts in (("cow", 1), ("cow:1.0", 1), ("cow:0.25 AND cow:0.75", 2)):
        asked = request(prompt, cfg_scale=1.0, guidance=guidance)
        calls = told(model, asked, ["cow", "dull"])
        assert len(calls) == 6 and {text for call in calls for text in call} == {"cow"}
        assert encoded_texts(model, asked) == texts
    guided = request("cow", cfg_scale=1.5, guidance=guidance)
    assert told(model, guided, ["cow", "dull"]) == [("dull", "cow")] * 6
    assert encoded_texts(model, guided) == 2


def test_outside_its_interval_guidance_costs_nothing(model: Model) -> None:
    asked = request("cow", steps=5, guidance={"start": 0.4, "end": 0.8})
    plain, both = ("cow",), ("dull", "cow")
    assert told(model, asked, ["cow", "dull"]) == [plain, plain, both, both, plain]
    never = asked.replace(guidance={"start": 1.0, "end": 1.0})
    assert told(model, never, ["cow", "dull"]) == [plain] * 5


def test_outside_its_interval_a_prompt_is_followed_at_scale_1(model: Model) -> None:
    inside = request("cow", steps=5, guidance={"start": 0.0, "end": 0.4})
    sigmas = plan(model, settled(inside, model), Sentinel()).sigmas
    denoiser, x = Denoiser(model.network, model.process), 3 * random(1, 4, 8, 8)
    cow: Condition = model.text.condition("cow")
    with torch.no_grad():
        drawing = plan(model, settled(inside, model), Sentinel())
        for step in range(5):
            alone = denoiser(x, sigmas[step], cow)
            assert torch.equal(drawing.denoise(x, sigmas[step]), alone) == (step >= 2)


def test_a_guidance_distilled_model_is_asked_for_the_negative_only_by_and(tmp_path: Path) -> None:
    pipeline = LatentConsistencyModelPipeline(
        **{**sd_parts("lcm"), "scheduler": LCMScheduler(**BETAS)}
    )
    model = load(save(pipeline, tmp_path))
    asked = request("cow", sampler="LCM", schedule="LCM", steps=2, cfg_scale=8.0)
    assert told(model, asked, ["cow", "dull"]) == [("cow",)] * 2
    both = asked.replace(prompt="cow AND horse")
    assert told(model, both, ["cow", "horse", "dull"]) == [("dull", "cow", "horse")] * 2
