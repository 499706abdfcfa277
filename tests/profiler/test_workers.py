"""Workers that fail or hang end the profile with their own words, in bounded time, and leave nothing behind."""

from __future__ import annotations

import os
import time

import pytest

from meshwright.profiler.workers import Settings, run

REPORT = """
import json, os, pathlib, sys, time
settings = json.loads(sys.argv[1])
folder = pathlib.Path(settings["folder"])
(folder / f"{settings['rank']}.pid").write_text(str(os.getpid()))
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Run two workers whose module has this body."""
    monkeypatch.syspath_prepend(tmp_path)

    def run_body(body, limit_s=30.0):
        (tmp_path / "pretend_worker.py").write_text(REPORT + body)
        settings = [Settings(rank, 2, 1, str(tmp_path), limit_s) for rank in range(2)]
        told = []
        return run(settings, "pretend_worker", lambda part, what: told.append((part, what))), told

    return run_body


def assert_all_gone(folder):
    for file in folder.glob("*.pid"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.read_text()), 0)


def test_progress_is_told_and_nothing_went_wrong(start, tmp_path):
    wrong, told = start(
        """
if settings["rank"] == 0:
    (folder / "progress").write_text("links\\tpairs\\n")
(folder / f"{settings['rank']}.threads").write_text(os.environ["OMP_NUM_THREADS"])
"""
    )
    assert wrong == []
    assert told == [("links", "pairs")]
    assert [(tmp_path / f"{rank}.threads").read_text() for rank in range(2)] == ["1", "1"]


def test_a_worker_that_fails_at_the_start_is_quoted_and_the_others_are_ended(start, tmp_path):
    begin = time.monotonic()
    wrong, _ = start(
        """
if settings["rank"] == 1:
    raise MemoryError("not enough")
time.sleep(600)
"""
    )
    assert wrong == ["worker 1 failed (exit 1): MemoryError: not enough"]
    assert time.monotonic() - begin < 60  # far from 600: the one that slept was not waited for
    assert_all_gone(tmp_path)


def test_a_worker_that_fails_later_does_not_stop_the_others(start, tmp_path):
    wrong, told = start(
        """
if settings["rank"] == 0:
    (folder / "progress").write_text("compute\\tcompute\\n")
    while not (folder / "dead").exists():
        time.sleep(0.01)
    with (folder / "progress").open("a") as file:
        file.write("memory\\tmemory\\n")
else:
    (folder / "dead").touch()
    os._exit(7)
"""
    )
    assert wrong == ["worker 1 failed (exit 7): it said nothing"]
    assert told == [("compute", "compute"), ("memory", "memory")]


def test_a_hanging_worker_is_named_with_the_part_it_was_in(start, tmp_path):
    wrong, _ = start(
        """
if settings["rank"] == 0:
    (folder / "progress").write_text("links\\tlinks\\n")
    time.sleep(600)
""",
        limit_s=2.0,
    )
    assert wrong == ["workers 0 did not finish in 2 s; last part begun: links"]
    assert_all_gone(tmp_path)


def test_ctrl_c_ends_all_workers_and_leaves_what_they_wrote(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    body = 'if settings["rank"] == 0:\n    (folder / "progress").write_text("compute\\tcompute\\n")\ntime.sleep(600)\n'
    (tmp_path / "pretend_worker.py").write_text(REPORT + body)

    def interrupt(part, what):
        raise KeyboardInterrupt

    wrong = run([Settings(rank, 2, 1, str(tmp_path), 30.0) for rank in range(2)], "pretend_worker", interrupt)
    assert wrong == ["interrupted; last part begun: compute"]
    assert_all_gone(tmp_path)
