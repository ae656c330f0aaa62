"""The one training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from foundling.core import progress
from foundling.core.config import identity
from foundling.core.errors import FoundlingError
from foundling.core.memory import freed_memory_kept
from foundling.core.rng import seed_for
from foundling.training import checkpoint, sharded_files
from foundling.training.averaging import RunningAverage
from foundling.training.batch import Batch
from foundling.training.config import TrainingConfig
from foundling.training.diagnostics import Movement, scales
from foundling.training.monitor import Monitor, StepReport
from foundling.training.objective import LossSum, Objective
from foundling.training.optimizers.build import build_optimizers
from foundling.training.parallel import parallelize
from foundling.training.precision import LossAt
from foundling.training.rate_search import best_factor, has_diverged, rising_factors
from foundling.training.schedule import rate_factor
from foundling.training.signals import StopSignals
from foundling.training.spikes import is_spike
from foundling.training.world import World, local

Evaluate = Callable[[nn.Module], dict[str, float]]
Sample = Callable[[nn.Module], list[str]]
AVERAGE = "average:"  # prefix of the running average's tensors in a checkpoint
BEST = "best"
RECENT = 50  # steps whose mean is the summary's loss


@dataclass(frozen=True)
class TrainingSummary:
    """What a run did. All but the last three fields are the same on every run of the same training.

    Attributes:
        loss: mean over the last steps, in the objective's unit (nats a token for language modelling).
        evaluation: the final evaluation's numbers.
        metrics: the last step's means of the objective's own metrics.
    """

    steps: int
    tokens: int
    loss: float
    evaluation: dict[str, float]
    metrics: dict[str, float]
    seconds: float
    tokens_per_s: float
    mfu: float | None


@dataclass
class _State:
    step: int = 0
    recent: list[float] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    skipped: list[int] = field(default_factory=list)  # batches that made the loss jump
    evaluated: int = -1
    sampled: int = -1
    evaluation: dict[str, float] = field(default_factory=dict)
    best: float | None = None  # lowest first number of an evaluation
    rates: float = 1.0  # what all peak rates are multiplied with


class Trainer:
    """Trains a module on an objective; whatever happens, the last checkpoint in `scratch` lets it go on.

    Args:
        module: its parameters that require gradients are trained, in place.
        objective: batches and loss.
        scratch: where checkpoints are kept; a run that finds one there goes on from it.
        evaluate: scores the module (in eval mode, without gradients); numbers by name.
        sample: texts to log, to see the model learn.
        after_step: called with the number of steps done and the module, after each.
        log: JSONL file of the run.
        data: what the batches are made from (artifact keys, hashes): a checkpoint of other data is refused.
        flops_per_token: FLOPs of training on one token, for MFU.
    """

    def __init__(
        self,
        module: nn.Module,
        objective: Objective,
        config: TrainingConfig,
        scratch: Path,
        *,
        log: Path,
        evaluate: Evaluate | None = None,
        sample: Sample | None = None,
        after_step: Callable[[int, nn.Module], None] | None = None,
        data: str = "",
        flops_per_token: float = 0.0,
        title: str = "training",
    ) -> None:
        self.module, self.objective, self.config, self.scratch = module, objective, config, scratch
        self.evaluate, self.sample, self.after_step, self.title = evaluate, sample, after_step, title
        if config.keep_best and evaluate is None:
            raise FoundlingError("keep_best: this training has no evaluation to choose by", fix="Leave keep_best out")
        self.world = World(config)
        parallelize(module, self.world, config)
        self.optimizers = build_optimizers(module, config)
        self.weights = [p for p in module.parameters() if p.requires_grad]
        self.device = self.weights[0].device
        self.loss_at = LossAt(module, objective, config.precision, sharded=self.world.shards > 1)
        self.average = RunningAverage(module, config.average) if config.average else None
        self.movement = Movement(module)
        self.monitor = Monitor(log, config, flops_per_token)
        self.saver = checkpoint.Saver(scratch, self.world.group)
        self.fingerprint = {"data": data, "config": identity(config), "weights": _shapes(module)}
        self.state = _State()
        self._first: tuple[int, Batch] | None = None
        self._saved_at = time.monotonic()

    def fit(self) -> TrainingSummary:
        """Train to the last step and return what happened.

        Raises:
            FoundlingError: the loss is not a number (naming the step and the documents), a checkpoint of another run,
                a batch that does not fit in memory, a full disk.
            Interrupted: SIGTERM or SIGINT; a checkpoint is saved.
        """
        with freed_memory_kept(), StopSignals() as signals:
            try:
                self._resume()
                if self.config.find_rates and self.state.step == 0:
                    self._find_rates()
                self._run(signals)
            finally:  # also when the run stops with an error, what is being written is finished
                self.saver.finish()
        if self.config.keep_best:
            checkpoint.load_weights(self.scratch / BEST, self.module, self.world.group)
        elif self.average is not None:
            self.average.swap()
        return self._summary()

    def _run(self, signals: StopSignals) -> None:
        self.module.train()
        with progress.task(self.title, self.config.steps - self.state.step, "steps") as bar:
            self._dry_run()
            while self.state.step < self.config.steps:
                report = self._train_step(self.state.step)
                if report is None:
                    continue
                bar.advance(1, loss=report.loss, tokens_per_s=self.monitor.speed())
                if self.after_step is not None:
                    self.after_step(self.state.step, self.module)
                stopping = self.world.agree(signals.received is not None)
                if stopping or self._checkpoint_due():
                    self._save(wait=stopping)
                if stopping:
                    signals.raise_if_received(self.state.step, self.config.steps)
                self._look()
        if self.world.agree(signals.received is not None):  # during the last evaluation
            signals.raise_if_received(self.state.step, self.config.steps)

    def _find_rates(self) -> None:
        """Train a little at rates that rise from step to step, put the weights back, and keep the best factor."""
        before = checkpoint.Snapshot(self.module)
        losses: list[float] = []
        factors = rising_factors(self.config.find_rates)
        parts = self.world.share(self.objective.batch(0, self.module)).split(self.config.micro_batch)
        self.module.train()
        with progress.task(f"{self.title}: rates", len(factors), "steps") as bar:
            for step, factor in enumerate(factors):
                loss, _, count = self._totals([self._backward(part, step, i) for i, part in enumerate(parts)])
                if has_diverged([*losses, loss]):
                    break
                losses.append(loss)
                self._scale_gradients(count)
                self._apply(factor)
                bar.advance(1, loss=loss, factor=factor)
        before.restore()
        self.module.zero_grad(set_to_none=True)
        self.optimizers = build_optimizers(self.module, self.config)
        self.state.rates = best_factor(factors, losses)
        self.monitor.write("rates", step=0, factor=self.state.rates, factors=factors[: len(losses)], losses=losses)
        progress.say(f"{self.title}: all learning rates are multiplied by {self.state.rates:.3g}")

    # --- one step -------------------------------------------------------------------------------------------------

    def _train_step(self, step: int) -> StepReport | None:
        """One optimizer step; None if its loss was a spike and the run went back to the last checkpoint."""
        self.monitor.start_step()
        batch = self._batch(step)
        parts = self.world.share(batch).split(self.config.micro_batch)
        results = [self._backward(part, step, index) for index, part in enumerate(parts)]
        loss, metrics, count = self._totals(results)
        if self.config.rewind_on_spike and is_spike(loss, self.state.recent, self.config.rewind_on_spike):
            self._rewind(step, loss, parts)
            return None
        self._require_finite(loss, step, results, parts)
        norm = self._scale_gradients(count)
        self._require_finite(norm, step, results, parts)
        factor = rate_factor(self.config, step)
        self._move(step, factor, parts[0])
        self.state.step = step + 1
        self.state.recent = [*self.state.recent, loss][-RECENT:]
        self.state.metrics = metrics
        report = StepReport(step, loss, norm, factor, batch.read(), metrics)
        self.monitor.end_step(report, last=self.state.step == self.config.steps)
        return report

    def _move(self, step: int, factor: float, part: Batch) -> None:
        """Apply the gradients, and now and then measure what that did."""
        measured = self.config.diagnose_every > 0 and (step + 1) % self.config.diagnose_every == 0
        if measured:
            self.movement.before()
        self._apply(factor * self.state.rates)
        if self.average is not None:
            self.average.update()
        if measured:
            found = self.movement.after() | scales(self.module, part.to(self.device))
            self.monitor.write("diagnosis", step=step + 1, **found)

    def _apply(self, factor: float) -> None:
        self.optimizers.set_rate(factor)
        self.optimizers.step()
        self.module.zero_grad(set_to_none=True)

    def _rewind(self, step: int, loss: float, parts: list[Batch]) -> None:
        """Back to the last checkpoint, never to see this batch again (Chowdhery et al. 2022, PaLM, §5.1)."""
        number = self._number(step)
        self.module.zero_grad(set_to_none=True)
        self.saver.finish()
        path = checkpoint.latest(self.scratch)
        if path is None:
            sources = [source for part in parts for source in part.sources]
            raise FoundlingError(
                f"the loss jumped to {loss:.3g} at step {step}, before any checkpoint", "; ".join(sources)
            )
        skipped = sorted({*self.state.skipped, number})
        self._restore(path)
        self.state.skipped = skipped
        self._first = None
        self.monitor.write("rewind", step=self.state.step, loss=loss, skipped=number)
        progress.say(f"{self.title}: the loss jumped to {loss:.3g} at step {step}; back to step {self.state.step}")

    def _number(self, step: int) -> int:
        """Which of the objective's batches a step takes: the step's own number plus the batches skipped before it."""
        number = step
        for skipped in self.state.skipped:
            number += skipped <= number
        return number

    def _batch(self, step: int) -> Batch:
        if self._first is not None and self._first[0] == step:
            batch, self._first = self._first[1], None
            return batch
        return self.objective.batch(self._number(step), self.module)

    def _backward(self, part: Batch, step: int, index: int) -> LossSum:
        """Add one micro-batch's gradients of the summed loss. Its randomness (dropout) is a function of the step."""
        torch.manual_seed(seed_for(self.config.seed, "step", step, self.world.data_rank, index))
        result = self.loss_at.compute(part.to(self.device))
        result.total.backward()  # type: ignore[no-untyped-call]
        return result

    def _totals(self, results: list[LossSum]) -> tuple[float, dict[str, float], float]:
        """Mean loss, mean metrics and the count, over all micro-batches and processes."""
        names = sorted({name for result in results for name in result.metrics})
        sums = [sum(float(result.total.detach()) for result in results), sum(float(result.count) for result in results)]
        for name in names:
            pairs = [result.metrics[name] for result in results if name in result.metrics]
            sums += [sum(float(total) for total, _ in pairs), sum(float(count) for _, count in pairs)]
        total, count, *rest = self.world.sum(sums)
        metrics = {name: rest[2 * i] / max(rest[2 * i + 1], 1e-12) for i, name in enumerate(names)}
        return total / max(count, 1e-12), metrics, count

    def _scale_gradients(self, count: float) -> float:
        """Turn summed gradients into those of the mean, clip them, and return their norm before clipping."""
        gradients = [p.grad for p in self.weights if p.grad is not None]
        self.world.sum_gradients(gradients)
        norm = self.world.gradient_norm(gradients) / max(count, 1e-12)
        clip = self.config.clip
        shrink = min(1.0, clip / (norm + 1e-6)) if clip and math.isfinite(norm) else 1.0
        torch._foreach_mul_([local(g) for g in gradients], shrink / max(count, 1e-12))
        return norm

    def _require_finite(self, value: float, step: int, results: list[LossSum], parts: list[Batch]) -> None:
        if math.isfinite(value):
            return
        bad = [i for i, result in enumerate(results) if not math.isfinite(float(result.total.detach()))]
        sources = [source for i in bad or range(len(parts)) for source in parts[i].sources]
        named = "; ".join(sources[:8]) + (f" and {len(sources) - 8} more" if len(sources) > 8 else "")
        what = f"the {'loss' if bad else 'gradient'} became {value} at step {step}"
        why = f"the batch's documents: {named or 'not named by this objective'}"
        raise FoundlingError(
            what, why, "Lower the learning rate, or look at these documents; the last checkpoint is intact"
        )

    def _dry_run(self) -> None:
        """One micro-batch forward and backward before anything else: what does not fit fails now, with advice."""
        if self.state.step >= self.config.steps:
            return
        batch = self.objective.batch(self._number(self.state.step), self.module)
        self._first = (self.state.step, batch)
        part = self.world.share(batch).split(self.config.micro_batch)[0]
        try:
            self._backward(part, self.state.step, 0)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise _does_not_fit(part) from error
        except RuntimeError as error:
            if "not enough memory" not in str(error):
                raise
            raise _does_not_fit(part) from error
        self.module.zero_grad(set_to_none=True)

    # --- between steps --------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Evaluate and sample when their turn has come, after saving."""
        step, last = self.state.step, self.state.step == self.config.steps
        evaluate = (
            self.evaluate is not None and self.state.evaluated != step and _due(step, self.config.evaluate_every, last)
        )
        sample = self.sample is not None and self.state.sampled != step and _due(step, self.config.sample_every, last)
        if not (evaluate or sample or last):
            return
        self._save(wait=True)
        self.module.eval()
        with torch.no_grad(), self.average.in_place() if self.average else nullcontext():
            if evaluate and self.evaluate is not None:
                self.state.evaluation = self.evaluate(self.module)
                self.monitor.write("evaluation", step=step, **self.state.evaluation)
                if self.config.keep_best:
                    self._keep_if_best(next(iter(self.state.evaluation.values())))
            if sample and self.sample is not None:
                self.monitor.write("samples", step=step, texts=self.sample(self.module))
        self.state.evaluated = step if evaluate else self.state.evaluated
        self.state.sampled = step if sample else self.state.sampled
        self.module.train()

    def _keep_if_best(self, value: float) -> None:
        if self.state.best is None or value < self.state.best:
            self.state.best = value
            checkpoint.save_weights(self.scratch / BEST, checkpoint.trained_weights(self.module), self.world.group)

    def _checkpoint_due(self) -> bool:
        every = self.config.checkpoint_every
        by_step = every > 0 and self.state.step % every == 0
        return self.world.agree(by_step or time.monotonic() - self._saved_at > self.config.checkpoint_every_s)

    def _save(self, *, wait: bool) -> None:
        state = vars(self.state) | {
            "fingerprint": self.fingerprint,
            "tokens": self.monitor.tokens,
            "seconds": self.monitor.busy_s,
        }
        weights = checkpoint.trained_weights(self.module)
        self.saver.save(self.state.step, weights, self._besides_weights(), state, wait=wait)
        self._saved_at = time.monotonic()

    def _besides_weights(self) -> dict[str, Tensor]:
        """The tensors of the optimizers and of the running average."""
        averages = self.average.averages if self.average is not None else {}
        return self.optimizers.state() | {f"{AVERAGE}{name}": value for name, value in averages.items()}

    def _resume(self) -> None:
        path = checkpoint.latest(self.scratch)
        if path is None:
            self.monitor.resume(-1, 0, 0.0)
            return
        self._restore(path)
        progress.say(f"{self.title}: going on from step {self.state.step} of {self.config.steps}")
        self._look()

    def _restore(self, path: Path) -> None:
        saved = checkpoint.state_of(path, self.fingerprint)
        self.state = _State(**{name: saved[name] for name in vars(self.state)})
        checkpoint.load_weights(path / checkpoint.WEIGHTS, self.module, self.world.group)
        self.optimizers.make_room(sharded_files.contents(path / checkpoint.OPTIMIZER))
        sharded_files.read(path / checkpoint.OPTIMIZER, self._besides_weights(), self.world.group)
        if self.average is not None:
            self.average.steps = self.state.step
        self.monitor.resume(self.state.step, saved["tokens"], saved["seconds"])

    def _summary(self) -> TrainingSummary:
        recent, speed = self.state.recent, self.monitor.speed()
        return TrainingSummary(
            steps=self.state.step,
            tokens=self.monitor.tokens,
            loss=sum(recent) / max(len(recent), 1),
            evaluation=self.state.evaluation,
            metrics=self.state.metrics,
            seconds=round(self.monitor.busy_s, 3),
            tokens_per_s=round(speed, 1),
            mfu=self.monitor.mfu(speed),
        )


def _due(step: int, every: int, last: bool) -> bool:
    return last or (every > 0 and step % every == 0)


def _shapes(module: nn.Module) -> dict[str, list[int]]:
    return {name: list(p.shape) for name, p in module.named_parameters() if p.requires_grad}


def _does_not_fit(part: Batch) -> FoundlingError:
    rows, time_ = part.tokens.shape
    what = f"a micro-batch of {rows} rows of {time_} tokens does not fit in memory"
    return FoundlingError(what, fix=f"Set micro_batch to {max(1, rows // 2)}, or use a smaller context")
