"""Between what a predicted step time will lie: where the rates of the devices come from decides it."""

from __future__ import annotations

from ..frameworks.framework import Spread
from .measured import sizes_of
from .setting import Setting

MEASURED = Spread(low=0.9, high=1.25)
"""On a machine that was profiled. Where the model's layers were, on CPUs, it holds 97 % of the plans of 2 workers and
92 % of those of 4 (docs/closed_loop.md). On GPUs it is stated: no step of ours was measured there."""

KERNELS_ALONE = Spread(low=0.9, high=3.1)
"""On CPUs whose profile knows kernels and links but not the model's layers: steps took 1.48 to 3.07 times what was
predicted (5th and 95th percentile over the plans of a small model, docs/closed_loop.md); less for larger products."""


def interval_of(used: Setting) -> Spread:
    """Measured over predicted, as all devices in use see it."""
    if not used.is_measured:
        return used.spread
    return KERNELS_ALONE if lacks_layers(used) else MEASURED


def lacks_layers(used: Setting) -> bool:
    """Whether the devices are CPUs that were profiled without the model's layers at this length, and no runs taught
    anything since."""
    if used.hides_communication or not used.is_measured or used.adjustment is not None:
        return False
    known, seq_len = used.measured, used.job.seq_len
    return known is None or not all(known.knows(sizes_of(kind), seq_len) for kind in used.kinds)
