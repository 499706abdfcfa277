"""Contingency: the plan that a plan holds ready for when nodes are lost, as a plan of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..clusters.part import first_devices, nodes_of, without_nodes
from ..errors import InputError, did_you_mean
from ..schema import parse
from .configuration import LEVERS
from .cost.setting import Setting
from .cost.step import price
from .families import architecture
from .frameworks.framework import framework
from .legality import expert_problems, problems
from .legality.fields import in_plan
from .lengths.predict import predict
from .plan import Contingency, Plan, Prediction
from .search.visits import reported_visits, routing_problems

FIELDS = (
    "mesh",
    "schedule",
    "stage_layers",
    "microbatch",
    *LEVERS,
    "placement",
    "routing",
    "token_homes",
    "rank_map",
    "mix",
    "expected",
)
"""Of a plan, what depends on how many devices there are."""
_SOURCE = "plan: contingency: fields"


def changed_fields(plan: Plan, other: Plan) -> dict[str, Any]:
    """Fields of a plan that take other values in another one, as its file has them."""
    ours, theirs = (each.model_dump(mode="json", include=set(FIELDS)) for each in (plan, other))
    return {name: theirs[name] for name in FIELDS if theirs[name] != ours[name]}


def contingency_plan(plan: Plan, lost: str | Mapping[str, int]) -> Plan:
    """What is run when nodes are lost: `1` of a cluster with one node group, or `a=1,b=2` by the names of groups.

    It holds what the plan holds for still more nodes lost. Raises InputError where the plan has nothing for that.
    """
    gone = Counter(parse_lost(plan, lost) if isinstance(lost, str) else lost)
    found = next((each for each in plan.contingency if Counter(each.lost) == gone), None)
    left = without_nodes(plan.cluster, gone)
    if found is None or left is None:
        rule = f"the plan holds nothing for that; it does for {_held(plan)}"
        fix = f"meshwright plan ... --contingency {gone.total()}"
        raise InputError.single("plan", "--lost-nodes", words(gone), rule, fix)
    cluster = first_devices(left, found.devices)
    data = plan.model_dump(mode="json", by_alias=True) | found.fields
    data |= {"cluster": cluster.model_dump(mode="json", by_alias=True), "runners_up": [], "training": None}
    data |= {"proof": found.proof.model_dump(mode="json"), "at_risk": None, "contingency": _further(plan, gone)}
    data["why"] = [f"For {words(gone)} lost of {plan.cluster.name}: {found.slower_by:.1%} slower than with all nodes."]
    made = _read(data, found)
    executed = framework(made.framework)
    shape = architecture(made.model)
    kept, visits = (shape, cluster, made.job), reported_visits(made.routing)
    setting = Setting(*kept, framework=executed, every_device=False, rank_map=made.rank_map, routing=visits)
    wrong = problems(setting, made.configuration)
    wrong += expert_problems(setting, made.configuration, made.placement, made.token_homes)
    if made.routing is not None:
        wrong += routing_problems(setting, made.configuration, made.routing)
    if wrong:
        raise InputError(_SOURCE, list(map(in_plan, wrong)))
    return made.model_copy(update={"predicted": _predicted(setting, made)})


def _read(data: dict[str, Any], found: Contingency) -> Plan:
    """The plan file is written by people too."""
    if others := sorted(found.fields.keys() - set(FIELDS)):
        rule = "does not depend on how many devices there are"
        raise InputError.single(_SOURCE, others[0], None, rule, "leave it out")
    return parse(Plan, data, _SOURCE)


def _predicted(setting: Setting, plan: Plan) -> Prediction:
    if plan.mix is None:
        return price(setting, plan.configuration)
    return predict(setting, plan.configuration, plan.mix).prediction


def _further(plan: Plan, gone: Counter[str]) -> list[dict[str, Any]]:
    """What is held for more nodes lost than these, counted from what is left."""
    found = []
    for each in plan.contingency:
        more = Counter(each.lost) - gone
        if more and Counter(each.lost) >= gone:
            found.append(_from(plan, gone, each).model_copy(update={"lost": dict(more)}).model_dump(mode="json"))
    return found


def _from(plan: Plan, gone: Counter[str], further: Contingency) -> Contingency:
    """Fields that take other values than those of the plan for fewer nodes lost."""
    nearer = next(each for each in plan.contingency if Counter(each.lost) == gone)
    own = plan.model_dump(mode="json", include=set(FIELDS))
    fields = {name: further.fields.get(name, own[name]) for name in FIELDS}
    before = own | nearer.fields
    return further.model_copy(
        update={
            "fields": {name: value for name, value in fields.items() if value != before[name]},
            "slower_by": further.step_time_s / nearer.step_time_s - 1,
        }
    )


def parse_lost(plan: Plan, text: str) -> dict[str, int]:
    """Nodes by group. Raises InputError."""
    groups = nodes_of(plan.cluster)
    only = next(iter(groups)) if len(groups) == 1 else ""
    found: Counter[str] = Counter()
    for part in text.split(","):
        name, equals, count = (each.strip() for each in part.rpartition("="))
        name = name if equals else only
        if not (count.isascii() and count.isdecimal() and int(count) > 0) or not name:
            rule = "must be a number of nodes" if only else "must be a number of nodes of each group"
            fix = "--lost-nodes 1" if only else f"--lost-nodes {next(iter(groups))}=1"
            raise InputError.single("command line", "--lost-nodes", text, rule, fix)
        if name not in groups:
            rule = "is not a node group of the plan"
            raise InputError.single("command line", "--lost-nodes", name, rule, did_you_mean(name, groups))
        found[name] += int(count)
    return dict(found)


def words(lost: Mapping[str, int]) -> str:
    """`1 node of dgx-h100, 2 nodes of old`."""
    return ", ".join(f"{count} node{'s' if count > 1 else ''} of {name}" for name, count in lost.items())


def _held(plan: Plan) -> str:
    return "; ".join(words(each.lost) for each in plan.contingency) or "no loss at all"
