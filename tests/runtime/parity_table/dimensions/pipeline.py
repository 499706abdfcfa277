"""Pipeline parallelism: schedules, uneven stages, few microbatches."""

from __future__ import annotations

from parity_table.row import Dimension

DIMENSION = Dimension(
    name="pipeline",
    values={
        "pp1": {},
        "pp2 1f1b": {"pp": 2, "microbatch": 1},
        "pp2 gpipe": {"pp": 2, "schedule": "gpipe"},
        "pp2 interleaved": {"pp": 2, "schedule": "interleaved", "vpp": 2},
        "pp2 looped-bfs": {"pp": 2, "schedule": "looped-bfs", "vpp": 2},
        "pp2 zb-h1": {"pp": 2, "schedule": "zb-h1"},
        "pp2 zb-v": {"pp": 2, "schedule": "zb-v", "vpp": 2},
        "pp2 dualpipev": {"pp": 2, "schedule": "dualpipev", "vpp": 2},
    },
    rows={
        "pp2 gpipe uneven": {"pp": 2, "schedule": "gpipe", "stage_layers": (2, 3)},
        "pp2 1f1b uneven": {"pp": 2, "stage_layers": (4, 1), "microbatch": 1},
        "pp3 1f1b, fewer microbatches than stages": {"pp": 3, "microbatch": 4},
        "pp5 1f1b": {"pp": 5, "microbatch": 1},
    },
)
