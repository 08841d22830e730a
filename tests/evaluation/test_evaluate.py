"""A whole evaluation: a perfect model reaches its ceiling, a careless one falls to its floor."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from evaluation_scenes import INKS, LABELS, ORACLE, disc, noisy, plain, square
from safelight.checkpoints.evaluator_folder import LoadedEvaluator
from safelight.errors import RequestError
from safelight.evaluation.composition import CATEGORIES, Question
from safelight.evaluation.copies import Memory
from safelight.evaluation.evaluate import MODEL, REAL, evaluate, evaluate_composition
from safelight.evaluation.exam import Exam, judge_space, measured
from safelight.evaluation.intervals import Estimate, Share
from safelight.evaluation.pairs import Draw, Pairs, TextMatch
from safelight.evaluation.report import Report, markdown, write
from safelight.evaluation.sweep import sweep, sweep_plots, sweep_report, sweep_table
from safelight.measures.colours import BACKGROUNDS
from safelight.measures.facts import Facts

SIZE = 32
JUDGE = LoadedEvaluator(ORACLE, LABELS, "ab" * 32)


def rendered(facts: Facts, seed: int) -> Tensor:
    """A picture of the facts; the seed moves things about."""
    jitter = torch.rand(4, generator=torch.Generator().manual_seed(seed)).tolist()
    picture = plain(BACKGROUNDS[facts.background or "white"], SIZE)
    x, y = 0.48 + 0.04 * jitter[0], 0.48 + 0.04 * jitter[1]
    shape = square if facts.style == "flat" else disc
    ink = INKS[facts.hexcodes[0]]
    if facts.count > 1:
        for at in ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))[: facts.count]:
            picture = shape(picture, *at, 0.15 + 0.02 * jitter[2], ink)
        return picture
    if len(facts.hexcodes) == 2:
        x = 0.25 if facts.relation != "right of" else 0.75
        picture = shape(picture, 1 - x, y, 0.18, INKS[facts.hexcodes[1]])
        return shape(picture, x, y, 0.18, ink)
    return shape(picture, x, y, 0.3 + 0.05 * jitter[3], ink)


def asked(count: int) -> list[Question]:
    """Questions of five categories, each with a prompt of its own."""
    questions = []
    for i in range(count):
        code = "ABC"[i % 3]
        base = Facts("single", (code,), (code,))
        category, facts = (
            ("single object", base),
            ("style", replace(base, style=("flat", "glossy")[i % 2])),
            ("colours", replace(base, background=("teal", "white", "black")[i // 5 % 3])),
            ("counting", replace(base, count=2 + i // 5 % 3)),
            (
                "position",
                replace(base, hexcodes=(code, "BCA"[i % 3]), relation="left of"),
            ),
        )[i % 5]
        split = "held-out pairs" if i % 4 == 0 else "seen"
        questions.append(Question(f"prompt {i}", facts, category, split))
    return questions


def exam(count: int = 40) -> Exam:
    questions = tuple(asked(count))
    real = noisy([rendered(q.facts, 1000 + i) for i, q in enumerate(questions)], 0.02, 1)
    # Independent of the questions: two sets with the same facts would be too near to each other.
    picks = torch.randint(60, (80,), generator=torch.Generator().manual_seed(9)).tolist()
    pool = asked(60)
    other = noisy([rendered(pool[i].facts, 2000 + n) for n, i in enumerate(picks)], 0.02, 2)
    prompts, seeds = tuple(q.prompt for q in questions), tuple(range(count))
    space = judge_space(JUDGE)
    pairs = Pairs(prompts, seeds, real, other, space, dimensions=4, batch=16)
    return Exam(questions, JUDGE, pairs)


def changed(of: Exam, **changes: object) -> Exam:
    """The exam with another text net, batch or the like."""
    return replace(of, pairs=replace(of.pairs, **changes))  # type: ignore[arg-type]


def model(of: Exam, wrong: float = 0.0) -> Draw:
    """A model that draws what is asked, and another prompt's picture in a share of the cases."""
    facts = {q.prompt: q.facts for q in of.questions}
    known = list(facts)

    def draw(prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        pictures = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            place = known.index(prompt)
            if (place * 0.618) % 1 < wrong:
                prompt = known[(place + 7) % len(known)]
            pictures.append(rendered(facts[prompt], seed))
        return noisy(pictures, 0.02, seeds[0])

    return draw


def cells(report: Report, table: str, row: str) -> dict[str, object]:
    found = next(t for t in report.tables if t.title == table)
    return dict(zip(found.columns, found.rows[row], strict=True))


def share(cell: object) -> float:
    assert isinstance(cell, Share)
    return cell.value


def test_a_perfect_model_scores_what_real_pictures_score() -> None:
    of = exam()
    report = evaluate(of, model(of), model="toy")
    overall = cells(report, "Composition", "**overall** (mean of categories)")
    assert overall[MODEL] == overall[REAL] == 1.0
    assert float(str(overall["shuffled prompts"])) < 0.7
    assert float(str(overall["mean picture"])) < 0.5
    kernel = cells(report, "Distances and text match", "SL-eval32 KID")
    values = {name: cell.value for name, cell in kernel.items() if isinstance(cell, Estimate)}
    assert values[MODEL] == pytest.approx(values[REAL], abs=0.1 * values["mean picture"])
    assert abs(values[REAL]) < 0.5 * values["mean picture"]


def test_a_careless_model_lies_between_floor_and_ceiling() -> None:
    of = exam()
    report = evaluate(of, model(of, wrong=0.5), model="toy")
    strict = cells(report, "Composition", "all that the prompt says")
    assert share(strict["shuffled prompts"]) < share(strict[MODEL]) < share(strict[REAL])


def test_each_baseline_has_a_column_of_its_own() -> None:
    of = exam(20)
    retrieved = torch.stack([rendered(q.facts, 3000) for q in of.questions])
    report = evaluate(
        of,
        model(of),
        model="toy",
        unguided=model(of, wrong=1.0),
        again=lambda x: 1.5 * x,
        retrieved=retrieved,
        facts={"sampler": "euler"},
    )
    row = cells(report, "Composition", "all that the prompt says")
    assert list(row) == [
        MODEL,
        REAL,
        "codec ceiling",
        "nearest caption's picture",
        "no guidance",
        "shuffled prompts",
        "mean picture",
    ]
    assert share(row["nearest caption's picture"]) == 1 and share(row["no guidance"]) < 0.5
    psnr = cells(report, "Reconstruction of the reference pictures", "PSNR, dB")["autoencoder"]
    assert isinstance(psnr, Estimate) and psnr.value > 5
    assert report.facts["sampler"] == "euler"
    assert report.facts["evaluator SHA-256"] == "ab" * 32


def test_splits_are_told_apart() -> None:
    of = exam()
    marked = [q for q in of.questions if q.split == "held-out pairs"]
    facts = {q.prompt: q.facts for q in of.questions}

    def draw(prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """Never learned the held-out pairs."""
        lost = {q.prompt for q in marked}
        return torch.stack(
            [
                plain((248, 248, 248), SIZE) if p in lost else rendered(facts[p], s)
                for p, s in zip(prompts, seeds, strict=True)
            ]
        )

    report = evaluate(of, draw, model="toy")
    for split, expected in (("seen", 1.0), ("held-out pairs", 0.0)):
        row = cells(report, "By split", split)
        assert share(row["concept"]) == expected
        ceiling = cells(report, "By split", f"{split}, real renderings")
        assert share(ceiling["concept"]) == 1.0
    assert len(report.pictures["not-right.png"]) > 100
    # what was held out does not weigh in the score of what was seen
    overall = cells(report, "Composition", "**overall** (mean of categories)")
    assert overall["model"] == 1.0
    quick = evaluate_composition(of, draw, model="toy")
    assert [t.rows for t in quick.tables] == [
        {row: [t.rows[row][t.columns.index(c)] for c in q.columns] for row in q.rows}
        for q, t in zip(quick.tables, report.tables, strict=False)
    ]


def test_a_model_that_copies_is_reported() -> None:
    of = exam(20)
    training, held_out = (
        noisy([rendered(q.facts, seed + i) for i, q in enumerate(of.questions)], 0.02, seed)
        for seed in (7000, 8000)
    )
    memory = Memory(training, held_out, captions=of.pairs.prompts[:6], tries=2)

    def copying(prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        return training[[of.pairs.prompts.index(p) for p in prompts]]

    def below(draw: Draw) -> dict[str, object]:
        report = evaluate(of, draw, model="toy", memory=memory)
        assert report.pictures["nearest-training.png"][:4] == b"\x89PNG"
        return {
            row: cells(report, "Memorisation", row)["SL-eval32"]
            for row in ("nearer than the threshold", "copies, training captions: samples")
        }

    copies, honest = below(copying), below(model(of))
    near, far = copies["nearer than the threshold"], honest["nearer than the threshold"]
    assert isinstance(near, Estimate) and isinstance(far, Estimate)
    assert near.value == 1 and far.value < 0.35
    assert share(copies["copies, training captions: samples"]) == 1
    assert share(honest["copies, training captions: samples"]) < 0.35


def test_a_text_match_adds_its_rows() -> None:
    of = exam(20)
    facts = {q.prompt: q.facts for q in of.questions}

    def colour(pictures: Tensor) -> Tensor:
        return pictures[..., SIZE // 2, SIZE // 2] + 2

    def words(texts: Sequence[str]) -> Tensor:
        return torch.stack([plain(INKS[facts[t].hexcodes[0]])[:, 0, 0] + 2 for t in texts])

    of = changed(of, match=TextMatch("toy-clip", colour, words))
    report = evaluate(of, model(of), model="toy")
    row = cells(report, "Distances and text match", "CLIP score (toy-clip)")
    scores = {name: cell.value for name, cell in row.items() if isinstance(cell, Estimate)}
    assert scores[MODEL] > scores["shuffled prompts"]
    # twenty prompts are no hundred candidates
    assert cells(report, "Distances and text match", "R-precision (toy-clip)")[MODEL] is None


def test_a_report_is_the_same_again_and_is_written_whole(tmp_path: Path) -> None:
    of = exam(20)
    first, second = (evaluate(of, model(of), model="toy") for _ in range(2))
    assert markdown(first) == markdown(second) and first.pictures == second.pictures
    path = write(first, tmp_path / "report")
    values = json.loads((path.parent / "report.json").read_text())
    assert values["prompts"][3] == {"prompt": "prompt 3", "seed": 3}
    for name in values["pictures"]:
        assert (path.parent / name).read_bytes()[:4] == b"\x89PNG"


def test_measures_are_the_same_in_batches_of_any_size() -> None:
    of = exam(10)
    one, other = (measured(of.pairs.real, changed(of, batch=b)) for b in (3, 64))
    assert one.composition == other.composition


def test_wrong_numbers_are_refused() -> None:
    of = exam(10)
    with pytest.raises(RequestError, match="10 captions came with 9 seeds and 10 pictures"):
        changed(of, seeds=of.pairs.seeds[1:])
    for questions in (of.questions[1:], of.questions[::-1]):
        with pytest.raises(RequestError, match="came with other prompts than their own"):
            replace(of, questions=questions)


def test_a_shorter_exam_is_the_beginning_of_the_longer() -> None:
    of = exam(20)
    short = of.first(8, dimensions=2)
    assert short.questions == of.questions[:8] and short.pairs.dimensions == 2
    assert torch.equal(short.pairs.real, of.pairs.real[:8])
    assert measured(short.pairs.real, short).answers == measured(of.pairs.real, of).answers[:8]


def test_a_sweep_finds_the_value_that_draws_best() -> None:
    of = exam(20)
    found = sweep("carelessness", (0.9, 0.0, 0.5), lambda wrong: model(of, wrong), of)
    scores = {s.value: s.measures.composition.overall for s in found.stops}
    assert scores[0.0] > scores[0.5] > scores[0.9] and found.best.value == 0.0
    table = sweep_table(found, of)
    assert table.columns == ("0.9", "0", "0.5") and set(CATEGORIES) & set(scores) == set()
    assert table.rows["composition"][1] == 1.0 and "CLIP score" not in table.rows
    plots = sweep_plots(found, of)
    assert all(text.count("<circle") >= 3 for text in plots.values()) and len(plots) == 3
    report = sweep_report([found], of, model="toy")
    assert "![carelessness](carelessness.png)" in markdown(report)


def test_a_sweep_needs_different_values() -> None:
    of = exam(10)
    for values in ((), (1.0, 1.0)):
        with pytest.raises(RequestError, match="different values"):
            sweep("steps", values, lambda _: model(of), of)
