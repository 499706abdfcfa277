"""How a global batch is cut into microbatches."""

from __future__ import annotations

from ...errors import Problem
from ..configuration import Configuration
from ..cost.setting import Setting
from ..schedule.table import splits
from .rule import Rule, divides


def _batch(setting: Setting, configuration: Configuration) -> Problem | None:
    if configuration.shares:
        return None
    return divides("dp", configuration.mesh.dp, setting.job.global_batch, "the global batch")


def _microbatch(setting: Setting, configuration: Configuration) -> Problem | None:
    batch, dp = setting.job.global_batch, configuration.mesh.dp
    if batch % dp or configuration.shares:
        return divides("microbatch", configuration.microbatch, batch, "the global batch")
    return divides("microbatch", configuration.microbatch, batch // dp, "the sequences of one data-parallel rank")


def _microbatches(setting: Setting, configuration: Configuration) -> Problem | None:
    mesh, made = configuration.mesh, configuration.batch
    if configuration.shares or made == setting.job.global_batch:
        return None
    if _batch(setting, configuration) or _microbatch(setting, configuration):
        return None
    rule = f"dp x microbatch x microbatches makes {made} sequences, the job has {setting.job.global_batch}"
    right = setting.job.global_batch // (mesh.dp * configuration.microbatch)
    return Problem("microbatches", configuration.microbatches, rule, f"{right}")


MOST_ACTIONS = 1_000_000
"""Forwards and backwards of one step that are played one by one: some seconds and some hundred MB."""


def _length(setting: Setting, configuration: Configuration) -> Problem | None:
    mesh, count = configuration.mesh, configuration.microbatches
    each = (3 if splits(configuration) else 2) * configuration.stages
    if each * count <= MOST_ACTIONS:
        return None
    rule = f"makes {count:,} microbatches, more than are worth playing one by one"
    most = max(1, MOST_ACTIONS // each) * mesh.dp * configuration.microbatch
    return Problem("--global-batch", setting.job.global_batch, rule, f"--global-batch {most}")


RULES: tuple[Rule, ...] = (
    Rule("batch", "every rank trains as many sequences", _batch),
    Rule("microbatch", "every microbatch is as large", _microbatch),
    Rule("microbatches", "a step is the global batch", _microbatches),
    Rule("length", "every action of a step is played", _length),
)
