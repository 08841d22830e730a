"""What a benchmark found, as tables for a terminal."""

from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from safelight.benchmarks.report import Line
from safelight.cli.display import duration


def heading(lines: Sequence[Line]) -> str:
    """The machine, and what was asked, in two lines."""
    machine = next(line for line in lines if line["kind"] == "machine")
    asked = next(line for line in lines if line["kind"] == "asked")
    width, height = _list(asked["size"])
    guided = "" if asked["guidance"] == 1 else ", guidance"
    return (
        f"{machine['processor']}, {machine['threads']} threads, {machine['memory_gb']} GB; "
        f"torch {machine['torch']}, safelight {machine['safelight']}\n"
        f"{asked['geometry']}, {width}x{height}, batch {asked['batch']}{guided}"
    )


def tables(lines: Sequence[Line]) -> Iterator[Table]:
    """The figures of all contenders, and where the time of a step goes."""
    measured = [line for line in lines if line["kind"] == "measured"]
    if measured:
        yield _figures(measured, [line for line in lines if line["kind"] == "ratio"])
    for line in lines:
        if line["kind"] == "roofline":
            yield _roofline(line)


def caveats(lines: Sequence[Line]) -> list[str]:
    """What must be said beside the figures: who drew the same request, and did other work."""
    from safelight.diffusion.samplers import resolve_sampler_and_schedule

    steps = next(line["steps"] for line in lines if line["kind"] == "asked")
    told = []
    for line in lines:
        if line["kind"] == "measured" and "preset" in line:
            recipe = line["recipe"]
            assert isinstance(recipe, dict)
            sampler, _ = resolve_sampler_and_schedule(str(recipe["sampler"]))
            told.append(
                f"{line['work']}: {line['contender']} did not do the same work: the same request, "
                f"in {recipe['steps']} steps of {sampler.label} where those without a preset took "
                f"{steps} of Euler."
            )
    return told


def _figures(measured: Sequence[Line], ratios: Sequence[Line]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("work", "contender"):
        table.add_column(name)
    for name in ("median", "quartiles", "memory", "GFLOP/s", "ours / theirs", "apart"):
        table.add_column(name, justify="right")
    drift = any("psnr" in line for line in measured)
    if drift:
        table.add_column("PSNR", justify="right")
    for line in measured:
        unit = str(line["unit"])
        table.add_row(
            str(line["work"]),
            Text(str(line["contender"])),
            figure(line["median"], unit),
            f"{figure(line['low'], unit)} to {figure(line['high'], unit)}",
            figure(line["peak_bytes"], "B") if "peak_bytes" in line else "",
            f"{_number(line['gflop_s']):.0f}" if "gflop_s" in line else "",
            "\n".join(_ratio(one) for one in ratios if _about(one, line)),
            _apart(line),
            *([f"{_number(line['psnr']):.1f} dB" if "psnr" in line else ""] if drift else []),
        )
    return table


def _about(ratio: Line, line: Line) -> bool:
    """Whether a ratio belongs in a contender's row: a peer's, or that of another engine of ours."""
    same = ratio["work"] == line["work"] and ratio["precision"] == line["precision"]
    peer = line["library"] != "safelight"
    return same and line["contender"] == ratio["theirs" if peer else "ours"] and (
        peer or str(ratio["theirs"]).startswith("safelight ")
    )  # fmt: skip


def _ratio(line: Line) -> str:
    low, median, high = (_number(line[name]) for name in ("low", "median", "high"))
    ours, _ = _list(line["presets"]) if "presets" in line else ("", "")
    return f"{ours} {median:.3f} ({low:.3f} to {high:.3f})".lstrip()


def _apart(line: Line) -> str:
    return f"{_number(line['apart']):.1e}" if "apart" in line else ""


def figure(value: object, unit: str) -> str:
    """A number in its unit, short."""
    number = _number(value)
    if unit == "B":
        return f"{number / 1e9:.2f} GB"
    return f"{number:.1f} %" if unit == "%" else duration(number)


def _roofline(line: Line) -> Table:
    peaks = line["peaks_gflop_s"]
    assert isinstance(peaks, dict)
    told = ", ".join(f"{name} {_number(value):.0f}" for name, value in peaks.items())
    table = Table(
        box=None,
        pad_edge=False,
        header_style="bold",
        title=Text(
            f"{line['contender']}: a step of {duration(_number(line['step_ms']) / 1e3)} at "
            f"{_number(line['gflop_s']):.0f} GFLOP/s; peaks: {told}"
        ),
        title_justify="left",
    )
    table.add_column("operation")
    for name in ("share of time", "GFLOP", "GFLOP/s", "of the peak"):
        table.add_column(name, justify="right")
    for row in _list(line["operations"]):
        assert isinstance(row, dict)
        counted = "gflop" in row
        table.add_row(
            str(row["kind"]),
            f"{_number(row['share_of_time']):.1%}",
            f"{_number(row['gflop']):.1f}" if counted else "",
            f"{_number(row['gflop_s']):.0f}" if counted else "",
            f"{_number(row['share_of_peak']):.0%}" if counted else "",
        )
    return table


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)


def _list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value
