"""Line charts as SVG, drawn by hand: a plotting library would be the largest dependency here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

#: The points of a line.
Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 360, 70, 90, 40, 60
_COLOURS = ("#0060df", "#d7264c", "#008787", "#b07a00")


def chart(
    path: Path, title: str, x_label: str, y_label: str, lines: Mapping[str, Points], log_x: bool
) -> None:
    """
    Write a chart with a line for each series, from 0 upwards.

    :param log_x: whether the horizontal axis is logarithmic; its values are then above 0.
    """
    along = math.log10 if log_x else float
    xs = sorted({x for points in lines.values() for x, _ in points})
    top = max(y for points in lines.values() for _, y in points) * 1.1
    low, high = along(xs[0]), along(xs[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (along(x) - low) / ((high - low) or 1)
        rise = y / top * (_HEIGHT - _TOP - _BOTTOM)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - rise

    def text(x: float, y: float, words: str, anchor: str = "middle", more: str = "") -> str:
        return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" {more}>{escape(words)}</text>'

    parts = [text(_WIDTH / 2, 22, title, more='font-weight="bold"')]
    parts += [text(place(x, 0)[0], _HEIGHT - _BOTTOM + 18, f"{x:,.7g}") for x in xs]
    for step in range(5):
        left, level = place(xs[0], top * step / 4)
        right = place(xs[-1], 0)[0]
        parts.append(f'<path d="M{left:.0f} {level:.0f}H{right:.0f}" stroke="#ccc"/>')
        parts.append(text(left - 8, level + 4, f"{top * step / 4:,.3g}", "end"))
    for (name, points), colour in zip(lines.items(), _COLOURS, strict=False):
        places = [place(x, y) for x, y in points]
        track = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{track}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(text(places[-1][0] + 6, places[-1][1] + 4, name, "start", f'fill="{colour}"'))
    parts.append(text(_WIDTH / 2, _HEIGHT - 16, x_label))
    turn = f'transform="rotate(-90 16 {_HEIGHT / 2:.0f})"'
    parts.append(text(16, _HEIGHT / 2, y_label, more=turn))
    body = "\n".join(parts)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'font-family="sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )


def bars(path: Path, title: str, values: Mapping[str, float]) -> None:
    """Write a chart with a horizontal bar for each value, from 0 to the largest one."""
    top, step, left = max(values.values()), 24, 190
    height = _TOP + step * len(values) + 10
    parts = [
        f'<text x="{_WIDTH / 2:.0f}" y="22" text-anchor="middle" font-weight="bold">'
        f"{escape(title)}</text>"
    ]
    for number, (name, value) in enumerate(values.items()):
        y, width = _TOP + number * step, value / top * (_WIDTH - left - _RIGHT)
        parts.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>')
        parts.append(
            f'<rect x="{left}" y="{y}" width="{width:.1f}" height="18" fill="{_COLOURS[0]}"/>'
        )
        parts.append(f'<text x="{left + width + 6:.1f}" y="{y + 14}">{value:,.0f}</text>')
    body = "\n".join(parts)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'font-family="sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )
