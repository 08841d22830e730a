"""The recipe of a CLIP: pictures and captions by contrast, with words of its own."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safelight.checkpoints.tokenizer_files import read_vocabulary
from safelight.errors import FileError, RequestError
from safelight.models.clip import ClipTextConfig, ClipVisionConfig
from safelight.printable import shown
from safelight.text.bpe import Tokenizer
from safelight.text.chunks import caption_ids
from safelight.text.vocabulary import CLIP_VOCABULARY, Vocabulary
from safelight.training.captions import caption
from safelight.training.clip.judging import retrieval
from safelight.training.clip.network import ClipNetwork
from safelight.training.clip.phrase_data import PhraseTable, TaughtPairs, token_rows
from safelight.training.clip.task import PLAYER, ClipBatch, ClipSettings, ClipTask
from safelight.training.clip.teacher import Teacher, read_teacher
from safelight.training.clip.vocabulary import learn_vocabulary
from safelight.training.config.configs import ClipRun
from safelight.training.config.sections import PictureSection
from safelight.training.draw import Draw, stream
from safelight.training.order import Flat, Order
from safelight.training.recipes.job import Job, Weights, Workshop, judged_weights, size_of
from safelight.training.recipes.pictures import PictureSet, open_pictures
from safelight.training.recipes.rows import Captioned, KeptPairs
from safelight.training.recipes.said import seen_and_said
from safelight.training.recipes.scenes import Scenes, SceneSet, open_scenes
from safelight.training.recipes.writing import DTYPES, write_clip
from safelight.training.task import Data
from safelight.training.watch import Moment

PHRASE_TOKENS = 32
JUDGED = 64  # pairs embedded at a time


@dataclass(frozen=True)
class _Pairs:
    train: Data[ClipBatch]
    held: Data[ClipBatch]
    order: Order
    resident: int = 0


def clip_job(config: ClipRun, workshop: Workshop) -> Job:
    """A CLIP that learns which caption belongs to which picture.

    Raises what reading data and files raises, RequestError for shapes that do not fit.
    """
    settings = config.training.settings()
    teacher = None if config.loss.teacher is None else read_teacher(Path(config.loss.teacher))
    data = config.data
    if isinstance(data, PictureSection):
        pictures = open_pictures(data, workshop, captions=True, square=True)
        facts, texts = pictures.facts, _texts(pictures)
    else:
        scenes = open_scenes(data, workshop)
        facts, texts = scenes.facts, scenes.words
    vocabulary = _vocabulary(config, texts, teacher)
    tokenizer = Tokenizer(vocabulary=vocabulary)
    _tell_cut(texts, tokenizer, config.clip.caption_tokens, workshop)
    if isinstance(data, PictureSection):
        pairs = _of_pictures(pictures, config, data, tokenizer, workshop)
    else:
        pairs = _of_scenes(scenes, config, tokenizer, workshop)
    train = pairs.train
    if teacher is not None:
        table = PhraseTable.of(teacher, tokenizer, length=PHRASE_TOKENS, device=workshop.device)
        train = TaughtPairs(train, table, config.loss.phrases)
        facts = (*facts, f"{len(table)} phrases of a teacher, {config.loss.phrases} to each pair")
    network = _network(config, vocabulary, teacher).to(workshop.device)
    task = ClipTask(network, _settings(config))

    def look(moment: Moment) -> Mapping[str, float]:
        if len(pairs.held) < 2:
            return {}
        with judged_weights(moment):
            found = retrieval(network, _batches(pairs.held, workshop))
        return {f"held_out/{name}": value for name, value in found.items()}

    def write(weights: Weights, path: Path) -> list[Path]:
        network.load_state_dict(weights[PLAYER], strict=True)
        dtype = DTYPES[config.export.dtype or "fp32"]
        scale = round(network.log_scale.item(), 6)
        return write_clip(path, network.text, network.vision, vocabulary, dtype, logit_scale=scale)

    own = "" if vocabulary == CLIP_VOCABULARY else " of its own"
    return Job(
        task,
        train,
        pairs.order,
        settings,
        write,
        (PLAYER,),
        look,
        (*facts, f"a vocabulary{own} of {vocabulary.size} tokens"),
        (),
        pairs.resident,
        identity={"vocabulary": vocabulary.digest},
    )


def _texts(pictures: PictureSet) -> list[str]:
    """All captions to learn from, as they are written and as they may be dressed."""
    source = pictures.train.source
    texts: list[str] = []
    for index in range(len(source)):
        example = source.example(index)
        texts += example.captions
        texts.append(caption(example, pictures.wording, stream(0, "vocabulary", index)))
    return texts


def _vocabulary(config: ClipRun, texts: Sequence[str], teacher: Teacher | None) -> Vocabulary:
    given = config.clip.vocabulary
    if given == "clip":
        return CLIP_VOCABULARY
    if given == "learned":
        counts = Counter(texts)
        counts.update(teacher.phrases if teacher is not None else ())
        return learn_vocabulary(counts, config.clip.vocabulary_size)
    folder = Path(given)
    inner = folder / "tokenizer"
    found = read_vocabulary(inner if inner.is_dir() else folder)
    if found is None:
        raise FileError(
            f'clip.vocabulary is "learned", "clip" or a folder with a tokenizer; {shown(given)} '
            "holds none"
        )
    return found


def _tell_cut(texts: Sequence[str], tokenizer: Tokenizer, length: int, workshop: Workshop) -> None:
    distinct = list(dict.fromkeys(texts))
    eos = tokenizer.vocabulary.eos
    cut = [t for t in distinct if _tokens(caption_ids(t, tokenizer), eos) > length]
    if cut:
        workshop.warn(
            f"{len(cut)} of {len(distinct)} captions are longer than {length} tokens, and their "
            f"ends are left out: {', '.join(shown(text, 60) for text in cut[:3])}"
        )


def _tokens(ids: Sequence[int], eos: int) -> int:
    """Tokens up to the first end."""
    return list(ids).index(eos) + 1 if eos in ids else len(ids) + 1


def _of_pictures(
    pictures: PictureSet,
    config: ClipRun,
    section: PictureSection,
    tokenizer: Tokenizer,
    workshop: Workshop,
) -> _Pairs:
    training, length = config.training, config.clip.caption_tokens
    order = pictures.order(training.batch_size, training.seed, workshop)
    learn = pictures.data(pictures.train, section, workshop, words=True, order=order)
    held = pictures.data(pictures.held, section, workshop, words=True)
    return _Pairs(Captioned(learn, tokenizer, length), Captioned(held, tokenizer, length), order)


def _of_scenes(
    scenes: SceneSet, config: ClipRun, tokenizer: Tokenizer, workshop: Workshop
) -> _Pairs:
    training = config.training
    first = config.data.count if not isinstance(config.data, PictureSection) else 0
    train = _kept(scenes, scenes.train, 0, config, tokenizer, workshop)
    held = _kept(scenes, scenes.held, first, config, tokenizer, workshop)
    order = Flat(len(train), training.batch_size, training.seed)
    tensors = [t for side in (train, held) for t in (side.pictures, side.tokens)]
    return _Pairs(train, held, order, size_of(*tensors))


def _kept(
    scenes: SceneSet,
    which: Scenes,
    first: int,
    config: ClipRun,
    tokenizer: Tokenizer,
    workshop: Workshop,
) -> KeptPairs:
    told = scenes.book.scenes(range(first, first + len(which)))
    seen, said = seen_and_said(told, scenes.book.catalogue)
    tokens = token_rows(which.captions, tokenizer, config.clip.caption_tokens)
    pictures = scenes.pictures(which, workshop)
    device = workshop.device
    return KeptPairs(pictures, tokens.to(device), seen.to(device), said.to(device))


def _network(config: ClipRun, vocabulary: Vocabulary, teacher: Teacher | None) -> ClipNetwork:
    clip, side = config.clip, config.data.size
    for name, tower in (("text", clip.text), ("vision", clip.vision)):
        if tower.width % tower.heads:
            raise RequestError(
                f"clip.{name}.width must be a multiple of its heads; got {tower.width} and "
                f"{tower.heads}"
            )
    if side % clip.vision.patch:
        raise RequestError(
            f"data.size must be a multiple of clip.vision.patch; got {side} and {clip.vision.patch}"
        )
    text = ClipTextConfig(
        **clip.text.model_dump(),
        activation=clip.activation,
        projection=clip.projection,
        vocabulary=vocabulary.size,
        eos_id=vocabulary.eos,
    )
    vision = ClipVisionConfig(
        **clip.vision.model_dump(),
        activation=clip.activation,
        projection=clip.projection,
        image_size=side,
    )
    width = 256 if teacher is None else int(teacher.vectors.shape[1])
    network = ClipNetwork(text, vision, teacher_width=width, seed=config.training.seed)
    return network.for_sigmoid_loss() if config.loss.kind == "sigmoid" else network


def _settings(config: ClipRun) -> ClipSettings:
    loss = config.loss
    return ClipSettings(
        loss=loss.kind,
        taught=loss.taught,
        matched=loss.matched,
        temperature=loss.temperature,
        crop=loss.crop,
        blur=loss.blur,
        noise=loss.noise,
        thinned=loss.thinned,
    )


def _batches(data: Data[ClipBatch], workshop: Workshop) -> list[ClipBatch]:
    count = len(data)
    return [
        data.batch(
            range(start, min(start + JUDGED, count)),
            Draw(0, 0, count, start, min(JUDGED, count - start), workshop.device),
        )
        for start in range(0, count, JUDGED)
    ]
