"""What ranks do in test_layers.py: a profile of a tiny model's layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from meshwright.planner.families import ModelSpec, architecture
from meshwright.planner.job import Job
from meshwright.profiler.layers import Subject
from meshwright.profiler.model_layers import measure_subject
from meshwright.profiler.parts import Asked, Setting


def profiled(config: dict[str, Any], budget_s: float) -> dict[str, Any]:
    """What one worker finds of a model with sequences of 16 tokens, two a step."""
    model, job = ModelSpec(name="tiny", config=config), Job(seq_len=16, global_batch=2, precision="fp32")
    cpu = torch.device("cpu")
    rank, world = dist.get_rank(), dist.get_world_size()
    asked = Asked("tiny", job.seq_len, job.global_batch)
    setting = Setting(cpu, rank, world, budget_s, Path(), asked, lambda _: None)
    return measure_subject(Subject(model, architecture(model), job, cpu), setting)
