"""Polish: let pipeline ranks differ in layers and in recomputation where memory binds, as an exact small ILP.

Early ranks of 1F1B hold more microbatches, so that one choice for all ranks either wastes time or does not fit. With
equal layers, rank r with k layers under choice c has a time t(k, c) and a memory; the program picks one (k, c) for each
rank, with all layers placed, so that the slowest rank is fastest. Solved through PuLP (`solver.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..configuration import Configuration, Recompute
from ..cost.footprint import rank_peak
from ..cost.setting import Setting
from ..cost.stage import stage_times
from .solver import solve_to_proof

CHOICES: tuple[Recompute, ...] = ("none", "full")
REACH = 4  # layers above or below the even share that a rank may take
TIME_LIMIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Option:
    """What one pipeline rank could do: so many layers, recomputed or not, in so much time."""

    layers: int
    recompute: Recompute
    time_s: float


def polishable(setting: Setting, configuration: Configuration) -> bool:
    """Ranks can differ: a plain pipeline of equal layers, one stage a rank in their order."""
    ranks = configuration.mesh.pp
    equal = len(set(setting.architecture.layers)) == 1
    return equal and ranks > 1 and configuration.placement == tuple(range(ranks))


def polish(
    setting: Setting, configuration: Configuration, choices: tuple[Recompute, ...] = CHOICES
) -> Configuration | None:
    """The configuration with the best layers and recomputation per rank, or None where no combination fits."""
    options = [_options(setting, configuration, rank, choices) for rank in range(configuration.mesh.pp)]
    if not all(options):
        return None
    chosen = solve(options, len(setting.architecture.layers))
    if chosen is None:
        return None
    layers, recompute = tuple(option.layers for option in chosen), tuple(option.recompute for option in chosen)
    return replace(configuration, stage_layers=layers, recompute=recompute)


def _options(setting: Setting, configuration: Configuration, rank: int, choices: tuple[Recompute, ...]) -> list[Option]:
    """What fits on one rank, whatever the others do."""
    total, ranks = len(setting.architecture.layers), configuration.mesh.pp
    most = total - ranks + 1  # the others need a layer each
    found, about = [], configuration.stage_layers[rank] if setting.is_mixed else total // ranks
    for layers in range(max(1, about - REACH), min(about + REACH, most) + 1):
        for choice in choices:
            trial = _with_rank(configuration, rank, layers, choice)
            if rank_peak(setting, trial, rank).fits:
                times = stage_times(setting, trial)
                found.append(Option(layers, choice, times.forward_s[rank] + times.backward_s[rank]))
    return found


def _with_rank(configuration: Configuration, rank: int, layers: int, choice: Recompute) -> Configuration:
    """Only what stands at `rank` matters to its memory and time; others get no layers."""
    counts = [0] * configuration.mesh.pp
    counts[rank] = layers
    recompute = list(configuration.recompute)
    recompute[rank] = choice
    return replace(configuration, stage_layers=tuple(counts), recompute=tuple(recompute))


def solve(options: list[list[Option]], layers: int) -> tuple[Option, ...] | None:
    """One option for each rank with `layers` in all, the slowest as fast as can be; ties to the least total time.

    None where no choice has so many layers, or where the time limit ended the proof.
    """
    import pulp

    problem = pulp.LpProblem("stages", pulp.LpMinimize)
    unit = max(option.time_s for rank in options for option in rank)
    slowest = problem.add_variable("slowest", lowBound=0)
    pairs = [
        [(option, problem.add_variable(f"x_{r}_{i}", cat="Binary")) for i, option in enumerate(rank)]
        for r, rank in enumerate(options)
    ]
    everything = [(option, pick) for row in pairs for option, pick in row]
    problem += slowest + 1e-6 * pulp.lpSum(option.time_s / unit * pick for option, pick in everything)
    problem += pulp.lpSum(option.layers * pick for option, pick in everything) == layers
    for row in pairs:
        problem += pulp.lpSum(pick for _, pick in row) == 1
        problem += pulp.lpSum(option.time_s / unit * pick for option, pick in row) <= slowest
    if not solve_to_proof(problem, TIME_LIMIT_S):
        return None
    return tuple(max(row, key=lambda each: each[1].value())[0] for row in pairs)
