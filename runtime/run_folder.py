"""The run folder: everything about one run, in one place, readable without us.

runs/NAME/plan.yaml recipe.yaml    what runs
          environment.json         where the last launch ran it
          data/                    tokens
          checkpoints/             step-00000120/ ...
          metrics.jsonl            one object a logged step      events.jsonl   what else happened
          tensorboard/             the same metrics
          routing/                 choices of experts, where the recipe asks for them
          heartbeats/              one small file a rank
          logs/                    standard output and error of each rank and attempt; agent.log
          final/                   the trained model for transformers
          result.json              how it ended
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import InputError, Problem
from ..planner.plan import Plan, load_plan
from ..schema import dump_yaml
from .expert_recipe import DEFAULT
from .files import write_text
from .recipe import Recipe, load_recipe

_PACKAGES = ("torch", "numpy", "safetensors", "tokenizers", "triton")
_VARIABLES = ("CUDA_", "NCCL_", "GLOO_", "TORCH", "OMP_", "MKL_", "PYTORCH_", "SLURM_", "HIP_", "ROCR_")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Names of what is in a run folder."""

    path: Path

    @property
    def plan(self) -> Path:
        return self.path / "plan.yaml"

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def offload(self) -> Path:
        """Optimizer states on a drive, where the recipe names none: worth nothing when the run is not running."""
        return self.path / "offload"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def routing(self) -> Path:
        return self.path / "routing"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def heartbeats(self) -> Path:
        return self.path / "heartbeats"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def final(self) -> Path:
        return self.path / "final"

    @property
    def result(self) -> Path:
        return self.path / "result.json"


def make_folders(path: Path) -> RunFolder:
    """The empty frame of a run folder; one that exists stays as it is. Raises InputError where it cannot be made."""
    folder = RunFolder(path)
    with _writing(path):
        for subfolder in (path, folder.data, folder.checkpoints, folder.heartbeats, folder.logs):
            subfolder.mkdir(parents=True, exist_ok=True)
    return folder


def check_unchanged(path: Path, plan: Plan, recipe: Recipe) -> None:
    """Raises InputError with every difference from the run in `path` that would make it another training."""
    folder = RunFolder(path)
    if folder.plan.exists() and folder.recipe.exists():
        problems = differences(load_plan(folder.plan), plan, load_recipe(folder.recipe), recipe)
        if problems:
            raise InputError(f"run folder {path}", problems)


def open_run(path: Path, plan: Plan, recipe: Recipe) -> RunFolder:
    """Create a run folder, or continue an existing one with a new plan for the same training.

    Raises InputError with every difference that would make it another training.
    """
    check_unchanged(path, plan, recipe)
    folder = make_folders(path)
    with _writing(path):
        write_text(folder.plan, dump_yaml(plan.model_dump(mode="json", by_alias=True)))
        write_text(folder.recipe, dump_yaml(recipe.model_dump(mode="json")))
        write_text(folder.environment, json.dumps(environment(), indent=2) + "\n")
    return folder


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError.single("launch", "run folder", str(path), f"cannot be written: {error.strerror}") from None


@contextmanager
def in_use(folder: RunFolder) -> Iterator[None]:
    """Keep a second launch on this machine out. The lock ends with the process, however it ends."""
    with _writing(folder.path):
        file = (folder.path / "lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            rule = "another launch is training in it"
            raise InputError.single("launch", "run folder", str(folder.path), rule, "wait, or another name") from None
        yield


_FIXED = (  # of a recipe
    "data", "suffixes", "tokenizer", "separate_documents", "seed", "init_from", "dropout", "label_smoothing", "z_loss",
)  # fmt: skip
_FREE_OF_EXPERTS = "record_every"  # a habit, as the log


def _given(value: object) -> str:
    return "none" if value is None else "given"


def _rank(plan: Plan) -> int | None:
    """Of GaLore's space, on which the sizes of its states depend."""
    return None if plan.job.galore is None else plan.job.galore.rank


def _attention(plan: Plan, recipe: Recipe) -> str:
    return "dense" if recipe.sharded(plan) is None else "s2"


def differences(old_plan: Plan, plan: Plan, old: Recipe, recipe: Recipe) -> list[Problem]:
    """What may not change in a run: the model, the data and their order, the batch, and what is dropped out, balanced
    or limited: the loss would be another function. The mesh may, and so may the optimizer's numbers."""
    pairs: list[tuple[str, Any, Any]] = [
        ("job.seq_len", old_plan.job.seq_len, plan.job.seq_len),
        ("job.lengths", _given(old_plan.job.lengths), _given(plan.job.lengths)),
        ("job.global_batch", old_plan.job.global_batch, plan.job.global_batch),
        ("job.optimizer", old_plan.job.optimizer, plan.job.optimizer),
        ("job.optimizer_states", old_plan.job.optimizer_states, plan.job.optimizer_states),
        ("job.galore.rank", _rank(old_plan), _rank(plan)),
        *((f"recipe.{name}", getattr(old, name), getattr(recipe, name)) for name in _FIXED),
        ("recipe.attention", _attention(old_plan, old), _attention(plan, recipe)),
        ("recipe.s2", old.sharded(old_plan), recipe.sharded(plan)),
    ]
    experts, others = ((each.experts or DEFAULT).model_dump(exclude={_FREE_OF_EXPERTS}) for each in (old, recipe))
    pairs += [(f"recipe.experts.{name}", experts[name], others[name]) for name in experts]
    was, now = old_plan.model.config, plan.model.config
    pairs += [(f"model.config.{key}", was.get(key), now.get(key)) for key in sorted(was.keys() | now.keys())]
    return [
        Problem(field, value, f"this run was started with {before!r}", f"{field} {before!r}, or another run folder")
        for field, before, value in pairs
        if before != value
    ]


def environment() -> dict[str, Any]:
    """Where and with what this process runs."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "command": sys.argv,
        "folder": os.getcwd(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {"meshwright": __version__, **{name: _version(name) for name in _PACKAGES}},
        "git_commit": _git_commit(),
        "variables": {name: value for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES)},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Of the folder the user stands in, when it is a git checkout and git is installed."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
