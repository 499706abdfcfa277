"""Recipe: how to train, beside the plan that says where. Saved as recipe.yaml in the run folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from ..errors import Problem
from ..planner.compression import Compress
from ..schema import Frozen, dump_yaml, load_mapping, parse
from .attention_recipe import S2Recipe
from .blocks.moe_shape import MoeShape
from .expert_recipe import ExpertRecipe

if TYPE_CHECKING:
    from ..kernels.terms import Terms
    from ..planner.plan import Plan

STANDARD_LIBRARY = "python-stdlib"
BYTES = "bytes"
_NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)  # YAML 1.1 takes 1e-3 for text


class Recipe(Frozen):
    """Data, optimizer and habits of a run. The plan's job holds batch, sequence length and precision."""

    schema_version: Literal[1] = 1
    steps: int = Field(gt=0, description="optimizer steps of the whole run")
    data: str = Field(STANDARD_LIBRARY, description="text file, folder of text, token file, or python-stdlib")
    suffixes: tuple[str, ...] = Field((), description="of a folder, read only these: .py .md")
    tokenizer: str = Field(BYTES, description="bytes, or the path of a Hugging Face tokenizer.json")
    separate_documents: bool = Field(False, description="tokens see only those of their own document")
    init_from: str | None = Field(None, description="folder of pretrained weights (safetensors); none: from the seed")
    dropout: bool = Field(True, description="drop out what the model's config says; false: nothing")
    compile: bool = Field(False, description="torch.compile every layer")
    kernels: Literal["auto", "reference"] | None = Field(
        None, description="auto: Triton on CUDA devices, wherever it has a kernel; reference: plain PyTorch;"
        " none: what the plan was priced with"
    )  # fmt: skip
    attention: Literal["dense", "s2"] | None = Field(
        None, description="s2: every head sees its own shard of the sequence (arXiv:2407.17678), as `s2` says;"
        " none given: as the plan was priced"
    )  # fmt: skip
    s2: S2Recipe | None = Field(None, description="shards of attention=s2: blocks, nearest ones, stride, dense heads")
    compress: Compress | None = Field(
        None, description="gradients of replicas (zero 0) travel in 8 bits, with feedback of what rounding left;"
        " none given: as the plan was priced"
    )  # fmt: skip
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of a target that all tokens have alike")
    z_loss: float = Field(0.0, ge=0, allow_inf_nan=False, description="of the squared log-sum-exp of logits; 1e-4")
    lr: float = Field(3e-4, gt=0, description="learning rate after warm-up")
    min_lr: float = Field(3e-5, ge=0, description="learning rate at the last step; a tenth of lr if not given")
    warmup_steps: int = Field(0, ge=0)
    schedule: Literal["cosine", "wsd"] = "cosine"
    decay_fraction: float = Field(0.2, gt=0, le=1, description="of the steps, in which wsd decays")
    weight_decay: float = Field(0.1, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient of the whole model")
    experts: ExpertRecipe | None = Field(None, description="of a model with experts: balance, limits, records")
    seed: int = Field(0, ge=0, lt=1 << 32)
    checkpoint_every: int = Field(100, gt=0, description="steps between checkpoints; the last step has one too")
    offload_folder: str = Field(
        "", description="for optimizer states that the plan puts on a drive: a folder of this run's own on each node's"
        " drive; in the run folder if not given"
    )  # fmt: skip
    keep_last: int = Field(2, ge=2, description="checkpoints kept; two, because the newest may be damaged")
    log_every: int = Field(1, gt=0)
    sample_every: int = Field(
        20, ge=0, description="steps between two whose parts (compute, collectives) are timed; 0: never"
    )
    timeout_s: float = Field(300.0, gt=0, description="longest wait for a peer in one collective")

    @model_validator(mode="before")
    @classmethod
    def _end_at_a_tenth(cls, data: Any) -> Any:
        """A fixed end would be above a small lr. What is no number is for the field itself to refuse."""
        lr = data.get("lr") if isinstance(data, dict) and "min_lr" not in data else None
        if isinstance(lr, str):
            lr = float(lr) if _NUMBER.fullmatch(lr) else None
        return {**data, "min_lr": lr / 10} if isinstance(lr, int | float) and lr > 0 else data

    @field_validator("min_lr")
    @classmethod
    def _not_above_lr(cls, value: float, info: ValidationInfo) -> float:
        if value > info.data.get("lr", value):
            raise ValueError(f"must not be above lr = {info.data['lr']}")
        return value

    @field_validator("warmup_steps")
    @classmethod
    def _before_the_end(cls, value: int, info: ValidationInfo) -> int:
        if value >= info.data.get("steps", value + 1):
            raise ValueError(f"must be below steps = {info.data['steps']}")
        return value

    @field_validator("betas")
    @classmethod
    def _averages(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError("must both be at least 0 and below 1")
        return value

    @field_validator("suffixes")
    @classmethod
    def _dotted(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """`py`, `.py` and `*.py` mean the same."""
        return tuple("." + suffix.removeprefix("*").removeprefix(".") for suffix in value)

    @property
    def added(self) -> Terms:
        """What the loss has beside the cross-entropy."""
        from ..kernels.terms import Terms  # and with it torch, which nobody needs to read a recipe

        return Terms(label_smoothing=self.label_smoothing, z_loss=self.z_loss)

    def expert_problems(self, moe: MoeShape | None) -> list[Problem]:
        """Settings of experts that do not fit a model's."""
        return [] if self.experts is None else list(self.experts.problems(moe))

    def sharded(self, plan: Plan) -> S2Recipe | None:
        """How heads share the sequence out; None: each sees all of it."""
        priced = plan.job.sharded
        if self.attention == "dense" or (self.attention is None and priced is None):
            return None
        return self.s2 or S2Recipe.model_validate({} if priced is None else priced.model_dump())

    def save(self, path: Path) -> None:
        """Write the recipe as YAML."""
        path.write_text(dump_yaml(self.model_dump(mode="json")))


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file. Raises InputError naming every wrong field."""
    return parse(Recipe, load_mapping(path), str(path))
