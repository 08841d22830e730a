from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diffusion_lab import CAPTIONS, UNET, backbone, conditioner, frozen_text, process, shapes
from safelight.condition import Condition
from safelight.diffusion.denoiser import Denoiser
from safelight.diffusion.draws import LogNormalDraw, MixedDraw, UniformDraw
from safelight.diffusion.prediction import EDM, EPS, X0, V
from safelight.diffusion.process import Process, ddpm, edm, flow
from safelight.diffusion.weights import Constant, MinSnr
from safelight.errors import RequestError
from safelight.models.backbone import Backbone
from safelight.models.clip import ClipText, ClipTextConfig
from safelight.models.unet import UNet
from safelight.text.conditioner import Conditioner
from safelight.text.spec import Size, TextRole, TextSpec
from safelight.training.diffusion_task import PLAYER, DiffusionSettings, DiffusionTask, LatentBatch
from safelight.training.draw import Draw
from safelight.training.latent_pool import LatentPool
from safelight.training.text_states import FrozenText, TextStates, sizes_of, tokens_of

TEXT = frozen_text()
TOKENS = tokens_of(TEXT.conditioner, CAPTIONS).ids
PROCESSES = {
    "eps": ddpm(EPS),
    "v": process(),
    "x0": ddpm(X0),
    "flow": flow(3.0),
    "edm": edm(EDM),
    "zero-snr v": ddpm(V, zero_terminal_snr=True),
}


class Spy:
    """A network that answers with a tensor of its own and notes what it was asked."""

    def __init__(self, answer: Tensor | None = None) -> None:
        self.answer = answer
        self.x = self.time = torch.empty(0)
        self.condition: Condition | None = None

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        self.x, self.time, self.condition = x, time, condition
        return torch.zeros_like(x) if self.answer is None else self.answer


def task_of(
    network: object, made: Process | None = None, text: FrozenText | None = TEXT, **settings: object
) -> DiffusionTask:
    learner = torch.nn.Linear(1, 1)
    options = DiffusionSettings(**{"caption_dropout": 0.0, **settings})  # type: ignore[arg-type]
    return DiffusionTask(network, made or process(), text, options, learner)  # type: ignore[arg-type]


def batch(count: int = 8) -> LatentBatch:
    return LatentBatch(shapes(count), TOKENS[torch.arange(count) % len(TOKENS)])


# -- what the network is asked -----------------------------------------------------------------


@pytest.mark.parametrize("name", PROCESSES)
def test_a_network_that_answers_the_target_has_no_loss_and_denoises_to_the_latents(
    name: str,
) -> None:
    made, given, draw = PROCESSES[name], batch(), Draw(3, 5, 8)
    spy = Spy()
    task = task_of(spy, made, draw=MixedDraw())
    task.loss(PLAYER, given, draw)
    # the oracle: the answer that the denoiser, as samplers use it, needs to be right
    sigma = task.sigmas(draw)
    noise = task.noise(given.latents, draw)
    wide = sigma[:, None, None, None]
    x = given.latents.double() + wide * noise.double()
    c_in = made.prediction.scalings(sigma).c_in[:, None, None, None]
    assert torch.allclose(spy.x.double(), c_in * x, rtol=1e-5, atol=1e-5)
    assert torch.equal(spy.time, made.time(sigma).float())
    # the closed form: the quotient (latents - c_skip x) / c_out loses digits at small sigma
    answer = made.prediction.target(given.latents.double(), noise.double(), wide)
    assert float(task_of(Spy(answer), made).loss(PLAYER, given, draw).total) < 1e-9
    denoise = Denoiser(Spy(answer), made).given(Condition(torch.zeros(8, 1, 1)))
    assert torch.allclose(denoise(x, sigma), given.latents.double(), rtol=0, atol=1e-6)


def test_the_network_sees_inputs_of_unit_size_at_every_level() -> None:
    spy = Spy()
    rng = torch.Generator().manual_seed(0)
    given = LatentBatch(torch.randn(64, 4, 8, 8, generator=rng), TOKENS[torch.zeros(64).long()])
    task_of(spy, draw=UniformDraw()).loss(PLAYER, given, Draw(0, 0, 64))
    assert spy.x.std(dim=(1, 2, 3)).sub(1).abs().max() < 0.25
    assert spy.x.std().item() == pytest.approx(1, abs=0.02)


