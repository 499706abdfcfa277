"""Picture, tables and report of predictions beside what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.image import imread
from rich.console import Console

from meshwright.display.published import show_against
from meshwright.planner.published.picture import draw, save_picture
from meshwright.planner.published.report import report, write_report

from .runs import run, table


def test_png_and_svg(tmp_path: Path) -> None:
    png, svg = tmp_path / "one.png", tmp_path / "one.svg"
    save_picture(table(), png)
    assert imread(png).std() > 0
    save_picture(table(), svg)
    first = svg.read_bytes()
    save_picture(table(), svg)
    assert svg.read_bytes() == first
    assert ElementTree.fromstring(first).tag.endswith("svg")


def test_every_judged_step_time_is_a_dot() -> None:
    axes = {ax.get_xlabel(): ax for ax in draw(table()).axes}
    runs = axes["measured step time, s"]
    assert (runs.get_xscale(), runs.get_yscale()) == ("log", "log")
    dots = {tuple(at) for part in runs.collections[1:] for at in part.get_offsets().tolist()}
    assert dots == {(10.0, 11.0), (8.0, 12.0), (20.0, 10.0), (4.0, 3.0)}


def test_many_sources_keep_their_names_and_few_colours() -> None:
    rows = [run(f"{place}", 1.0, 1.0 + place / 100, source=f"source {place}") for place in range(30)]
    (sources,) = [ax for ax in draw(rows).axes if "source" in ax.get_title()]
    labels = sources.get_yticklabels()
    assert len({label.get_text() for label in labels}) == 30
    assert len({label.get_color() for label in labels}) == 8


@pytest.mark.parametrize("rows", [[], [run("x", None, None, status="skipped", reason="LoRA")]])
def test_nothing_to_compare_is_said_and_drawn(rows: list, tmp_path: Path) -> None:  # type: ignore[type-arg]
    save_picture(rows, tmp_path / "none.png")
    console = Console(width=120, record=True, quiet=False, file=(tmp_path / "out").open("w"))
    show_against(console, rows)
    console.file.close()
    assert "no row has a complete configuration" in " ".join(console.export_text().split())


def test_tables_say_the_figures(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as out:
        console = Console(width=160, record=True, file=out)
        show_against(console, table())
        text = console.export_text()
    for wanted in ("36.7%", "33.8%", "+3.3%", "-20.0%", "1 of 2", "1 of 6", "25.0%", "LoRA", "a2", "+50.0%"):
        assert wanted in text
    assert "published as out of memory: o2" in text


def test_the_report_stands_alone_and_escapes(tmp_path: Path) -> None:
    rows = [replace(row, source="<script>alert(1)</script>[bold]") for row in table()]
    path = tmp_path / "report.html"
    write_report(path, rows, "runs.csv")
    page = path.read_text()
    assert page == report(rows, "runs.csv")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<svg") == 1
    assert "36.7%" in page
