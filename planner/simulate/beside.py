"""Collectives beside compute inside one action: exact ends of a stage that goes layer by layer.

An action of a stage computes n equal layers, `work / n` seconds each; its collectives go in as many equal parts, in
order, one at a time. Both together are a flow shop of equal pieces, whose longest path has few shapes: every function
here is its closed form, so that an action costs the same whatever the number of layers. The tests compare them with
the longest path through all the pieces.

While a collective is in flight compute goes at 1 - steal of its pace; the collective keeps its own.
"""

from __future__ import annotations

from typing import NamedTuple


class Ran(NamedTuple):
    """When an action computed, and when its collectives were on the data stream."""

    begin_s: float
    end_s: float
    data_begin_s: float
    data_end_s: float


def slowed(begin_s: float, work_s: float, until_s: float, steal: float) -> float:
    """End of compute that begins while collectives are in flight until `until_s`."""
    if not steal or until_s <= begin_s:
        return begin_s + work_s
    done_s = (1 - steal) * (until_s - begin_s)
    return begin_s + work_s / (1 - steal) if work_s <= done_s else until_s + work_s - done_s


def gathered_before(
    begin_s: float, work_s: float, pieces: int, first_s: float, all_s: float, until_s: float, steal: float
) -> tuple[float, float]:
    """(begin, end) of a forward whose weights arrive at an even pace: the first layer's at `first_s`, all at `all_s`.

    Other gathers stay in flight until `until_s`. Either nothing is waited for after the first layer, or the last
    layer is: pieces are equal, so that who waits in between waits at the end.
    """
    begin_s = max(begin_s, first_s)
    last_s = slowed(max(begin_s, all_s), work_s / pieces, until_s, steal)
    return begin_s, max(slowed(begin_s, work_s, until_s, steal), last_s)


def reduced_beside(begin_s: float, work_s: float, pieces: int, reduce_s: float, data_s: float, steal: float) -> Ran:
    """A backward whose layers are reduced as they are done; the data stream is busy until `data_s`."""
    layer_s, each_s = work_s / pieces, reduce_s / pieces
    first_s = slowed(begin_s, layer_s, data_s, steal)
    in_flight_s = max(0.0, data_s - first_s) + (pieces - 1) * each_s
    rest_s = (pieces - 1) * layer_s
    end_s = first_s + (min(rest_s / (1 - steal), rest_s + steal * in_flight_s) if steal else rest_s)
    data_begin_s = max(data_s, first_s)
    return Ran(begin_s, end_s, data_begin_s, max(data_begin_s + reduce_s, end_s + each_s))


def gathered_beside(begin_s: float, work_s: float, pieces: int, gather_s: float, data_s: float, steal: float) -> Ran:
    """A forward that gathers each layer's weights while it computes the layer before (FSDP2's prefetch).

    The first gather has nothing to run beside.
    """
    layer_s, each_s = work_s / pieces, gather_s / pieces
    data_begin_s = max(begin_s, data_s)
    first_s = data_begin_s + each_s
    pace_s = max(each_s, layer_s + steal * each_s)
    end_s = first_s + (pieces - 1) * pace_s + layer_s
    data_end_s = first_s + (max(0, pieces - 2) * pace_s + each_s if pieces > 1 else 0.0)
    return Ran(first_s, end_s, data_begin_s, data_end_s)


def gathered_and_reduced(
    begin_s: float, work_s: float, pieces: int, gather_s: float, reduce_s: float, data_s: float, steal: float
) -> Ran:
    """A backward that gathers each layer's weights one layer ahead and reduces its gradients when it is done.

    On the stream (FSDP2's order): g1 g2 r1 g3 r2 ... gn r(n-1) rn. The first layer is not waited for: the backward
    begins with the head, whose weights are kept, and beside which the first gather runs.
    """
    layer_s, gather, reduce = work_s / pieces, gather_s / pieces, reduce_s / pieces
    data_begin_s = max(begin_s, data_s)
    gathered_s = data_begin_s + min(2, pieces) * gather
    first_s = slowed(begin_s, layer_s, gathered_s, steal)
    if pieces == 1:
        return Ran(begin_s, first_s, data_begin_s, max(first_s, gathered_s) + reduce)
    pace_s = max(gather + reduce, layer_s + steal * (gather + reduce))
    last_s = max(first_s, gathered_s) + (pieces - 2) * pace_s
    end_s = slowed(last_s, layer_s, last_s + reduce, steal)
    return Ran(begin_s, end_s, data_begin_s, max(end_s, last_s + reduce) + reduce)
