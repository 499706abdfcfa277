"""What it costs to time the parts of a step: the same run, its steps sampled and not, side by side.

    python tests/benchmarks/sampling.py [--rounds N]

Two ranks train a small model; steps alternate between plain and sampled, so that both meet the same machine. Printed:
the median of both and of their ratios, pair by pair, and what a run pays that samples every 20th step.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

MESHES: dict[str, dict[str, Any]] = {
    "tp 2, sp": {"tp": 2, "sp": True},
    "dp 2, zero 3": {"dp": 2, "zero": 3},
    "pp 2": {"pp": 2},
}


def paired(plan: Any, rounds: int) -> list[tuple[float, float]]:
    """Seconds of a plain and of a sampled step, round by round."""
    import torch
    import torch.distributed as dist
    from workers import batches, own_sequences

    from meshwright.runtime.build import build_model
    from meshwright.runtime.components import span
    from meshwright.runtime.sampling import Sampler

    device = torch.device("cpu")
    model = build_model(plan, device, seed=0)
    batch = batches(plan.model.config["vocab_size"], plan.job.seq_len, plan.job.global_batch, 1)[0]
    sampler, found = Sampler(2, device), []
    for step in range(2 * (rounds + 2)):
        dist.barrier()
        began = time.perf_counter()
        with sampler.step(step + 1), span("compute"):
            model.forward_backward(own_sequences(model, batch))
        sampler.table()
        found.append(time.perf_counter() - began)
    return list(zip(found[4::2], found[5::2], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    given = parser.parse_args()
    from harness import run_ranks
    from plans import LLAMA, make_plan
    from sampling import paired as on_ranks

    config = {
        **LLAMA,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "max_position_embeddings": 256,
    }
    for name, mesh in MESHES.items():
        plan = make_plan(config, seq_len=256, **mesh)
        pairs = run_ranks(2, on_ranks, plan, given.rounds, timeout_s=300)[0]
        plain, sampled = (median(each) for each in zip(*pairs, strict=True))
        ratio = median(after / before for before, after in pairs) - 1
        print(
            f"{name:14s} plain {1e3 * plain:6.1f} ms, sampled {1e3 * sampled:6.1f} ms: {ratio:+.1%} a sampled step, "
            f"{ratio / 20:+.2%} of a run that samples every 20th ({len(pairs)} pairs)"
        )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
