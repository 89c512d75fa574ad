"""Small pictures for the Dagster UI, drawn as SVG by hand: a plotting library costs a run more than all its work.

Belongs here: how numbers look. Does not belong here: where the numbers come from (`ahi.overview`).
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import dagster as dg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Paul Tol's bright palette: told apart by people who see fewer colours.
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee8866", "#bbbbbb")
WIDTH, ROW, LEFT, RIGHT = 640, 22, 170, 90


def stacked(title: str, bars: Mapping[str, Mapping[str, float]], unit: str = "") -> dg.MarkdownMetadataValue:
    """A row for each name, its parts side by side, and their sum at the end."""
    parts = list(dict.fromkeys(part for bar in bars.values() for part in sorted(bar)))
    colour = {part: COLOURS[number % len(COLOURS)] for number, part in enumerate(parts)}
    longest = max((sum(bar.values()) for bar in bars.values()), default=0) or 1
    shapes = []
    for number, (name, bar) in enumerate(bars.items()):
        top, x = 58 + number * ROW, float(LEFT)
        shapes.append(_text(LEFT - 8, top + 14, name, anchor="end"))
        for part in parts:
            if wide := bar.get(part, 0) / longest * (WIDTH - LEFT - RIGHT):
                shapes.append(_box(x, top, wide, colour[part]))
                x += wide
        shapes.append(_text(x + 6, top + 14, f"{sum(bar.values()):,.4g}{unit}"))
    return _picture(title, 64 + len(bars) * ROW, [*_legend([(part, colour[part]) for part in parts]), *shapes])


def paired(title: str, rows: Mapping[str, tuple[float, float]], names: tuple[str, str]) -> dg.MarkdownMetadataValue:
    """A row for each name with two values, one over the other, in seconds."""
    longest, shapes = max((max(pair) for pair in rows.values()), default=0) or 1, []
    for number, (name, pair) in enumerate(rows.items()):
        top = 58 + number * ROW
        shapes.append(_text(LEFT - 8, top + 14, name, anchor="end"))
        for at, value in enumerate(pair):
            shapes.append(_box(LEFT, top + at * 9, value / longest * (WIDTH - LEFT - RIGHT), COLOURS[at], height=8))
        end = LEFT + max(pair) / longest * (WIDTH - LEFT - RIGHT)
        shapes.append(_text(end + 6, top + 14, " / ".join(f"{value:.3g}" for value in pair) + " s"))
    return _picture(title, 64 + len(rows) * ROW, [*_legend(list(zip(names, COLOURS, strict=False))), *shapes])


def _legend(entries: Sequence[tuple[str, str]]) -> list[str]:
    if entries == [("", COLOURS[0])]:
        return []
    return [
        shape
        for number, (name, colour) in enumerate(entries)
        for shape in (_box(12 + number * 78, 34, 10, colour, height=10), _text(26 + number * 78, 43, name))
    ]


def _box(x: float, y: float, width: float, colour: str, *, height: int = ROW - 5) -> str:
    return f'<rect x="{x:.1f}" y="{y}" width="{max(width, 1):.1f}" height="{height}" fill="{colour}"/>'


def _text(x: float, y: float, words: str, *, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y}" font-size="{size}" text-anchor="{anchor}">{escape(words)}</text>'


def _picture(title: str, height: int, shapes: Sequence[str]) -> dg.MarkdownMetadataValue:
    # A ground of its own: the UI has a dark theme too.
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" '
        f'fill="#333"><rect width="100%" height="100%" fill="#fff"/>{_text(12, 22, title, size=15)}'
        f"{''.join(shapes)}</svg>"
    )
    return dg.MetadataValue.md(f"![{title}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})")


def line(title: str, points: Sequence[tuple[float, float]], *, most: float) -> dg.MarkdownMetadataValue:
    """A line through points (x, y) from zero, with the value that it is on its way to as its upper edge."""
    high, wide, top, longest = 160, WIDTH - LEFT - RIGHT, 44, max(x for x, _ in points) or 1
    most = max(most, *(y for _, y in points)) or 1
    path = " ".join(f"{LEFT + x / longest * wide:.1f},{top + high - y / most * high:.1f}" for x, y in points)
    shapes = [
        f'<polyline points="{path}" fill="none" stroke="{COLOURS[0]}" stroke-width="2"/>',
        f'<path d="M{LEFT} {top}V{top + high}H{LEFT + wide}" fill="none" stroke="#999"/>',
        _text(LEFT - 8, top + 10, f"{most:,.4g}", anchor="end"),
        _text(LEFT - 8, top + high, "0", anchor="end"),
        _text(LEFT + wide, top + high + 18, f"{longest:,.3g}", anchor="end"),
    ]
    return _picture(title, top + high + 30, shapes)
