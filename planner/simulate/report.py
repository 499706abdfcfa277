"""A simulation as one HTML page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

from ...schema import writing
from ...units import format_bytes, format_count, format_seconds
from ..contract import configuration_json
from ..lengths.mix import Expected
from .energy import format_energy
from .picture import svg
from .request import Answer
from .simulation import Simulation, dollars
from .tables import Cells, table_of_scaling, table_of_sweep

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; margin: .5rem 0 }} svg {{ max-width: 100%; height: auto }}
td, th {{ text-align: left; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #ddd; vertical-align: top }}
.bad {{ color: #b33000; font-weight: 600 }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


def write_report(path: Path, answer: Answer) -> None:
    """Write the page: what was simulated, what comes of it, and everything else that was asked."""
    text = report(answer)
    with writing(path):
        path.write_text(text, encoding="utf-8")


def report(answer: Answer) -> str:
    """The page as text; everything that came from a file is escaped."""
    simulation = answer.simulation
    scenario = simulation.scenario
    parts = [_verdict(simulation), table(outcome_rows(simulation)), svg(simulation), *_asked(answer)]
    parts += ["<h2>Configuration</h2>", table(_configuration(simulation))]
    return page(f"{scenario.model.name} on {scenario.cluster.name}", "\n".join(parts))


def _asked(answer: Answer) -> Iterator[str]:
    """A heading, a table and a picture for everything beyond the step itself."""
    if sweep := answer.sweep:
        yield from (f"<h2>Sweep of {escape(sweep.field)}</h2>", table(*table_of_sweep(sweep)), svg(sweep))
    if scaling := answer.scaling:
        heading = f"<h2>{scaling.kind.capitalize()} scaling</h2>"
        yield from (heading, table(*table_of_scaling(scaling)), svg(scaling))
    if failures := answer.failures:
        yield from ("<h2>With failures</h2>", table(failures.rows()), svg(failures))
    if straggler := answer.straggler:
        yield from ("<h2>With stragglers</h2>", table(*straggler.table()), svg(straggler))
    if bill := answer.energy:
        yield from ("<h2>Energy</h2>", table(bill.rows()), svg(bill))


def page(title: str, body: str) -> str:
    """A page of ours; the title is escaped here, the body by who made it."""
    return _PAGE.format(title=escape(title), body=body)


def table(rows: Iterable[Cells], head: Sequence[str] = ()) -> str:
    """Rows of text as an HTML table, escaped."""
    lines = [f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr>"] if head else []
    lines += [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"


def _verdict(simulation: Simulation) -> str:
    changed = "".join(f"<li><code>{escape(setting)}</code></li>" for setting in simulation.settings)
    settings = f"<p>With these settings:</p><ul>{changed}</ul>" if changed else ""
    shortage = escape(simulation.shortage)
    return settings + (f'<p class="bad">Does not fit: {shortage}</p>' if shortage else "")


def outcome_rows(simulation: Simulation) -> Sequence[Cells]:
    """Name and value of each result, as people read them."""
    prediction = simulation.prediction
    low, high = prediction.step_time_interval_s
    peak, limit = prediction.fullest_bytes
    rows = [
        ("step time", f"{format_seconds(prediction.step_time_s)} ({format_seconds(low)} to {format_seconds(high)})"),
        ("tokens per second", f"{simulation.tokens_per_s:,.0f}"),
        ("tokens per second and device", f"{prediction.tokens_per_s_per_device:,.0f}"),
        ("MFU, HFU", f"{prediction.mfu:.1%}, {prediction.hfu:.1%}"),
        ("peak memory", f"{format_bytes(peak)} of {format_bytes(limit)}"),
        ("price per million tokens", dollars(simulation.price_per_million_tokens, digits=4)),
        ("energy of a step", _energy(simulation)),
        ("origin of the costs", prediction.origin),
    ]
    if simulation.lengths is not None:
        rows[1:1] = _lengths_rows(simulation.lengths.expected)
    if simulation.tokens is not None and simulation.days is not None:
        bill = simulation.bill()
        energy = f", {bill.run_kwh:,.0f} kWh" if bill and bill.run_kwh is not None else ""
        run = f"{simulation.days:,.1f} days, {dollars(simulation.price)}{energy}"
        rows.insert(len(rows) - 1, (f"{format_count(simulation.tokens)} tokens, no failures", run))
    return rows


def _lengths_rows(expected: Expected) -> list[tuple[str, str]]:
    """What is expected of sequences of different lengths."""
    low, high = expected.step_time_range_s
    rows = [
        (f"{expected.steps} drawn steps", f"{format_seconds(low)} to {format_seconds(high)}"),
        ("rounds, idle", f"{expected.rounds:.1f} a step, {expected.idle:.1%} of them"),
        ("assignment", f"at most {expected.gap:.1%} from the best"),
    ]
    for name, degree, seconds, gain in (
        ("fixed degree", expected.fixed_degree, expected.fixed_step_time_s, expected.gain_over_fixed),
        ("plain packing, degree", expected.packed_degree, expected.packed_step_time_s, expected.gain_over_packed),
    ):
        if seconds is not None:
            rows.append((f"{name} {degree}", f"{format_seconds(seconds)}, {gain:.2f} times as long"))
    return rows


def _energy(simulation: Simulation) -> str:
    bill = simulation.bill()
    if bill is None:
        return "no power in the cluster file"
    return f"{format_energy(bill.energy.step_j)}, {bill.kwh_per_million_tokens:.3g} kWh per million tokens"


def _configuration(simulation: Simulation) -> Sequence[Cells]:
    job = simulation.scenario.job.model_dump(mode="json")
    fields = {**configuration_json(simulation.scenario.configuration), "job": job}
    return [(name, _plain(value)) for name, value in fields.items()]


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
