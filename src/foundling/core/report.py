"""Self-contained HTML pages from a few blocks: text, tables, cards, figures, graphs. No script, no network.

page = Page("Corpus", "what was kept, what was dropped")
page.section("Funnel", table(["rule", "documents"], rows), figure(fig, "what each rule dropped"))
page.write(path)
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ("#3557c2", "#d9722e", "#2f9e77", "#b23a6d", "#7a5bd0", "#8a8f98", "#c7a321", "#1f8fb3")

_TEMPLATE = jinja2.Environment(autoescape=True).from_string(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><style>{{ style }}</style></head><body><header><h1>{{ title }}</h1>
{% if subtitle %}<p class="subtitle">{{ subtitle }}</p>{% endif %}
{% if sections|length > 3 %}<nav>{% for s in sections %}<a href="#s{{ loop.index }}">{{ s.title }}</a>{% endfor %}
</nav>{% endif %}</header><main>{% for s in sections %}<section id="s{{ loop.index }}"><h2>{{ s.title }}</h2>
{% if s.note %}<p class="note">{{ s.note }}</p>{% endif %}{% for block in s.blocks %}{{ block }}{% endfor %}</section>
{% endfor %}</main><footer>{{ footer }}</footer></body></html>
"""
)

_STYLE = Markup(
    """
:root{--ink:#1c2333;--soft:#5a6375;--line:#e3e6ec;--paper:#fff;--ground:#f6f7f9;--accent:#3557c2}
*{box-sizing:border-box}html{scroll-behavior:smooth}
body{margin:0;font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif;color:var(--ink);
background:var(--ground)}
header,main,footer{max-width:1080px;margin:0 auto;padding:0 24px}
header{padding-top:40px}h1{font-size:30px;line-height:1.2;margin:0 0 6px;letter-spacing:-.02em}
.subtitle{color:var(--soft);margin:0 0 18px;font-size:16px}
nav{display:flex;flex-wrap:wrap;gap:6px;margin:0 0 8px}
nav a{color:var(--accent);text-decoration:none;padding:3px 10px;border:1px solid var(--line);border-radius:99px;
background:var(--paper);font-size:13px}nav a:hover,nav a:focus{border-color:var(--accent)}
section{background:var(--paper);border:1px solid var(--line);border-radius:12px;padding:20px 24px;margin:18px 0}
h2{font-size:19px;margin:0 0 8px;letter-spacing:-.01em}.note{color:var(--soft);margin:0 0 12px;max-width:78ch}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:13.5px;margin:6px 0 10px}
th{text-align:left;color:var(--soft);font-weight:600;border-bottom:2px solid var(--line);padding:5px 12px 5px 0}
td{padding:5px 12px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}tr:last-child td{border-bottom:0}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:8px 0}
.card{border:1px solid var(--line);border-radius:10px;padding:12px 14px}
.card b{display:block;font-size:22px;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.card span{color:var(--soft);font-size:12.5px;display:block}
figure{margin:10px 0}figure svg{max-width:100%;height:auto;display:block}figcaption{color:var(--soft);font-size:13px}
.side{display:grid;grid-template-columns:repeat(auto-fit,minmax(380px,1fr));gap:18px}
pre{background:#f2f4f8;border-radius:8px;padding:10px 14px;overflow-x:auto;font-size:12.5px;line-height:1.45;
margin:6px 0}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}details{margin:6px 0}
summary{cursor:pointer;color:var(--accent)}footer{color:var(--soft);font-size:12.5px;padding-bottom:40px}
@media(max-width:560px){section{padding:14px}header,main,footer{padding-left:12px;padding-right:12px}
.side{grid-template-columns:1fr}}
@media print{body{background:#fff}section{break-inside:avoid}nav{display:none}}
"""
)


class Page:
    """An HTML page made of titled sections."""

    def __init__(self, title: str, subtitle: str = "", footer: str = "Made by Foundling.") -> None:
        self.title, self.subtitle, self.footer = title, subtitle, footer
        self.sections: list[dict[str, Any]] = []

    def section(self, title: str, *blocks: str, note: str = "") -> None:
        """Add a section. Blocks are the results of this module's functions, or plain text."""
        marked = [block if isinstance(block, Markup) else text(block) for block in blocks if block]
        self.sections.append({"title": title, "note": note, "blocks": marked})

    def render(self) -> str:
        """The page as one HTML document."""
        fields = {"title": self.title, "subtitle": self.subtitle, "footer": self.footer}
        return _TEMPLATE.render(style=_STYLE, sections=self.sections, **fields)

    def write(self, path: Path) -> None:
        """Write the page to a file."""
        path.write_text(self.render(), encoding="utf-8")


def text(content: str) -> Markup:
    """A paragraph."""
    return Markup("<p>{}</p>").format(content)


def code(content: str) -> Markup:
    """Preformatted text."""
    return Markup("<pre><code>{}</code></pre>").format(content)


def details(summary: str, *blocks: str) -> Markup:
    """Blocks behind a line to click on."""
    inside = Markup("").join(block if isinstance(block, Markup) else text(block) for block in blocks)
    return Markup("<details><summary>{}</summary>{}</details>").format(summary, inside)


def side_by_side(*blocks: Markup) -> Markup:
    """Blocks next to each other where there is room."""
    return Markup('<div class="side">{}</div>').format(
        Markup("").join(Markup("<div>{}</div>").format(b) for b in blocks)
    )


