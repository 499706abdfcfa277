"""Fits in worlds whose truth is known: it is found, noise is left alone, and runs not seen never get worse by more than
chance."""

from __future__ import annotations

import numpy as np
import pytest
from fitting_worlds import NAMES, WIDTH, median_error, truth, world
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.planner.fitting.robust import BEND, huber, noise, solve
from meshwright.planner.fitting.select import FOLDS, folds, selected, student
from meshwright.planner.fitting.sheet import Sheet, Vector

UNSEEN = 40


def learnt(sheet: Sheet, runs: int) -> Vector:
    """What the first runs teach."""
    rows = np.arange(runs)
    return solve(sheet, selected(sheet, rows), rows)


@pytest.mark.parametrize(("name", "value"), [("compute", 0.3), ("compute", -0.25), ("network.bandwidth", 1.2)])
def test_a_scale_that_differs_is_found(name: str, value: float) -> None:
    for seed in range(5):
        sheet = world(20, truth(**{name.replace(".", "_"): value}), 0.02, seed)
        at = learnt(sheet, 20)
        assert at[NAMES.index(name)] == pytest.approx(value, abs=0.12 if "." in name else 0.05)
        assert np.abs(np.delete(at, NAMES.index(name))).max() < 0.15


def test_fixed_seconds_are_found_and_never_negative() -> None:
    for seed in range(5):
        sheet = world(20, truth(step=0.5), 0.02, seed)
        assert learnt(sheet, 20)[NAMES.index("step")] == pytest.approx(0.5, rel=0.3)
    faster = world(20, truth(compute=-0.3), 0.02, 0)
    fixed = [NAMES.index(name) for name in ("step", "layer")]
    assert (solve(faster, fixed, np.arange(20))[fixed] == 0).all()


def test_several_at_once_leave_little_error_on_runs_not_seen() -> None:
    before, after = [], []
    for seed in range(6):
        sheet = world(24 + UNSEEN, truth(compute=0.3, network_bandwidth=1.0, step=0.4), 0.03, seed)
        rows = np.arange(24, 24 + UNSEEN)
        before.append(median_error(sheet, truth(), rows))
        after.append(median_error(sheet, learnt(sheet, 24), rows))
    assert np.median(after) < 0.06 < 0.3 < np.median(before)


@pytest.mark.parametrize("runs", [3, 5, 8, 20])
def test_noise_alone_frees_next_to_nothing(runs: int) -> None:
    worlds = 24
    moved = sum(bool(selected(world(runs, truth(), 0.1, seed), np.arange(runs))) for seed in range(worlds))
    assert moved <= 0.25 * worlds  # each first candidate has 1 in 20, all others together as much


def test_a_handful_of_runs_with_one_bias_helps() -> None:
    gains = []
    for seed in range(12):
        sheet = world(5 + UNSEEN, truth(compute=0.35), 0.03, seed)
        rows = np.arange(5, 5 + UNSEEN)
        gains.append(median_error(sheet, truth(), rows) - median_error(sheet, learnt(sheet, 5), rows))
    assert np.median(gains) > 0.1
    assert min(gains) > -0.02


@settings(max_examples=25, deadline=None)
@given(
    runs=st.integers(3, 10),
    compute=st.floats(-0.4, 0.4),
    links=st.floats(-0.7, 1.0),
    step=st.floats(0, 0.5),
    spread=st.floats(0.01, 0.1),
    seed=st.integers(0, 2**31),
)
def test_runs_not_seen_never_get_worse_by_more_than_chance(
    runs: int, compute: float, links: float, step: float, spread: float, seed: int
) -> None:
    sheet = world(runs + UNSEEN, truth(compute=compute, network_bandwidth=links, step=step), spread, seed)
    rows = np.arange(runs, runs + UNSEEN)
    before, after = (median_error(sheet, at, rows) for at in (truth(), learnt(sheet, runs)))
    # What a mean of so few runs is off by, thrice; a wrong parameter is worth as much as the bias that it explains.
    assert after <= before + 3 * (spread + 0.25 * before) / np.sqrt(runs)


def test_one_run_that_stalled_does_not_pull_the_others_along() -> None:
    sheet = world(10, truth(compute=0.2), 0.02, 1)
    stalled = sheet.measured_s.copy()
    stalled[3] *= 6
    at = solve(type(sheet)(stalled, *(getattr(sheet, name) for name in sheet.__slots__[1:])), [0], np.arange(10))
    assert at[0] == pytest.approx(0.2, abs=0.08)


def test_runs_pull_harder_than_the_prior_the_more_they_are_and_agree() -> None:
    pulled = [solve(world(runs, truth(compute=0.3), 0.15, 3), [0], np.arange(runs))[0] for runs in (1, 200)]
    assert 0 <= abs(pulled[0]) < 0.6
    assert pulled[1] == pytest.approx(0.3, abs=0.06)
    alone = world(3, truth(), 0.0, 0)
    assert noise(alone, truth(), np.arange(3)) > 0.25 * WIDTH  # three runs that agree do not look exact


def test_repetitions_of_a_configuration_are_held_out_together() -> None:
    groups = ["a", "b", "a", "c", "b", "a"]
    assert [part.tolist() for part in folds(groups)] == [[0, 2, 5], [1, 4], [3]]
    many = folds([str(number) for number in range(25)])
    assert len(many) == FOLDS
    assert sorted(np.concatenate(many).tolist()) == list(range(25))
    alike = world(6, truth(compute=0.4), 0.01, 0)
    two = type(alike)(*(getattr(alike, name) for name in alike.__slots__[:-1]), tuple("ababab"))
    assert selected(two, np.arange(6)) == []  # two configurations say nothing of a third


@given(st.floats(-5, 5), st.floats(0.01, 1))
def test_huber_is_a_square_near_and_a_line_far_and_smooth_between(residual: float, scale: float) -> None:
    (loss,) = huber(np.array([residual]), scale)
    far = abs(residual) / scale
    assert loss == pytest.approx(far**2 / 2 if far <= BEND else BEND * far - BEND**2 / 2, rel=1e-9)


@pytest.mark.parametrize(
    ("freedom", "tail", "known"),
    [(1, 0.05, 6.314), (2, 0.05, 2.920), (4, 0.05, 2.132), (9, 0.05, 1.833), (30, 0.01, 2.457), (4, 0.005, 4.604)],
)
def test_quantiles_of_student_are_those_of_the_tables(freedom: int, tail: float, known: float) -> None:
    assert student(freedom, tail) == pytest.approx(known, rel=0.02)
