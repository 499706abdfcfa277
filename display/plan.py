"""A plan as people read it: what was chosen, how it will do, why, and what came close."""

from __future__ import annotations

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ..planner.contingency import words
from ..planner.explain import describe
from ..planner.frameworks.framework import DEFAULT
from ..planner.goal import Goal, Training
from ..planner.plan import MeshDegrees, Plan, Prediction, Proof, RunnerUp, StageMemory
from ..planner.search.explanation import Explanation
from ..planner.simulate.energy import format_energy
from ..units import format_bytes, format_count, format_seconds
from .explanation import show_explanation

MEMORY_PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "buffers", "reserve", "context")
MEMORY_ROWS = 8
SMALL_BYTES = 4 * 2**30


def show_plan(console: Console, plan: Plan, why: Explanation | None = None) -> None:
    """The whole answer of `meshwright plan`; `why` where it was asked."""
    console.print(_title(plan))
    console.print(_configuration(plan))
    console.print(_prediction(plan))
    if plan.training:
        console.print(Text(_training(plan.training, plan.goal)))
    console.print(memory_table(plan.predicted))
    console.print(Group(Text("why", style="bold"), *(Text(f"  {line}") for line in plan.why)))
    if plan.runners_up:
        console.print(_runners_up(plan))
    if plan.contingency:
        console.print(_contingency(plan))
    if why:
        show_explanation(console, why)
    console.print(_proof(plan), style="dim")


def _title(plan: Plan) -> Text:
    job = plan.job
    text = Text(f"{plan.model.name} on {plan.cluster.name} ({plan.cluster.num_devices} devices)", style="bold")
    text.append(f": {job.global_batch} x {job.seq_len} tokens a step, {job.precision}, {job.stepped}", style="")
    if plan.framework != DEFAULT:
        text.append(f", priced as {plan.framework}", style="")
    return text


def schedule_text(plan: Plan | RunnerUp) -> str:
    """`interleaved x6`: the schedule and its virtual stages a rank; without a pipeline there is none."""
    if plan.mesh.pp == 1:
        return "none"
    virtual = f" x{plan.schedule.vpp}" if plan.schedule.vpp > 1 else ""
    return f"{plan.schedule.name}{virtual}"


def recompute_text(recompute: tuple[str, ...]) -> str:
    """One word when all pipeline ranks agree."""
    return recompute[0] if len(set(recompute)) == 1 else ",".join(recompute)


def _configuration(plan: Plan) -> Table:
    table = Table(title="configuration", title_justify="left", show_header=True, header_style="bold")
    for name in ("mesh", "ZeRO", "schedule", "microbatch", "recompute", "sp", "layers per stage"):
        table.add_column(name)
    context = () if plan.mesh.cp == 1 else (context_text(plan),)
    if context:
        table.add_column("context")
    table.add_row(
        describe(plan.mesh),
        str(plan.zero),
        schedule_text(plan),
        f"{_microbatches(plan)} x {plan.microbatch}",
        recompute_text(plan.recompute),
        "on" if plan.sp else "off",
        layers_text(plan.stage_layers),
        *context,
    )
    return table


def context_text(plan: Plan) -> str:
    """`ring`, or `usp, 4 over heads`."""
    heads = f", {plan.cp_ulysses} over heads" if plan.cp_algorithm == "usp" else ""
    return f"{plan.cp_algorithm}{heads}"


def layers_text(stage_layers: tuple[int, ...]) -> str:
    """Runs of equal stages joined: `20, 21 x2, 19`."""
    parts: list[str] = []
    start = 0
    for end in range(1, len(stage_layers) + 1):
        if end == len(stage_layers) or stage_layers[end] != stage_layers[start]:
            run = end - start
            parts.append(f"{stage_layers[start]} x{run}" if run > 1 else str(stage_layers[start]))
            start = end
    return ", ".join(parts)


def _microbatches(plan: Plan) -> str:
    """Of a replica; where they differ the fewest and the most."""
    most = plan.schedule.microbatches
    return f"{min(plan.shares)}-{most}" if plan.shares and min(plan.shares) < most else f"{most}"


def _prediction(plan: Plan) -> Table:
    predicted = plan.predicted
    low, high = predicted.step_time_interval_s
    table = Table(title=f"predicted ({predicted.origin})", title_justify="left", header_style="bold")
    for name in ("step", "interval", "tokens/s/device", "MFU", "HFU", "peak memory"):
        table.add_column(name)
    table.add_row(
        format_seconds(predicted.step_time_s),
        f"{format_seconds(low)} to {format_seconds(high)}",
        f"{predicted.tokens_per_s_per_device:,.0f}",
        f"{predicted.mfu:.1%}",
        f"{predicted.hfu:.1%}",
        " of ".join(map(format_bytes, predicted.fullest_bytes)),
    )
    return table


