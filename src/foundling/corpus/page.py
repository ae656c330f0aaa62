"""The corpus as one HTML page: what was read, what each rule took with examples, what is left and for whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

from foundling.core.report import Page, cards, details, figure, new_figure, side_by_side, table
from foundling.core.units import human_bytes, human_count
from foundling.corpus.representation import representation


def write(folder: Path, report: dict[str, Any], clusters: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
    """Write report.html beside the corpus's files.

    Args:
        report: the content of report.json.
        clusters: (documents,) number of the first of each document's near duplicates.
        sizes: (documents,) bytes.
    """
    page = Page("Corpus", f"{human_count(report['read']['documents'])} documents read")
    left = {name: (human_bytes(report[name]["bytes"]), f"{human_count(report[name]['documents'])} documents")
            for name in ("read", "train", "validation")}  # fmt: skip
    page.section("What is left", cards(left), _sources(report))
    page.section("What each rule took", *_dropped(report), note="A document counts under the first rule.")
    if report["edited"]:
        rows = [[name, n["documents"], _by(n["bytes_removed"])] for name, n in report["edited"].items()]
        page.section("What was changed", table(["change", "documents", "by"], rows))
    if report["quarantine"]:
        rows = [[reason, count] for reason, count in report["quarantine"].items()]
        page.section("Quarantine", table(["reason", "records"], rows), note="All of them are in quarantine.jsonl.")
    with matplotlib.rc_context({"svg.hashsalt": "corpus"}):  # the same figure is the same bytes
        page.section("Lengths", _lengths(sizes), note="Before duplicates go.")
        if report["near_duplicates"]:
            page.section("Near duplicates", *_near_duplicates(report["near_duplicates"], clusters))
    if report["languages"]:
        page.section("Languages", *_languages(report["languages"]))
    if report["domains"]:
        total = report["train"]["bytes"] or 1
        rows = [[name, human_bytes(n), f"{n / total:.2%}"] for name, n in report["domains"].items()]
        page.section("Web domains", table(["domain", "size", "share"], rows), note="The fifty largest.")
    if report["epochs"]:
        page.section("Mixture", *_mixture(report), note="How often the documents of each group are used.")
    if report["learned"]:
        rows = [[name, key, value] for name, numbers in report["learned"].items() for key, value in numbers.items()]
        page.section("Learned filters", table(["filter", "number", "value"], rows))
    page.write(folder / "report.html")


def _sources(report: dict[str, Any]) -> str:
    rows = []
    for split, sources in report["sources"].items():
        total = sum(numbers["bytes"] for numbers in sources.values()) or 1
        rows += [[split, name, n["documents"], human_bytes(n["bytes"]), f"{n['bytes'] / total:.1%}"]
                 for name, n in list(sources.items())[:30]]  # fmt: skip
    return table(["split", "source", "documents", "size", "share"], rows)


def _dropped(report: dict[str, Any]) -> list[str]:
    if not report["dropped"]:
        return ["Nothing."]
    read = report["read"]["documents"] or 1
    left, rows = read, []
    for reason, n in report["dropped"].items():
        left -= n["documents"]
        rows.append([reason, n["documents"], f"{n['documents'] / read:.2%}", human_bytes(n["bytes"]), left])
    shown = [
        details(reason, table(["source", "begins (or holds)"], [[e["source"], e["excerpt"]] for e in n["examples"]]))
        for reason, n in report["dropped"].items()
    ]
    return [table(["reason", "documents", "share", "size", "documents left"], rows), *shown]


def _by(removed: int) -> str:
    return f"{human_bytes(abs(removed))} {'shorter' if removed >= 0 else 'longer'}"


def _near_duplicates(found: dict[str, Any], clusters: NDArray[np.int64]) -> list[str]:
    fig, axes = new_figure(5, 2.8)
    axes.plot([float(s) for s in found["recall"]], list(found["recall"].values()))
    axes.axvline(found["threshold"], linestyle=":", color="grey")
    axes.set_xlabel("Jaccard similarity of two documents")
    axes.set_ylabel("probability to be compared")
    bands, rows = found["bands"], found["rows"]
    note = f"{found['clusters']:,} clusters at a similarity of {found['threshold']} or more."
    curve = figure(fig, f"Expected recall: 1 - (1 - s^{rows})^{bands}, for {bands} bands of {rows} values")
    shown = [
        details(
            f"{cluster['documents']} documents: {cluster['members'][0]['text'][:80]}",
            table(["id", "source", "begins"], [[m["id"], m["source"], m["text"]] for m in cluster["members"]]),
        )
        for cluster in found["examples"]
    ]
    figures = side_by_side(curve, _duplication(clusters)) if found["clusters"] else curve
    return [note, figures, *(["The largest, to look at:"] if shown else []), *shown]


def _mixture(report: dict[str, Any]) -> list[str]:
    phases = report["epochs"]
    names = [f"phase {n}: {phase['share']:.0%} of the steps" for n, phase in enumerate(report["phases"], 1)] or [
        "epochs"
    ]
    groups = sorted({group for epochs in phases for group in epochs})
    rows = [[group, *(f"{epochs.get(group, 0):.2f}" for epochs in phases)] for group in groups]
    return [table(["group", *names], rows)]


def _lengths(sizes: NDArray[np.int64]) -> Any:
    fig, axes = new_figure(5, 3)
    axes.hist(np.log10(np.maximum(sizes, 1)), bins=40)
    axes.set_xlabel("bytes of a document (log10)")
    axes.set_ylabel("documents")
    return figure(fig, "How long documents are")


def _duplication(clusters: NDArray[np.int64]) -> Any:
    members = np.unique(clusters, return_counts=True)[1]
    fig, axes = new_figure(5, 3)
    counts = np.bincount(np.minimum(members, 20), minlength=6)[2:]
    axes.bar(np.arange(2, len(counts) + 2), counts)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("documents in a cluster (20: 20 or more)")
    axes.set_ylabel("clusters")
    return figure(fig, "How often documents repeat")


def _languages(languages: dict[str, int]) -> list[str]:
    total = sum(languages.values())
    rows = [[code, human_bytes(n), f"{n / total:.2%}"] for code, n in languages.items()]
    against = [
        [row.language, f"{row.world_share:.2%}", f"{row.corpus_share:.4%}", f"{row.ratio:.2f}"]
        for row in representation({code: n / total for code, n in languages.items()})
    ]
    columns = ["language", "share of the world's people", "share of the corpus", "ratio"]
    return [table(["language", "size", "share"], rows), details("Against the world's people", table(columns, against))]
