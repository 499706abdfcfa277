"""The part of a profile that is about a model: its layers, data parallelism around them, and the rest of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

from ..clusters.local import cpu_cluster
from ..planner.configuration import Configuration
from ..planner.cost.measured import head_sizes, sharding_sizes, sizes_of
from ..planner.cost.setting import Setting as Planned
from ..planner.cost.sharding import sharding_of
from ..planner.families import architecture, load_model
from ..planner.job import Job, Precision
from ..units import significant
from . import layer_pace, layer_tails, layer_units, layers
from .layer_shapes import configurations
from .layers import Legs, Subject
from .parts import Found, Result, Setting

SHARES = {"layers": 0.69, "units": 0.15, "tails": 0.06, "pace": 0.1}
PASSES = 8


def measure(setting: Setting) -> Result:
    """As JSON: rows of clusters/layer_times.py, those of layers as far as the budget lets them be measured."""
    assert setting.asked.model is not None  # or the part is left out
    precision: Precision = "bf16" if setting.device.type == "cuda" else "fp32"
    job = Job(seq_len=setting.asked.seq_len, global_batch=setting.asked.global_batch, precision=precision)
    model = load_model(setting.asked.model)
    subject = Subject(model, architecture(model), job, setting.device)
    return measure_subject(subject, setting)


def measure_subject(subject: Subject, setting: Setting) -> Result:
    """The same of a model that somebody has."""
    budget_s = setting.budget_s
    result: Result = {"layers": [], "units": [], "tails": []}
    setting.announce("data parallelism")
    sizes = [n for n in range(2, setting.world + 1) if setting.world % n == 0]
    for size in sizes:
        share_s = SHARES["units"] * budget_s / len(sizes)
        result["units"] += setting.once(f"units {size}", partial(_units, subject, size, share_s))
    setting.announce("optimizer")
    result["tails"] = setting.once("tails", lambda: _dicts(layer_tails.measure(subject, SHARES["tails"] * budget_s)))
    if setting.world > 1 and setting.device.type == "cpu":
        setting.announce("shared cores")
        result["turns"] = setting.once("turns", lambda: layer_pace.measure(subject, SHARES["pace"] * budget_s))
    planned = Planned(subject.architecture, cpu_cluster(setting.world), subject.job)
    result["layers"] = _layers(subject, setting, configurations(planned), SHARES["layers"] * budget_s)
    return result


def _units(subject: Subject, size: int, budget_s: float) -> list[dict[str, Any]]:
    return _dicts(layer_units.measure(subject, size, budget_s))


def _measured(subject: Subject, each: Configuration, held: bool) -> list[dict[str, Any]]:
    return _rows(subject, each, layers.measure(subject, each, held=held))


def _layers(subject: Subject, setting: Setting, wanted: list[Configuration], budget_s: float) -> list[dict[str, Any]]:
    """Rows of the shardings that the budget lets be measured, in as many passes: what slows the machine down for a
    while is then in few samples of each. The median over passes of every figure."""
    passes: dict[int, list[list[dict[str, Any]]]] = {}
    number, begin = 0, perf_counter()
    while number < PASSES * len(wanted) and (not number or layers.all_agree(perf_counter() - begin < budget_s)):
        place, turn = number % len(wanted), number // len(wanted)
        each = wanted[place]
        setting.announce(f"layers {_words(each)}, pass {turn + 1}")
        rows = setting.once(
            f"{sharding_of(each)!r} {turn}",
            partial(_measured, subject, each, not turn),
        )
        passes.setdefault(place, []).append(rows)
        number += 1
    return [row for found in passes.values() for row in medians(found)]


def _words(configuration: Configuration) -> str:
    sharding = sharding_of(configuration)
    parts = [f"{name} {value}" for name, value in sharding_sizes(sharding).items()]
    return ", ".join([*parts, f"microbatch {sharding.microbatch}"])


def _dicts(rows: list[Any]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]


def _rows(subject: Subject, configuration: Configuration, found: list[Legs]) -> list[dict[str, Any]]:
    """Rows of a sharding: every kind of layer, and the ends."""
    sharding, model, job = sharding_of(configuration), subject.architecture, subject.job
    at = {
        "sharding": sharding_sizes(sharding), "dtype": job.precision, "seq_len": job.seq_len,
        "microbatch": configuration.microbatch,
    }  # fmt: skip
    ends, rows = head_sizes(model.hidden, model.vocab), []
    hidden = sharding.cp > 1 and subject.device.type == "cpu"  # autograd does not see what attention keeps for itself
    for numbers, legs in zip(layers.chain(subject), found, strict=True):
        again_s = legs["again_forward"] + legs["again_backward"] - legs["forward"] - legs["backward"]
        row: dict[str, Any] = at | {
            "kind": "layer", "sizes": sizes_of(model.layers[numbers[0]]),
            "forward_s": legs["forward"], "backward_s": legs["backward"],
            "input_s": legs["input"], "weight_s": legs["weight"], "recompute_s": max(0.0, again_s),
        }  # fmt: skip
        rows.append(row | _bytes(legs, hidden))
    for kind in ("embedding", "head"):
        times = {f"{way}_s": median(legs[f"{kind}_{way}"] for legs in found) for way in ("forward", "backward")}
        rows.append(at | {"kind": kind, "sizes": ends} | times)
    return rows


def _bytes(legs: Legs, hidden: bool) -> dict[str, float]:
    if "kept" not in legs:
        return {}
    again = 0.0 if hidden else legs["again_kept"]
    return {"kept_bytes": legs["kept"], "recompute_kept_bytes": again, "fragments": legs["fragments"]}


def assemble(cluster: dict[str, Any], found: Found) -> None:
    """The median over a node group's workers of every figure, into the calibration of its device."""
    for number, group in enumerate(cluster["node_groups"]):
        results = found.of("model layers", number)
        if results:
            group["device"]["calibration"]["layers"] = _layer_times(results)


def _layer_times(results: Sequence[Result]) -> dict[str, Any]:
    layer_times: dict[str, Any] = {
        name: medians([result[name] for result in results]) for name in ("layers", "units", "tails")
    }
    if "turns" in results[0]:
        for name, values in layer_pace.shared_cores(results[0]["turns"]).items():
            layer_times[name] = {busy: significant(value) for busy, value in values.items()}
    return layer_times


def medians(lists: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Lists of equal rows (of workers, of passes) as one: of every number the median of those that have it."""
    return [
        {key: significant(median(row[key] for row in rows if key in row)) if isinstance(value, float) else value
         for key, value in rows[0].items()}
        for rows in zip(*lists, strict=True)
    ]  # fmt: skip
