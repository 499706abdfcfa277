"""The command line: one function a verb. Reads arguments, calls the library, prints.

Exit codes: 0 done, 1 failed, 2 the input is wrong, 3 no feasible plan. Everything heavy is imported
inside the verb that needs it, so that `--help`, `plan` and `simulate` start at once and without torch.
"""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from . import __version__, garbage, options
from .errors import InputError, MeshwrightError

if TYPE_CHECKING:
    from rich.console import Console

    from .planner.plan import Plan
    from .planner.search.explanation import Explanation
    from .planner.search.request import Request

app = typer.Typer(
    name="meshwright",
    help="Choose the parallel configuration of a transformer training job, prove it, and run it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
Out = Annotated[Path | None, typer.Option("--out", help="Write the file here.", show_default=False)]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"meshwright {__version__}")
        raise typer.Exit


@app.command(epilog="Example: meshwright profile --budget 60s --out this-machine.yaml")
def profile(
    context: typer.Context,
    runs: options.MoreRuns = None,
    workers: options.Workers = None,
    budget: options.Budget = "20s",
    model: options.ForModel = None,
    seq_len: options.SeqLen = 4096,
    global_batch: options.GlobalBatch = 256,
    folder: options.Folder = None,
    diff: options.Diff = None,
    from_run: options.FromRun = None,
    from_log: options.FromLog = None,
    cluster: options.OfCluster = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Measure this machine (all nodes under torchrun) and write a cluster file; or compare two; or learn from runs."""
    from . import profile_verb, profiling

    profiling.one_purpose(options.written(context))
    if diff:
        shown: profile_verb.Shown | None = profile_verb.compare(*diff)
    elif from_run or from_log:
        shown = profile_verb.learn([*(from_run or []), *(runs or [])], from_log, cluster, out)
    else:
        budget_s, asked = profiling.request(budget, folder, out, model, seq_len, global_batch)
        shown = profile_verb.measure(workers, budget_s, asked, folder, out)
    if shown is not None:
        _print(json, shown.to_json, shown.show)
        raise typer.Exit(shown.exit_code)


@app.command(epilog="Example: meshwright plan llama-3.1-70b dgx-h100:8 --seq-len 8192 --global-batch 512")
@garbage.seldom_collected()
def plan(
    model: options.Model,
    cluster: options.Cluster = None,
    seq_len: options.SeqLen = 4096,
    global_batch: options.GlobalBatch = 256,
    lengths: options.Lengths = None,
    precision: options.Precision = options.PrecisionOption.bf16,
    optimizer: options.Optimizer = "adamw",
    kernels: options.Kernels = options.KernelsOption.auto,
    compress: options.Compress = options.CompressOption.none,
    attention: options.Attention = "dense",
    objective: options.Objective = options.ObjectiveOption.time,
    tokens: options.Tokens = None,
    deadline: options.Deadline = None,
    risk: options.Risk = None,
    gap: options.Gap = 0.01,
    pin: options.Pin = None,
    schedule_file: options.ScheduleFile = None,
    top: options.Top = 5,
    runnable: options.Runnable = False,
    framework: options.Framework = "meshwright",
    routing: options.Routing = None, shuffle_tokens: options.ShuffleTokens = False,
    clusters: options.Clusters = None, picture: options.Picture = None,
    contingency: options.Contingency = 0,
    explain: options.Explain = False,
    out: Out = None, json: Json = False,
) -> None:  # fmt: skip
    """Choose the parallel configuration for MODEL on CLUSTER; with --clusters the one for each, time against price."""
    from .planning import read_requests, which_clusters

    given = _about_one_plan(picture, objective, contingency, explain, out, deadline)
    job: dict[str, Any] = {"seq_len": seq_len, "global_batch": global_batch, "lengths": lengths, "attention": attention}
    job |= {"precision": precision.value, "optimizer": optimizer, "kernels": kernels.value, "compress": compress.value}
    asked: dict[str, Any] = {"objective": objective.value, "gap": gap, "top": top, "runnable": runnable}
    asked |= {"framework": framework, "tokens": tokens, "deadline": deadline, "risk": risk}
    asked |= {"routing": routing, "shuffle_tokens": shuffle_tokens}
    requests = read_requests(model, which_clusters(cluster, clusters, given), job, pin or [], schedule_file, **asked)
    if clusters is not None:
        return _compare_clusters(requests, picture, out, json)
    return _plan(next(iter(requests.values())), contingency, explain, out, json)


def _about_one_plan(
    picture: Path | None, objective: options.ObjectiveOption, contingency: int, explain: bool, out: Path | None,
    deadline: str | None,
) -> dict[str, object]:  # fmt: skip
    """Which options that are about one plan are given."""
    given: dict[str, object] = {"--picture": picture, "--objective": objective.value != "time", "--explain": explain}
    return given | {"--contingency": contingency, "--out": out and not deadline}  # of several, the deadline says which


def _plan(request: Request, contingency: int, explain: bool, out: Path | None, json: bool) -> None:
    """One plan for one cluster."""
    _check_outputs(None, out)
    from .display.console import warn_of
    from .display.progress import explaining, preparing, searching
    from .planner.contract import plan_json
    from .planner.search.choose import choose

    warned = warn_of(request.cluster, runs_here=False)
    if explain:
        from .planner.search.explanation import check_explainable, explanation

        check_explainable(request)
    with searching() as progress:
        found = choose(request, progress)
    if contingency:
        from .planner.search.contingency import with_contingency

        with preparing() as progress:
            found = with_contingency(request, found, contingency, progress)
    if out:
        found.save(out)
    why = None
    if explain:
        with explaining() as progress:
            why = explanation(request, found, progress)
    _print(
        json,
        lambda: plan_json(found) | ({"explanation": why.to_json()} if why else {}) | {"warnings": warned},
        lambda console: _show_plan(console, found, why),
    )


def _show_plan(console: Console, found: Plan, why: Explanation | None) -> None:
    from .display.plan import show_plan

    show_plan(console, found, why)


def _compare_clusters(requests: dict[str, Request], picture: Path | None, out: Path | None, json: bool) -> None:
    """The best plan on parts of each cluster; where to write is checked before, since it takes its time."""
    _check_outputs(picture, out)
    from .display.pareto import show_pareto
    from .display.progress import searching
    from .planner.search.pareto import pareto
    from .planner.search.pareto_picture import save_pareto

    with searching() as progress:
        found = pareto(requests, progress)
    if picture:
        save_pareto(found, picture)
    if out and found.chosen and found.chosen.plan:
        found.chosen.plan.save(out)
    _print(json, found.to_json, lambda console: show_pareto(console, found))


@app.command(epilog="Example: meshwright simulate plan.yaml --set network=0.5x --set precision=fp8 --tokens 1T")
def simulate(
    context: typer.Context,
    plan: Annotated[Path | None, typer.Argument(help="A plan file.", show_default=False)] = None,
    against: Annotated[Path | None, typer.Option(help="Instead of PLAN: a CSV of measured runs to predict.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a field: device=b200, devices=128, network=2x, price=2.5.")
    ] = None,
    sweep: Annotated[str | None, typer.Option(help="One field, several values: global_batch=64,128.")] = None,
    scaling: Annotated[str | None, typer.Option(help="strong or weak, or with device counts: strong=8,16,32.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Tokens of the whole run, e.g. 15T: days, price, energy.")] = None,
    failures: Annotated[str | None, typer.Option(help="Goodput: mtbf=3h,restart=5m,save=30s, each optional.")] = None,
    straggler: Annotated[
        str | None, typer.Option(help="device=3,slow=1.5x (or rank, link, node), or probability=0.001,slow=3x.")
    ] = None,
    energy: Annotated[bool, typer.Option("--energy", help="Joules and kWh, and what draws them.")] = False,
    electricity: Annotated[str | None, typer.Option(help="US dollars per kWh; with the energy, its price.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Write a Chrome/Perfetto trace of one step.")] = None,
    schedule_out: Annotated[Path | None, typer.Option(help="Write the pipeline schedule as a CSV of actions.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Write a picture (.png, .svg) of what was asked.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a self-contained HTML report.")] = None,
    json: Json = False,
) -> None:
    """What-if: step time, memory, cost, scaling, failures, stragglers, energy of a plan; or predictions beside what was
    measured."""
    _one_subject(context)
    if against is not None:
        _compare(against, picture, report, json)
    elif plan is not None:
        asked: dict[str, Any] = {"settings": tuple(set_ or ()), "tokens": tokens, "sweep": sweep, "scaling": scaling}
        asked |= {"failures": failures, "straggler": straggler, "energy": energy, "electricity": electricity}
        files = {"trace": trace, "picture": picture, "report": report, "schedule": schedule_out}
        _what_if(plan, asked, files, json)


def _one_subject(context: typer.Context) -> None:
    """PLAN or --against, and beside the latter nothing that is about a plan. Raises InputError."""
    from .errors import Problem

    given = options.written(context)
    if not given.keys() & {"PLAN", "--against"}:
        rule, fix = "is required", "a plan file, or --against with a CSV file of measured runs"
        raise InputError.single("command line", "PLAN", None, rule, fix)
    foreign = [name for name in given if name not in ("--against", "--picture", "--report", "--json")]
    if "--against" in given and foreign:
        rule = "is about one plan, and --against is about every run of its file"
        raise InputError("command line", [Problem(name, None, rule, "leave it out") for name in foreign])


def _compare(runs: Path, picture: Path | None, report: Path | None, json: bool) -> None:
    """Predict every run of a file; where to write is checked before, since it takes its time."""
    from .display.progress import comparing
    from .display.published import show_against
    from .planner.published.against import compare
    from .planner.published.contract import against_json
    from .planner.published.picture import save_picture
    from .planner.published.report import write_report

    _check_outputs(picture, report)
    with comparing() as progress:
        rows = compare(runs, None, progress)
    if picture:
        save_picture(rows, picture)
    if report:
        write_report(report, rows, runs.name)
    _print(json, lambda: against_json(rows), lambda console: show_against(console, rows))


def _check_outputs(picture: Path | None, *others: Path | None) -> None:
    """Before long work: raises InputError with everything that could not be written."""
    from functools import partial

    from .errors import gather
    from .schema import check_output

    checks: list[partial[None]] = []
    if picture:
        from .planner.simulate.picture import check_suffix  # with all that can be drawn

        checks = [partial(check_suffix, picture), partial(check_output, picture)]
    gather(*checks, *(partial(check_output, path) for path in others if path))


def _what_if(plan: Path, asked: dict[str, Any], files: dict[str, Path | None], json: bool) -> None:
    """One plan: the step that it has, with what the settings change, and what else was asked."""
    from .display.simulation import show
    from .planner.plan import load_plan
    from .planner.schedule import build
    from .planner.schedule.csv_file import write_csv
    from .planner.simulate.picture import save_picture
    from .planner.simulate.report import write_report
    from .planner.simulate.request import Request, answer
    from .planner.simulate.trace import write_trace

    _check_outputs(files["picture"], files["trace"], files["report"], files["schedule"])
    found = answer(load_plan(plan), Request(**asked))
    if files["schedule"]:
        write_csv(build(found.simulation.scenario.configuration), files["schedule"])
    if files["trace"]:
        write_trace(found.simulation, files["trace"])
    if files["picture"]:
        save_picture(found.subjects, files["picture"])
    if files["report"]:
        write_report(files["report"], found)
    _print(json, found.to_json, lambda console: show(console, found))


@app.command(epilog="Example: meshwright launch plan.yaml --data ./corpus --steps 1000 --run runs/first")
def launch(
    plan: Annotated[Path | None, typer.Argument(help="Plan file or run folder; none: measure, plan, train.")] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder; an existing one is resumed.")] = None,
    data: Annotated[str | None, typer.Option(help="Text file, folder of text, token file, or python-stdlib.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="bytes, or a Hugging Face tokenizer.json.")] = None,
    init_from: Annotated[str | None, typer.Option(help="Folder of pretrained weights (safetensors).")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps of the whole run.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate after warm-up.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="YAML with training settings.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A training setting: schedule=wsd, clip=0.5.")] = None,
    pin: Annotated[list[str] | None, typer.Option(help="Without PLAN: fix a part of the plan.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Without PLAN: local workers.")] = None,
    nnodes: Annotated[int, typer.Option(help="Nodes; the same command runs on each.")] = 1,
    node_rank: Annotated[int, typer.Option(help="Number of this node, for a static rendezvous.")] = 0,
    rdzv_endpoint: Annotated[str, typer.Option(help="host:port that all nodes reach.")] = "localhost:0",
    rdzv_id: Annotated[str, typer.Option(help="Name of the job, equal on all nodes.")] = "",
    rdzv_backend: Annotated[str, typer.Option(help="c10d or static, as of torchrun.")] = "c10d",
    max_restarts: Annotated[int, typer.Option(min=0, help="How often workers start again after a failure.")] = 3,
    slurm: Annotated[bool, typer.Option("--slurm", help="Write an sbatch script and submit it.")] = False,
    slurm_option: Annotated[list[str] | None, typer.Option(help="For sbatch: time=8:00:00, --qos=high.")] = None,
    lost_nodes: options.LostNodes = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, start nothing.")] = False,
    json: Json = False,
) -> None:
    """Run the training that PLAN describes; without PLAN: train a small Llama on this machine."""
    from . import runs
    from .display import training
    from .display.console import warn_of

    options = {"data": data, "tokenizer": tokenizer, "init_from": init_from, "steps": steps, "lr": lr}
    settings = runs.recipe_settings(recipe, options, set_ or [])
    job = runs.find_run(plan, run, settings, lambda: _quickstart(workers, pin or []), lost_nodes, nnodes)
    if slurm:
        _submit(job, slurm_option or [], dry_run, json)
    warned = warn_of(job.plan.cluster, runs_here=True)
    nodes = {"nnodes": nnodes, "node_rank": node_rank}
    where = nodes | {"endpoint": rdzv_endpoint, "run_id": rdzv_id, "backend": rdzv_backend}
    result = runs.check(job, where) if dry_run else _train(job, where, max_restarts)
    show = training.show_mapping if dry_run else training.show_result
    _print(json, lambda: result | {"warnings": warned}, lambda console: show(console, result))


def _submit(job: Any, slurm_options: list[str], dry_run: bool, json: bool) -> NoReturn:
    from . import runs

    text = runs.submit(job, slurm_options, dry_run)
    _print(json, lambda: {"slurm": text}, lambda console: console.print(text, markup=False, soft_wrap=True))
    raise typer.Exit


def _quickstart(workers: int | None, pins: list[str]) -> Any:
    """Measure and plan with a bar, and say what was chosen."""
    from .display.console import stderr
    from .display.plan import show_plan
    from .display.progress import measuring
    from .quickstart import make_plan, measure

    with measuring() as progress:
        cluster = measure(workers, progress)
    plan = make_plan(cluster, pins)
    show_plan(stderr(), plan)
    return plan


def _train(job: Any, rendezvous: dict[str, Any], max_restarts: int) -> dict[str, Any]:
    """Launch with a progress bar."""
    from .display.training import training
    from .runtime.launch import launch
    from .runtime.rendezvous import Rendezvous

    with training(job.recipe.steps) as show:
        return launch(
            job.plan, job.recipe, job.folder,
            rendezvous=Rendezvous(**rendezvous), max_restarts=max_restarts, on_event=show,
        )  # fmt: skip


def _print(as_json: bool, data: Any, show: Any) -> None:
    """Results on standard output: an object for programs or tables for people."""
    if as_json:
        typer.echo(json_module.dumps(data()))
    else:
        from .display.console import stdout

        show(stdout())


def main() -> None:
    """Run the command line; every error of ours becomes one report and its exit code."""
    try:
        app()
    except (MeshwrightError, OSError) as error:  # a full disk, a folder that went away
        from .display.console import error_json, show_error

        ours = error if isinstance(error, MeshwrightError) else MeshwrightError(str(error))
        if "--json" in sys.argv:
            typer.echo(json_module.dumps(error_json(ours)))
        show_error(ours)
        raise SystemExit(ours.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