def test_times_keep_their_fractions_whatever_the_networks_type() -> None:
    network = backbone()
    network.unet.to(torch.bfloat16)
    seen: list[Tensor] = []
    hook = network.unet.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    task = DiffusionTask(network, process(), TEXT, DiffusionSettings(draw=LogNormalDraw()))
    loss = task.loss(PLAYER, batch(), Draw(0, 0, 8))
    hook.remove()
    assert seen[0].dtype == torch.float32 and (seen[0] != seen[0].round()).any()
    assert loss.total.dtype == torch.float32
    loss.total.backward()
    gradients = [p.grad for p in network.unet.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)


def test_the_loss_is_the_mean_of_weighted_mean_squares() -> None:
    given, draw = batch(), Draw(1, 2, 8)
    answer = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    task = task_of(Spy(answer), weight=MinSnr())
    wanted = process().prediction.target(
        given.latents.double(),
        task.noise(given.latents, draw).double(),
        task.sigmas(draw)[:, None, None, None],
    )
    errors = (answer - wanted).square().mean((1, 2, 3))
    loss = task.loss(PLAYER, given, draw)
    weight = MinSnr().on(V, task.sigmas(draw))
    assert loss.total.item() == pytest.approx((weight * errors).mean().item(), rel=1e-4)
    assert loss.figures["mse"].item() == pytest.approx(errors.mean().item(), rel=1e-4)


# -- one batch, however it is divided ----------------------------------------------------------


def test_parts_of_a_batch_give_the_gradient_of_the_whole() -> None:
    given = batch(8)
    settings = DiffusionSettings(
        weight=MinSnr(), caption_dropout=0.3, offset_noise=0.1, pyramid_noise=0.5,
        input_perturbation=0.1,
    )  # fmt: skip

    def gradient(parts: int) -> Tensor:
        network = backbone(1)
        task = DiffusionTask(network, process(), TEXT, settings)
        size = 8 // parts
        for start in range(0, 8, size):
            part = LatentBatch(
                given.latents[start : start + size],
                None if given.tokens is None else given.tokens[start : start + size],
            )
            draw = Draw(7, 3, 8, start, size)
            (task.loss(PLAYER, part, draw).total / parts).backward()
        return torch.cat(
            [p.grad.flatten() for p in network.unet.parameters() if p.grad is not None]
        )

    whole = gradient(1)
    assert whole.abs().max() > 1e-3
    for parts in (2, 4):
        assert (gradient(parts) - whole).abs().max() < 1e-6 + 1e-5 * whole.abs().max()


def test_a_step_is_a_function_of_its_number_and_leaves_torchs_random_state() -> None:
    network = backbone()
    task = DiffusionTask(network, process(), TEXT, DiffusionSettings())
    before = torch.random.get_rng_state()
    losses = [task.loss(PLAYER, batch(), Draw(0, step, 8)).total.item() for step in (4, 5, 4)]
    assert losses[0] == losses[2] != losses[1]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_levels_are_spread_evenly_over_the_step_and_dealt_to_all_its_parts() -> None:
    task = task_of(Spy(), draw=UniformDraw())
    table = process().sigmas
    whole = task.sigmas(Draw(0, 1, 64))
    places = torch.searchsorted(table, whole) * 64 // len(table)
    assert torch.equal(places.sort().values, torch.arange(64))
    parts = [task.sigmas(Draw(0, 1, 64, start, 16)) for start in range(0, 64, 16)]
    assert torch.equal(torch.cat(parts), whole)
    # not sorted: each part holds low and high levels
    for part in parts:
        assert part.min() < table[300] and part.max() > table[700]


# -- noise ---------------------------------------------------------------------------------------


