"""The recipe of latent consistency: a LoRA or a U-Net that draws in a few steps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from safelight.checkpoints.save import save
from safelight.errors import RequestError
from safelight.families import SamplerHint
from safelight.models.backbone import Backbone
from safelight.models.unet import UNet
from safelight.training.config.configs import LcmRun
from safelight.training.consistency import PLAYER, ConsistencyTask, Leaps, Student
from safelight.training.diffusion_task import LatentBatch
from safelight.training.draw import Draw
from safelight.training.recipes.adapting import readers, taught_layers, written
from safelight.training.recipes.diffusion import diffusion_settings
from safelight.training.recipes.job import Job, Weights, Workshop
from safelight.training.recipes.learning_data import learning_data
from safelight.training.recipes.lora import described, rated
from safelight.training.recipes.taught import Taught, loaded, taught
from safelight.training.recipes.watching import JUDGED, HeldOutWatch, previews_of
from safelight.training.recipes.writing import DTYPES
from safelight.training.task import Data
from safelight.training.taught_layers import untaught
from safelight.training.text_states import FrozenText
from safelight.training.validation import judging

GUIDANCE_WIDTH = 256  # of what tells the scale, as in every published LCM


@dataclass(frozen=True)
class _Pupil:
    """What learns, and how it is written.

    network: the student's. teacher: None if it is the same network, untaught.
    """

    network: Backbone
    learner: nn.Module
    write: Callable[[Path], list[Path]]
    described: tuple[str, ...]
    teacher: Backbone | None = None


def lcm_job(config: LcmRun, workshop: Workshop) -> Job:
    """A student that learns to leap where its model walks: a LoRA, or the whole U-Net.

    Raises what reading data and weights raises, RequestError for what does not fit together.
    """
    section = config.distillation
    model = taught(config, workshop)
    identity = model.identity
    data = learning_data(config, model.reader, workshop)
    pupil = _whole(config, model) if config.adapter is False else _lora(config, model, workshop)
    low, high = _scales(section.guidance)
    leaps = Leaps(
        section.solver_steps,
        (low, high),
        section.embedding,
        section.huber,
        section.timestep_scaling,
    )
    same = pupil.teacher is None
    task = ConsistencyTask(
        pupil.network,
        model.model.process,
        FrozenText(model.text),
        diffusion_settings(config.noise, scratch=False),
        Student(pupil.learner, section.target),
        PLAYER,
        leaps=leaps,
        teacher=pupil.teacher,
        untaught=(lambda: untaught(model.unet)) if same else None,
    )
    settings = rated(config.training.settings(), pupil.learner, "learner.")
    watch = _Watch(config, task, model, data.held, workshop)

    def write(weights: Weights, path: Path) -> list[Path]:
        known = {n.removeprefix("learner."): t for n, t in weights[PLAYER].items()}
        own = {name: known[name] for name in pupil.learner.state_dict()}
        pupil.learner.load_state_dict(own, strict=True)
        return pupil.write(path)

    scale = f"{low:g}" if low == high else f"{low:g} to {high:g}"
    how = (
        f"a solver of {section.solver_steps} steps at guidance {scale}; draw with --sampler lcm "
        f"--steps {section.steps}" + ("" if section.embedding else " --cfg 1")
    )
    return Job(
        task,
        data.train,
        data.order,
        settings,
        write,
        (PLAYER,),
        watch.validate,
        (*data.facts, *pupil.described, how),
        model.frozen,
        data.kept,
        identity={**identity, **data.identity},
        workshop=workshop,
    )


def _scales(given: float | tuple[float, float]) -> tuple[float, float]:
    return given if isinstance(given, tuple) else (given, given)


def _lora(config: LcmRun, model: Taught, workshop: Workshop) -> _Pupil:
    assert config.adapter is not False
    if config.distillation.embedding and model.unet.config.guidance_width is None:
        raise RequestError(
            "distillation.embedding is for a U-Net that is told the guidance scale, and this one "
            "is not; leave it out, and the scale becomes part of the weights, or give "
            "adapter = false, and the whole U-Net learns to be told"
        )
    layers = taught_layers(config.adapter, model, config, workshop)
    title = f"LCM LoRA, {config.distillation.steps} steps"
    return _Pupil(
        model.network,
        layers,
        lambda path: written(config, layers, model, path, {"modelspec.title": title}),
        (described(layers, model.model.family.label), *readers(layers, config.export.layout)),
    )


def _whole(config: LcmRun, model: Taught) -> _Pupil:
    """A copy of the U-Net that learns, told the scale if that is wished."""
    section, old = config.distillation, model.unet.config
    shape = old
    if section.embedding and old.guidance_width is None:
        shape = replace(old, guidance_width=GUIDANCE_WIDTH)
    device = model.unet.conv_in.weight.device
    with torch.device("meta"):
        student = UNet(shape)
    state = {n: t.to(torch.float32, copy=True) for n, t in model.unet.state_dict().items()}
    for name, tensor in student.state_dict().items():
        # What tells the scale begins as nothing: the student begins as its teacher.
        state.setdefault(name, torch.zeros(tensor.shape))
    student.load_state_dict(state, strict=True, assign=True)
    student.to(device).requires_grad_(True)
    low, high = _scales(section.guidance)
    scale = (low + high) / 2 if section.embedding else 1.0
    hint = SamplerHint("lcm", None, section.steps, scale, stated=True)

    def write(path: Path) -> list[Path]:
        base = loaded(config.model, torch.float32)  # the other parts as their file has them
        family = replace(base.family, backbone=shape, hint=hint)
        whole = replace(base, family=family, network=Backbone(student))
        save(whole, path, dtype=DTYPES[config.export.dtype or "fp32"])
        return [path]

    count = sum(p.numel() for p in student.parameters())
    return _Pupil(
        Backbone(student, config.noise.checkpointing),
        nn.ModuleDict({"unet": student}),
        write,
        (f"a U-Net of {count / 1e6:.2f} million weights, of {model.model.family.label}",),
        model.network,
    )


class _Watch(HeldOutWatch):
    """How far apart the student's answers are on what is held out, and previews in few steps."""

    def __init__(
        self,
        config: LcmRun,
        task: ConsistencyTask,
        model: Taught,
        held: Sequence[Data[LatentBatch]],
        workshop: Workshop,
    ) -> None:
        section = config.previews
        every = 1 if section is None else section.every
        super().__init__(
            task,
            (),
            workshop.warn,
            previews=previews_of(section, config, model.codec),
            codec=model.codec,
            preview_every=every or config.training.validate_every or config.training.steps,
        )
        self._student, self._data = task, held

    def figures(self) -> Mapping[str, float]:
        total, count = 0.0, 0
        with judging(self._student.student):
            for data in self._data:
                for start in range(0, len(data), JUDGED):
                    rows = range(start, min(start + JUDGED, len(data)))
                    draw = Draw(0, 0, len(data), start, len(rows))
                    batch = data.batch(rows, draw)
                    loss = self._student.loss(PLAYER, batch, draw)
                    total += float(loss.total) * len(rows)
                    count += len(rows)
        return {"held_out/loss": total / count} if count else {}
