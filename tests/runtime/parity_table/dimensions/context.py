"""Context parallelism: five algorithms behind one interface."""

from __future__ import annotations

from plans import LLAMA

from parity_table.row import Dimension

_ONE_KEY_HEAD = {**LLAMA, "num_key_value_heads": 1}

DIMENSION = Dimension(
    name="context",
    values={
        "cp1": {},
        "cp2 ring": {"cp": 2},
        "cp2 ulysses": {"cp": 2, "cp_algorithm": "ulysses"},
        "cp2 token-ring": {"cp": 2, "cp_algorithm": "token-ring"},
        "cp2 allgather": {"cp": 2, "cp_algorithm": "allgather"},
        "cp4 usp": {"cp": 4, "cp_algorithm": "usp", "cp_ulysses": 2},
    },
    rows={
        "cp4 ring": {"cp": 4},
        "cp4 ulysses": {"cp": 4, "cp_algorithm": "ulysses"},
        "cp4 token-ring": {"cp": 4, "cp_algorithm": "token-ring"},
        "cp4 allgather": {"cp": 4, "cp_algorithm": "allgather"},
        "cp4 ring, one key head": {"cp": 4, "config": _ONE_KEY_HEAD},
        "cp4 ulysses, one key head": {"cp": 4, "cp_algorithm": "ulysses", "config": _ONE_KEY_HEAD},
        "cp4 usp, one key head": {"cp": 4, "cp_algorithm": "usp", "cp_ulysses": 2, "config": _ONE_KEY_HEAD},
        "cp8 ring, tokens padded": {"cp": 8, "seq_len": 30},
    },
)
