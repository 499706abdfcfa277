"""The adaptive grid: reaches its target with few points where the truth is known, ends with its budget elsewhere."""

from __future__ import annotations

import random
from math import exp, log, prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.clusters.interpolation import surface
from meshwright.clusters.shapes import work
from meshwright.profiler.grid import MOST, Point, Space, refine

AXIS = tuple(sorted(s for power in range(6, 13) for s in (2**power, 3 * 2 ** (power - 1)) if 64 <= s <= 4096))
SPACE = Space("matmul", (AXIS,) * 3, lambda sizes: 2 * prod(sizes) <= 4e9)


def smooth(sizes):
    """A product whose rate rises with its size."""
    m, n, k = sizes
    return 4e-6 + 2 * m * n * k / (6e10 * (k / (k + 60)) * (n / (n + 30)) * (m / (m + 20)))


def stepped(sizes):
    """The same, a fifth slower from some size on."""
    return smooth(sizes) * (1.25 if sizes[0] * sizes[2] > 2**18 else 1.0)


class Machine:
    """Measures a world, with noise, on a clock that stands still but for what it measures."""

    def __init__(self, world, noise=0.0, takes_s=0.0):
        self.world, self.noise, self.takes_s = world, noise, takes_s
        self.among, self.now_s, self.asked = random.Random(0), 0.0, []

    def __call__(self, sizes, limit_s):
        self.asked.append(sizes)
        self.now_s += self.takes_s
        seconds = self.world(sizes) * exp(self.among.gauss(0, self.noise))
        return Point(sizes, (seconds, 1.5 * seconds), self.noise)

    def clock(self):
        return self.now_s


def held_out_errors(points, world, count=300):
    """Relative errors at random sizes within the space, on no lattice."""
    sizes = np.array([point.sizes for point in points], dtype=float)
    works = np.array([work("matmul", each) for each in sizes])
    found = surface(sizes, works, np.array([p.seconds[0] for p in points]), np.array([p.spread for p in points]))
    among = random.Random(1)
    drawn = [tuple(exp(among.uniform(log(64), log(4096))) for _ in range(3)) for _ in range(count)]
    at = np.array([each for each in drawn if SPACE.allowed(each)])
    predicted = found.at(at, np.array([work("matmul", each) for each in at]))
    return np.abs(np.log(predicted / np.array([world(each) for each in at])))


def test_few_of_more_than_a_thousand_points_reach_the_target():
    machine = Machine(smooth)
    points = refine(SPACE, machine, 1e9, target=0.05, clock=machine.clock)
    assert len(SPACE.candidates()) > 1000
    assert len(points) <= 40
    assert np.median(held_out_errors(points, smooth)) < 0.05


def test_a_step_is_followed_as_far_as_points_go():
    """No interpolation is right beside a step: the errors are there, and half of what they were."""
    machine = Machine(stepped)
    points = refine(SPACE, machine, 1e9, target=0.05, clock=machine.clock)
    assert len(points) <= MOST
    first, last = (np.median(held_out_errors(some, stepped)) for some in (points[: len(SPACE.first())], points))
    assert last < first / 2
    assert last < 0.05


def test_a_narrower_target_takes_more_points_and_errs_less():
    found = []
    for target in (0.2, 0.05):
        machine = Machine(smooth)
        points = refine(SPACE, machine, 1e9, target=target, clock=machine.clock)
        found.append((len(points), np.median(held_out_errors(points, smooth))))
    (few, coarse), (many, fine) = found
    assert few < many
    assert fine < coarse


def test_points_gather_where_the_truth_bends():
    """Half a space is a plain product, the other half is not: that is where the points go."""

    def half(sizes):
        wave = 1 + 0.5 * np.sin(3 * log(sizes[1])) * np.sin(3 * log(sizes[2])) if sizes[0] > 512 else 1.0
        return 2 * prod(sizes) / 5e10 * wave

    machine = Machine(half)
    points = refine(SPACE, machine, 1e9, target=0.02, clock=machine.clock)
    chosen = [point.sizes for point in points[len(SPACE.first()) :]]
    in_all = np.mean([sizes[0] > 512 for sizes in SPACE.candidates()])
    assert np.mean([sizes[0] > 512 for sizes in chosen]) > in_all


@settings(max_examples=8, deadline=None)
@given(budget_s=st.floats(0.5, 20), takes_s=st.floats(0.5, 2.0))
def test_it_ends_with_its_budget(budget_s, takes_s):
    """One point more than there is time for, at most."""
    machine = Machine(stepped, noise=0.3, takes_s=takes_s)
    refine(SPACE, machine, budget_s, clock=machine.clock)
    assert machine.now_s <= budget_s + 2 * takes_s


def test_the_first_points_are_measured_whatever_they_take():
    machine = Machine(smooth, takes_s=5.0)
    assert len(refine(SPACE, machine, 0.0, clock=machine.clock, at_least=4)) == 4


def test_no_size_twice_but_for_what_surprises_and_was_not_sure():
    sure, unsure = Machine(stepped), Machine(stepped, noise=0.3, takes_s=1.0)
    refine(SPACE, sure, 1e9, clock=sure.clock)
    points = refine(SPACE, unsure, 60, clock=unsure.clock)
    assert len(sure.asked) == len(set(sure.asked))
    assert max(unsure.asked.count(each) for each in unsure.asked) == 2
    assert len({point.sizes for point in points}) == len(points)


def test_the_same_world_gives_the_same_points():
    one, other = Machine(stepped, noise=0.05, takes_s=1), Machine(stepped, noise=0.05, takes_s=1)
    assert refine(SPACE, one, 40, clock=one.clock) == refine(SPACE, other, 40, clock=other.clock)


def test_only_what_is_allowed_is_measured_and_the_ends_are_among_it():
    machine = Machine(smooth)
    refine(SPACE, machine, 1e9, clock=machine.clock)
    assert all(SPACE.allowed(sizes) for sizes in machine.asked)
    assert min(machine.asked) == (64, 64, 64)
    assert max(prod(sizes) for sizes in machine.asked) > 0.5 * max(prod(sizes) for sizes in SPACE.candidates())


def test_a_space_of_one_size():
    one = Space("residual", ((4096,),), lambda _: True)
    machine = Machine(lambda sizes: sizes[0] * 1e-9)
    assert [point.sizes for point in refine(one, machine, 10, clock=machine.clock)] == [(4096,)]
