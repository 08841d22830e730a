"""The reference pages that are made from the code's own tables."""

from pathlib import Path

from safelight.diffusion.samplers import SAMPLERS, Option
from safelight.diffusion.schedules import SCHEDULES, aliases_of, resolve_schedule
from safelight.families import FAMILIES

FOLDER = Path(__file__).parent.parent / "docs" / "reference"


def samplers_page() -> str:
    """Samplers and schedules with their names elsewhere."""
    lines = [
        "# Samplers and schedules",
        "",
        "Made by `scripts/reference` from the tables in the code.",
        "",
        "## Samplers",
        "",
        "All work with every prediction (eps, v, x0, flow, edm). Names are free in case, spaces",
        "and hyphens; A1111's old labels that hold the schedule (`DPM++ 2M Karras`) are split.",
        "",
        "| sampler | what it is | calls a step | fresh noise | its schedule | options "
        "| also called |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {info.label} | {info.meaning} | {info.calls_per_step} | "
        f"{'yes' if info.stochastic else ''} | {resolve_schedule(info.default_schedule).label} | "
        f"{', '.join(_option(option) for option in info.parameters)} | "
        f"{', '.join(f'`{alias}`' for alias in (info.name, *info.aliases))} |"
        for info in SAMPLERS.values()
    ]
    lines += [
        "",
        "## Schedules",
        "",
        "| schedule | how the levels are spaced | options | also called |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {schedule.label} | {_first_sentence(schedule.spacing.__doc__)} | "
        f"{', '.join(schedule.options)} | "
        f"{', '.join(f'`{alias}`' for alias in (schedule.name, *aliases_of(schedule)))} |"
        for schedule in SCHEDULES.values()
    ]
    return "\n".join([*lines, ""])


def families_page() -> str:
    """The model families and what the library knows of each."""
    lines = [
        "# Model families",
        "",
        "Made by `scripts/reference` from the table in the code. Other shapes work too if they are",
        "consistent.",
        "",
        "| name | family | made for | side | input channels | text width | prediction |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{family.name}` | {family.label} | {family.task} | {family.native_size} | "
        f"{family.backbone.in_channels} | {family.backbone.context_width} | "
        f"{family.process.prediction} |"
        for family in FAMILIES.values()
    ]
    return "\n".join([*lines, ""])


PAGES = {"samplers.md": samplers_page, "families.md": families_page}


def _option(option: Option) -> str:
    default = f"{option.default:g}" if isinstance(option.default, float) else option.default
    return f"{option.name} ({default})"


def _first_sentence(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
        print(FOLDER / name)