def cards(values: Mapping[str, tuple[str, str]]) -> Markup:
    """Headline numbers: {label: (value, note)}."""
    items = [
        Markup('<div class="card"><span>{}</span><b>{}</b><span>{}</span></div>').format(label, value, note)
        for label, (value, note) in values.items()
    ]
    return Markup('<div class="cards">{}</div>').format(Markup("").join(items))


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Markup:
    """A table; numbers and cells that begin with a digit are aligned right. Floats get four significant digits."""
    numeric = [all(_is_number(row[i]) for row in rows if row[i] not in ("", "-", None)) for i in range(len(columns))]
    classes = [Markup(' class="n"') if n and rows else Markup("") for n in numeric]
    head = Markup("").join(Markup("<th{}>{}</th>").format(c, name) for c, name in zip(classes, columns, strict=True))
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(Markup("<td{}>{}</td>").format(c, _cell(v)) for c, v in zip(classes, row, strict=True))
        )
        for row in rows
    )
    return Markup('<div class="scroll"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>').format(
        head, body
    )


def figure(fig: Figure, caption: str) -> Markup:
    """A matplotlib figure as inline SVG; the caption is its description for screen readers too."""
    buffer = io.StringIO()
    fig.savefig(buffer, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{escape(caption)}"', 1)
    return _drawing(Markup(svg), caption, 90 * fig.get_figwidth())


def new_figure(width: float = 6.4, height: float = 3.4) -> tuple[Figure, Any]:
    """An empty figure in the house's style, and its axes. Sizes in inches."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "font.family": "sans-serif",
        "font.size": 9.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#9aa1ae",
        "axes.grid": True,
        "grid.color": "#e3e6ec",
        "axes.axisbelow": True,
    }
    with rc_context(style):
        fig = Figure(figsize=(width, height), layout="constrained")
        axes = fig.subplots()
    axes.set_prop_cycle(color=list(PALETTE))
    return fig, axes


NODE_W, NODE_H, GAP_X, GAP_Y = 150, 40, 22, 30  # of a graph, in pixels
_ARROW = Markup(
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
    '<path d="M0,0 L8,4 L0,8 z" fill="#7d8698"/></marker></defs>'
)


def graph(nodes: Mapping[str, tuple[str, str]], edges: Sequence[tuple[str, str]], caption: str) -> Markup:
    """A directed acyclic graph as SVG, from the top down; an edge that skips rows is drawn fainter.

    Args:
        nodes: id -> (label, second line), in an order in which inputs come first.
        edges: (from, to) pairs of ids.
    """
    rank = _ranks(list(nodes), edges)
    rows: list[list[str]] = [[name for name in nodes if rank[name] == r] for r in range(max(rank.values()) + 1)]
    width = max(len(row) for row in rows) * (NODE_W + GAP_X) + GAP_X
    place: dict[str, tuple[float, float]] = {}
    for r, row in enumerate(rows):
        row.sort(key=lambda name: _mean([place[a][0] for a, b in edges if b == name and a in place]))
        left = (width - len(row) * (NODE_W + GAP_X) + GAP_X) / 2
        place |= {name: (left + i * (NODE_W + GAP_X), 8 + r * (NODE_H + GAP_Y)) for i, name in enumerate(row)}
    drawn = [(a, b) for a, b in edges if a in place and b in place]
    parts = [_edge(place[a], place[b], rank[b] - rank[a] > 1) for a, b in drawn]
    parts += [_node(place[name], label, second) for name, (label, second) in nodes.items()]
    height = len(rows) * (NODE_H + GAP_Y) - GAP_Y + 16
    svg = Markup('<svg role="img" aria-label="{}" viewBox="0 0 {} {}" width="{}" font-size="12">{}{}</svg>').format(
        caption, width, height, width, _ARROW, Markup("").join(parts)
    )
    return _drawing(svg, caption, width)


def _drawing(svg: Markup, caption: str, width: float) -> Markup:
    """A captioned SVG that shrinks to two thirds of its width in pixels, and is scrolled on what is narrower."""
    box = Markup('<figure><div class="scroll"><div style="min-width:{:.0f}px">{}</div></div>')
    return (box + Markup("<figcaption>{}</figcaption></figure>")).format(width * 2 / 3, svg, caption)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _ranks(names: list[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Longest distance from a source, for nodes given in an order in which inputs come first."""
    rank = dict.fromkeys(names, 0)
    for name in names:
        rank[name] = max((rank[a] + 1 for a, b in edges if b == name and a in rank), default=0)
    return rank


def _edge(a: tuple[float, float], b: tuple[float, float], faint: bool) -> Markup:
    x1, y1, x2, y2 = a[0] + NODE_W / 2, a[1] + NODE_H, b[0] + NODE_W / 2, b[1]
    bend = (y1 + y2) / 2
    path = f"M{x1:.0f},{y1:.0f} C{x1:.0f},{bend:.0f} {x2:.0f},{bend:.0f} {x2:.0f},{y2:.0f}"
    style = Markup('stroke="#dde1e9"') if faint else Markup('stroke="#7d8698" marker-end="url(#arrow)"')
    return Markup('<path d="{}" fill="none" stroke-width="1.4" {}/>').format(path, style)


def _node(at: tuple[float, float], label: str, second: str) -> Markup:
    return Markup(
        '<g><rect x="{:.0f}" y="{:.0f}" width="{}" height="{}" rx="8" fill="#fff" stroke="#3557c2"/>'
        '<text x="{:.0f}" y="{:.0f}" fill="#1c2333" font-weight="600">{}</text>'
        '<text x="{:.0f}" y="{:.0f}" fill="#5a6375" font-size="10.5">{}</text></g>'
    ).format(at[0], at[1], NODE_W, NODE_H, at[0] + 10, at[1] + 17, label[:22], at[0] + 10, at[1] + 31, second[:26])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, str) and value.lstrip("-+±$≈<>")[:1].isdigit())


def _cell(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, float):
        return "" if value is None else value
    return f"{value:.4g}"
