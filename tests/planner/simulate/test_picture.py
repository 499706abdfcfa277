"""Pictures and the report: real files with the numbers in them, the same bytes every time."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.image import imread

from meshwright.errors import InputError
from meshwright.planner.plan import Plan
from meshwright.planner.simulate.failures import FailureModel, reliability
from meshwright.planner.simulate.picture import draw, save_picture
from meshwright.planner.simulate.redundancy import redundancy
from meshwright.planner.simulate.report import report, write_report
from meshwright.planner.simulate.request import Answer
from meshwright.planner.simulate.scaling import scaling
from meshwright.planner.simulate.simulation import simulate
from meshwright.planner.simulate.straggler import parse_straggler
from meshwright.planner.simulate.stragglers import stragglers
from meshwright.planner.simulate.sweep import sweep
from meshwright.planner.simulate.trace import write_trace

POWER = ("cluster.device.power_w=400", "cluster.host.power_w=1000")


def test_png_and_svg(plan: Plan, tmp_path: Path) -> None:
    simulation = simulate(plan, POWER, tokens=1e12)
    bill = simulation.bill(0.1)
    assert bill is not None
    failures = reliability(simulation, FailureModel(mtbf_s=3600.0))
    slow = stragglers(simulation, parse_straggler("rank=1,slow=2x"))
    redundant = redundancy(simulation, parse_straggler("probability=0.01,slow=2x"))
    swept, scaled = sweep(plan, "microbatch=1,2,3,4"), scaling(plan, "weak")
    for subject in (simulation, swept, scaled, failures, slow, redundant, bill):
        png, svg = tmp_path / "one.png", tmp_path / "one.svg"
        save_picture([subject], png)
        assert imread(png).ndim == 3
        save_picture([subject], svg)
        first = svg.read_bytes()
        save_picture([subject], svg)
        assert svg.read_bytes() == first
        assert ElementTree.fromstring(first).tag.endswith("svg")


def test_axes_say_what_they_show(plan: Plan) -> None:
    breakdown, memory, timeline = draw([simulate(plan)]).axes
    assert breakdown.get_xlim()[1] == pytest.approx(plan.predicted.step_time_s)
    assert sum(bar.get_width() for bar in breakdown.patches) == pytest.approx(plan.predicted.step_time_s)
    bars = sum(bar.get_width() for bar in memory.patches)
    assert bars == pytest.approx(sum(plan.predicted.peak_memory_bytes) / 2**30)
    assert [axes.get_xlabel() for axes in (breakdown, memory, timeline)] == ["seconds", "GiB", "seconds"]
    lanes = {text.get_text() for text in timeline.get_legend().get_texts()}
    assert lanes == {"forward", "backward", "gather weights", "reduce gradients", "optimizer"}
    step, speed = draw([sweep(plan, "microbatch=1,3,4")]).axes
    assert step.get_ylabel() == "step time, s"
    assert [tick.get_text() for tick in speed.get_xticklabels()] == ["1", "3\n(illegal)", "4"]


def test_titles_and_ticks_are_as_exact_as_what_they_name(plan: Plan) -> None:
    simulation = simulate(plan)
    axes = draw([reliability(simulation, FailureModel(mtbf_s=3600.0))]).axes[0]
    told = [float(axes.yaxis.get_major_formatter()(share).rstrip("%")) for share in axes.get_yticks()]
    assert told == pytest.approx([100 * share for share in axes.get_yticks()], rel=1e-3)  # 97.5 % is not 98 %
    assert (
        draw([stragglers(simulation, parse_straggler("node=0,slow=2x"))])
        .axes[0]
        .get_title()
        .startswith("the network of one node")
    )


def test_several_subjects_stand_one_under_another(plan: Plan) -> None:
    one, other = draw([simulate(plan)]), draw([sweep(plan, "microbatch=1,2")])
    both = draw([simulate(plan), sweep(plan, "microbatch=1,2")])
    assert both.get_figheight() == one.get_figheight() + other.get_figheight()
    assert len(both.axes) == len(one.axes) + len(other.axes)


def test_a_scaling_curve_stands_beside_the_ideal_line(plan: Plan) -> None:
    found = scaling(plan, "strong=8,12,16")
    speed, efficiency = draw([found]).axes
    ideal, measured = speed.get_lines()
    assert list(ideal.get_xdata()) == list(measured.get_xdata()) == [8, 16]
    first = found.points[0].simulation
    assert first is not None
    assert list(ideal.get_ydata()) == pytest.approx([first.tokens_per_s, 2 * first.tokens_per_s])
    assert efficiency.get_xlabel() == "devices (illegal: 12)"


def test_another_suffix_is_refused(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must end in"):
        save_picture([simulate(plan)], tmp_path / "picture.bmp")


class _Page(HTMLParser):
    """Collects text and refuses what would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img", "iframe")
        self.open.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_report_stands_alone_and_escapes(plan: Plan, tmp_path: Path) -> None:
    hostile = plan.model_copy(update={"model": plan.model.model_copy(update={"name": "<script>alert(1)</script>"})})
    simulation = simulate(hostile, ["job.seq_len=8192"], tokens=15e12)
    path = tmp_path / "report.html"
    found = reliability(simulation, FailureModel(mtbf_s=3600.0))
    answered = Answer(
        simulation=simulation,
        sweep=sweep(hostile, "microbatch=1,3"),
        scaling=scaling(hostile, "strong=8,12,16"),
        failures=found,
        straggler=stragglers(simulation, parse_straggler("link=0,slow=2x")),
        energy=simulate(hostile, POWER).bill(),
    )
    write_report(path, answered)
    page = _Page()
    page.feed(path.read_text())
    text = " ".join(page.text)
    assert page.open.count("svg") == 6
    assert page.open.count("h1") == 1
    for wanted in ("<script>", "15.0 T tokens", f"{found.ettr:.2%}", "job.seq_len=8192", "must be a multiple of"):
        assert wanted in text
    assert "Does not fit" not in report(Answer(simulation=simulate(plan)))
    small = simulate(plan, ["cluster.device.memory=4 GiB"])
    assert "Does not fit: stage" in report(Answer(simulation=small))


def test_matplotlib_is_loaded_only_to_draw() -> None:
    code = (
        "import sys, meshwright.planner.simulate.picture, meshwright.planner.simulate.report;"
        "sys.exit('matplotlib' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_folder_is_one_clear_problem(plan: Plan, tmp_path: Path) -> None:
    simulation, nowhere = simulate(plan), tmp_path / "no" / "where"
    for write in (
        lambda: save_picture([simulation], nowhere / "a.png"),
        lambda: write_trace(simulation, nowhere / "a.json"),
        lambda: write_report(nowhere / "a.html", Answer(simulation=simulation)),
        lambda: plan.save(nowhere / "plan.yaml"),
    ):
        with pytest.raises(InputError, match="cannot be written"):
            write()
