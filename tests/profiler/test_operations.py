"""Operations: each runs at its sizes and computes what it is called; a grid comes out as the rows of a file."""

from __future__ import annotations

import pytest
import torch

from meshwright.clusters.shapes import KINDS
from meshwright.profiler.kernels import PARTS, Axis, affordable, caches_bytes, grid_of
from meshwright.profiler.operations import OPERATIONS, Operands, measure_point
from meshwright.profiler.overlap import Round, slowdowns

CPU = torch.device("cpu")
SMALL = {
    "matmul": (8, 6, 4),
    "grouped": (2, 8, 8, 8),
    "attention": (2, 16, 8),
    "norm": (8, 16),
    "activation": (8, 16),
    "residual": (64,),
    "loss": (8, 32),
    "embedding": (8, 16, 32),
    "optimizer": (64,),
}


@pytest.mark.parametrize("name", SMALL)
def test_every_part_of_every_operation_is_timed(name):
    point = measure_point(name, CPU, torch.float32, lambda: None)(SMALL[name], 0.003)
    assert point.sizes == SMALL[name]
    assert len(point.seconds) == len(KINDS[name].parts)
    assert all(0 < each < 1 for each in point.seconds)


def test_operations_kinds_and_shares_name_the_same():
    assert OPERATIONS.keys() == KINDS.keys() == PARTS.keys()
    assert sum(part.share for part in PARTS.values()) == pytest.approx(1)
    assert affordable(CPU, 1e9) == [name for name in PARTS if name != "copy"]
    for name, part in PARTS.items():
        for kind, axes in part.axes.items():
            assert len(axes) == len(KINDS[name].sizes)
            assert all(size in axis.sizes for size, axis in zip(part.probe[kind], axes, strict=True))


def test_the_three_products_of_a_linear_layer():
    """Shapes and values are those of autograd."""
    forward, inputs, weights = OPERATIONS["matmul"](CPU, torch.float32, 8, 6, 4)
    out = forward(0)
    assert (out.shape, inputs(0).shape, weights(0).shape) == ((8, 6), (8, 4), (6, 4))
    x = torch.autograd.grad(out.sum(), _leaves(out), retain_graph=True)
    assert sorted(tuple(each.shape) for each in x) == [(6, 4), (8, 4)]


def _leaves(out):
    found, todo = [], [out.grad_fn]
    while todo:
        node = todo.pop()
        found += [node.variable] if hasattr(node, "variable") else []
        todo += [each for each, _ in node.next_functions if each is not None]
    return found


def test_operands_change_from_call_to_call_until_they_fill_caches():
    small, large = Operands(CPU, torch.float32, 100), Operands(CPU, torch.float32, 2**24)
    assert (small.copies, large.copies) == (16, 1)
    first, second = small.random(10, 10)[:2]
    assert first.data_ptr() != second.data_ptr()


def test_axes_have_octaves_and_what_lies_between():
    assert Axis(64, 512).sizes == (64, 96, 128, 192, 256, 384, 512)


def test_a_grid_of_a_tenth_of_a_second():
    points = grid_of("residual", CPU, torch.float32, 0.1)
    assert len({point.sizes for point in points}) == len(points)
    assert [len(point.row) for point in points] == [3] * len(points)


def test_caches_are_ascending_bytes():
    found = caches_bytes(CPU)
    assert found == sorted(found)
    assert all(each >= 2**17 for each in found)


def test_slowdowns_are_medians_and_never_below_one():
    rounds = [Round(1.0, 10.0, each, 9.0) for each in (1.2, 1.5, 9.0)]
    assert slowdowns(rounds) == {"compute": 1.5, "collective": 1.0}
