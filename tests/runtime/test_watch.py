"""Heartbeats name the rank that holds up the rest."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

from meshwright.runtime.watch import Beat, Heartbeat, read_beats, stalled


def beat(rank: int, step: int, moved: float, beaten: float) -> Beat:
    return Beat(rank=rank, host="h", pid=100 + rank, step=step, moved_at_s=moved, beat_at_s=beaten)


def test_nobody_is_named_while_anything_moves() -> None:
    assert stalled([beat(0, 9, moved=95, beaten=100), beat(1, 8, moved=50, beaten=60)], 10, now_s=100) == []
    assert stalled([], 10, now_s=100) == []


def test_a_silent_rank_is_named_before_those_that_wait_for_it() -> None:
    beats = [beat(0, 8, moved=50, beaten=99.5), beat(1, 8, moved=50, beaten=51)]
    assert [found.rank for found in stalled(beats, 10, now_s=100)] == [1]


def test_where_all_beat_the_rank_with_the_fewest_steps_is_named() -> None:
    beats = [beat(0, 9, moved=50, beaten=100), beat(1, 8, moved=49, beaten=100), beat(2, 9, moved=50, beaten=100)]
    assert [found.rank for found in stalled(beats, 10, now_s=100)] == [1]


def test_of_those_the_ranks_that_wait_for_a_peer_are_not_named() -> None:
    waiting, busy = (replace(beat(rank, 8, moved=50, beaten=100), waits=rank == 0) for rank in (0, 1))
    assert stalled([waiting, busy], 10, now_s=100) == [busy]
    assert stalled([waiting], 10, now_s=100) == [waiting]


def test_a_heartbeat_says_where_its_process_stands(tmp_path: Path) -> None:
    heart = Heartbeat(tmp_path, rank=0)
    (beat,) = read_beats(tmp_path, 0)
    heart.close()
    assert beat.at.startswith("_main_thread_at (watch.py:")
    assert not beat.waits


def test_a_run_that_has_not_begun_has_more_time() -> None:
    beats = [beat(0, 0, moved=0, beaten=100), beat(1, 0, moved=0, beaten=100)]
    assert stalled(beats, 10, now_s=100) == []
    assert len(stalled(beats, 10, now_s=130)) == 2


def test_the_first_step_is_known_at_once(tmp_path: Path) -> None:
    """A rank that stops in the second after it must not be given the time of one that still starts up."""
    heart = Heartbeat(tmp_path, rank=0)
    heart.moved(5)
    (beat,) = read_beats(tmp_path, 0)
    heart.close()
    assert beat.step == 5


def test_a_heartbeat_is_written_read_and_gone(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path, rank=3)
    heartbeat.moved(7)
    deadline = time.monotonic() + 10
    while not [found for found in read_beats(tmp_path, 0) if found.step == 7]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert read_beats(tmp_path, since_s=time.time() + 60) == []
    text = (tmp_path / "rank-00003.json").read_text()
    heartbeat.close()
    assert read_beats(tmp_path, 0) == []
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    (tmp_path / "rank-00003.json").write_text(text.replace(f'"pid": {os.getpid()}', f'"pid": {ended.pid}'))
    assert read_beats(tmp_path, 0) == []
