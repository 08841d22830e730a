#!/usr/bin/env python3
"""Train the model that Safelight carries, stage by stage, in slices that each fit a short lease.

    python scripts/gpu/train_embedded.py --pairs data/emoji-pairs \
        --teacher data/teacher.safetensors --work runs/embedded --out out/embedded --minutes 8
    python scripts/gpu/train_embedded.py ... --device cpu --dry      # minutes: proves the plumbing

The stages are the configs in scripts/embedded: evaluator, clip, autoencoder, diffusion, decoder
(the autoencoder's, which learns on alone) and edge-control (a ControlNet for the diffusion model).
A stage that is done is not done again, one that was cut off goes on from its checkpoint, and the
same command goes on until all are done (exit code 0; 75 while there is more to do).

Every slice leaves what there is in OUT: the results of finished stages, and the newest average of
the stage that was cut off, so nothing is lost with the machine. Results of an earlier lease are
taken over by laying them in WORK/STAGE/model; --skip leaves stages out. --set STAGE.KEY=VALUE
changes a config.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safelight.cli.training import Wish, work
from safelight.training import saving

CONFIGS = Path(__file__).resolve().parent.parent / "embedded"
STAGES = ("evaluator", "clip", "autoencoder", "diffusion", "decoder", "edge-control")
MORE = 75  # EX_TEMPFAIL: the same command goes on
MARGIN = 20.0  # seconds that writing takes at the end of a slice
DRY = (
    "data.count=64",
    "data.size=64",
    "training.batch_size=8",
    "training.steps=6",
    "training.warmup_steps=1",
    "training.log_every=2",
    "training.validate_every=3",
    "training.compile=false",
)
DRY_OF = {
    "clip": ("clip.vocabulary_size=2000",),
    "autoencoder": ("autoencoder.widths=[16,16,16,16]", "autoencoder.groups=8"),
    "diffusion": (
        "model.unet.channels=[32,32]",
        "model.unet.depths=[[0],[1]]",
        "model.unet.heads=[1,1]",
        "previews.steps=2",
    ),
    "edge-control": ("previews.count=2", "previews.steps=2"),
}


@dataclass(frozen=True)
class Slice:
    """One call: where everything is, and until when there is time."""

    pairs: Path
    teacher: Path
    work: Path
    out: Path
    device: str
    dry: bool
    changes: tuple[str, ...]
    until: float

    def left(self) -> float:
        return self.until - time.monotonic()

    def result(self, stage: str) -> Path:
        return self.work / stage / "model"

    def wishes(self, stage: str) -> tuple[str, ...]:
        """What of the stage's config is other than the file says."""
        paths = {
            "clip": [f"loss.teacher={self.teacher}"],
            "autoencoder": [f"loss.image_encoder={self.result('clip') / 'image_encoder'}"],
            "diffusion": [
                f"model.autoencoder={self.result('autoencoder')}",
                f"model.text={self.result('clip')}",
            ],
            "decoder": [
                f"autoencoder.checkpoint={self.result('autoencoder')}",
                f"loss.image_encoder={self.result('clip') / 'image_encoder'}",
            ],
            "edge-control": [f"model.checkpoint={self.result('diffusion')}"],
        }
        prefix = f"{stage}."
        return (
            f"folder={self.work / stage}",
            f"data.path={self.pairs}",
            f"device={self.device}",
            *paths.get(stage, []),
            *(DRY + DRY_OF.get(stage, ()) if self.dry else ()),
            *(text.removeprefix(prefix) for text in self.changes if text.startswith(prefix)),
        )

    def trained(self, stage: str) -> bool:
        """Train a stage for as long as there is time; whether it is done."""
        if self.result(stage).exists():
            return True
        if self.left() < 2 * MARGIN:
            return False
        config = CONFIGS / f"{stage}.toml"
        until = f"{self.left() - MARGIN:.0f}s"
        work(Wish(config, self.wishes(stage), until=until))
        return self.result(stage).exists()

    def rescued(self, stage: str) -> Path | None:
        """The newest weights of a stage that is not done, as it would be written at its end."""
        if saving.newest(self.work / stage) is None:
            return None
        path = self.work / f"{stage}-so-far"
        shutil.rmtree(path, ignore_errors=True)
        wish = Wish(CONFIGS / f"{stage}.toml", self.wishes(stage), export=self.kind(stage), to=path)
        return path if work(wish) == 0 else None

    def kind(self, stage: str) -> str:
        newest = saving.newest(self.work / stage)
        assert newest is not None
        kept = saving.load_state(newest).settings.get("ema")
        return str(kept[0]) if isinstance(kept, list) and kept else "last"

    def deliver(self, name: str, path: Path) -> None:
        target = self.out / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(path, target)


def run(lease: Slice, stages: Sequence[str]) -> int:
    """Do the stages in their order; gives the exit code."""
    done: list[str] = []
    for stage in stages:
        if not lease.trained(stage):
            rescued = lease.rescued(stage)
            if rescued is not None:
                lease.deliver(f"{stage}-so-far", rescued)
            break
        done.append(stage)
        lease.deliver(stage, lease.result(stage))
    for sheets in lease.work.glob("*/previews"):
        lease.deliver(f"{sheets.parent.name}-previews", sheets)
    for log in lease.work.glob("*/log.jsonl"):
        shutil.copy(log, lease.out / f"{log.parent.name}.jsonl")
    print(json.dumps({"done": done, "left": [s for s in stages if s not in done]}), flush=True)
    return 0 if len(done) == len(stages) else MORE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=Path, required=True, help="cut-outs: shards or one file")
    parser.add_argument("--teacher", type=Path, required=True, help="of scripts/teach_text.py")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--skip", choices=STAGES, nargs="*", default=[])
    parser.add_argument("--set", metavar="STAGE.KEY=VALUE", action="append", default=[])
    parser.add_argument("--dry", action="store_true", help="everything a hundred times smaller")
    given = parser.parse_args()
    strange = [text for text in given.set if text.partition(".")[0] not in STAGES]
    if strange:
        parser.error(f"--set {strange[0]}: name a stage first, one of {', '.join(STAGES)}")
    given.out.mkdir(parents=True, exist_ok=True)
    lease = Slice(
        given.pairs, given.teacher, given.work, given.out, given.device, given.dry,
        tuple(given.set), time.monotonic() + 60 * given.minutes,
    )  # fmt: skip
    return run(lease, [stage for stage in STAGES if stage not in given.skip])


if __name__ == "__main__":
    sys.exit(main())
