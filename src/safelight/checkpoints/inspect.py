"""What a file or folder is, part by part, without building a model of it."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path

from safelight.checkpoints.adapter_file import file_in
from safelight.checkpoints.adapter_inspect import AdapterInspection, inspect_adapter
from safelight.checkpoints.checkpoint import Checkpoint, by_prefix
from safelight.checkpoints.control_file import FoundControl, open_control
from safelight.checkpoints.diffusers_folder import is_diffusers_folder, open_diffusers
from safelight.checkpoints.files import open_weights
from safelight.checkpoints.folders import open_folder
from safelight.checkpoints.hashes import folder_sha256, sha256
from safelight.checkpoints.identity import Layout
from safelight.checkpoints.keymap import Shape
from safelight.checkpoints.kinds import Finding, Kind, kind_of, made_for
from safelight.checkpoints.made_by import KEY as RECIPE
from safelight.checkpoints.parts import Part, PartReport
from safelight.checkpoints.single_file import open_single
from safelight.checkpoints.vae_file import STEM, FoundVae, open_vae
from safelight.checkpoints.weight_file import TensorInfo, WeightFile
from safelight.errors import CheckpointError, FileError
from safelight.printable import shown

CONTROLS = ("controlnet", "controlnet lllite", "t2i adapter")


@dataclass(frozen=True, slots=True)
class Misshapen:
    """A tensor whose shape is not what its part asks for."""

    name: str
    found: Shape
    expected: Shape


@dataclass(frozen=True, slots=True)
class PartInspection:
    """One part: how large, in which types, and how its names compare with what it needs.

    dtypes: number of tensors by type. used: number of tensors. The lists of names are whole.
    """

    role: str
    parameters: int
    dtypes: Mapping[str, int]
    used: int
    missing: tuple[str, ...] = ()
    surplus: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    misshapen: tuple[Misshapen, ...] = ()


@dataclass(frozen=True, slots=True)
class Inspection:
    """Everything that can be said of a checkpoint from names, shapes and remarks.

    kind: what it is ("model", "lora", ...). family, label: None unless it is a model we know.
    problem: why it cannot be loaded as it is; None if it can, or is no model.
    ignored, unknown: prefixes of tensors outside all parts, and how many there are of each.
    sha256: of the file, or of a folder's weights and settings together; None if not asked for.
    short_hash: the first 10 digits, which A1111 shows. metadata: the file's own remarks.
    adapter: of a LoRA and its kin, what it changes and what its file says of it.
    """

    path: str
    kind: Kind
    layout: Layout | None
    family: str | None
    label: str | None
    reason: str
    made_for: str
    prediction: str | None
    prediction_reason: str
    zero_terminal_snr: bool
    notes: tuple[str, ...]
    problem: str | None
    container: str
    size: int  # bytes of the weights files
    sha256: str | None
    short_hash: str | None
    parts: tuple[PartInspection, ...]
    ignored: tuple[tuple[str, int], ...]
    unknown: tuple[tuple[str, int], ...]
    metadata: Mapping[str, str]
    adapter: AdapterInspection | None = None

    @property
    def parameters(self) -> int:
        """Numbers in all parts together."""
        return sum(part.parameters for part in self.parts)

    def to_json(self) -> dict[str, object]:
        """The same as plain values for `json.dumps`."""
        return {**asdict(self), "parameters": self.parameters}


@dataclass(frozen=True, slots=True)
class _Seen:
    """What inspecting gave, before hashes."""

    finding: Finding
    made_for: str
    checkpoint: Checkpoint | None
    problem: str | None
    parts: tuple[PartInspection, ...]
    container: str
    metadata: Mapping[str, str]
    rest: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()
    adapter: AdapterInspection | None = None


def inspect(
    path: str | os.PathLike[str], *, variant: str | None = None, hashes: bool = True
) -> Inspection:
    """What a weights file or a Diffusers folder is; nothing of its weights is read but a few.

    variant: "fp16" and the like, of a folder's files. hashes: whether to read it all for SHA-256.
    Raises FileError if it cannot be opened. What cannot be loaded is told, not raised.
    """
    path = Path(path)
    seen = _folder(path, variant) if path.is_dir() else _file(path)
    checkpoint = seen.checkpoint
    identity = checkpoint.identity if checkpoint else None
    family = checkpoint.family if checkpoint else None
    digest = None
    if hashes:
        digest = folder_sha256(path) if path.is_dir() else sha256(path)
    return Inspection(
        path=shown(path),
        kind=seen.finding.kind,
        layout=identity.layout if identity else None,
        family=family.name if family else None,
        label=family.label if family else None,
        reason=identity.reason if identity else seen.finding.evidence,
        made_for=seen.made_for,
        prediction=identity.prediction if identity else None,
        prediction_reason=identity.prediction_reason if identity else "",
        zero_terminal_snr=family.process.zero_terminal_snr if family else False,
        notes=identity.notes if identity else seen.notes,
        problem=seen.problem,
        container=seen.container,
        size=_size(path, checkpoint),
        sha256=digest,
        short_hash=digest[:10] if digest else None,
        parts=seen.parts,
        ignored=by_prefix(checkpoint.ignored) if checkpoint else (),
        unknown=by_prefix(checkpoint.unknown) if checkpoint else seen.rest,
        metadata=dict(seen.metadata),
        adapter=seen.adapter,
    )


def _file(path: Path) -> _Seen:
    with open_weights(path) as file:
        shapes = {name: info.shape for name, info in file.header.items()}
        finding = kind_of(shapes)
        if finding.kind == "model":
            return _model(file, finding)
        if finding.kind in ("vae", "taesd"):
            return _vae(path, file, finding)
        if finding.kind in CONTROLS:
            return _control(path, file, finding)
        if finding.kind == "lora":
            return _adapter(file, finding)
        counts = by_prefix(file.header)
        part = _counted(finding.kind, file.header.values())
        return _Seen(
            finding, made_for(shapes), None, None, (part,), file.container, file.metadata, counts
        )


def _model(file: WeightFile, finding: Finding) -> _Seen:
    try:
        checkpoint = open_single(file)
    except CheckpointError as error:
        try:
            # Without an autoencoder of its own it is still a model, if it is given one.
            checkpoint = open_single(file, own_vae=False)
        except CheckpointError:
            part = _counted("model", file.header.values())
            counts = by_prefix(file.header)
            return _Seen(
                finding, "", None, str(error), (part,), file.container, file.metadata, counts
            )
        return _opened(checkpoint, finding, file.container, file.metadata, str(error))
    return _opened(checkpoint, finding, file.container, file.metadata)


def _vae(path: Path, file: WeightFile, finding: Finding) -> _Seen:
    try:
        found: FoundVae = open_vae(path)
    except CheckpointError as error:
        part = _counted(finding.kind, file.header.values())
        return _Seen(finding, "", None, str(error), (part,), file.container, file.metadata)
    with found.file:
        report = found.part.report()
        taken = set(found.part.tensors.names.values())
        rest = by_prefix(name for name in found.file.header if name not in taken)
        part = _inspected(found.part, report)
        problem = None if report.sound else _problem([report])
    return _Seen(finding, "", None, problem, (part,), file.container, file.metadata, rest)


def _control(path: Path, file: WeightFile, finding: Finding, variant: str | None = None) -> _Seen:
    try:
        found: FoundControl = open_control(path, variant)
    except CheckpointError as error:
        part = _counted(finding.kind, file.header.values())
        return _Seen(finding, "", None, str(error), (part,), file.container, file.metadata)
    with found:
        report = found.part.report()
        part = _inspected(found.part, report)
        problem = None if report.sound else _problem([report])
        if found.kind == "ControlLoRA":
            # what it lacks is in the model that it changes
            part, problem = _counted("control", found.file.header.values()), None
        reason = found.reason
        if found.needs_base:
            reason += "; it holds only what it changes, so it needs the model it is for"
        whole = Finding(finding.kind, f"{found.kind}: {reason}")
        return _Seen(
            whole,
            f"for {found.made_for}",
            None,
            problem,
            (part,),
            file.container,
            file.metadata,
            by_prefix(found.others),
            found.notes,
        )


def _adapter(file: WeightFile, finding: Finding) -> _Seen:
    seen = inspect_adapter(file)
    fits = made_for({name: info.shape for name, info in file.header.items()})
    if not fits and seen.family:
        fits = f"for {seen.family}"
    part = _counted(finding.kind, file.header.values())
    return _Seen(
        finding,
        fits,
        None,
        seen.problem,
        (part,),
        file.container,
        file.metadata,
        by_prefix(seen.unmatched),
        seen.notes,
        seen,
    )


def _folder(path: Path, variant: str | None) -> _Seen:
    finding = Finding("model", "model_index.json")
    if is_diffusers_folder(path):
        with open_diffusers(path, variant=variant) as checkpoint:
            kinds = {opened.file.container for opened in checkpoint.files}
            told = checkpoint.files[0].file.metadata
            made = {name: told[name] for name in (RECIPE,) if name in told}
            return _opened(checkpoint, finding, " and ".join(sorted(kinds)), made)
    if not (path / "config.json").is_file():
        if (adapter := _adapter_in(path)) is not None:
            return _file(adapter)
        raise FileError(
            f"{shown(path)} is no model: it holds neither model_index.json nor config.json"
        )
    for stem in (STEM, "model"):
        try:
            file = open_folder(path, stem, variant)
        except FileError:
            continue
        with file:
            if stem == STEM and (kind := kind_of(_shapes(file))).kind in ("vae", "taesd"):
                return _vae(path, file, kind)
            part = _counted("part", file.header.values())
            counts = by_prefix(file.header)
            kind = kind_of(_shapes(file))
            if kind.kind in CONTROLS:
                return _control(path, file, kind, variant)
            fits = made_for(_shapes(file))
            return _Seen(kind, fits, None, None, (part,), file.container, file.metadata, counts)
    raise FileError(f"{shown(path)} holds a config.json but no weights")


def _adapter_in(folder: Path) -> Path | None:
    try:
        return file_in(folder)
    except FileError:
        return None


def _opened(
    checkpoint: Checkpoint,
    finding: Finding,
    container: str,
    metadata: Mapping[str, str],
    problem: str | None = None,
) -> _Seen:
    reports = [part.report() for part in checkpoint.parts]
    if problem is None and not all(report.sound for report in reports):
        problem = _problem(reports)
    parts = tuple(
        _inspected(part, report) for part, report in zip(checkpoint.parts, reports, strict=True)
    )
    return _Seen(finding, "", checkpoint, problem, parts, container, metadata)


def _problem(reports: list[PartReport]) -> str:
    missing = sum(len(report.missing) for report in reports)
    surplus = sum(len(report.surplus) for report in reports)
    misshapen = sum(len(report.misshapen) for report in reports)
    tensors = "tensor" if missing == 1 else "tensors"
    return f"{missing} {tensors} missing, {surplus} surplus, {misshapen} of another shape"


def _inspected(part: Part, report: PartReport) -> PartInspection:
    infos = [part.tensors.file.header[name] for name in report.used]
    counted = _counted(part.role, infos)
    return PartInspection(
        role=part.role,
        parameters=counted.parameters,
        dtypes=counted.dtypes,
        used=len(report.used),
        missing=report.missing,
        surplus=report.surplus,
        ignored=report.ignored,
        misshapen=tuple(Misshapen(*each) for each in report.misshapen),
    )


def _counted(role: str, infos: Iterable[TensorInfo]) -> PartInspection:
    infos = list(infos)
    dtypes = Counter(str(info.dtype).removeprefix("torch.") for info in infos)
    return PartInspection(role, sum(prod(info.shape) for info in infos), dict(dtypes), len(infos))


def _shapes(file: WeightFile) -> dict[str, Shape]:
    return {name: info.shape for name, info in file.header.items()}


def _size(path: Path, checkpoint: Checkpoint | None) -> int:
    if checkpoint is not None:
        return sum(p.stat().st_size for opened in checkpoint.files for p in opened.paths)
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.iterdir() if p.suffix in (".safetensors", ".bin"))
