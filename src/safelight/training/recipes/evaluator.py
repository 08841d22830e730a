"""The recipe of an evaluator: what it must name is known, for the pictures are made of cut-outs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.checkpoints.evaluator_folder import load_evaluator, write_evaluator
from safelight.errors import RequestError
from safelight.models.evaluator import Evaluator, EvaluatorConfig, Labels
from safelight.training.config.configs import EvaluatorRun, EvaluatorSection
from safelight.training.config.sections import SceneSection
from safelight.training.draw import Draw
from safelight.training.evaluator_task import PLAYER, EvaluatorTask
from safelight.training.order import Flat
from safelight.training.recipes.job import Job, Weights, Workshop, judged_weights, seeded, size_of
from safelight.training.recipes.rows import Labelled, joined
from safelight.training.recipes.scenes import Scenes, SceneSet, open_scenes
from safelight.training.recipes.writing import DTYPES
from safelight.training.scenes.catalogue import HELDOUT_COMBO, CutoutEntry
from safelight.training.watch import Moment
from safelight.writing import make_folder

JUDGED = 64
# Scenes of one thing; recoloured ones too, or the judge would take colour for the thing itself.
MIX: Mapping[str, float] = {"single": 0.70, "placed": 0.12, "recolour": 0.18}


def evaluator_job(config: EvaluatorRun, workshop: Workshop) -> Job:
    """An evaluator that learns to name concepts and styles.

    Raises what reading cut-outs raises, RequestError for a mix with scenes of several things.
    """
    settings = config.training.settings()
    section = config.data
    if section.mix is None:
        section = section.model_copy(update={"mix": dict(MIX)})
    found = open_scenes(section, workshop)
    entries = found.book.catalogue.entries
    labels = Labels(
        tuple(sorted({e.hexcode for e in entries})), tuple(sorted({e.style for e in entries}))
    )
    shape = config.evaluator
    with seeded(settings.seed, PLAYER):
        evaluator = _evaluator(shape, labels)
    evaluator.to(workshop.device)
    task = EvaluatorTask(evaluator, label_smoothing=shape.label_smoothing)
    train = _labelled(found, found.train, 0, labels, workshop)
    unseen = _unseen(section, shape.held_out_drawings, entries, labels, workshop)
    if unseen is not None:
        train = joined(train, unseen)
    held = _labelled(found, found.held, section.count, labels, workshop)

    @torch.no_grad()
    def look(moment: Moment) -> Mapping[str, float]:
        if not len(held):
            return {}
        sums = torch.zeros(3, device=workshop.device)
        with judged_weights(moment):
            for start in range(0, len(held), JUDGED):
                rows = range(start, min(start + JUDGED, len(held)))
                batch = held.batch(rows, Draw(0, 0, len(held), start, len(rows)))
                said = evaluator(batch.pictures)
                sums += torch.stack(
                    [
                        F.cross_entropy(said.concepts, batch.concept, reduction="sum"),
                        _right(said.concepts, batch.concept),
                        _right(said.styles, batch.style),
                    ]
                )
        loss, concept, style = (sums / len(held)).tolist()
        return {
            "held_out/concept_loss": loss,
            "held_out/concept_top1": concept,
            "held_out/style_top1": style,
        }

    def write(weights: Weights, path: Path) -> list[Path]:
        evaluator.load_state_dict(weights[PLAYER], strict=True)
        make_folder(path.parent)
        write_evaluator(path, evaluator, labels, dtype=DTYPES[config.export.dtype or "fp32"])
        return [path]

    return Job(
        task,
        train,
        Flat(len(train), settings.batch_size, settings.seed),
        settings,
        write,
        (PLAYER,),
        look,
        found.facts,
        (),
        size_of(train.pictures, held.pictures),
        identity={"labels": " ".join((*labels.concepts, *labels.styles))},
    )


def _evaluator(section: EvaluatorSection, labels: Labels) -> Evaluator:
    """What learns. Raises RequestError for a checkpoint that names other things."""
    if section.checkpoint is None:
        return EvaluatorConfig(
            len(labels.concepts),
            len(labels.styles),
            section.widths,
            image_size=section.image_size,
            dropout=section.dropout,
        ).build()
    found = load_evaluator(Path(section.checkpoint))
    if found.labels != labels:
        raise RequestError(
            f"evaluator.checkpoint names {len(found.labels.concepts)} concepts and "
            f"{len(found.labels.styles)} styles, and these cut-outs show "
            f"{len(labels.concepts)} and {len(labels.styles)}, or others; give the cut-outs that "
            "it was trained on."
        )
    found.evaluator.requires_grad_(True)
    return found.evaluator.train()


def _labelled(
    found: SceneSet, which: Scenes, first: int, labels: Labels, workshop: Workshop
) -> Labelled:
    entries = found.book.catalogue.entries
    things = [
        entries[s.layers[0].cutout] for s in found.book.scenes(range(first, first + len(which)))
    ]
    concept = torch.tensor([labels.concepts.index(e.hexcode) for e in things], dtype=torch.long)
    style = torch.tensor([labels.styles.index(e.style) for e in things], dtype=torch.long)
    pictures = found.pictures(which, workshop)
    return Labelled(pictures, concept.to(workshop.device), style.to(workshop.device))


def _unseen(
    section: SceneSection,
    share: float,
    entries: Sequence[CutoutEntry],
    labels: Labels,
    workshop: Workshop,
) -> Labelled | None:
    """Scenes of the drawings that models are tested on: a judge must know what it is to name."""
    count = round(section.count * share)
    if not count or not any(entry.split == HELDOUT_COMBO for entry in entries):
        return None
    part = section.model_copy(update={"count": count, "held_out": 0.0})
    found = open_scenes(part, workshop, split=HELDOUT_COMBO)
    return _labelled(found, found.train, 0, labels, workshop)


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(-1) == labels).float().sum()
