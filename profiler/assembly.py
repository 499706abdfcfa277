"""From what the workers found to a cluster: every part writes what is its own; what does not go in becomes a note."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import date
from functools import partial
from itertools import combinations, groupby
from statistics import median
from typing import Any

from .. import __version__
from ..clusters.fit import efficiency_points, ring_fit
from ..clusters.local import CPU_FABRIC, host_text, one_node_mapping, total_memory
from ..clusters.schema import Cluster
from ..errors import InputError, RunError
from ..schema import parse
from ..units import significant
from .links_found import read_links
from .parts import ESSENTIAL, PARTS, Found, Result

Note = dict[str, str]

_rounded = partial(significant, digits=3)  # no measurement of rates repeats better


def assemble(found: Found, about: dict[str, Any], notes: Iterable[Note] = ()) -> Cluster:
    """A cluster of one node; each figure is the median over workers.

    `about`: the fields of Provenance that nobody measures. Raises RunError where no worker has measured what a file
    cannot do without.
    """
    told = [*notes]
    complete = _complete(found, range(len(found.results)))
    if not complete:
        raise RunError("the profile has measured nothing: " + ("; ".join(_words(note) for note in told) or "no worker"))
    nodes, found = about.get("nodes", 1), _in_rows(found)
    mapping = _base(found, complete, nodes)
    told += _scattered(found)
    mapping["measured"] = about | {"date": date.today().isoformat(), **_who(complete), "notes": told}
    mapping["measured"]["spread"] = spread([each["compute"] for each in complete])
    for part in sorted(PARTS, key=lambda part: part.regroups):
        changed = deepcopy(mapping)
        try:
            part.assemble(changed, found)
            parse(Cluster, changed, part.name)
        except (InputError, ValueError, LookupError, ArithmeticError) as error:
            why = f"{type(error).__name__}: {error}"
            mapping["measured"]["notes"] = changed["measured"]["notes"]  # what it had to say until then
            mapping["measured"]["notes"].append({"part": part.name, "what": "its figures", "why": why})
            continue
        mapping = changed
    if any(group.get("nics") == ASSUMED_NICS for group in mapping["node_groups"]):
        why = "assumed, 1 GB/s: no card with a known rate, and nothing was measured between hosts"
        mapping["measured"]["notes"].append({"part": "links", "what": "network cards", "why": why})
    return parse(Cluster, mapping, "profile")


def _complete(found: Found, ranks: Sequence[int]) -> list[Mapping[str, Result]]:
    """Of those ranks the results of all that measured what a file cannot do without."""
    return [found.results[rank] for rank in ranks if found.results[rank].keys() >= ESSENTIAL]


def _in_rows(found: Found) -> Found:
    """With groups of ranks that follow each other, more of them where nodes of one kind do not stand side by side: what
    was measured between hosts has a place in no others."""
    links = read_links(found.of("links"))
    if links is None or len(links.hosts) < 2:
        return found
    kinds = {rank: number for number, ranks in enumerate(found.groups) for rank in ranks}
    return replace(found, groups=[list(row) for _, row in groupby(range(len(found.results)), key=kinds.__getitem__)])


def _scattered(found: Found) -> Iterable[Note]:
    """Devices of a cluster file are numbered group by group, ranks of torchrun node by node."""
    if [rank for ranks in found.groups for rank in ranks] != list(range(len(found.results))):
        why = "nodes of one kind do not stand side by side: start them in the order of the file, group by group"
        yield {"part": "workers", "what": "node groups", "why": why}


def _words(note: Note) -> str:
    return ", ".join(text for text in (note["part"], note.get("what", "")) if text) + f": {note['why']}"


def _who(complete: list[Mapping[str, Result]]) -> dict[str, Any]:
    machines = [each["machine"] for each in complete]
    names = dict.fromkeys(each["name"] or each["processor"] for each in machines)
    versions = {"meshwright": __version__, **machines[0]["versions"]}
    return {"host": machines[0]["host"], "devices": list(names), "versions": versions}


_FIGURES = {
    "attention": "attention_flops_per_s",
    "memory bandwidth": "memory_bytes_per_s",
    "memory": "block_bytes_per_s",
    "launch": "launch_s",
    "host device link": "host_bytes_per_s",
}


def spread(compute: Sequence[Result]) -> dict[str, float]:
    """Relative spread of each figure over the workers, which all measured the same: half of largest over smallest."""
    values = {figure: [each[name] for each in compute] for figure, name in _FIGURES.items()}
    values |= {
        f"peak flops {dtype}": [each["best_flops"][dtype] for each in compute] for dtype in compute[0]["best_flops"]
    }
    pairs = zip(*(each["matmul"] for each in compute), strict=False)
    ratios = [max(times) / min(times) for times in ([seconds for _, seconds in pair] for pair in pairs)]
    found = {name: (max(numbers) / min(numbers) - 1) / 2 for name, numbers in values.items() if min(numbers) > 0}
    return {name: _rounded(value) for name, value in (found | {"matmul": (median(ratios) - 1) / 2}).items()}


def _base(found: Found, complete: list[Mapping[str, Result]], nodes: int) -> dict[str, Any]:
    """What every cluster file has: node groups as `found` has them, each with figures of its own."""
    machine, world = complete[0]["machine"], len(found.results)
    today, torch = date.today().isoformat(), machine["versions"]["torch"]
    source = f"measured on {machine['host']} on {today}, torch {torch}, {world} workers"
    if nodes > 1:
        source += f" on {nodes} nodes"
    links: Result = next(iter(found.of("links")), {"rings": [], "reduce_scatter": []})
    if not links["rings"]:
        alone = "one worker" if nodes == 1 else "one worker on each node"
        alone = f"{alone}: nothing to measure" if world == nodes else "nothing was measured"
        source += f"; {alone} between workers{'' if nodes == 1 else ' of a node'}, the fabric is assumed"
    groups = [_group(found, ranks, world // nodes, source, links) for ranks in found.groups]
    names = ["local"] if nodes == 1 else ["nodes"] if len(groups) == 1 else [f"nodes-{i}" for i in range(len(groups))]
    named = [group | {"name": name} for group, name in zip(groups, names, strict=True)]
    mapping: dict[str, Any] = {"name": "local", "node_groups": named}
    if nodes > 1:
        mapping["node_groups"] = [group | {"nics": dict(ASSUMED_NICS)} for group in named]
        mapping["links"] = [{"between": list(pair), **ASSUMED_LINK} for pair in combinations(names, 2)]
    return mapping | {"source": source}


ASSUMED_NICS = {"kind": "ethernet", "count": 1, "rate": "1 GB/s", "latency": "100 us", "efficiency": 0.8}
ASSUMED_LINK = {"kind": "ethernet", "bandwidth": "1 GB/s", "latency": "100 us"}
"""Between nodes, where neither a card with a known rate was found nor anything measured: 10 Gbit/s, and a note."""


def _group(found: Found, ranks: Sequence[int], local_world: int, source: str, links: Result) -> dict[str, Any]:
    """Nodes that are alike; each figure is the median over the workers of all of them that measured."""
    complete = _complete(found, ranks) or _complete(found, range(len(found.results)))  # noted: its part has failed
    machines, compute = [each["machine"] for each in complete], [each["compute"] for each in complete]
    device = _device(machines, compute, local_world, source)
    host_link = _rounded(median(each["host_bytes_per_s"] for each in compute))
    mapping = one_node_mapping(device, local_world, _fabric(machines[0]["kind"], links), host_link, source)
    group: dict[str, Any] = mapping["node_groups"][0]
    return group | {"nodes": len(ranks) // local_world}


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
        "name": first["name"] or first["processor"],
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


def _without(seconds: float, launch_s: float) -> float:
    """A product without its fixed cost, which the cost model adds again; never less than half of it."""
    return max(seconds - launch_s, seconds / 2)


def _fabric(kind: str, links: dict[str, list[Any]]) -> dict[str, Any]:
    if not links["rings"]:
        return dict(CPU_FABRIC)
    latency_s, bytes_per_s = ring_fit(links["rings"])
    slower = [seconds / (steps * latency_s + moved / bytes_per_s) for steps, moved, seconds in links["reduce_scatter"]]
    return {
        "kind": "shared-memory" if kind == "cpu" else "xgmi" if kind == "rocm" else "nvlink",
        "bandwidth": _rounded(bytes_per_s),
        "latency": _rounded(latency_s),
        "efficiency": 1.0,
        "reduce_scatter": _rounded(median(slower)) if slower else 1.0,  # the links died before any was timed
    }
