"""DualPipeV (DeepSeek-V3, arXiv:2412.19437, section 3.2.1: DualPipe cut in half, so that weights are held once).

Two virtual stages a rank in a V, as in ZB-V. In the steady state a forward of one arm of the V stands beside a
backward of the other: a runtime may run the two together, with the communication of one beside the compute of the
other. Here each pair is listed one after the other. Backwards are whole but where a bubble would be: on the way up
before the steady state, and at the end.
"""

from __future__ import annotations

from ..builder import Builder
from ..placement import vee
from ..schedule import Schedule
from ..spelling import spell


def dual_pipe_v(ranks: int, microbatches: int) -> Schedule:
    """Fill both arms, alternate, drain; few microbatches leave out what they do not have."""
    rows = tuple(
        spell(_words(ranks, rank, max(microbatches, 2 * ranks)), [rank, 2 * ranks - 1 - rank], microbatches)
        for rank in range(ranks)
    )
    return Schedule("dualpipev", ranks, 2 * ranks, microbatches, rows, vee(ranks, 2 * ranks))


def _words(ranks: int, rank: int, microbatches: int) -> list[str]:
    above = ranks - rank - 1  # ranks from here to the turn of the V
    words = ["F0"] * (2 * above) + ["F0", "F1"] * (rank + 1) + ["I1", "W", "F1"] * above
    words += ["F0", "B1", "F1", "B0"] * (microbatches - 2 * ranks + rank + 1) + ["B1", "F1", "B0"] * above
    return words + _drain(rank) + ["W", "I0"] * above + ["W"] * (rank + 1)


def _drain(rank: int) -> list[str]:
    """Both arms backward in turn; of these 2 (rank + 1) backwards the second half leaves its weight gradients for
    later."""
    backwards = ["B1", "B0"] * (rank + 1)
    return backwards[: rank + 1] + [f"I{word[1]}" for word in backwards[rank + 1 :]]


SCHEDULE = Builder(
    name="dualpipev",
    source="arXiv:2412.19437, section 3.2.1",
    make=lambda ranks, microbatches, chunks: dual_pipe_v(ranks, microbatches),
    chunks=range(2, 3),
    splits=True,
    place=vee,
    waiting=1,
    searched=False,  # what it is for, two passes at once, is not priced
)
