"""The training loop: batch, forward and backward, clip, learning rate, step, report, checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist

from ..errors import InputError, UnrecoverableError
from ..kernels.dropout import draw
from ..kernels.switch import use_kernels
from ..planner.families import architecture
from ..planner.plan import Plan
from .assign import Assigner
from .blocks.moe_shape import read_moe
from .build import build_model
from .checkpoint import Checkpointer, Position
from .components import span
from .data import Samples, local_samples
from .documents import documents_of
from .expert_recipe import DEFAULT
from .export import export
from .learning_rate import learning_rate
from .manifest import complete_checkpoints
from .mesh import set_timeouts
from .model import ParallelModel
from .optimizer import build_optimizer, gradient_norm, step
from .parallel.compiled import INDUCTOR
from .parallel.expert.statistics import RoutingRecorder
from .pretrained import load_pretrained
from .recipe import BYTES, Recipe
from .report import Report, is_logged
from .run_folder import RunFolder
from .sampling import Sampler
from .sequences import Documents
from .stop import Agreement, StopWish
from .tokens import TOKENIZER, check_tokens, find_separator, least_tokens, prepare_tokens

_EXPORT_S = 3600.0  # one rank of a stage writes all its weights while the others wait


def train(
    run: RunFolder, plan: Plan, recipe: Recipe, device: torch.device, wish: StopWish, moved: Callable[[int], None]
) -> None:
    """Train from the newest checkpoint, or from the start, to recipe.steps or until a wish to stop.

    Called by every rank; the process group exists. `moved(step)` is told of every step done.
    Rank 0 leaves result.json. Raises UnrecoverableError when loss or gradient stop being numbers.
    """
    if problems := recipe.expert_problems(read_moe(plan.model.config)):
        raise InputError("recipe", problems)
    samples = _samples(run, plan, recipe)
    experts = recipe.experts or DEFAULT
    model = _model(run, plan, recipe, device)
    optimizer = build_optimizer(
        model, lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay, eps=recipe.eps,
        scratch=Path(recipe.offload_folder) if recipe.offload_folder else run.offload,
        seed=recipe.seed,
    )  # fmt: skip
    checkpointer = Checkpointer(
        run.checkpoints, model, optimizer,
        fingerprint=plan.fingerprint, keep_last=recipe.keep_last, timeout_s=recipe.timeout_s,
    )  # fmt: skip
    restored = checkpointer.restore()
    set_timeouts(model.meshes, recipe.timeout_s)  # starting up may take longer than a step
    report = Report(run, plan, recipe, restored)
    recorder = RoutingRecorder(model, run.routing, experts.record_every, restored.position.step)
    loop = Loop(
        plan, recipe, device, samples, model, optimizer, checkpointer, report, recorder,
        Agreement(wish, device), moved, restored.position, find_separator(recipe, run.data),
        None if plan.mix is None else Assigner(plan, run.plan),
    )  # fmt: skip
    loop.run()
    if loop.assigner is not None:
        loop.assigner.close()
    checkpointer.close()
    finished = loop.position.step >= recipe.steps
    if finished:
        set_timeouts(model.meshes, max(recipe.timeout_s, _EXPORT_S))
        export(model, plan, run.final, tokenizer=None if recipe.tokenizer == BYTES else run.data / TOKENIZER)
    report.conclude(loop.position, finished)


def _model(run: RunFolder, plan: Plan, recipe: Recipe, device: torch.device) -> ParallelModel:
    """Initialised from the seed, or by pretrained weights; a run that has checkpoints goes on from these."""
    pretrained = recipe.init_from
    seed = recipe.seed if pretrained is None else None
    compiler = INDUCTOR if recipe.compile else None
    use_kernels(recipe.kernels or plan.job.kernels)
    model = build_model(
        plan, device, seed=seed, experts=recipe.experts or DEFAULT, compiler=compiler,
        compress=recipe.compress or plan.job.compress, sharded=recipe.sharded(plan), added=recipe.added,
    )  # fmt: skip
    if pretrained is not None and not complete_checkpoints(run.checkpoints):
        load_pretrained(model, Path(pretrained))
    return model


def _samples(run: RunFolder, plan: Plan, recipe: Recipe) -> Samples | Documents:
    """The first rank prepares the tokens where the launcher has not; the others find them."""
    if dist.get_rank() == 0:
        prepare_tokens(recipe, run.data)
    dist.barrier()
    tokens = prepare_tokens(recipe, run.data)
    problems = check_tokens(tokens, architecture(plan.model).vocab, least_tokens(plan.job), plan.job.global_batch)
    if problems:
        raise InputError("recipe", problems)
    if plan.mix is None:
        return Samples(tokens.open(), plan.job.seq_len, recipe.seed)
    separator = find_separator(recipe, run.data)
    assert separator is not None  # a recipe without is not admitted
    return Documents.of(tokens.open(), separator, plan.job.seq_len, recipe.seed)


@dataclass
class Loop:
    """One process's share of the steps; `position` moves."""

    plan: Plan
    recipe: Recipe
    device: torch.device
    samples: Samples | Documents
    model: ParallelModel
    optimizer: torch.optim.Optimizer
    checkpointer: Checkpointer
    report: Report
    recorder: RoutingRecorder
    agreement: Agreement
    moved: Callable[[int], None]
    position: Position
    separator: int | None  # the token that ends a document, where documents are separated
    assigner: Assigner | None = None  # where groups change from round to round
    sampler: Sampler = field(init=False)

    def __post_init__(self) -> None:
        self.sampler = Sampler(self.recipe.sample_every, self.device)

    def run(self) -> None:
        """Step until the end, or until the ranks agree to stop; the last step leaves a checkpoint."""
        stop = False
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)  # building and restoring are not what the plan predicts
        while self.position.step < self.recipe.steps and not stop:
            started = time.perf_counter()
            with self.sampler.step(self.position.step + 1):
                self.agreement.begin()
                loss, grad_norm, lr = self.step()
                with span("wait"):
                    stop, peak_bytes = self.agreement.end()
            self.moved(self.position.step)
            last = stop or self.position.step == self.recipe.steps
            time_s, imbalance = time.perf_counter() - started, self._imbalance(last)
            if (table := self.sampler.table()) is not None:
                self.report.sampled(table)
            self.report.step(self.position, loss, grad_norm, lr, time_s, peak_bytes, imbalance, last)
            if last or self.position.step % self.recipe.checkpoint_every == 0:
                self.checkpointer.save(self.position)

    def step(self) -> tuple[float, float, float]:
        """One optimizer step on the next global batch; the loss, the gradient norm, and the learning rate."""
        self.optimizer.zero_grad()
        with span("compute"), self.recorder.step(self.position.step + 1):
            loss = self._rows() if isinstance(self.samples, Samples) else self._rounds(self.samples)
        with span("optimizer"):
            norm = gradient_norm(self.model, self.optimizer, self.recipe.clip)
        loss_value, norm_value = self._finite(loss, norm)
        lr = learning_rate(self.recipe, self.position.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with span("optimizer"):
            step(self.optimizer, norm, self.recipe.clip)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # or the next step would be charged for this one
        batch = self.plan.job.global_batch
        self.position = Position(self.position.step + 1, self.position.sample_index + batch)
        return loss_value, norm_value, lr

    def _imbalance(self, last: bool) -> float | None:
        """That of experts, where there are some, in steps that are reported: all ranks ask together."""
        experts = self.model.experts
        if experts is None or not is_logged(self.recipe, self.position.step, last):
            return None
        return experts.imbalance()

    def _rows(self) -> torch.Tensor:
        """Gradients of this rank's sequences, [local_sequences, seq_len + 1], and the global loss."""
        assert isinstance(self.samples, Samples)
        tokens = torch.from_numpy(self.samples.batch(self._mine())).to(self.device)
        documents = None if self.separator is None else documents_of(tokens[:, :-1], self.separator)
        return self.model.forward_backward(tokens, documents, draws=self._draws())

    def _rounds(self, documents: Documents) -> torch.Tensor:
        """The same of documents of different lengths, in the groups that the first rank assigns them to."""
        assert self.assigner is not None
        first, batch = self.position.sample_index, self.plan.job.global_batch
        now, following = range(first, first + batch), range(first + batch, first + 2 * batch)
        assignment = self.assigner.assign(documents.lengths(now), documents.lengths(following))
        sequences = [torch.from_numpy(each) for each in documents.sequences(now)]
        return self.model.forward_backward_rounds(sequences, assignment)

    def _mine(self) -> range:
        """Numbers of this rank's samples."""
        sizes = self.plan.configuration.local_batches
        return local_samples(self.position.sample_index, sizes, self.model.meshes.dp_rank)

    def _draws(self) -> torch.Tensor | None:
        """What these drop out by: each visit of a sample draws anew, and the same on every mesh and after a restart."""
        if not self.recipe.dropout or not self.model.shape.drops_out:
            return None
        mine = self._mine()
        return draw(self.recipe.seed, torch.arange(mine.start, mine.stop)).to(self.device)

    def _finite(self, loss: torch.Tensor, norm: torch.Tensor) -> tuple[float, float]:
        """Both as numbers. Raises UnrecoverableError before a step that would ruin the weights."""
        loss_value, norm_value = torch.stack([loss.detach().float(), norm.detach().float()]).tolist()
        for name, value in (("loss", loss_value), ("gradient norm", norm_value)):
            if not math.isfinite(value):
                first = self.position.sample_index
                raise UnrecoverableError(
                    f"{name} is {value} in step {self.position.step + 1} (samples {first} to "
                    f"{first + self.plan.job.global_batch - 1}) on rank {dist.get_rank()}; "
                    "the weights are as before this step; a lower lr or longer warm-up usually helps"
                )
        return loss_value, norm_value
