"""A schedule is one file: put into `builders/` it can be pinned, is legal, priced, simulated, written and read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.step import work_of
from meshwright.planner.families import architecture
from meshwright.planner.plan import load_plan
from meshwright.planner.schedule import build, check, names
from meshwright.planner.simulate.schedules_picture import draw_schedules

ONE_AT_A_TIME = '''
"""One microbatch after another: the pipeline that nobody wants."""

from meshwright.planner.schedule.builder import Builder
from meshwright.planner.schedule.schedule import Schedule
from meshwright.planner.schedule.spelling import spell


def one_at_a_time(ranks, microbatches, chunks):
    rows = tuple(spell(["F0", "B0"] * microbatches, [rank], microbatches) for rank in range(ranks))
    return Schedule("one-at-a-time", ranks, ranks, microbatches, rows)


SCHEDULE = Builder(name="one-at-a-time", source="none", make=one_at_a_time)
'''

RUN = """
import sys
from meshwright.planner.schedule import builders
builders.__path__.append(sys.argv.pop(1))
from meshwright.cli import main
main()
"""


def _meshwright(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-c", RUN, str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_one_file_adds_a_schedule(tmp_path: Path) -> None:
    (tmp_path / "one_at_a_time.py").write_text(ONE_AT_A_TIME)
    plan, written, again = (tmp_path / name for name in ("plan.yaml", "schedule.csv", "again.yaml"))
    asked = ["llama-3.2-1b", "dgx-h100:1", "--seq-len", "2048", "--global-batch", "8", "--pin", "pp=2"]
    asked += ["--pin", "microbatch=1", "--pin", "spread_vocabulary=false"]
    _meshwright(tmp_path, "plan", *asked, "--pin", "schedule=one-at-a-time", "--out", str(plan))
    _meshwright(tmp_path, "simulate", str(plan), "--schedule-out", str(written))
    _meshwright(tmp_path, "plan", *asked, "--schedule-file", str(written), "--out", str(again))
    loaded = load_plan(again)  # under the name custom: here nobody knows the other one
    check(build(loaded.configuration))
    assert [build(loaded.configuration).in_flight(rank) for rank in range(2)] == [1, 1]
    setting = Setting(architecture(loaded.model), loaded.cluster, loaded.job)
    work, count = work_of(setting, loaded.configuration), loaded.schedule.microbatches
    busy = sorted(count * (forward + back) for forward, back in zip(work.forward_s, work.backward_s, strict=True))
    spent = loaded.predicted.breakdown_s  # one rank computes while the other waits, whatever the split
    assert spent.compute == pytest.approx(busy[1])
    assert spent.bubble == pytest.approx(busy[0], rel=0.01)


def test_the_picture_shows_every_schedule() -> None:
    figure = draw_schedules()
    assert isinstance(figure, Figure)
    titles = [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes]
    assert [title.split(":")[0] for title in titles] == list(names())
