"""Expert parallelism, folded over the ranks that attention uses otherwise."""

from __future__ import annotations

from typing import Any

from expert_placements import placed

from parity_table.dimensions import dispatch
from parity_table.models import MODELS
from parity_table.row import Dimension


def _placed(ep: int, replicas: int = 0, model: str = "mixtral", **options: Any) -> dict[str, Any]:
    return {"model": model, **options, **placed(MODELS[model], ep, replicas)}


_FOLDED = {"tp": 2, "sp": True, "dp": 2, "etp": 2}
_GROUPS_MOVED = {"slots": ((6, 7, 1, 0, 3, 2, 4, 5), (2, 3, 5, 4, 0, 1, 7, 6)) * 2}
"""Four groups of two experts in another order, and experts of a group exchanged."""

DIMENSION = Dimension(
    name="experts",
    values={
        "dense": {},
        "experts": {"model": "mixtral"},
        "ep2": {"model": "mixtral", "ep": 2},
        "ep4": {"model": "mixtral", "ep": 4},
        "etp2": {"model": "mixtral", "etp": 2},
        "ep2 etp2": {"model": "mixtral", "ep": 2, "etp": 2},
    },
    rows={
        "ep8 dp8": {"model": "mixtral", "dp": 8, "ep": 8, "microbatch": 1},
        **dispatch.ROWS,
        "ep2 dp2 zero0, experts permuted": _placed(2, dp=2, zero=0),
        "ep4 dp4 zero3, experts permuted": _placed(4, dp=4, zero=3, microbatch=1),
        "ep2 etp2 tp2 sp dp2, experts permuted": _placed(2, **_FOLDED),
        "pp2 ep2 dp2, experts permuted": _placed(2, pp=2, dp=2),
        "deepseek_v3 ep2 dp2, groups permuted": {"model": "deepseek_v3", "dp": 2, "ep": 2, "placement": _GROUPS_MOVED},
        "ep2 dp2, 2 replicas": _placed(2, 2, dp=2),
        "ep2 dp2, 2 replicas, a copy a rank in 2 chunks": _placed(2, 2, dp=2, dispatch="ranks", dispatch_chunks=2),
        "ep2 dp4 zero0, 4 replicas": _placed(2, 4, dp=4, zero=0),
        "ep4 dp4 zero3, 8 replicas": _placed(4, 8, dp=4, zero=3, microbatch=1),
        "ep2 etp2 tp2 sp dp2, 2 replicas": _placed(2, 2, **_FOLDED),
        "pp2 ep2 dp2, 4 replicas": _placed(2, 4, pp=2, dp=2),
    },
)