def test_offset_noise_has_the_variance_1_plus_its_square_and_is_in_the_target() -> None:
    latents = torch.zeros(2000, 4, 4, 4)
    draw = Draw(0, 0, 2000)
    task = task_of(Spy(), offset_noise=0.5)
    noise = task.noise(latents, draw)
    assert noise.var().item() == pytest.approx(1.25, abs=0.03)
    means = noise.mean((2, 3))
    assert means.var().item() == pytest.approx(0.25 + 1 / 16, abs=0.02)
    # channels are shifted apart
    assert torch.corrcoef(means.T).sub(torch.eye(4)).abs().max() < 0.1
    spy = Spy()
    given = LatentBatch(latents[:8], TOKENS)
    eps = task_of(spy, ddpm(EPS), offset_noise=0.5)
    eps.loss(PLAYER, given, Draw(0, 0, 8))
    added = eps.noise(given.latents, Draw(0, 0, 8))
    assert float(task_of(Spy(added), ddpm(EPS), offset_noise=0.5).loss(
        PLAYER, given, Draw(0, 0, 8)
    ).total) == 0  # fmt: skip


def test_pyramid_noise_has_unit_variance_everywhere_and_larger_patches() -> None:
    latents = torch.zeros(3000, 2, 6, 5)
    noise = task_of(Spy(), pyramid_noise=0.7).noise(latents, Draw(0, 0, 3000))
    assert noise.var(0).sub(1).abs().max() < 0.12
    plain = task_of(Spy()).noise(latents, Draw(0, 0, 3000))
    assert noise.mean((2, 3)).var() > 4 * plain.mean((2, 3)).var()


def test_input_perturbation_is_seen_by_the_network_and_not_by_the_target() -> None:
    given, draw = batch(), Draw(0, 0, 8)
    plain, shaken = Spy(), Spy()
    task_of(plain).loss(PLAYER, given, draw)
    task = task_of(shaken, input_perturbation=0.3)
    task.loss(PLAYER, given, draw)
    sigma = task.sigmas(draw)
    c_in = V.scalings(sigma).c_in
    difference = (shaken.x - plain.x).double() / (c_in * sigma)[:, None, None, None]
    assert difference.std().item() == pytest.approx(0.3, abs=0.02)
    wanted = V.target(
        given.latents, task.noise(given.latents, draw), sigma.float()[:, None, None, None]
    )
    answer = task_of(Spy(wanted), input_perturbation=0.3).loss(PLAYER, given, draw)
    assert float(answer.total) < 1e-9


# -- captions ------------------------------------------------------------------------------------


def test_training_tells_the_network_what_inference_tells_it() -> None:
    texts = [*CAPTIONS, "", "one, two, three"]
    condition = TEXT.condition(TEXT.states(tokens_of(TEXT.conditioner, texts).ids))
    for row, text in enumerate(texts):
        told = TEXT.conditioner.condition(text, dialect="plain")
        assert torch.allclose(condition.context[row], told.context[0], atol=1e-5)


def test_captions_are_dropped_one_by_one_at_the_share_asked_for() -> None:
    count = 2000
    spy = Spy()
    given = LatentBatch(torch.zeros(count, 1, 1, 1), context=torch.ones(count, 77, 32), tokens=None)
    task = task_of(spy, caption_dropout=0.15)
    task.loss(PLAYER, given, Draw(0, 0, count))
    assert spy.condition is not None
    dropped = (spy.condition.context[:, 0] != 1).any(1)
    assert dropped.double().mean().item() == pytest.approx(0.15, abs=0.02)
    # other rows in another step
    task.loss(PLAYER, given, Draw(0, 1, count))
    assert ((spy.condition.context[:, 0] != 1).any(1) != dropped).any()


def test_a_dropped_caption_is_the_empty_text_as_inference_encodes_it() -> None:
    spy = Spy()
    task_of(spy, caption_dropout=1.0).loss(PLAYER, batch(), Draw(0, 0, 8))
    nothing = TEXT.conditioner.condition("", dialect="plain", negative=True)
    assert spy.condition is not None
    assert torch.equal(spy.condition.context, nothing.context.expand(8, -1, -1))
    spy = Spy()
    task_of(spy, caption_dropout=0.0).loss(PLAYER, batch(), Draw(0, 0, 8))
    assert spy.condition is not None
    assert torch.equal(spy.condition.context, TEXT.states(TOKENS).context)


