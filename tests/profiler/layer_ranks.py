"""What ranks do in test_layers.py: a profile of a tiny model's layers, and single shardings of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from meshwright.planner.configuration import Configuration
from meshwright.planner.families import ModelSpec, architecture
from meshwright.planner.job import Job
from meshwright.profiler.layer_parts import as_plan, build_parts
from meshwright.profiler.layers import Legs, Subject, measure
from meshwright.profiler.model_layers import measure_subject
from meshwright.profiler.parts import Asked, Setting
from meshwright.runtime.parallel.replicas import replicas


def profiled(config: dict[str, Any], budget_s: float) -> dict[str, Any]:
    """What one worker finds of a model with sequences of 16 tokens, two a step."""
    subject = _subject(config)
    rank, world = dist.get_rank(), dist.get_world_size()
    asked = Asked("tiny", subject.job.seq_len, subject.job.global_batch)
    setting = Setting(subject.device, rank, world, budget_s, Path(), asked, lambda _: None)
    return measure_subject(subject, setting)


def _subject(config: dict[str, Any]) -> Subject:
    model, job = ModelSpec(name="tiny", config=config), Job(seq_len=16, global_batch=2, precision="fp32")
    return Subject(model, architecture(model), job, torch.device("cpu"))


def timed(config: dict[str, Any], asked: list[Configuration]) -> list[list[Legs]]:
    """Every kind of layer under each of these shardings. Nothing of them may be reduced over replicas, and gradients of
    experts are divided only where a step does that beside no reduction: where nobody holds the same."""
    subject = _subject(config)
    for each in asked:
        layers = build_parts(as_plan(subject.model, subject.job, each), [0], subject.device).layers
        assert not list(replicas(layers))
        divided = any(parameter._backward_hooks for parameter in layers.parameters())
        assert divided == (each.mesh.edp == 1)
    return [measure(subject, each, held=False) for each in asked]
