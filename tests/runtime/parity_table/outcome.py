"""What a row has shown, and the bars that it must hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worst import worst

from parity_table.ranks import Found

BARS = {"loss": 1e-5, "first_gradient": 1e-5, "gradient": 1e-3, "parameter": 5e-4}
"""Largest relative errors in float32. Rounding (1e-7) makes equal runs drift apart: AdamW divides by the size of a
gradient, so that the gradients of 20 steps have a wider bar than those of the first."""

LOGITS = 1e-4
"""The largest error of a logit, relative to the largest one."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Largest errors of a row over all ranks and steps; `error` where it did not run to its end."""

    loss: float = 0.0
    first_gradient: float = 0.0  # of the first step
    gradient: float = 0.0  # of all steps
    gradient_of: str = ""  # the parameter with that error
    parameter: float = 0.0
    logits: float = 0.0  # where weights come from files
    peak_bytes: int = 0  # of the worst rank
    predicted_bytes: int = 0
    error: str = ""

    @property
    def ratio(self) -> float:
        """Measured over predicted."""
        return self.peak_bytes / self.predicted_bytes if self.predicted_bytes else 0.0

    def broken(self) -> list[str]:
        """Bars that do not hold."""
        if self.error:
            return [self.error]
        found = {name: getattr(self, name) for name in BARS}
        words = [f"{name} {found[name]:.1e} > {bar:.0e}" for name, bar in BARS.items() if not found[name] <= bar]
        return [*words, f"worst gradient: {self.gradient_of}"] if words else []


def outcome(
    ranks: Sequence[Found], losses: Sequence[float], names: set[str], predicted_bytes: int, logits: int
) -> Outcome:
    """Of what all ranks have seen, beside the losses, parameter names and number of logits of the reference."""
    gradients = [(error, name) for found in ranks for step in found.gradients for name, error in step.items()]
    seen = {name for _, name in gradients}
    largest = worst(error for error, _ in gradients)
    name = next(name for error, name in gradients if not error < largest)
    errors = [f"parameters differ: {sorted(seen ^ names)}"] if seen != names else []
    compared = sum(numbers for _, numbers in (found.logits for found in ranks))
    if compared != logits:
        errors.append(f"{compared} logits compared of {logits}")
    return Outcome(
        loss=worst(_relative(found.losses, losses) for found in ranks),
        first_gradient=worst(error for found in ranks for error in found.gradients[0].values()),
        gradient=largest,
        gradient_of=name,
        parameter=worst(error for found in ranks for error in found.parameters.values()),
        logits=worst(found.logits[0] for found in ranks),
        peak_bytes=max(found.peak_bytes for found in ranks),
        predicted_bytes=predicted_bytes,
        error="; ".join(errors),
    )


def _relative(found: Sequence[float], expected: Sequence[float]) -> float:
    return worst(abs(one - other) / abs(other) for one, other in zip(found, expected, strict=True))
