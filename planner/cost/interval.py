"""Between what a predicted step time will lie: where the rates of the devices come from decides it."""

from __future__ import annotations

from ..configuration import Configuration
from ..frameworks.framework import Spread
from .measured import sizes_of
from .setting import Setting
from .sharding import sharding_of

MEASURED = Spread(low=0.9, high=1.25)
"""On a machine that was profiled. Where the model's layers were, on CPUs, it holds 97 % of the plans of 2 workers and
95 % of those of 4 (docs/closed_loop.md). On GPUs it is stated: no step of ours was measured there."""

WITHOUT_LAYERS = Spread(low=0.9, high=3.1)
"""On CPUs whose profile did not time the model's layers as the plan cuts them: of a small model on one machine nine of
ten steps took 1.5 to 3.1 times what kernels and links alone said (docs/closed_loop.md); less is expected of larger
products."""


def interval_of(used: Setting, configuration: Configuration) -> Spread:
    """Measured over predicted, as all devices in use see it."""
    if not used.is_measured:
        return used.spread
    return WITHOUT_LAYERS if lacks_layers(used, configuration) else MEASURED


def lacks_layers(used: Setting, configuration: Configuration) -> bool:
    """Whether the devices are CPUs that were profiled, but not the model's layers at this length and under the plan's
    own sharding; and no runs taught anything since, whose error is taken to be that of a profile."""
    if used.hides_communication or not used.is_measured or used.adjustment is not None:
        return False
    known, sharding, seq_len = used.measured, sharding_of(configuration), used.job.seq_len
    return known is None or not all(known.leg("layer", sizes_of(kind), sharding, seq_len) for kind in used.kinds)
