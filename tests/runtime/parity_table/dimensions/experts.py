"""Expert parallelism, folded over the ranks that attention uses otherwise."""

from __future__ import annotations

from parity_table.row import Dimension

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
    rows={"ep8 dp8": {"model": "mixtral", "dp": 8, "ep": 8, "microbatch": 1}},
)