def test_the_text_side_gets_no_gradient() -> None:
    task = DiffusionTask(backbone(), process(), TEXT, DiffusionSettings())
    task.loss(PLAYER, batch(), Draw(0, 0, 8)).total.backward()
    assert all(p.grad is None for tower in TEXT.conditioner.encoders for p in tower.parameters())


def test_long_captions_are_cut_and_counted() -> None:
    long = " ".join(["word"] * 100)
    tokens = tokens_of(TEXT.conditioner, ["short", long, "", long + " more"])
    assert tokens.ids.shape == (4, 77)
    assert tokens.cut == ((1, 25), (3, 26))
    assert "2 of 4 captions" in tokens.report and "26 tokens of caption 3" in tokens.report
    assert tokens_of(TEXT.conditioner, ["short"]).report == ""
    told = TEXT.conditioner.condition(long, dialect="plain", truncate=True)
    assert torch.allclose(TEXT.states(tokens.ids[1:2]).context, told.context, atol=1e-5)


def sdxl_text(zeros: bool) -> FrozenText:
    first = ClipTextConfig(layers=2, width=32, heads=2, mlp_width=64)
    second = ClipTextConfig(layers=3, width=48, heads=2, mlp_width=96, projection=24)
    roles = (
        TextRole(first, hidden=-2, final_norm=False),
        TextRole(second, hidden=-2, final_norm=False, pad=0, pooled=True),
    )
    spec = TextSpec(roles, "sdxl", size_width=8, force_zeros_for_empty_negative=zeros)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FrozenText(Conditioner(spec, [ClipText(first), ClipText(second)]))


@pytest.mark.parametrize("zeros", [False, True])
def test_two_towers_and_sizes_are_told_as_at_inference(zeros: bool) -> None:
    text = sdxl_text(zeros)
    tokens = tokens_of(text.conditioner, CAPTIONS[:3]).ids
    assert tokens.shape == (3, 2, 77)
    asked = [Size(64, 96, original=(100, 80), crop=(3, 4)), Size(64, 96), Size(96, 64)]
    sizes = sizes_of(text.conditioner, asked)
    assert sizes is not None and sizes.shape == (3, 6)
    made = text.condition(text.states(tokens), sizes)
    for row, (caption, size) in enumerate(zip(CAPTIONS[:3], asked, strict=True)):
        told = text.conditioner.condition(caption, size=size, dialect="plain")
        assert told.vector is not None and made.vector is not None
        assert torch.allclose(made.context[row], told.context[0], atol=1e-5)
        assert torch.allclose(made.vector[row], told.vector[0], atol=1e-5)
    spy = Spy()
    given = LatentBatch(shapes(3), tokens, sizes=sizes)
    task_of(spy, text=text, caption_dropout=1.0).loss(PLAYER, given, Draw(0, 0, 3))
    nothing = text.conditioner.condition("", size=asked[0], dialect="plain", negative=True)
    assert spy.condition is not None and spy.condition.vector is not None
    assert nothing.vector is not None
    # both towers and the pooled text are dropped together; the size is still told
    assert torch.equal(spy.condition.context[0], nothing.context[0])
    assert torch.allclose(spy.condition.vector[0], nothing.vector[0], atol=1e-6)
    assert bool((spy.condition.context == 0).all()) == zeros
    with pytest.raises(RequestError, match="told the size of each picture; give batches with"):
        task_of(spy, text=text).loss(PLAYER, replace(given, sizes=None), Draw(0, 0, 3))


