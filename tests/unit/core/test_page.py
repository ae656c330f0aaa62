"""Report pages: whatever text comes in is text, not HTML; graphs place inputs left of outputs."""

from __future__ import annotations

from pathlib import Path

from foundling.core.report import Page, cards, code, details, figure, graph, new_figure, table
from foundling.core.units import human_bytes, human_count, human_time


def test_text_from_data_cannot_become_markup(tmp_path: Path) -> None:
    page = Page("<script>title</script>")
    hostile = "<img src=x onerror=alert(1)>"
    page.section(
        hostile,
        hostile,
        table([hostile], [[hostile]]),
        code(hostile),
        details(hostile, hostile),
        cards({hostile: (hostile, "")}),
    )
    page.write(tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert "<img" not in html and "<script" not in html and "&lt;img" in html


def test_numbers_are_aligned_right_and_shortened() -> None:
    html = table(["name", "value"], [["a", 0.123456], ["b", 2.0]])
    assert '<td class="n">0.1235</td>' in html and "<td>a</td>" in html


def test_a_figure_is_inline_and_described() -> None:
    fig, axes = new_figure()
    axes.plot([1, 2], [3, 4])
    html = figure(fig, "loss & steps")
    assert "min-width" in html, "a wide figure is scrolled on a phone, not shrunk"
    assert "<svg" in html and 'aria-label="loss &amp; steps"' in html


def test_graph_puts_inputs_above_outputs() -> None:
    html = graph({"a": ("a", ""), "b": ("b", ""), "c": ("c", "")}, [("a", "b"), ("b", "c"), ("a", "c")], "lineage")
    y = [float(part.partition(' y="')[2].partition('"')[0]) for part in html.split("<rect")[1:]]
    assert y == sorted(y) and len(set(y)) == 3 and html.count('fill="none"') == 3
    assert html.count("url(#arrow)") == 2, "the edge past a row is drawn fainter, without a head"


def test_numbers_with_gaps_are_aligned_right() -> None:
    assert table(["a", "b"], [("x", "-"), ("y", "3.5 TFLOP")]).count('class="n"') == 3


def test_units_read_as_people_write_them() -> None:
    assert [human_bytes(n) for n in (999, 1536, 2.5e9)] == ["999 B", "1.54 KB", "2.5 GB"]
    assert [human_count(n) for n in (12, 2_500_000, 46.7e9)] == ["12", "2.5M", "46.7B"]
    assert [human_time(s) for s in (0.25, 75, 3700, 200000)] == ["0.2s", "1m15s", "1h01m", "2d07h"]
