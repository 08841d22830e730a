"""Several models into one, tensor by tensor: the plan, its check, and the stream that makes it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from safelight.adapters.adapter import PARTS
from safelight.checkpoints.adapter_names import layers_of
from safelight.checkpoints.checkpoint import Checkpoint
from safelight.checkpoints.library import short_name
from safelight.checkpoints.load import with_other_vae
from safelight.checkpoints.made_by import MadeBy, ingredient
from safelight.checkpoints.parts import Part, listed
from safelight.checkpoints.save import Layout, left_behind, write_stocks
from safelight.checkpoints.stock import Stock, stock_of_part
from safelight.checkpoints.vae_file import open_vae
from safelight.checkpoints.vision_folder import clip_vision_part, has_clip_vision
from safelight.checkpoints.weight_file import TensorInfo
from safelight.merging.adapter_inputs import Given, given
from safelight.merging.applied import Read, adapted, check_strengths, wanted_of
from safelight.merging.blend import Blend, blended
from safelight.merging.plan import MergePlan, Taken
from safelight.merging.sources import CONV_IN, Progress, Reader, Source, compared, opened
from safelight.printable import shown


@dataclass(frozen=True, slots=True)
class Merged:
    """What was written, and what should be said of it."""

    path: Path
    made: MadeBy
    notes: tuple[str, ...]


def merge(
    plan: MergePlan,
    target: Path,
    layout: Layout,
    *,
    dtype: torch.dtype | None = None,
    vae: Path | None = None,
    prediction: str | None = None,
    zero_terminal_snr: bool | None = None,
    ema: bool = False,
    variant: str | None = None,
    adapters: Sequence[Taken] = (),
    progress: Progress = lambda done, whole: None,
) -> Merged:
    """Write the model that a plan makes of several, in a layout.

    dtype: None gives each tensor the first model's type. vae: a file or folder whose autoencoder
    goes in instead of a merged one. The other settings are of `load.open_checkpoint`, for every
    model. adapters: folded into the result, in this order, as attaching them would do. progress:
    told how many tensors are made, and of how many.

    One tensor of each model is in memory at a time, and the adapters. Where the weights leave one
    model alone, its tensors keep their bits. All else is the first model's: family, process, and
    the tensors that no other has.
    Raises CheckpointError for models that are not of one family, naming both, RequestError for a
    plan that does not fit them, and what opening and writing raise.
    """
    with ExitStack() as stack:
        settings = {
            "prediction": prediction,
            "zero_terminal_snr": zero_terminal_snr,
            "ema": ema or None,
            "variant": variant,
        }
        sources = opened(
            plan.paths,
            stack,
            prediction=prediction,
            zero_terminal_snr=zero_terminal_snr,
            ema=ema,
            variant=variant,
            own_vae=vae is None,
        )
        first, *others = sources
        notes = list(_said(sources))
        for other in others:
            notes += compared(first, other, wider=plan.wider)
        checkpoint, stocks = first.checkpoint, []
        put_on = given(adapters, checkpoint.family)
        layers = layers_of(checkpoint.family)
        check_strengths(put_on, [(each.part, each.path) for p in PARTS for each in layers.of(p)])
        notes += [note for each in put_on for note in each.notes]
        if vae is not None:
            found = open_vae(vae)
            stack.enter_context(found.file)
            checkpoint = with_other_vae(checkpoint, found, vae)
        for part in checkpoint.parts:
            if vae is not None and part.role == "vae":
                stocks.append(stock_of_part(part))
                continue
            stock, read, told = _merged(part, sources, plan, dtype)
            wanted = wanted_of(put_on, _named(part, checkpoint))
            stocks.append(adapted(stock, wanted, read) if wanted else stock)
            notes += told
        if layout == "diffusers" and has_clip_vision(first.path):
            seen = stack.enter_context(clip_vision_part(first.path, variant=variant))
            stocks.append(stock_of_part(seen))
        made = _made(plan, sources, put_on, vae, settings, dtype, notes)
        remarks = made.remarks(title=target.stem)
        stocks = list(_counted(stocks, progress))
        write_stocks(stocks, checkpoint.family, target, layout, dtype=dtype, remarks=remarks)
    return Merged(target, made, tuple(notes))


def _counted(stocks: Sequence[Stock], progress: Progress) -> Iterator[Stock]:
    """The same, telling of each tensor that is read for the first time."""
    whole = sum(len(stock.header) for stock in stocks)
    seen: set[tuple[str, str]] = set()

    def read(stock: Stock, name: str) -> Tensor:
        tensor = stock.read(name)
        seen.add((stock.role, name))
        progress(len(seen), whole)
        return tensor

    for stock in stocks:
        yield replace(stock, read=partial(read, stock))


def _named(part: Part, checkpoint: Checkpoint) -> str:
    """What adapters call a part: the only text encoder is the first to them."""
    texts = [each.role for each in checkpoint.parts if each.role.startswith("text")]
    return PARTS[1 + texts.index(part.role)] if part.role in texts else part.role


def _merged(
    part: Part, sources: Sequence[Source], plan: MergePlan, dtype: torch.dtype | None
) -> tuple[Stock, Read, list[str]]:
    """One part of the result, each of whose tensors is made when it is read, in any type."""
    role = part.role
    readers = [source.reader(role) for source in sources]
    mine = readers[0]
    assert mine is not None
    wheres = plan.wheres(sources[0].unet)
    header, blends = {}, {}
    for name, shape in mine.shapes.items():
        header[name] = TensorInfo(shape, dtype or mine.dtype(name))
        if all(reader is not None and name in reader for reader in readers):
            blends[name] = plan.blend(role, name, wheres)
    kept = [name for name in mine.shapes if name not in blends]
    notes = _differing(role, mine, readers, sources, kept)

    def read(name: str, wanted: torch.dtype) -> Tensor:
        if name not in blends:
            return mine.read(name).to(wanted)
        there = [reader for reader in readers if reader is not None]
        return _one(name, role, there, blends[name], wanted, plan.paths)

    def plain(name: str) -> Tensor:
        # What is not mixed is cast by whoever writes it, who says it if it does not fit.
        return read(name, header[name].dtype) if name in blends else mine.read(name)

    return Stock(role, part.config, header, plain), read, notes


def _one(
    name: str,
    role: str,
    readers: Sequence[Reader],
    blend: Blend,
    dtype: torch.dtype,
    paths: Sequence[Path],
) -> Tensor:
    """One tensor of the result; input channels that only the first model has are its own."""
    if name == CONV_IN and len({reader.shapes[name] for reader in readers}) > 1:
        wide, rest = readers[0].read(name), [reader.read(name) for reader in readers[1:]]
        count = min(tensor.shape[1] for tensor in rest)
        narrow = [tensor[:, :count].contiguous() for tensor in (wide, *rest)]
        own = blended(blend, [lambda t=t: t for t in narrow], dtype, (role, name), paths)  # type: ignore[misc]
        return torch.cat([own, wide[:, count:].to(dtype)], dim=1)
    reads: list[Callable[[], Tensor]] = [
        lambda reader=reader: reader.read(name)  # type: ignore[misc]
        for reader in readers
    ]
    return blended(blend, reads, dtype, (role, name), paths)


def _said(sources: Sequence[Source]) -> list[str]:
    """What the files themselves give reason to say, each once."""
    return [
        f"{source.path.name}: {note}"
        for source in sources
        for note in (*source.checkpoint.identity.notes, *left_behind(source.checkpoint))
    ]


def _differing(
    role: str,
    mine: Reader,
    readers: Sequence[Reader | None],
    sources: Sequence[Source],
    kept: Sequence[str],
) -> list[str]:
    """Which tensors only the first model has, and which only others."""
    first = sources[0].path.name
    notes = []
    if kept:
        lacking = [s.path.name for s, r in zip(sources, readers, strict=True) if _lacks(r, kept)]
        notes.append(
            f"{role}: {len(kept)} tensors are missing in {', '.join(map(shown, lacking))} and are "
            f"those of {shown(first)}: {listed(kept)}"
        )
    for source, reader in zip(sources[1:], readers[1:], strict=True):
        surplus = [] if reader is None else [name for name in reader.shapes if name not in mine]
        if surplus:
            notes.append(
                f"{role}: {len(surplus)} tensors of {shown(source.path.name)} are not in "
                f"{shown(first)} and are left out: {listed(surplus)}"
            )
    return notes


def _lacks(reader: Reader | None, names: Sequence[str]) -> bool:
    return reader is None or any(name not in reader for name in names)


def _made(
    plan: MergePlan,
    sources: Sequence[Source],
    adapters: Sequence[Given],
    vae: Path | None,
    settings: Mapping[str, object],
    dtype: torch.dtype | None,
    notes: Sequence[str],
) -> MadeBy:
    used = [
        ingredient(source.path, role, weights, _metadata(source.checkpoint))
        for source, (role, weights) in zip(sources, plan.told(), strict=True)
    ]
    used += [each.ingredient() for each in adapters]
    if vae is not None:
        used.append(ingredient(vae, "vae"))
    stated = {name: value for name, value in settings.items() if value is not None}
    typed = {} if dtype is None else {"dtype": short_name(dtype)}
    return MadeBy("merge", {**plan.settings(), **stated, **typed}, used, notes)


def _metadata(checkpoint: Checkpoint) -> Mapping[str, str]:
    return checkpoint.files[0].file.metadata
