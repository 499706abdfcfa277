"""docs/parity.md: the table as people read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from workers import OPTIMIZER

from parity_table.outcome import BARS, Outcome
from parity_table.products import PLAIN, all_pairs, covered_pairs, refusal
from parity_table.row import Row
from parity_table.run import STEPS

PATH = Path(__file__).parents[3] / "docs" / "parity.md"

_HEAD = f"""\
# Parity: every way to run a plan trains the same model

Made by `scripts/parity`, which runs `tests/runtime/test_parity.py`; not edited by hand. Every row is a plan, run
by as many processes as its mesh has, on CPU with gloo, in float32, for {STEPS} steps. Beside it stands one process that
knows nothing of Meshwright: the model of `transformers` with `torch.optim.AdamW` and `clip_grad_norm_`, on the whole
batch at once. Both start from the same weights. A row is named by what differs from a plain run.

| column | what it is | bar |
|---|---|---|
| loss | largest relative error of the loss in any of the {STEPS} steps | {BARS["loss"]:.0e} |
| first gradient | in the first step: largest error of an element of any parameter's gradient, relative to the largest \
element of that gradient | {BARS["first_gradient"]:.0e} |
| gradient | the same in any of the {STEPS} steps | {BARS["gradient"]:.0e} |
| parameter | the same of the parameters after the last step | {BARS["parameter"]:.0e} |
| peak | MiB that tensors fill at once on the worst rank, by PyTorch's own record of allocations, in two steps of the \
same plan with a model four times as wide and sequences of 256 tokens, one in a microbatch | |
| predicted | what `plan` says of it: weights, gradients, optimizer, activations, logits and buffers, without the \
context of the device | |
| ratio | peak over predicted; empty where a plan moves things to the host, which is the same memory on a CPU | |

Equal runs drift apart: rounding (1e-7) is divided by the size of a gradient in AdamW, however small that is, and a
router that is undecided between two experts may choose the other one. That is why the bar of {STEPS} steps is wider
than that of the first, where nothing has been divided yet, and why AdamW has eps {OPTIMIZER["eps"]:.0e} here on both
sides, not its default of 1e-8: with that the drift is up to ten times larger, at equal first gradients.

Rows are every value of every dimension alone, some of their own, and products in which every two values of two
dimensions meet wherever a legal plan has both (a greedy cover; `tests/runtime/parity_table/products.py`). Every run of
the tests runs those in which each value meets each other dimension in use; all but values alone on one or two processes
for five steps and without memory. `-m slow` runs the rest.
"""

_COLUMNS = ("row", "processes", "loss", "first gradient", "gradient", "parameter", "peak", "predicted", "ratio")


def document(rows: Sequence[Row], outcomes: Mapping[str, Outcome], written: Mapping[str, Mapping[str, str]]) -> str:
    """The whole file: of all `rows` those that have run now, and as it was `written` what ran before."""
    lines = [_line(_COLUMNS), _line(["---", *["---:"] * (len(_COLUMNS) - 1)])]
    known = [row for row in rows if row.name in outcomes or row.name in written]
    for row in known:
        run_now = row.name in outcomes
        lines.append(_line(_cells(row, outcomes[row.name]) if run_now else list(written[row.name].values())))
    return "\n".join([_HEAD, _held(len(known), len(rows)), "", *lines, "", *_apart()]) + "\n"


def _held(rows: int, of: int) -> str:
    return (
        "All rows have run." if rows == of else f"{rows} of {of} rows have run; the others, all of them slow, have not."
    )


def _cells(row: Row, outcome: Outcome) -> list[str]:
    errors = (outcome.loss, outcome.first_gradient, outcome.gradient, outcome.parameter)
    sizes = (outcome.peak_bytes, outcome.predicted_bytes)
    memory = [*(f"{size / 2**20:.1f}" for size in sizes), f"{outcome.ratio:.2f}"] if all(sizes) else [""] * 3
    return [row.name, str(row.world), *(f"{error:.0e}" for error in errors), *memory]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _apart() -> list[str]:
    """Pairs of values that no plan has, each with the rule that forbids it."""
    apart = [pair for pair in all_pairs() if pair not in covered_pairs()]
    said = []
    for one, other in apart:
        chosen = {**dict(PLAIN), **dict([one, other])}
        reason = refusal(tuple(chosen.items())) or "no product of both fits the processes"
        said.append(f"- {one[1]} with {other[1]}: {reason}")
    return ["Pairs that no legal plan within the processes has, and what is said of them:", "", *said] if said else []


def read_table(text: str) -> dict[str, dict[str, str]]:
    """Cells of a written table by row and column."""
    found = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    start = next(number for number, cells in enumerate(found) if tuple(cells) == _COLUMNS)
    return {cells[0]: dict(zip(_COLUMNS, cells, strict=True)) for cells in found[start + 2 :]}
