"""Steps with placed experts beside steps with experts in their order: what the table of slots and replicas cost.

    python -m meshwright.tests.benchmarks.expert_slots [--rounds 9] [--steps 5]

Two processes on this machine, all models in each of them, in turns; a ratio is the median over rounds of the CPU
seconds that `--steps` steps take the first process over those without a placement.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

from expert_placements import placed
from harness import run_ranks
from moe_families import MIXTRAL
from placement_ranks import seconds_of_steps
from plans import make_plan

CONFIG: dict[str, Any] = {
    **MIXTRAL, "hidden_size": 128, "intermediate_size": 128, "num_local_experts": 32, "num_experts_per_tok": 4,
    "num_attention_heads": 4, "num_key_value_heads": 4,
}  # fmt: skip
SIDES: dict[str, dict[str, Any]] = {
    "experts in their order": {"ep": 2},
    "permuted": placed(CONFIG, 2),
    "4 replicas": placed(CONFIG, 2, 4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=5, help="of each side in a round")
    asked = parser.parse_args()
    plans = [make_plan(CONFIG, dp=2, seq_len=64, **options) for options in SIDES.values()]
    rounds = run_ranks(2, seconds_of_steps, plans, asked.rounds, asked.steps, timeout_s=600.0)[0]
    for number, name in enumerate(SIDES):
        ratios = sorted(each[number] / each[0] for each in rounds)
        seconds = statistics.median(each[number] for each in rounds) / asked.steps
        print(f"{name:24} {1e3 * seconds:8.1f} CPU ms a step   x {statistics.median(ratios):.3f}"
              f"   ({ratios[0]:.3f} to {ratios[-1]:.3f})")  # fmt: skip


if __name__ == "__main__":
    main()
