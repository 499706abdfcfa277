"""Where parameters, gradients and optimizer states are held."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import Problem
from ..configuration import CORE, Configuration, Module
from ..cost.setting import Setting
from ..frameworks.framework import DEFAULT
from ..model import Layer, Moe
from .rule import Rule, divides


def _zero_data(setting: Setting, configuration: Configuration) -> Problem | None:
    mesh = configuration.mesh
    if configuration.zero == 0 or mesh.dp * mesh.cp > 1:
        return None
    return Problem("--pin zero", configuration.zero, "ZeRO shards over dp x cp, which is 1", "zero=0")


def _compressed(setting: Setting, configuration: Configuration) -> Problem | None:
    if configuration.zero == 0 or setting.job.compress == "none":
        return None
    rule = "compressed gradients are sums of whole replicas: they need ZeRO 0"
    return Problem("--pin zero", configuration.zero, rule, "zero=0, or --compress none")


def _compressed_elsewhere(setting: Setting, configuration: Configuration) -> Problem | None:
    if setting.job.compress == "none" or setting.framework.name == DEFAULT:
        return None
    rule = f"{setting.framework.name} is not priced with compressed gradients"
    return Problem("--compress", setting.job.compress, rule, f"none, or --framework {DEFAULT}")


def _zero_pipeline(setting: Setting, configuration: Configuration) -> Problem | None:
    if configuration.zero < 2 or configuration.mesh.pp == 1:
        return None
    rule = "a pipeline holds whole weights and gradients until its last microbatch: ZeRO 2 and 3 need pp = 1"
    return Problem("--pin zero", configuration.zero, rule, "zero=1")


def _copies(setting: Setting, configuration: Configuration) -> Problem | None:
    copies, mesh = configuration.dp_replicate, configuration.mesh
    if copies == 1:
        return None
    if mesh.dp % copies:
        return divides("dp_replicate", copies, mesh.dp, "the data-parallel ranks")
    if configuration.zero == 0:
        return Problem("--pin dp_replicate", copies, "ZeRO 0 shards nothing: every rank is a copy", "zero=1")
    if mesh.dp * mesh.cp == copies:
        rule = "leaves one rank in each copy, and ZeRO nothing to shard over"
        return Problem("--pin dp_replicate", copies, rule, "zero=0")
    return None


def _offload_state(setting: Setting, configuration: Configuration) -> Problem | None:
    if 0.0 <= configuration.offload <= 1.0:
        return None
    return Problem("--pin offload", configuration.offload, "is a fraction of the optimizer states", "between 0 and 1")


def _nothing_offloaded(setting: Setting, configuration: Configuration) -> Problem | None:
    if configuration.offload or configuration.offload_to == "cpu":
        return None
    return Problem("--pin offload_to", configuration.offload_to, "no states are offloaded", "offload=1")


def _operations(setting: Setting, configuration: Configuration) -> Problem | None:
    if configuration.recompute_operations in (CORE, ()) or "selective" in configuration.recompute:
        return None
    named, rule = ",".join(configuration.recompute_operations), "is what selective recomputation repeats"
    return Problem("--pin recompute_operations", named, rule, "recompute=selective")


def _no_such_operation(setting: Setting, configuration: Configuration) -> Problem | None:
    operations = configuration.recompute_operations
    if "selective" not in configuration.recompute or "core_attn" in operations:
        return None
    has = {each for layer in setting.kinds for each in _has(layer)}
    if has & set(operations):
        return None
    known = ", ".join(sorted(has))
    rule = f"no layer of this model has such operations; they have {known}"
    return Problem("--pin recompute_operations", ",".join(operations), rule, "recompute_operations=core_attn")


def _has(layer: Layer) -> Iterator[Module]:
    """Operations that selective recomputation can give up in a layer."""
    yield from ("core_attn", "layernorm")
    if not isinstance(layer.ffn, Moe) or layer.ffn.shared:
        yield "mlp"
    if isinstance(layer.ffn, Moe):
        yield from ("moe", "moe_act")
    if layer.attention.latent is not None:
        yield "mla_up_proj"


def _drive(setting: Setting, configuration: Configuration) -> Problem | None:
    if configuration.offload == 0 or configuration.offload_to != "nvme" or setting.has_nvme:
        return None
    return Problem("--pin offload_to", "nvme", "not every node has a drive (node_groups.nvme)", "offload_to=cpu")


def _swapped(setting: Setting, configuration: Configuration) -> Problem | None:
    """Swapped layers are FSDP2 units whose shards live on the host."""
    window, layers, mesh = configuration.swap_layers, len(setting.architecture.layers), configuration.mesh
    if window == 0:
        return None
    if window == 1 or window >= layers:
        rule = f"one layer computes while the next arrives, and of {layers} layers some must be away"
        return Problem("--pin swap_layers", window, rule, f"swap_layers={2 if layers > 2 else 0}")
    if mesh.pp > 1:
        return Problem("--pin swap_layers", window, "a pipeline holds all weights of a stage for a whole step", "pp=1")
    if mesh.ep * mesh.etp > 1 and (mesh.edp > 1) != (mesh.dp * mesh.cp > 1):
        rule = "experts over several ranks come and go as their layer does: both with replicas, or neither"
        return Problem("--pin swap_layers", window, rule, "ep=1")
    if mesh.dp * mesh.cp > 1 and configuration.zero != 3:
        rule = "layers that leave the device between uses are gathered for each: that is ZeRO 3"
        return Problem("--pin swap_layers", window, rule, "zero=3")
    if configuration.offload:
        rule = "the states of swapped layers are on the host already"
        return Problem("--pin offload", configuration.offload, rule, "offload=0")
    return None


def _galore(setting: Setting, configuration: Configuration) -> Problem | None:
    """Singular vectors are those of a whole matrix, and its moments live on the device, whole."""
    if setting.job.galore is None:
        return None
    mesh, zero = configuration.mesh, configuration.zero
    if not setting.framework.bundled_kernels:
        rule = "steps with AdamW: GaLore is the built-in runtime's"
        return Problem("--framework", setting.framework.name, rule, "meshwright")
    if mesh.tp > 1:
        rule = "galore looks for the space of whole matrices, and tensor parallelism cuts them"
        return Problem("--pin tp", mesh.tp, rule, "tp=1")
    if zero > 1:
        rule = "galore has whole gradients in every step, which ZeRO 2 and 3 never hold"
        return Problem("--pin zero", zero, rule, "zero=1")
    if _unlike(setting, configuration):
        rule = "replicas on unlike devices round their products with the space differently, and would drift apart"
        return Problem("--optimizer", "galore", rule, "adamw, or devices of one kind")
    return _on_device(configuration, "galore's moments are small and stay on the device")


def _unlike(setting: Setting, configuration: Configuration) -> bool:
    """Whether any pipeline rank has its replicas on devices of several kinds."""
    if not setting.is_mixed or configuration.mesh.world > setting.num_devices:
        return False
    seen = (setting.stage_at(configuration, rank).node_groups for rank in range(configuration.mesh.pp))
    return any(len({group.device.name for group in groups}) > 1 for groups in seen)


def _narrow_states(setting: Setting, configuration: Configuration) -> Problem | None:
    if setting.job.optimizer_states == "fp32":
        return None
    return _on_device(configuration, "states on the host are in fp32 (--optimizer adamw)")


def _on_device(configuration: Configuration, rule: str) -> Problem | None:
    if configuration.offload:
        return Problem("--pin offload", configuration.offload, rule, "offload=0")
    if configuration.swap_layers:
        return Problem("--pin swap_layers", configuration.swap_layers, rule, "swap_layers=0")
    return None


RULES: tuple[Rule, ...] = (
    Rule("zero-data", "ZeRO shards over replicas", _zero_data),
    Rule("compressed", "compressed gradients are those of whole replicas", _compressed),
    Rule("compressed-elsewhere", "only the built-in runtime compresses", _compressed_elsewhere),
    Rule("zero-pipeline", "gradient accumulation across a pipeline", _zero_pipeline),
    Rule("copies", "hybrid sharding: copies of a ZeRO group", _copies),
    Rule("offload", "a fraction", _offload_state),
    Rule("offload-to", "where offloaded states go", _nothing_offloaded),
    Rule("operations", "operations are recomputed selectively", _operations),
    Rule("no-operation", "a layer gives up what it has", _no_such_operation),
    Rule("drive", "states go where there is a drive", _drive),
    Rule("swap", "layers come and go one by one", _swapped),
    Rule("galore", "projected steps see whole matrices", _galore),
    Rule("narrow-states", "states in bf16 are those of the device", _narrow_states),
)
