"""Pictures of many prompts at once, as an evaluation needs them.

`safelight generate` shares a batch only among pictures of one prompt. Here a batch has as many
prompts as pictures; each picture has the noise of its own seed, so it is the picture that
`safelight generate` draws, but for the last bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from safelight.condition import Condition, stack, to
from safelight.diffusion.denoiser import Denoiser
from safelight.diffusion.guidance import guided
from safelight.diffusion.process import start
from safelight.diffusion.samplers import resolve_sampler
from safelight.engines.sentinel import watch
from safelight.engines.watched import Watched
from safelight.model import Model
from safelight.tasks.generate import generate, settled
from safelight.tasks.painting import decoded
from safelight.tasks.picture import to_uint8
from safelight.tasks.plan import first_noise, levels
from safelight.tasks.request import Request
from safelight.text.spec import Size


@dataclass(frozen=True)
class Drawing:
    """A model and how it draws: gives pictures (B, 3, H, W) in [-1, 1] of prompts and seeds.

    request: all settings but the prompt and the seed. Pictures are rounded to bytes, as files are.
    """

    model: Model
    request: Request

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        wanted = [
            settled(
                self.request.replace(prompt=prompt, seed=seed, count=1, dialect="plain"),
                self.model,
            )[0]
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        if not self._together:
            return torch.stack([self._alone(request) for request in wanted])
        return self._batch(wanted)

    @property
    def _together(self) -> bool:
        """Whether a batch of prompts is all that there is to it."""
        family = self.model.family
        asks_more = family.extra_channels or family.task != "text"
        guided_inside = family.backbone.guidance_width is not None
        sampler = resolve_sampler(self.request.sampler)
        return not (asks_more or guided_inside or sampler.couples_batch)

    def _alone(self, request: Request) -> Tensor:
        (picture,) = generate(self.model, request)
        return torch.from_numpy(picture.pixels.copy()).movedim(-1, 0).float() / 127.5 - 1

    def _batch(self, requests: Sequence[Request]) -> Tensor:
        model, request = self.model, requests[0]
        assert request.height is not None and request.width is not None
        size = Size(height=request.height, width=request.width)
        sampler = resolve_sampler(request.sampler)
        _, sigmas = levels(model, request, sampler)
        noise = first_noise(model, requests)
        x = start(noise(), sigmas, model.process.prediction, sampler.start)
        with watch() as sentinel:
            encoders = nn.ModuleList(model.text.encoders)
            prompts = [r.prompt for r in requests]

            def told() -> list[Condition]:
                own = [model.text.condition(p, size=size, dialect="plain") for p in prompts]
                none = model.text.condition(
                    request.negative_prompt, size=size, dialect="plain", negative=True
                )
                return list(model.text.equalised([*own, none]))

            *own, none = sentinel.run("text encoder", encoders, told)
            positive = to(stack(own), device=model.device)
            negative = to(stack([none] * len(prompts)), device=model.device)
            denoiser = Denoiser(Watched(model.network, sentinel), model.process)
            denoise = guided(denoiser, positive, negative, request.cfg_scale)
            options: dict[str, object] = dict(sampler.checked(request.sampler_options.given()))
            if sampler.takes_process:
                options["process"] = model.process
            for number, step in enumerate(sampler.run(denoise, x, sigmas, noise, **options), 1):
                x, sentinel.step = step.x, number + 1
            sentinel.step = None
            pixels = to_uint8(decoded(model, x, request, sentinel))
        return torch.from_numpy(pixels).movedim(-1, 1).float() / 127.5 - 1
