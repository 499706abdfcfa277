"""Schedules for property tests, and actions as PyTorch spells them."""

from __future__ import annotations

from hypothesis import strategies as st

from meshwright.planner.schedule import Schedule, make, table


@st.composite
def schedules(draw: st.DrawFn, most_ranks: int = 6, most_microbatches: int = 12) -> Schedule:
    """Any schedule that can be asked for by name, of any legal size."""
    builder = table()[draw(st.sampled_from(sorted(table())))]
    ranks = draw(st.integers(1, most_ranks))
    chunks = draw(st.integers(builder.chunks.start, min(builder.chunks.stop - 1, 4)))
    groups = draw(st.integers(1, max(1, most_microbatches // (ranks if builder.whole_groups else 1))))
    return make(builder.name, ranks, groups * (ranks if builder.whole_groups else 1), chunks)
