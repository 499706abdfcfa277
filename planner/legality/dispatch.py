"""How tokens reach their experts: what is sent, in how many parts, to how many copies of an expert."""

from __future__ import annotations

from ...errors import Problem
from ..configuration import Configuration
from ..cost.setting import Setting
from ..experts import planned, token_homes
from ..experts.planned import ExpertPlacement
from ..experts.token_homes import TokenHomes
from ..sequence import local_tokens
from .rule import Rule


def placement_problems(setting: Setting, configuration: Configuration, placement: ExpertPlacement) -> list[Problem]:
    """What keeps a placement from being one of the model's experts on the ep ranks of a configuration."""
    experts = [layer.moe.experts for layer in setting.architecture.layers if layer.moe]
    if configuration.mesh.ep == 1:
        return [Problem("placement", None, "places experts on ep ranks, and ep is 1", "leave it out")]
    return planned.problems(placement, experts, configuration.mesh.ep, configuration.expert_replicas)


def expert_problems(
    setting: Setting, configuration: Configuration, placement: ExpertPlacement | None, homes: TokenHomes | None
) -> list[Problem]:
    """The same of all that a plan says of experts and of who takes tokens to them."""
    found = [] if placement is None else placement_problems(setting, configuration, placement)
    return found + ([] if homes is None else list(token_homes.problems(homes, configuration)))


def _needs_ranks(setting: Setting, configuration: Configuration) -> Problem | None:
    if configuration.mesh.ep > 1:
        return None
    rule, ep = "sends tokens between ep ranks, and ep is 1", "ep=2" if setting.has_experts else ""
    for field, usual in (("dispatch", "copies"), ("dispatch_chunks", 1), ("expert_replicas", 0)):
        if (value := getattr(configuration, field)) != usual:
            return Problem(f"--pin {field}", value, rule, f"{field}={usual}" + (f", or {ep}" if ep else ""))
    return None


def _planned(setting: Setting, configuration: Configuration) -> Problem | None:
    if setting.framework.experts.planned:
        return None
    for field, usual in (("dispatch", "copies"), ("dispatch_chunks", 1), ("expert_replicas", 0)):
        if (value := getattr(configuration, field)) != usual:
            rule = f"{setting.framework.name} is priced as it sends tokens by itself"
            return Problem(f"--pin {field}", value, rule, f"{field}={usual}")
    return None


def _nodes(setting: Setting, configuration: Configuration) -> Problem | None:
    mesh, devices = configuration.mesh, setting.domain_devices
    if configuration.dispatch != "nodes" or mesh.ep == 1:
        return None
    members = mesh.ep_per_node(devices)
    if members == mesh.ep:
        rule = f"the {mesh.ep} ep ranks lie in one node (domain of {devices} devices): each node is sent nothing else"
    elif members == 1 and (mesh.ep * mesh.etp) % devices:
        rule = f"ep x etp ({mesh.ep * mesh.etp}) must fill whole nodes (domains of {devices} devices)"
    elif members == 1:
        rule = "with one ep rank in each node a copy for each node is one for each rank"
    elif setting.group(mesh.etp, mesh.ep).domains != mesh.ep // members:
        rule = "ep groups cross the nodes of this cluster unevenly"
    else:
        return None
    return Problem("--pin dispatch", "nodes", rule, "dispatch=ranks")


def _parts(setting: Setting, configuration: Configuration) -> Problem | None:
    if configuration.dispatch_chunks == 1:
        return None
    mesh, sp = configuration.mesh, configuration.sp
    tokens = configuration.microbatch * local_tokens(setting.job.seq_len, mesh.cp, mesh.tp if sp else 1)
    if 1 <= configuration.dispatch_chunks <= tokens:
        return None
    rule = f"a microbatch has {tokens} tokens on a rank, and a chunk one or more"
    fix = max(1, min(configuration.dispatch_chunks, tokens))
    return Problem("--pin dispatch_chunks", configuration.dispatch_chunks, rule, f"dispatch_chunks={fix}")


def _replicas(setting: Setting, configuration: Configuration) -> Problem | None:
    ep, replicas = configuration.mesh.ep, configuration.expert_replicas
    for layer in setting.kinds:
        if layer.moe is None or ep == 1 or replicas == 0 or layer.moe.experts % ep:
            continue  # without ranks or equal parts: told by another rule
        if layer.moe.groups > layer.moe.top_groups:
            rule = "with group-limited routing groups of experts stay whole"
            return Problem("--pin expert_replicas", replicas, rule, "expert_replicas=0")
        most = layer.moe.experts * (ep - 1)
        if replicas > most:
            rule = f"a rank holds an expert once: at most {most} beside {layer.moe.experts} experts on {ep} ranks"
            return Problem("--pin expert_replicas", replicas, rule, f"expert_replicas={most}")
        if replicas % ep:
            rule = f"every one of {ep} ep ranks has as many slots"
            fix = min(most, max(0, round(replicas / ep)) * ep)
            return Problem("--pin expert_replicas", replicas, rule, f"expert_replicas={fix}")
    return None


def _neighbours(setting: Setting, configuration: Configuration) -> Problem | None:
    mesh, topology = configuration.mesh, setting.whole.topology
    alike = topology.is_regular and len(setting.cluster.node_groups) == 1
    if configuration.dispatch != "nodes" or mesh.ep == 1 or alike or _nodes(setting, configuration) is not None:
        return None
    block, run = mesh.ep * mesh.etp, mesh.ep_per_node(setting.domain_devices) * mesh.etp
    places = [topology.place(rank) for rank in range(mesh.world)]
    nodes = [(place.group, place.domain) for place in places]
    for first in range(0, mesh.world, block):
        runs = [set(nodes[start : start + run]) for start in range(first, first + block, run)]
        if any(len(each) > 1 for each in runs) or len(set().union(*runs)) < len(runs):
            rule = f"of ranks {first} to {first + block - 1}, an ep group, {run} after {run} must be in one node"
            return Problem("--pin dispatch", "nodes", rule, "dispatch=ranks, or another rank_map")
    return None


RULES: tuple[Rule, ...] = (
    Rule("dispatch-ranks", "tokens are sent between ranks", _needs_ranks),
    Rule("dispatch-planned", "a framework's own dispatch is in its file", _planned),
    Rule("dispatch-nodes", "a token is sent to a node once and passed on inside", _nodes),
    Rule("dispatch-chunks", "a chunk of a microbatch has tokens", _parts),
    Rule("replicas", "ranks hold equally many experts", _replicas),
)
RUNTIME_RULES: tuple[Rule, ...] = (
    Rule("dispatch-neighbours", "ranks of an ep group follow one another node by node", _neighbours),
)