def test_an_own_vocabulary_frames_captions_with_its_own_ids() -> None:
    ids = tokens_of(conditioner(), ["", "cat"]).ids
    vocabulary = TEXT.conditioner.tokenizer.vocabulary
    assert ids[0].tolist() == [vocabulary.bos] + [vocabulary.eos] * 76
    assert ids[1, 0] == vocabulary.bos and ids[1, 2] == vocabulary.eos


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"caption_dropout": 1.5}, "caption_dropout must be 0 to 1; got 1.5"),
        ({"offset_noise": -0.1}, "offset_noise must be 0 or greater; got -0.1"),
        ({"pyramid_noise": 2.0}, "pyramid_noise must be 0 to 1; got 2.0"),
        ({"huber": 0.0}, "huber must be greater than 0, or left out; got 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        DiffusionSettings(**settings)  # type: ignore[arg-type]


def test_a_task_without_what_it_needs_is_refused() -> None:
    with pytest.raises(RequestError, match="caption_dropout needs a text side"):
        DiffusionTask(backbone(), process())
    with pytest.raises(RequestError, match="needs `module`"):
        DiffusionTask(Spy(), process(), TEXT)
    with pytest.raises(RequestError, match="token ids need a text side"):
        task_of(Spy(), text=None).loss(PLAYER, batch(), Draw(0, 0, 8))
    with pytest.raises(RequestError, match="a batch needs captions"):
        task_of(Spy()).loss(PLAYER, LatentBatch(shapes(8)), Draw(0, 0, 8))


def test_huber_is_the_square_for_small_errors_and_linear_for_large() -> None:
    given, draw = batch(), Draw(0, 0, 8)
    wanted = V.target(
        given.latents,
        task_of(Spy()).noise(given.latents, draw),
        task_of(Spy()).sigmas(draw).float()[:, None, None, None],
    )
    for error, expected in ((1e-3, 1e-6), (1e3, 2 * 0.1 * (1e3 - 0.1))):
        loss = task_of(Spy(wanted + error), huber=0.1).loss(PLAYER, given, draw)
        assert loss.total.item() == pytest.approx(expected, rel=1e-3)


def test_the_weight_is_told_in_the_space_of_the_prediction() -> None:
    # a constant weight on the noise, on a v network: SNR / (SNR + 1) of its own error
    given, draw = batch(), Draw(0, 0, 8)
    task = task_of(Spy(), weight=Constant("eps"))
    sigma = task.sigmas(draw)
    wanted = V.target(
        given.latents.double(),
        task.noise(given.latents, draw).double(),
        sigma[:, None, None, None],
    )
    expected = (wanted.square().mean((1, 2, 3)) / (1 + sigma**2)).mean()
    assert task.loss(PLAYER, given, draw).total.item() == pytest.approx(expected.item(), rel=1e-4)


# -- speed ---------------------------------------------------------------------------------------


class MetaDraw(Draw):
    """Draws tensors without values on the device without values, and real ones on the CPU."""

    def normal(self, name: str, *shape: int, device: object = None) -> Tensor:
        if torch.device(str(device)).type == "cpu":
            return super().normal(name, *shape, device="cpu")
        return torch.empty(self.total, *shape, device="meta")[self.rows]

    def uniform(self, name: str, *shape: int, device: object = None) -> Tensor:
        if torch.device(str(device)).type == "cpu":
            return super().uniform(name, *shape, device="cpu")
        return torch.empty(self.total, *shape, device="meta")[self.rows]


def test_a_step_asks_the_device_for_no_value() -> None:
    # a tensor of the meta device has no values: whatever waits for one, raises
    spec = TextSpec((TextRole(TEXT.conditioner.encoders[0].config),))
    with torch.device("meta"):
        text = FrozenText(Conditioner(spec, [ClipText(spec.roles[0].encoder)]))
        network = Backbone(UNet(UNET))
    told = TEXT.null()
    text._null[torch.device("meta"), torch.float32] = TextStates(told.context.to("meta"))
    settings = DiffusionSettings(
        weight=MinSnr(),
        offset_noise=0.1,
        pyramid_noise=0.5,
        input_perturbation=0.1,
        huber=0.1,
    )
    pool = LatentPool(
        torch.empty(20, 4, 8, 8, dtype=torch.bfloat16, device="meta"),
        torch.empty(50, 77, dtype=torch.int32, device="meta"),
        torch.empty(20, 3, dtype=torch.int32, device="meta"),
    )
    draw = MetaDraw(0, 0, 8, device="meta")
    loss = DiffusionTask(network, process(), text, settings).loss(
        PLAYER, pool.batch(list(range(8)), draw), draw
    )
    loss.total.backward()
    assert loss.total.device.type == "meta" and loss.figures["mse"].device.type == "meta"
    assert all(p.grad is not None for p in network.unet.parameters())
