"""Options of the `plan` verb: their types and what `--help` says of them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


def written(context: typer.Context) -> dict[str, Any]:
    """What was given on the command line, defaults left out: by option, or by the name of an argument (`RUN`)."""
    found = {}
    for param in context.command.params:
        source = context.get_parameter_source(param.name or "")
        if source is not None and source.name == "COMMANDLINE":
            name = param.opts[0] if param.param_type_name == "option" else (param.name or "").upper().removesuffix("S")
            found[name] = context.params.get(param.name or "")
    return found


class PrecisionOption(StrEnum):
    """Of the matrix products."""

    bf16 = "bf16"
    fp16 = "fp16"
    fp32 = "fp32"
    fp8 = "fp8"


class ObjectiveOption(StrEnum):
    """What the best plan has least of."""

    time = "time"
    cost = "cost"
    devices = "devices"
    energy = "energy"


class CompressOption(StrEnum):
    """How gradients of replicas travel."""

    none = "none"
    int8 = "int8"
    fp8 = "fp8"


class KernelsOption(StrEnum):
    """What norms, activations, rotations, permutations and the optimizer run as."""

    auto = "auto"
    reference = "reference"


Model = Annotated[str, typer.Argument(help="config.json, a bundled name (llama-3.1-8b), or a hub id.")]
Cluster = Annotated[
    str | None,
    typer.Argument(help="YAML file, a bundled name (dgx-h100:16 is 16 nodes), or local:8.", show_default=False),
]
Clusters = Annotated[
    str | None, typer.Option(help="Instead of CLUSTER: several with commas, for a table of time against price.")
]
Picture = Annotated[Path | None, typer.Option(help="With --clusters: a picture (.png, .svg) of the table.")]
SeqLen = Annotated[int, typer.Option(help="Tokens of one sequence.")]
GlobalBatch = Annotated[int, typer.Option(help="Sequences of one optimizer step.")]
Lengths = Annotated[
    str | None, typer.Option(help="Of the sequences: a file of lengths, or lognormal:median=800,p99=16000.")
]
Precision = Annotated[PrecisionOption, typer.Option(help="Of the matrix products.")]
Optimizer = Annotated[
    str,
    typer.Option(help="adamw, adamw:states=bf16 (moments, half as large), or galore:rank=1024,every=200,scale=0.25."),
]
Kernels = Annotated[
    KernelsOption, typer.Option(help="Of the built-in runtime on CUDA devices: Triton's (auto), or plain PyTorch.")
]
Compress = Annotated[
    CompressOption, typer.Option(help="Gradients in 8 bits, with ZeRO 0; for replicas behind slow links.")
]
Attention = Annotated[
    str, typer.Option(help="dense, or s2:local_blocks=8,stride=4: heads see a shard of the sequence each.")
]
Objective = Annotated[ObjectiveOption, typer.Option(help="Least time, price or energy of a token, or fewest devices.")]
Tokens = Annotated[str | None, typer.Option(help="Tokens of the whole run, e.g. 15T: days, price, energy.")]
Deadline = Annotated[str | None, typer.Option(help="For the tokens of the whole run, e.g. 30d.")]
Gap = Annotated[float, typer.Option(help="Stop when the plan is proven this close to the best.")]
Pin = Annotated[list[str] | None, typer.Option(help="Fix a part of the plan: tp=8, recompute=full, ...")]
ScheduleFile = Annotated[
    Path | None, typer.Option(help="Pipeline schedule as a CSV of actions: a row for each rank, cells like 0F0.")
]
Top = Annotated[int, typer.Option(help="How many runners-up to keep.")]
Runnable = Annotated[bool, typer.Option("--runnable", help="Only plans that launch executes today.")]
Framework = Annotated[str, typer.Option(help="What executes the layers, for the price: megatron-core, ...")]
Routing = Annotated[
    Path | None,
    typer.Option(help="What experts tokens chose: a JSONL file, routing/ of a run, or .npz; experts are placed by it."),
]
ShuffleTokens = Annotated[
    bool, typer.Option("--shuffle-tokens", help="By ids in --routing: tp ranks take tokens to experts that they have.")
]
Risk = Annotated[
    float | None,
    typer.Option(help="Probability, e.g. 0.9, with which step time and memory must hold; default: as predicted."),
]
Contingency = Annotated[
    int, typer.Option(min=0, help="Plans for up to so many nodes lost, ready for launch --lost-nodes.")
]
Explain = Annotated[
    bool, typer.Option("--explain", help="What other choices lose, what binds, and what would be worth buying.")
]
LostNodes = Annotated[
    str | None, typer.Option(help="Run what the plan holds ready for so many nodes lost: 1, or group=1.")
]
Workers = Annotated[int | None, typer.Option(help="Processes to measure together; default: one a device.")]
Budget = Annotated[str, typer.Option(help="Time to spend, e.g. 60s.")]
ForModel = Annotated[str | None, typer.Option("--model", help="Measure its layer types, too: as of plan.")]
Folder = Annotated[
    Path | None, typer.Option(help="Keep every measurement here; the same folder goes on where it stopped.")
]
Diff = Annotated[
    tuple[str, str] | None,
    typer.Option(metavar="A B", help="Instead of measuring: what changed between two cluster files."),
]
FromRun = Annotated[
    list[Path] | None, typer.Option(metavar="RUN...", help="Instead: learn from folders of runs of launch.")
]
MoreRuns = Annotated[list[Path] | None, typer.Argument(metavar="[RUN]...", help="More folders.", show_default=False)]
FromLog = Annotated[
    Path | None, typer.Option(metavar="CSV", help="Instead: learn from a CSV of runs, as simulate --against reads it.")
]
OfCluster = Annotated[str | None, typer.Option("--cluster", help="With --from-log: the cluster of its runs.")]
