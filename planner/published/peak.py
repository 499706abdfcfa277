"""Which peak a source published, and the same of a prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..plan import StageMemory
from .row import Row

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Published:
    """What the column `peak_mem_gb` of a source holds: bytes of which kind, on which ranks, in which unit."""

    kind: Callable[[StageMemory], int]
    unit: int = GIB
    first_rank: bool = False  # of pipeline rank 0 alone, else of the fullest
    reserved: bool = False


def _model_states(memory: StageMemory) -> int:
    return memory.weights + memory.gradients + memory.optimizer + memory.activations


_SOURCES: tuple[tuple[str, Published], ...] = (
    # src/nanotron/helpers.py, create_table_log: bytes / 1024^3, written by global rank 0. That it is the reserved peak
    # of the two logged follows from the figures: equal layouts differ, and they end at 77.4 of 79.1 GiB.
    ("nanotron", Published(lambda memory: memory.reserved, first_rank=True, reserved=True)),
    ("SimuMax", Published(lambda memory: memory.allocated)),  # max_memory_allocated over ranks, GiB
    ("VocabularyParallelism", Published(lambda memory: memory.reserved, reserved=True)),  # max over ranks
    ("Megatron-Bridge", Published(lambda memory: memory.allocated, unit=10**9)),  # report_memory: bytes / 1e9
    ("Korthikanti", Published(_model_states, first_rank=True)),  # figure 1: parameters, states and activations
)
_DEVICE = Published(lambda memory: memory.total)  # nvidia-smi, in MiB or GiB


def published_peak_gb(row: Row, memories: Sequence[StageMemory]) -> float:
    """The predicted peak as the source of a row counts it, in its unit."""
    published = _published(row)
    ranks = memories[:1] if published.first_rank else memories
    return max(published.kind(memory) for memory in ranks) / published.unit


def reserved_is_published(row: Row) -> bool:
    """Whether the source of a row states the allocator's reserved peak."""
    return _published(row).reserved


def _published(row: Row) -> Published:
    return next((found for name, found in _SOURCES if name in row.source), _DEVICE)
