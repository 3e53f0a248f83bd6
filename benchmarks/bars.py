"""A bar chart as SVG that is readable on light and on dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH = 720
ROW = 28
LEFT = 120
RIGHT = 70
TOP = 44
STYLE = """
  text { font: 14px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600 }
  .bar { fill: #8c959f } .strong { fill: #0969da }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .bar { fill: #6e7681 } .strong { fill: #58a6ff }
  }
"""


def bars(title: str, values: Sequence[tuple[str, float]], *, strong: str) -> str:
    """One horizontal bar per (name, seconds), in the order given; the bar called `strong` stands out."""
    height = TOP + ROW * len(values) + 8
    scale = (WIDTH - LEFT - RIGHT) / max((value for _, value in values), default=1.0)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="8" y="24">{escape(title)}</text>',
    ]
    for number, (name, value) in enumerate(values):
        y, width = TOP + ROW * number, max(1.0, value * scale)
        kind = "strong" if name == strong else "bar"
        lines += [
            f'<text x="{LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{width:.1f}" height="20" rx="2"/>',
            f'<text x="{LEFT + width + 6:.1f}" y="{y + 15}">{value:.1f} s</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
