"""What a handful of runs teaches: published runs of one source and GPU, a few of them fitted, the rest held out.

    python tests/benchmarks/fitting.py [runs.csv] [--priors] [--draws N] [--most N] [--seconds N]

For each source and GPU with eight rows and more (of at most `--most` random ones) 3, 5 and 8 are drawn at random,
`--draws` times each; `profile --from-log` fits on them, selection and all, and predicts the rest. Printed: the median
error of the rest before and after, by source, and over all of them how many improve, the median change and the worst.
Frameworks' costs were fitted on these very rows before, so that little is left to learn; `--priors` sets them back to
what they are before any run (`planner/published/fit.py`), as for a framework and a machine that nobody has measured.
The noise beside a change: twice the standard error of the held-out median, from resampling the rest (bootstrap).
"""

from __future__ import annotations

import argparse
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from meshwright.planner.fitting.fit import fit
from meshwright.planner.fitting.observation import Observation
from meshwright.planner.fitting.rows import of_rows
from meshwright.planner.frameworks.framework import Costs
from meshwright.planner.published.fit import PRIOR
from meshwright.planner.published.row import Row, read_rows

ROWS = Path(__file__).parents[1] / "published" / "runs.csv"
SIZES = (3, 5, 8)
LEAST = 8
RESAMPLED = 200


@dataclass(frozen=True)
class Drawn:
    """One draw: median errors of the rest, and whether anything moved."""

    runs: int
    before: float
    after: float
    noise: float
    moved: tuple[str, ...]

    @property
    def change(self) -> float:
        return self.after - self.before


def errors(observations: Sequence[Observation], adjustment: object) -> np.ndarray:
    predicted = np.array([each.predicted_s(adjustment) for each in observations])
    return np.abs(predicted / np.array([each.measured_s for each in observations]) - 1)


def of_priors(observation: Observation) -> Observation:
    """Under a framework whose costs nobody has fitted."""
    framework = observation.setting.framework
    bare = framework.model_copy(update={"costs": Costs(**PRIOR), "on": {}, "fitted_on": ""})
    return replace(observation, setting=replace(observation.setting, framework=bare, _costs={}))


def drawn(observations: Sequence[Observation], plain: np.ndarray, runs: int, seed: str) -> Drawn:
    chosen = random.Random(seed).sample(range(len(observations)), runs)
    rest = [place for place in range(len(observations)) if place not in chosen]
    found = fit([observations[place] for place in chosen], source="published", date="2026-11-22").adjustment
    before = plain[rest]
    after = before if found is None else errors([observations[place] for place in rest], found)
    generator = np.random.default_rng(0)
    picks = generator.integers(0, len(rest), (RESAMPLED, len(rest)))
    noise = 2 * float(np.std(np.median(after[picks], axis=1)))
    moved = () if found is None else tuple(found.moved)
    return Drawn(runs, float(np.median(before)), float(np.median(after)), noise, moved)


def sources(rows: Sequence[Row], most: int) -> dict[tuple[str, str], list[Row]]:
    found = defaultdict(list)
    for row in rows:
        if row.measured_step_time_s and row.consistent != "no":
            found[row.source, row.gpu].append(row)
    return {
        key: random.Random(str(key)).sample(each, min(most, len(each)))
        for key, each in sorted(found.items())
        if len(each) >= LEAST
    }


def summary(draws: Sequence[Drawn], of: str) -> str:
    changes = np.array([each.change for each in draws])
    better, same = int((changes < -1e-9).sum()), int((np.abs(changes) <= 1e-9).sum())
    worst = max(draws, key=lambda each: each.change)
    beyond = sum(each.change > each.noise for each in draws)
    return (
        f"{of}: {len(draws)} draws, {better} better, {same} unchanged, {len(draws) - better - same} worse "
        f"({beyond} by more than noise); median error {np.median([d.before for d in draws]):.1%} -> "
        f"{np.median([d.after for d in draws]):.1%}, median change {np.median(changes):+.1%}, "
        f"mean {changes.mean():+.1%}, worst {worst.change:+.1%} (noise {worst.noise:.1%})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, nargs="?", default=ROWS)
    parser.add_argument("--priors", action="store_true")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--most", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=540.0, help="stop beginning new sources after so long")
    given = parser.parse_args()
    began, every = time.monotonic(), list[Drawn]()
    for (source, gpu), rows in sources(read_rows(given.rows), given.most).items():
        if time.monotonic() - began > given.seconds:
            print(f"{source[:52]:52s} {gpu:10s} not reached in {given.seconds:.0f} s")
            continue
        found = of_rows(rows).observations
        if len(found) < LEAST:
            print(
                f"{source[:52]:52s} {gpu:10s} {len(found)} of {len(rows)} rows can be priced as one framework: left out"
            )
            continue
        found = tuple(map(of_priors, found)) if given.priors else found
        plain, own = errors(found, None), []
        for runs in (each for each in SIZES if each + 3 <= len(found)):
            own += [drawn(found, plain, runs, f"{source} {gpu} {runs} {number}") for number in range(given.draws)]
        every += own
        parts = ", ".join(
            f"{runs}: {np.median([d.before for d in own if d.runs == runs]):.1%} -> "
            f"{np.median([d.after for d in own if d.runs == runs]):.1%}"
            for runs in dict.fromkeys(each.runs for each in own)
        )
        names = " ".join(dict.fromkeys(name for each in own for name in each.moved))
        print(f"{source[:52]:52s} {gpu:10s} {len(found):3d} rows; {parts}; {names or 'nothing moved'}", flush=True)
    for runs in SIZES:
        print(summary([each for each in every if each.runs == runs], f"fitted on {runs}"))
    print(summary(every, "all"))
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
