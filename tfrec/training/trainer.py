"""The training loop: one step, what surrounds it, and how it survives being killed."""

import logging
import math
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import tensorflow as tf

from pipelines.batches import Batch
from pipelines.progress import Progress
from pipelines.publish import filled_whole, put_back
from tfrec.config import ConfigError, TrainingConfig
from tfrec.distributed.workers import Workers, all_reduce_sum, variables_of
from tfrec.evaluation.names import sign_of
from tfrec.runs.finished import RunError, tell_finished
from tfrec.trainable import Trainable
from tfrec.training.gradients import Gradients, cached_gradients, whole_gradients
from tfrec.training.log import History, tensorboard
from tfrec.training.optimizers import Gradient, LazyAdamW, WarmupCosine
from tfrec.training.weights_and_biases import wandb_run
from tfrec.weights import read_weights

log = logging.getLogger("tfrec")

LOG_ROWS = 200  # rows of losses in history.csv over a whole training


class TrainingState(tf.Module):
    """Where training stands, as variables that a checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.loss_sum = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self.loss_count = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.best = tf.Variable(-math.inf, dtype=tf.float64, trainable=False)
        self.best_step = tf.Variable(-1, dtype=tf.int64, trainable=False)
        self.stale = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.rate_cut = tf.Variable(1.0, dtype=tf.float32, trainable=False)


class Trainer:
    """Trains a model, and leaves in `run_dir` what is needed to go on after a kill.

    Args:
        model: the model, built; see `Trainable`.
        options: see `TrainingConfig`.
        steps: steps of the whole training.
        run_dir: folder for `checkpoints/`, `best/`, `history.csv`, TensorBoard's `logs/`.
        rates: name prefix of variables -> multiple of the learning rate.
        workers: who trains it together; all of them call the same methods at the same time, each on its share of the
            batches, and the chief alone writes into `run_dir`.
    """

    def __init__(
        self,
        model: Trainable,
        *,
        options: TrainingConfig,
        steps: int,
        run_dir: Path,
        rates: dict[str, float] | None = None,
        workers: Workers | None = None,
    ):
        self.model, self.options, self.steps, self.run_dir = model, options, steps, run_dir
        self.workers = workers or Workers()
        self.progress = TrainingState()
        adamw = self._adamw(rates)
        scaled = tf.keras.mixed_precision.global_policy().compute_dtype == "float16"
        self.optimizer = tf.keras.mixed_precision.LossScaleOptimizer(adamw) if scaled else adamw
        # Those that stay as they are have no gradient, which would count when gradients are clipped.
        self.variables = [v for v in model.trainable_variables if adamw.rate_of(v.name)]
        self.optimizer.build(self.variables)
        self.parts = {"model": model, "optimizer": self.optimizer, "progress": self.progress}
        self.checkpoints = tf.train.CheckpointManager(
            tf.train.Checkpoint(**self.parts), str(run_dir / "checkpoints"), max_to_keep=2
        )
        self.saved_step = -1  # of the newest checkpoint
        self.history = History(run_dir / "history.csv")
        self.train_step = tf.function(
            self._step, autograph=False, jit_compile=options.xla or None, reduce_retracing=True
        )
        self.sinks: list[Callable[[int, dict], None]] = []
        if self.workers.chief:
            self.sinks += [self.history.write, tensorboard(run_dir / "logs")]

    def _adamw(self, rates: dict[str, float] | None) -> LazyAdamW:
        options = self.options
        peak, warmup = options.learning_rate, int(options.warmup * self.steps)
        schedule: Any = WarmupCosine(peak, self.steps, warmup, fall=options.schedule == "cosine")
        return LazyAdamW(
            schedule,
            decay=options.weight_decay,
            global_clipnorm=options.clip_norm,
            rates=rates,
            rate_cut=self.progress.rate_cut,
        )

    # -- one step ----------------------------------------------------------------------------------------------

    def _step(self, batch: Batch) -> tf.Tensor:
        """One optimizer step on a batch: its loss."""
        loss, gradients, fresh = self.workers.run(self._gradients, batch)
        self._apply(gradients)  # the same on all workers: their copies of the weights stay equal
        self.model.remember(batch, fresh)
        return loss

    def _gradients(self, batch: Batch) -> Gradients:
        """Those of the whole batch, from this worker's share of it."""
        model, variables, parts = self.model, self.variables, self.options.accumulate
        if parts > 1:
            found = cached_gradients(model, batch, variables, self._scale, parts)
        else:
            found = whole_gradients(model, batch, variables, self._scale)
        loss, *gradients = all_reduce_sum([found.loss, *found.of_variables])
        return Gradients(loss, gradients, found.fresh)

    def _scale(self, loss: tf.Tensor) -> tf.Tensor:
        scaling = isinstance(self.optimizer, tf.keras.mixed_precision.LossScaleOptimizer)
        return self.optimizer.get_scaled_loss(loss) if scaling else loss

    def _apply(self, gradients: list[Gradient | None]) -> None:
        if isinstance(self.optimizer, tf.keras.mixed_precision.LossScaleOptimizer):
            gradients = self.optimizer.get_unscaled_gradients(gradients)
        pairs = [(g, v) for g, v in zip(gradients, self.variables, strict=True) if g is not None]
        self.optimizer.apply_gradients(pairs)

    # -- the loop ----------------------------------------------------------------------------------------------

    def fit(
        self, dataset: Callable[[int, int], tf.data.Dataset], evaluate: Callable[[], dict[str, float]] | None
    ) -> None:
        """Train from wherever the checkpoint stands to the last step, and leave the best weights in the model.

        Args:
            dataset: start and stop step -> batches.
            evaluate: validation metrics of the model as it is; None where there is no validation. It is called at most
                `evaluations` times, evenly spread, the last time after the last step, and then also where they are 0.
        """
        with ExitStack() as stack:
            if self.workers.chief and self.options.wandb:
                self.sinks.append(stack.enter_context(wandb_run(self.run_dir)))
            self.resume()
            self._take_steps(dataset, evaluate)
            self._save()
            self.restore_best()

    def _take_steps(
        self, dataset: Callable[[int, int], tf.data.Dataset], evaluate: Callable[[], dict[str, float]] | None
    ) -> None:
        """The steps that are left, with their validations and checkpoints; see `fit`."""
        start, every = int(self.progress.step), math.ceil(self.steps / max(1, self.options.evaluations))
        if evaluate and self._stale_for_long:  # stopped early, but not yet done with what follows
            start = self.steps
        log_every, saved = max(1, self.steps // LOG_ROWS), time.monotonic()
        note = ""
        with Progress("train", self.steps, unit=" steps", done=start, shown=self.workers.chief) as bar:
            for batch in self._batches(dataset, start):
                loss = self.train_step(batch)
                step = self._advance(loss)
                if step % log_every == 0 or step == self.steps:
                    note = f"loss {self._log_loss(step):.4f}"
                bar.update(note=note)
                if evaluate and (step % every == 0 or step == self.steps):
                    stop = self._validate(step, self.workers.from_chief(evaluate()))
                    saved = self._save()
                    if stop:
                        break
                elif time.monotonic() - saved > self.options.checkpoint_seconds:
                    saved = self._save()

    def _batches(self, dataset: Callable[[int, int], tf.data.Dataset], start: int) -> Iterable[Batch]:
        """The batches of the steps that are left, for which the step has been traced.

        Traced for the shapes of the first batch, a step is traced again for those of the second, as batches differ in how
        many items they name; traced for any number of rows, it is traced once.
        """
        if start >= self.steps:
            return ()
        batches = dataset(start, self.steps)
        self.train_step.get_concrete_function(batches.element_spec)
        return batches

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint to go on from, as the chief sees it."""
        return bool(self.workers.from_chief({"begun": float(bool(self.checkpoints.latest_checkpoint))})["begun"])

    def resume(self) -> None:
        """Take up the newest checkpoint, if there is one, and forget what was logged after it."""
        if self.workers.chief and self.checkpoints.latest_checkpoint:
            cure = "begin the training again with another --out, or go on with the version of tfrec that began it"
            read_weights(self.checkpoints.checkpoint, self.checkpoints.latest_checkpoint, error=RunError, cure=cure)
            self.saved_step = int(self.progress.step)
            log.info("resumed at step %d of %d", self.saved_step, self.steps)
        # Equal at first only if the workers' processors are.
        self.workers.broadcast_from_chief(variables_of(*self.parts.values()))
        self.history.load(int(self.progress.step))

    def _advance(self, loss: tf.Tensor) -> int:
        value = float(loss)
        if not math.isfinite(value):
            raise _diverged(f"the loss is {value}", int(self.progress.step) + 1)
        self.progress.loss_sum.assign_add(value)
        self.progress.loss_count.assign_add(1)
        return int(self.progress.step.assign_add(1))

    def _log_loss(self, step: int) -> float:
        """Log the mean loss since the last row."""
        mean = float(self.progress.loss_sum) / max(1, int(self.progress.loss_count))
        self.progress.loss_sum.assign(0.0)
        self.progress.loss_count.assign(0)
        rate = float(tf.keras.backend.get_value(self.optimizer.learning_rate)) * float(self.progress.rate_cut)
        self._emit(step, {"loss": mean, "learning_rate": rate})
        return mean

    def _check_weights(self) -> None:
        """Neither a checkpoint nor the best weights may hold what is no number: a run would never come back from it.

        Raises:
            FloatingPointError: a weight is none.
        """
        for variable in self.variables:
            if not bool(tf.reduce_all(tf.math.is_finite(variable))):
                raise _diverged(f"{variable.name} is not finite", int(self.progress.step))

    def _validate(self, step: int, metrics: dict[str, float]) -> bool:
        """Log metrics, keep the weights if they are the best, and tell whether to stop."""
        if self.options.monitor not in metrics:
            raise ConfigError(f"training.monitor={self.options.monitor} is not among the metrics {sorted(metrics)}")
        value = metrics[self.options.monitor]
        self._emit(step, {f"val_{name}": v for name, v in metrics.items()})
        log.info("step %d: %s", step, "  ".join(f"{name} {v:.4f}" for name, v in metrics.items()))
        progress, sign = self.progress, sign_of(self.options.monitor)
        if sign * value > float(progress.best):
            progress.best.assign(sign * value)
            progress.best_step.assign(step)
            progress.stale.assign(0)
            self.keep_best()
            return False
        progress.stale.assign_add(1)
        if self.options.schedule == "plateau":
            progress.rate_cut.assign(progress.rate_cut / 2)
        return self._stale_for_long

    @property
    def _stale_for_long(self) -> bool:
        return 0 < self.options.patience <= int(self.progress.stale)

    def _emit(self, step: int, values: dict[str, float]) -> None:
        for sink in self.sinks:
            sink(step, values)

    def _save(self) -> float:
        """Write a checkpoint, unless the newest one is of this step already; the time it was written."""
        step = int(self.progress.step)
        if self.workers.chief and self.saved_step != step:
            self._check_weights()
            self.history.flush()
            self.checkpoints.save(checkpoint_number=step)
            self.saved_step = step
        return time.monotonic()

    def keep_best(self) -> None:
        """Write the weights in the place of the former best: a kill leaves one of the two whole."""
        if not self.workers.chief:
            return
        self._check_weights()
        with filled_whole(self.run_dir / "best") as folder:
            tf.train.Checkpoint(model=self.model).write(str(folder / "weights"))

    def finish(self) -> None:
        """Say in the run that its training is done: the last act of a training, of its last stage where it has several."""
        if self.workers.chief:
            tell_finished(self.run_dir, steps=int(self.progress.step))

    def restore_best(self) -> None:
        """Put the best weights back into the model (the last ones where nothing was validated)."""
        if self.workers.chief:
            put_back(self.run_dir / "best")
        best = int(self.progress.best_step)
        if best < 0 or not (self.run_dir / "best").is_dir():
            if best >= 0:
                log.warning(
                    "%s/best is gone, the weights of step %d: the last ones stand in for them", self.run_dir, best
                )
            self.keep_best()
        elif self.workers.chief:
            restore_weights(self.model, self.run_dir)
            log.info("best weights: step %d", best)
        self.workers.broadcast_from_chief(variables_of(self.model))


def restore_weights(model: tf.keras.Model, run_dir: Path) -> None:
    """Load the best weights that a training has left in `run_dir`.

    Raises:
        RunError: the run has none, or they are broken or of another model.
    """
    put_back(run_dir / "best")
    objects = tf.train.Checkpoint(model=model)
    read_weights(objects, run_dir / "best" / "weights", error=RunError, cure="copy the whole run, or train it again")


def _diverged(what: str, step: int) -> FloatingPointError:
    """The error of a training that has left the numbers, with what helps."""
    return FloatingPointError(
        f"{what} at step {step}; lower training.learning_rate, raise task.temperature, or train in float32 "
        "(training.precision)"
    )
