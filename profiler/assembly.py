"""From what the workers found to a cluster: every part writes what is its own; what does not go in becomes a note."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from datetime import date
from statistics import median
from typing import Any

from .. import __version__
from ..clusters.fit import efficiency_points, ring_fit
from ..clusters.local import CPU_FABRIC, host_text, one_node_mapping, read_processor, total_memory
from ..clusters.schema import Cluster
from ..errors import InputError, RunError
from ..schema import parse
from .parts import ESSENTIAL, PARTS, Found, Result

Note = dict[str, str]


def assemble(found: Found, about: dict[str, Any], notes: Iterable[Note] = ()) -> Cluster:
    """A cluster of one node; each figure is the median over workers.

    `about`: the fields of Provenance that nobody measures. Raises RunError where no worker has measured what a file
    cannot do without.
    """
    told = [*notes]
    complete = [each for each in found.results if each.keys() >= ESSENTIAL]
    if not complete:
        raise RunError("the profile has measured nothing: " + ("; ".join(_words(note) for note in told) or "no worker"))
    mapping = _base(found, complete)
    mapping["measured"] = about | {"date": date.today().isoformat(), **_who(complete), "notes": told}
    for part in PARTS:
        changed = deepcopy(mapping)
        try:
            part.assemble(changed, found)
            parse(Cluster, changed, part.name)
        except (InputError, ValueError, LookupError, ArithmeticError) as error:
            why = f"{type(error).__name__}: {error}"
            mapping["measured"]["notes"].append({"part": part.name, "what": "its figures", "why": why})
            continue
        mapping = changed
    return parse(Cluster, mapping, "profile")


def _words(note: Note) -> str:
    return ", ".join(text for text in (note["part"], note.get("what", "")) if text) + f": {note['why']}"


def _who(complete: list[Mapping[str, Result]]) -> dict[str, Any]:
    machines = [each["machine"] for each in complete]
    names = dict.fromkeys(each["name"] or _processor() for each in machines)
    versions = {"meshwright": __version__, **machines[0]["versions"]}
    return {"host": machines[0]["host"], "devices": list(names), "versions": versions}


def _processor() -> str:
    return read_processor(host_text("/proc/cpuinfo")).model


def _base(found: Found, complete: list[Mapping[str, Result]]) -> dict[str, Any]:
    """What every cluster file has."""
    machine, compute = complete[0]["machine"], [each["compute"] for each in complete]
    world = len(found.results)
    today, torch = date.today().isoformat(), machine["versions"]["torch"]
    source = f"measured on {machine['host']} on {today}, torch {torch}, {world} workers"
    links: Result = next(iter(found.of("links")), {"rings": [], "reduce_scatter": []})
    if not links["rings"]:
        alone = "one worker: nothing to measure" if world == 1 else "nothing was measured"
        source += f"; {alone} between workers, the fabric is assumed"
    host_link = median(each["host_bytes_per_s"] for each in compute)
    device = _device([each["machine"] for each in complete], compute, world, source)
    return one_node_mapping(device, world, _fabric(machine["kind"], links), _rounded(host_link), source)


def _device(machines: list[dict[str, Any]], compute: list[dict[str, Any]], world: int, source: str) -> dict[str, Any]:
    first = machines[0]
    launch_s = median(each["launch_s"] for each in compute)
    peak = {dtype: median(each["best_flops"][dtype] for each in compute) for dtype in compute[0]["best_flops"]}
    samples = [(flops, flops / _without(seconds, launch_s)) for each in compute for flops, seconds in each["matmul"]]
    train = next(iter(peak))
    peak[train] = max(rate for _, rate in samples)
    points = efficiency_points((flops, rate / peak[train]) for flops, rate in samples)
    attention = median(each["attention_flops_per_s"] for each in compute) / peak[train]
    bandwidth = median(each["memory_bytes_per_s"] for each in compute)
    blocks = median(each["block_bytes_per_s"] for each in compute)
    return {
        "name": first["name"] or _processor(),
        "kind": first["kind"],
        "memory": first["memory_bytes"] or total_memory(host_text("/proc/meminfo")) / world,
        "memory_bandwidth": _rounded(bandwidth),
        "peak_flops": {dtype: _rounded(rate) for dtype, rate in peak.items()},
        "context": max(each["context_bytes"] for each in machines),
        "calibration": {
            "origin": "measured",
            "source": source,
            "matmul": [{"flops": flops, "fraction": _rounded(fraction)} for flops, fraction in points],
            "attention": _rounded(min(1.0, attention)),
            "memory": _rounded(min(1.0, blocks / bandwidth)),  # of what one large addition sustained
            "launch": _rounded(launch_s),
        },
        "source": f"peak_flops: the best matrix product measured; {source}",
    }


def _rounded(value: float) -> float:
    """Three digits: no measurement here repeats better."""
    return float(f"{value:.3g}")


def _without(seconds: float, launch_s: float) -> float:
    """A product without its fixed cost, which the cost model adds again; never less than half of it."""
    return max(seconds - launch_s, seconds / 2)


def _fabric(kind: str, links: dict[str, list[Any]]) -> dict[str, Any]:
    if not links["rings"]:
        return dict(CPU_FABRIC)
    latency_s, bytes_per_s = ring_fit(links["rings"])
    slower = median(
        seconds / (steps * latency_s + moved / bytes_per_s) for steps, moved, seconds in links["reduce_scatter"]
    )
    return {
        "kind": "shared-memory" if kind == "cpu" else "xgmi" if kind == "rocm" else "nvlink",
        "bandwidth": _rounded(bytes_per_s),
        "latency": _rounded(latency_s),
        "efficiency": 1.0,
        "reduce_scatter": _rounded(slower),
    }
