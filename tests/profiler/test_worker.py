"""One worker: a part that fails is a note, a lost link stops only what needs it, and nothing is measured twice."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch

from meshwright.profiler import kernels, records, worker
from meshwright.profiler.workers import Settings


@dataclass
class Told:
    """Stands for a Part: what is called when it is measured."""

    name: str
    run: object = field(default=lambda setting: {"rank": setting.rank})
    talks: bool = False
    of_model: bool = False

    def measure(self, setting):
        return self.run(setting)


class Alone:
    """Stands for a Company whose links may be gone."""

    device = torch.device("cpu")

    def __init__(self, lost=""):
        self.lost = lost

    def wait(self):
        pass

    def common(self, mine):
        return set(mine)

    def leave(self, error):
        self.lost = str(error)


@pytest.fixture
def measure(tmp_path, monkeypatch):
    (tmp_path / "0").mkdir()

    def run(*parts, lost="", seconds=1.0, workers=2):
        monkeypatch.setattr(worker, "PARTS", parts)
        asked = {"model": None, "seq_len": 1, "global_batch": 1}
        budgets = {part.name: seconds for part in parts}
        settings = Settings(0, workers, 1, str(tmp_path), 9.0, seconds=budgets, asked=asked)
        begun = []
        worker.measure_parts(settings, Alone(lost), lambda part, what: begun.append((part, what)))
        notes = tmp_path / "0" / "notes"
        told = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
        found = {part.name for part in parts if records.place(tmp_path, 0, part.name).exists()}
        return SimpleNamespace(found=found, notes=told, begun=begun, folder=tmp_path)

    return run


def fail(_):
    raise RuntimeError("CUDA error: out of memory\nlong story")


def test_a_part_that_fails_is_a_note_and_the_others_go_on(measure):
    done = measure(Told("first"), Told("bad", fail), Told("last"))
    assert done.found == {"first", "last"}
    assert done.notes == [{"part": "bad", "what": "rank 0", "why": "RuntimeError: CUDA error: out of memory"}]
    assert done.begun == [("first", "first"), ("bad", "bad"), ("last", "last")]


def test_a_link_that_dies_stops_what_needs_it_and_nothing_else(measure):
    done = measure(Told("pairs", fail, talks=True), Told("rings", talks=True), Told("kernels"))
    assert done.found == {"kernels"}
    assert [note["part"] for note in done.notes] == ["pairs", "rings"]
    assert "link" in done.notes[1]["why"]


def test_the_same_folder_repeats_only_what_is_missing(measure):
    counts = []
    parts = (Told("a", lambda _: counts.append("a") or {}), Told("b", fail))
    measure(*parts)
    again = measure(Told("a", lambda _: counts.append("a") or {}), Told("b"))
    assert counts == ["a"]
    assert again.found == {"a", "b"}


def test_under_other_settings_everything_is_measured_again(measure):
    counts = []
    part = Told("a", lambda _: counts.append("a") or {})
    measure(part)
    measure(part, workers=4)
    measure(part, workers=4, seconds=5.0)
    measure(part, workers=4, seconds=2.0)  # what took longer holds
    assert len(counts) == 3


def test_a_result_of_other_settings_does_not_stand_for_one_that_failed(measure):
    measure(Told("a"))
    assert measure(Told("a", fail), workers=4).found == set()


def test_parts_tell_what_of_them_begins_and_keep_pieces(measure, tmp_path):
    def run(setting):
        setting.announce("pairs")
        return {"first": setting.once("0-1", lambda: 7), "again": setting.once("0-1", fail)}

    done = measure(Told("links", run))
    assert done.begun == [("links", "links"), ("links", "pairs")]
    assert records.read(records.place(tmp_path, 0, "links"))["result"] == {"first": 7, "again": 7}


def test_what_another_host_measured_is_measured_again(measure, monkeypatch):
    """Ranks of torchrun may come back in another order."""
    runs = []

    def run(_):
        runs.append(1)
        return {"x": 1}

    measure(Told("a", run))
    measure(Told("a", run))
    assert len(runs) == 1
    monkeypatch.setattr("platform.node", lambda: "another")
    measure(Told("a", run))
    assert len(runs) == 2


def test_an_operation_that_fails_takes_no_other_with_it(measure, monkeypatch):
    def grid(name, *_):
        return fail(name) if name == "attention" else [SimpleNamespace(row=(1.0, 2.0))]

    monkeypatch.setattr(kernels, "grid_of", grid)
    done = measure(Told("kernels", kernels.measure), seconds=100.0)
    assert done.found == {"kernels"}
    rows = records.read(records.place(done.folder, 0, "kernels"))["result"]["rows"]
    assert rows == {name: [[1.0, 2.0]] for name in kernels.PARTS if name not in ("attention", "copy")}
    why = "attention: RuntimeError: CUDA error: out of memory"
    assert done.notes == [{"part": "kernels", "what": "rank 0", "why": why}]
