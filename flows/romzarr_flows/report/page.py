"""The frame of a page and its simple parts: no script, nothing fetched, dark and light."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

# Browsers are told to fetch nothing, whatever a name in a store may hold.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

CSS = """
:root{color-scheme:light dark;--ground:#fff;--ink:#1d2127;--quiet:#667080;--line:#dfe3e8;
--panel:#f6f7f9;--blue:#2f6fb5;--good:#2e8b57;--bad:#c93c3c;--warn:#b7791f}
@media(prefers-color-scheme:dark){:root{--ground:#14171c;--ink:#e3e6ea;--quiet:#98a2b0;
--line:#2d333c;--panel:#1c2027;--blue:#6ea8e6;--good:#58b884;--bad:#ef7b7b;--warn:#e0ab54}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1000px;padding:1.5rem 1.2rem 4rem;background:var(--ground);
color:var(--ink);font:15px/1.5 system-ui,"DejaVu Sans",sans-serif}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 .2rem;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:2.4rem 0 .5rem;padding-bottom:.25rem;border-bottom:1px solid var(--line)}
h3{font-size:.95rem;margin:1.2rem 0 .3rem;font-weight:600;overflow-wrap:anywhere}
p{margin:.4rem 0;max-width:52rem}.quiet,small{color:var(--quiet);font-size:.87rem}
a{color:var(--blue)}figure{margin:.6rem 0 0}svg{max-width:100%;height:auto;display:block}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(11.5rem,1fr));gap:.6rem;
margin:1rem 0}.card{background:var(--panel);border:1px solid var(--line);border-radius:.5rem;
padding:.6rem .8rem}
.card b{display:block;font-size:1.25rem;font-weight:600;line-height:1.3}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;padding:.28rem .7rem .28rem 0;border-bottom:1px solid var(--line);
vertical-align:top;overflow-wrap:anywhere}th{color:var(--quiet);font-weight:500;white-space:nowrap}
td:first-child:not(:last-child){white-space:nowrap}
td.number,th.number{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}
.bars{min-width:12rem;width:45%}.bar{background:var(--blue);height:.75rem;border-radius:2px;min-width:1px;margin-top:.3rem}
.equations{display:grid;grid-template-columns:max-content 1fr;gap:.45rem .3rem;font-size:1.02rem}
.right{display:flex;flex-wrap:wrap;align-items:baseline;gap:.15rem .3rem}
.right .quiet{white-space:nowrap;margin-left:auto;padding-left:1rem}
"""


class Part(NamedTuple):
    """A part of a page under its own title; HTML."""

    title: str
    body: str


class Cell(NamedTuple):
    """A cell of a table: HTML, and a class that says how it looks."""

    body: str
    look: str = ""


def document(title: str, top: str, parts: Iterable[Part]) -> str:
    """A whole page."""
    body = "\n".join(
        f"<section><h2>{escape(part.title)}</h2>\n{part.body}</section>"
        for part in parts
        if part.body
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>{top}\n{body}\n</body></html>\n"
    )


def paragraph(text: str, look: str = "") -> str:
    return f'<p class="{look}">{escape(text)}</p>' if look else f"<p>{escape(text)}</p>"


def cards(facts: Iterable[tuple[str, str, str]]) -> str:
    """Figures in large letters: a name, a value and a class that says how it looks."""
    found = "".join(
        f'<div class="card"><small>{escape(name)}</small>'
        f'<b class="{look}">{escape(value)}</b></div>'
        for name, value, look in facts
    )
    return f'<div class="cards">{found}</div>'


def table(header: Sequence[Cell | str], rows: Iterable[Sequence[Cell | str]]) -> str:
    """A table; plain texts are escaped, cells are HTML already. Without a header: facts."""
    head = "".join(_cell("th", cell) for cell in header)
    body = "".join(f"<tr>{''.join(_cell('td', cell) for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table>{f"<tr>{head}</tr>" if head else ""}{body}</table></div>'


def _cell(tag: str, cell: Cell | str) -> str:
    body, look = cell if isinstance(cell, Cell) else (escape(cell), "")
    return f'<{tag} class="{look}">{body}</{tag}>' if look else f"<{tag}>{body}</{tag}>"


def number(text: str, look: str = "") -> Cell:
    return Cell(escape(text), f"number {look}".strip())


def ratio(value: float) -> str:
    """How many times smaller.

    >>> ratio(39.52), ratio(1341.2)
    ('39.5', '1,341')
    """
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"


def bar(share: float) -> Cell:
    """A bar whose length is a share of its column."""
    return Cell(f'<div class="bar" style="width:{100 * share:.1f}%"></div>', "bars")


def figure(svg: str, caption: str = "") -> str:
    said = f"<figcaption class='quiet'>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{svg}{said}</figure>"
