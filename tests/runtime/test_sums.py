"""Checksums of tensors in a checkpoint: of parts, of replicas, of experts in slots."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch

from meshwright.errors import RunError
from meshwright.kernels.checksum import checksum
from meshwright.runtime.sums import Part, changed, parts_of, totals

WEIGHT = torch.arange(12.0).view(4, 3)


def part(first: int, count: int, tensor: torch.Tensor = WEIGHT) -> Part:
    rows = tensor[first : first + count]
    return Part("w", (first, 0), (count, 3), (4, 3), int(checksum(rows, (first, 0), (4, 3))))


def test_shards_of_any_mesh_have_one_sum() -> None:
    expected = {"w": int(checksum(WEIGHT))}
    assert totals([[part(0, 4)]]) == expected
    assert totals([[part(0, 2)], [part(2, 2)]]) == expected
    assert totals([[part(0, 3)], [part(3, 1)], [part(0, 3)], [part(3, 1)]]) == expected


def test_what_is_not_whole_has_none() -> None:
    assert totals([[part(0, 2)]]) == {}
    assert totals([[part(0, 4)], [part(0, 2)]]) == {}


def test_replicas_that_differ_are_named() -> None:
    damaged = WEIGHT.clone()
    damaged.view(torch.int32)[1, 1] ^= 1 << 13
    ranks = [[part(0, 2)], [part(0, 2, damaged)], [part(0, 2)], [part(2, 2)]]
    with pytest.raises(RunError, match=r"replicas of w differ: \[2, 3\] from \[0, 0\] on .* ranks 0 2; 1;"):
        totals(ranks)


def test_slots_count_as_their_experts() -> None:
    """Two placements of three experts, one with a replica, have the sum of experts in their order."""
    experts = torch.arange(12.0).view(3, 2, 2)
    expected = {"w": int(checksum(experts))}
    for order in ((2, 0, 1), (1, 2, 0, 1)):
        assert totals([parts_of({"w": experts[list(order)]}, {"w": order})]) == expected
    assert totals([parts_of({"w": experts}, {})]) == expected


def test_replicas_of_experts_are_compared() -> None:
    stacked = torch.arange(12.0).view(3, 2, 2)[[1, 2, 0, 1]]
    stacked[3, 0, 0] += 1
    with pytest.raises(RunError, match=r"replicas of w differ: \[1, 2, 2\] from \[1, 0, 0\] on"):
        totals([parts_of({"w": stacked}, {"w": (1, 2, 0, 1)})])


def test_what_is_read_is_compared_with_what_was_saved() -> None:
    assert changed({"a": 1, "b": 2, "old": 3}, {"a": 1, "b": 4, "new": 5}) == ["b"]


def test_empty_parts_and_numbers_alone() -> None:
    state = {"none": torch.empty(0, 3), "one": torch.tensor(2.5)}
    (only,) = parts_of(state, {})
    assert only == Part("one", (), (), (), int(checksum(state["one"])))
    assert Part.read(json.loads(json.dumps(asdict(only)))) == only
    assert replace(only, sum=0) != only
