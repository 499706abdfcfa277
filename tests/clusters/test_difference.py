"""What changed between two profiles."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.clusters import load_cluster
from meshwright.clusters.difference import LEAST_NOISE, Change, difference
from meshwright.clusters.provenance import Provenance


def provenance(**changes):
    base = {"date": "2026-01-01", "host": "here", "workers": 2, "threads": 1, "budget_s": 20.0}
    return Provenance.model_validate(base | changes)


def changed(cluster, device=None, **fields):
    """With other figures of its only group's device or fabric."""
    group = cluster.node_groups[0]
    if device:
        group = group.model_copy(update={"device": group.device.model_copy(update=device)})
    for name, update in fields.items():
        group = group.model_copy(update={name: getattr(group, name).model_copy(update=update)})
    return cluster.model_copy(update={"node_groups": (group,)})


@pytest.fixture
def dgx():
    return load_cluster("dgx-h100").model_copy(update={"measured": provenance()})


@pytest.mark.parametrize("name", ["dgx-h100", "rtx4090-ethernet", "two-site", "gb200-nvl72"])
def test_a_cluster_does_not_differ_from_itself(name):
    found = difference(load_cluster(name), load_cluster(name))
    assert found.changes
    assert found.texts == ()
    assert not any(change.beyond_noise for change in found.changes)
    assert all(change.ratio == 1 for change in found.changes)


def test_what_changed_is_named_with_how_much(dgx):
    found = difference(
        dgx, changed(dgx, device={"memory_bandwidth_bytes_per_s": 2.68e12}, fabric={"latency_s": 3.1e-6})
    )
    by_name = {change.figure: change for change in found.changes}
    assert by_name["memory bandwidth"].ratio == pytest.approx(0.8)
    assert by_name["memory bandwidth"].beyond_noise
    assert not by_name["fabric latency"].beyond_noise  # three percent
    assert found.to_json()["beyond_noise"] == 1


def test_a_table_is_one_figure_with_its_median_and_its_farthest_point(dgx):
    calibration = dgx.node_groups[0].device.calibration
    points = [point.model_copy(update={"fraction": point.fraction * 0.5}) for point in calibration.matmul]
    points[-1] = calibration.matmul[-1]
    slower = changed(dgx, device={"calibration": calibration.model_copy(update={"matmul": tuple(points)})})
    change = next(each for each in difference(dgx, slower).changes if each.figure == "matmul")
    assert change.count == len(points)
    assert change.ratio == pytest.approx(0.5)
    assert change.most == pytest.approx(0.5)
    assert change.beyond_noise


def test_the_spread_of_both_profiles_is_their_noise(dgx):
    noisy = dgx.model_copy(update={"measured": provenance(spread={"memory bandwidth": 0.15})})
    slower = changed(noisy, device={"memory_bandwidth_bytes_per_s": 0.8 * 3.35e12})
    change = next(each for each in difference(noisy, slower).changes if each.figure == "memory bandwidth")
    assert change.noise == pytest.approx(0.3)
    assert not change.beyond_noise


def test_versions_and_devices_are_told(dgx):
    other = dgx.model_copy(update={"measured": provenance(versions={"torch": "2.11"}, host="there")})
    texts = {name: (before, after) for name, before, after in difference(dgx, other).texts}
    assert texts == {"torch": ("unknown", "2.11"), "host": ("here", "there")}


@given(st.floats(1e-9, 1e12), st.floats(0.01, 100), st.floats(LEAST_NOISE, 1))
def test_noise_counts_alike_up_and_down(value, ratio, noise):
    there, back = Change("g", "f", value, value * ratio, noise), Change("g", "f", value * ratio, value, noise)
    assert there.beyond_noise == back.beyond_noise or math.isclose(
        abs(math.log(ratio)), math.log1p(noise), rel_tol=1e-6
    )
    assert there.beyond_noise or abs(math.log(ratio)) <= math.log1p(noise) * (1 + 1e-6)


def test_from_nothing_to_something_is_a_change():
    change = Change("g", "f", 0.0, 1.0, 0.05)
    assert change.beyond_noise
    assert change.to_json()["ratio"] is None
