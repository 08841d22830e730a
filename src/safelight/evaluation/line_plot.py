"""Line plots as SVG: a text that browsers and repositories show; no plotting library."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 560, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 34, 48
# Told apart by colour-blind eyes too (Okabe and Ito 2008).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


@dataclass(frozen=True, slots=True)
class Point:
    """A place on a line, with the ends of its interval if it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


def line_plot(
    lines: Mapping[str, Sequence[Point]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    logarithmic: bool = False,
) -> str:
    """An SVG of lines by name, with whiskers for intervals.

    logarithmic: x in equal ratios; it must be above 0 then. Points whose numbers are not finite are
    left out, and an empty plot shows its axes only.
    """
    shown = {name: [p for p in line if _finite(p)] for name, line in lines.items()}
    points = [p for line in shown.values() for p in line]
    across = [math.log(p.x) if logarithmic else p.x for p in points] or [0.0, 1.0]
    up = [y for p in points for y in (p.y, p.low, p.high) if y is not None] or [0.0, 1.0]
    x_range, y_range = _widened(min(across), max(across)), _widened(min(up), max(up))

    def place(x: float, y: float) -> tuple[float, float]:
        x = math.log(x) if logarithmic else x
        wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        return (
            _LEFT + wide * (x - x_range[0]) / (x_range[1] - x_range[0]),
            _TOP + high * (1 - (y - y_range[0]) / (y_range[1] - y_range[0])),
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        _text(_WIDTH / 2, 20, title, "middle", size=14),
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, x_label, "middle"),
        f'<text transform="translate(14 {(_TOP + _HEIGHT - _BOTTOM) / 2:.1f}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text>',
    ]
    for y in ticks(*y_range):
        _, at = place(1.0, y)
        parts.append(_rule(_LEFT, at, _WIDTH - _RIGHT, at, "#dddddd"))
        parts.append(_text(_LEFT - 6, at + 4, f"{y:g}", "end"))
    known = sorted({p.x for p in points})
    for x in known if logarithmic or len(known) <= 8 else ticks(*x_range):
        at, _ = place(x, y_range[0])
        parts.append(_rule(at, _HEIGHT - _BOTTOM, at, _HEIGHT - _BOTTOM + 4, "#444444"))
        parts.append(_text(at, _HEIGHT - _BOTTOM + 18, f"{x:g}", "middle"))
    parts.append(_rule(_LEFT, _HEIGHT - _BOTTOM, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM, "#444444"))
    parts.append(_rule(_LEFT, _TOP, _LEFT, _HEIGHT - _BOTTOM, "#444444"))
    for i, (name, line) in enumerate(shown.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        line = sorted(line, key=lambda p: p.x)
        path = " ".join("{:.1f},{:.1f}".format(*place(p.x, p.y)) for p in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for p in line:
            x, y = place(p.x, p.y)
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
            if p.low is not None and p.high is not None:
                parts.append(_rule(x, place(p.x, p.low)[1], x, place(p.x, p.high)[1], colour))
        parts.append(_text(_WIDTH - _RIGHT - 4, _TOP + 14 + 16 * i, name, "end", colour=colour))
    return "\n".join([*parts, "</svg>\n"])


def ticks(low: float, high: float, fewest: int = 4) -> list[float]:
    """Round numbers between two ends, so many or up to thrice: steps of 1, 2, 5 or 10, 20, ..."""
    raw = (high - low) / fewest
    power = 10.0 ** math.floor(math.log10(raw))
    step = max(power * m for m in (1, 2, 5) if power * m <= raw * (1 + 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _widened(low: float, high: float) -> tuple[float, float]:
    """A range with a little air; one number alone gets a range around it."""
    air = 0.05 * (high - low) or 0.5 * abs(low) or 0.5
    return low - air, high + air


def _finite(point: Point) -> bool:
    ends = (point.x, point.y, point.low or 0.0, point.high or 0.0)
    return all(map(math.isfinite, ends))


def _text(
    x: float, y: float, words: str, anchor: str, *, size: int = 12, colour: str = "#222222"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="{colour}">{escape(words)}</text>'
    )


def _rule(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'