def memory_table(predicted: Prediction) -> Table:
    """Memory of each pipeline rank by cause; equal neighbours share a row, long pipelines show a selection."""
    unit, name = (2**30, "GiB") if max(memory.total for memory in predicted.memory) >= SMALL_BYTES else (2**20, "MiB")
    table = Table(title=f"memory of the busiest device, {name}", title_justify="left", header_style="bold")
    table.add_column("stage")
    for part in MEMORY_PARTS:
        table.add_column(part, justify="right")
    table.add_column("total", justify="right", style="bold")
    for label, memory in _selected(_joined(predicted.memory)):
        cells = [f"{getattr(memory, part) / unit:.1f}" for part in MEMORY_PARTS]
        table.add_row(label, *cells, f"{memory.total / unit:.1f}")
    return table


def _joined(rows: tuple[StageMemory, ...]) -> list[tuple[str, StageMemory]]:
    joined: list[tuple[int, int, StageMemory]] = []
    for index, memory in enumerate(rows):
        if joined and joined[-1][2] == memory:
            joined[-1] = (joined[-1][0], index, memory)
        else:
            joined.append((index, index, memory))
    return [(str(a) if a == b else f"{a}-{b}", memory) for a, b, memory in joined]


def _selected(rows: list[tuple[str, StageMemory]]) -> list[tuple[str, StageMemory]]:
    """First, last, fullest and some between; `--json` has all."""
    if len(rows) <= MEMORY_ROWS:
        return rows
    fullest = max(range(len(rows)), key=lambda row: rows[row][1].total)
    spread = {round(place * (len(rows) - 1) / (MEMORY_ROWS - 2)) for place in range(MEMORY_ROWS - 1)}
    return [rows[row] for row in sorted(spread | {fullest})]


def _runners_up(plan: Plan) -> Table:
    table = Table(title="runners-up", title_justify="left", header_style="bold")
    for name in ("mesh", "ZeRO", "schedule", "microbatch", "recompute", "step", "worse by", "peak memory"):
        table.add_column(name)
    for runner in plan.runners_up:
        table.add_row(
            describe(runner.mesh),
            str(runner.zero),
            schedule_text(runner),
            f"{runner.schedule.microbatches} x {runner.microbatch}",
            recompute_text(runner.recompute),
            format_seconds(runner.step_time_s),
            f"{runner.slower_by:.1%}",
            format_bytes(runner.peak_memory_bytes),
        )
    return table


def _contingency(plan: Plan) -> Table:
    """What is ready for lost nodes."""
    table = Table(title="when nodes are lost", title_justify="left", header_style="bold")
    for name in ("lost", "devices", "mesh", "step", "worse by", "peak memory"):
        table.add_column(name)
    for each in plan.contingency:
        mesh = MeshDegrees(**each.fields["mesh"]) if "mesh" in each.fields else plan.mesh
        step = format_seconds(each.step_time_s), f"{each.slower_by:.1%}", format_bytes(each.peak_memory_bytes)
        table.add_row(words(each.lost), f"{each.devices:,}", describe(mesh), *step)
    return table


def _proof(plan: Plan) -> str:
    proof = plan.proof
    return (
        f"proof: of {proof.candidates:,} legal configurations none {_bound_text(proof)} by this cost model; "
        f"gap {proof.gap:.1%}; {proof.pruned:,} ruled out by bound or memory; {proof.seconds:.2f} s"
    )


def _bound_text(proof: Proof) -> str:
    """What no other configuration does, in the unit of the objective."""
    if proof.objective == "time" or proof.lower_bound is None:
        return f"is faster than {format_seconds(proof.lower_bound or proof.lower_bound_s)}"
    if proof.objective == "cost":
        return f"costs less than {dollars(proof.lower_bound)} a step"
    if proof.objective == "energy":
        return f"takes less than {format_energy(proof.lower_bound)} a step"
    return f"does with less than {proof.lower_bound:.0f} devices"


def dollars(amount: float) -> str:
    """`$0.0093`, `$1,234`: three digits, cents at most where it is large."""
    return f"${amount:,.0f}" if amount >= 1000 else f"${amount:.3g}"


def _training(training: Training, goal: Goal) -> str:
    """`15 T tokens: 28.1 days, $1,200,000, 3,400 MWh (deadline 30 days)`."""
    parts = [f"{training.days:,.1f} days" if training.days >= 3 else f"{24 * training.days:,.1f} hours"]
    parts += [] if training.price is None else [dollars(training.price)]
    parts += [] if training.kwh is None else [f"{training.kwh:,.0f} kWh"]
    if training.days_at_risk is not None:
        parts[0] += f" ({training.days_at_risk:,.1f} at most with probability {goal.risk:g})"
    limit = "" if goal.deadline_s is None else f"; the deadline is {format_seconds(goal.deadline_s)}"
    return f"whole run of {format_count(training.tokens)} tokens, no failures: {', '.join(parts)}{limit}"
