"""Mix: what a plan says of groups for sequences of different lengths, and what is expected of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from ...schema import Frozen


class Mix(Frozen):
    """Degrees of context-parallel groups that the dp x cp ranks of a stage may be cut into, anew in every round, and
    how many tokens a rank of a group of each may hold. One degree: it is fixed."""

    degrees: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    capacity_tokens: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _sound(self) -> Mix:
        if list(self.degrees) != sorted(set(self.degrees)) or any(each & (each - 1) for each in self.degrees):
            raise ValueError(f"degrees {list(self.degrees)} must be powers of two that ascend")
        if len(self.degrees) != len(self.capacity_tokens):
            raise ValueError(f"{len(self.degrees)} degrees and {len(self.capacity_tokens)} capacities: must be as many")
        return self

    def __str__(self) -> str:
        if len(self.degrees) == 1:
            return f"groups of {self.degrees[0]}"
        return f"groups of {', '.join(map(str, self.degrees[:-1]))} or {self.degrees[-1]}"


class Expected(Frozen):
    """Steps with lengths drawn from the job's distribution, beside the same steps without a mix.

    `fixed` is the best plan of the space whose groups all have one degree, with as good an assignment; `packed` is the
    plan at hand with rows of seq_len tokens packed first-fit, and groups of the smallest degree that holds one.
    """

    steps: int = Field(ge=1)
    step_time_s: float
    step_time_range_s: tuple[float, float]  # fastest and slowest step
    bound_s: float  # of the assignments, expected
    gap: float  # the largest of a step's assignment
    rounds: float
    idle: float  # share of the rounds' time that ranks wait for the slowest group
    fixed_degree: int | None = None
    fixed_step_time_s: float | None = None
    packed_degree: int | None = None
    packed_step_time_s: float | None = None

    @property
    def gain_over_fixed(self) -> float | None:
        """1.2: a fixed degree takes 1.2 times as long."""
        return None if self.fixed_step_time_s is None else self.fixed_step_time_s / self.step_time_s

    @property
    def gain_over_packed(self) -> float | None:
        """1.2: plain packing takes 1.2 times as long."""
        return None if self.packed_step_time_s is None else self.packed_step_time_s / self.step_time_s
