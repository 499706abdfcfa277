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
        "pp2 looped-bfs": {"pp": 2, "schedule": "looped-bfs", "vpp": 2, "microbatch": 1},
        "pp2 dualpipev": {"pp": 2, "schedule": "dualpipev", "vpp": 2, "microbatch": 1},
        "pp4 zb-h1 uneven": {"pp": 4, "schedule": "zb-h1", "stage_layers": (1, 2, 1, 1), "microbatch": 1},
        "pp2 gpipe, two in flight": {"pp": 2, "schedule": "gpipe", "in_flight": (2,), "microbatch": 1},
        "pp2 zb-v tied": {"pp": 2, "schedule": "zb-v", "vpp": 2, "tied": True},
        "pp2 custom, three stages": {
            "pp": 2,
            "schedule": "custom",
            "vpp": 2,
            "stage_layers": (1, 3, 1),
            "microbatch": 4,
            "actions": ("0F0,2F0,2B0,0F1,2F1,2B1,0B0,0B1", "1F0,1F1,1I0,1W0,1I1,1W1"),
        },
    },
)
