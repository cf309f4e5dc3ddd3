"""The step and the loop: accumulation, loss scaling, schedules, checkpoints that survive a kill."""

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from tests.kills import stopped_at_rename
from tests.layer_checks import global_policy
from tests.test_models import DIM, make_batch, make_model
from tfrec.config import TrainingConfig
from tfrec.encoders.attributes import AttributeEncoder
from tfrec.fusion import CrossAttentionFusion
from tfrec.runs.finished import RunError
from tfrec.trainable import Trainable
from tfrec.training.environment import automatic_batch_size, compute_precision
from tfrec.training.gradients import cached_gradients, generators_of, split_items, whole_gradients
from tfrec.training.log import History
from tfrec.training.optimizers import WarmupCosine
from tfrec.training.trainer import Trainer, restore_weights


def options(**changes):
    defaults = {"learning_rate": 0.01, "warmup": 0.0, "schedule": "constant", "evaluations": 2, "clip_norm": 0.0}
    return TrainingConfig(**defaults | changes)


def make_trainer(path: Path, model=None, *, steps=6, **changes) -> Trainer:
    model = model or make_model()
    model.compute_loss(make_batch())
    return Trainer(model, options=options(**changes), steps=steps, run_dir=path)


def gradients(model, batch, parts=1):
    """The loss of one step and its gradients, the items encoded in so many parts."""
    model.compute_loss(batch)
    step = (model, batch, model.trainable_variables, tf.identity)
    loss, found, _ = whole_gradients(*step) if parts == 1 else cached_gradients(*step, parts)
    dense = [None if g is None else tf.convert_to_tensor(g).numpy() for g in found]
    return float(loss), dense


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_accumulation_equals_the_whole_batch(parts):
    batch = make_batch()
    model = make_model()
    whole_loss, whole = gradients(model, batch)
    loss, cut = gradients(model, batch, parts)
    assert loss == pytest.approx(whole_loss, rel=1e-5)
    for a, b in zip(whole, cut, strict=True):
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_accumulation_drops_the_same_in_both_passes():
    batch, model = make_batch(), make_model()
    fusion = CrossAttentionFusion(DIM, 1, 2, dropout=0.5)
    model.item_tower.fusion = fusion
    model.compute_loss(batch)
    generators = generators_of(model)
    assert generators
    before = [generator.state.numpy() for generator in generators]
    loss, cut = gradients(model, batch, 2)
    after = [generator.state.numpy() for generator in generators]
    for generator, state in zip(generators, before, strict=True):
        generator.state.assign(state)
    with tf.GradientTape() as tape:
        parts = split_items(batch["items"], 2)
        fresh = tf.concat([model.encode({"items": part}, training=True) for part in parts], 0)
        whole_loss = model.compute_loss(batch, training=True, fresh=fresh)
    whole = tape.gradient(whole_loss, model.trainable_variables)
    assert loss == pytest.approx(float(whole_loss), rel=1e-5)
    for a, b in zip(whole, cut, strict=True):
        if a is not None:
            np.testing.assert_allclose(tf.convert_to_tensor(a), b, rtol=1e-4, atol=1e-4)
    for generator, state in zip(generators, after, strict=True):
        np.testing.assert_array_equal(generator.state, state)


def test_splitting_keeps_every_item():
    parts = split_items({"a": tf.range(7), "b": tf.range(14)[::2]}, 3)
    assert [len(p["a"]) for p in parts] == [2, 2, 3]
    np.testing.assert_array_equal(tf.concat([p["a"] for p in parts], 0), range(7))


class Faint(Trainable):
    """A model whose true gradient is 1e-7: float16 rounds it to 0 unless the loss is scaled."""

    def __init__(self):
        super().__init__()
        self.weight = self.add_weight(name="weight", shape=(), dtype="float32", initializer="zeros")

    def compute_loss(self, batch, training=False, fresh=None):
        small = tf.cast(tf.cast(self.weight, tf.float16) * tf.constant(1e-3, tf.float16), tf.float32)
        return small * 1e-4


def test_float16_scales_the_loss(tmp_path):
    with global_policy("mixed_float16"):
        model = Faint()
        trainer = Trainer(model, options=options(), steps=1, run_dir=tmp_path)
        assert isinstance(trainer.optimizer, tf.keras.mixed_precision.LossScaleOptimizer)
        trainer.train_step({"x": tf.zeros([1])})
    first = trainer.optimizer.inner_optimizer._first[0].numpy()
    assert first == pytest.approx(1e-8, rel=0.02)  # a tenth of the true gradient


def test_a_variable_that_is_left_as_it_is_has_no_part_in_the_clipping(tmp_path):
    model = make_model()
    model.compute_loss(make_batch())
    trainer = Trainer(model, options=options(clip_norm=1.0), steps=1, run_dir=tmp_path, rates={"query_out": 0.0})
    still = [v for v in model.trainable_variables if "query_out" in v.name]
    assert still
    assert not {id(v) for v in still} & {id(v) for v in trainer.variables}
    before = [v.numpy() for v in still]
    trainer.train_step(make_batch())
    for variable, value in zip(still, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def losses_of(trainer) -> list[float]:
    trainer.history.flush()
    return [row["loss"] for _, row in sorted(trainer.history.rows.items()) if "loss" in row]


def dataset(start, stop):
    return tf.data.Dataset.range(start, stop).map(lambda step: make_batch())


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path):
    """Dropout, moments, bank and logged losses: all continue where the last checkpoint stood."""
    whole = make_trainer(tmp_path / "whole", make_model(id_dropout=0.4))
    whole.fit(dataset, None)

    first = make_trainer(tmp_path / "cut", make_model(id_dropout=0.4))
    first.resume()
    for batch in dataset(0, 3):
        first._log_loss(first._advance(first.train_step(batch)))
    first._save()
    for batch in dataset(3, 5):  # these steps are lost with the process
        first._log_loss(first._advance(first.train_step(batch)))

    second = make_trainer(tmp_path / "cut", make_model(id_dropout=0.4))
    second.fit(dataset, None)
    assert losses_of(second) == losses_of(whole)
    for a, b in zip(whole.model.variables, second.model.variables, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.long
def test_early_stopping_restores_the_best_weights(tmp_path):
    trainer = make_trainer(tmp_path, steps=8, evaluations=8, patience=2, monitor="recall@20")
    scores, seen = iter([0.1, 0.5, 0.4, 0.3, 0.9]), []

    def evaluate():
        seen.append(trainer.model.vectors.item_ids.numpy())
        return {"recall@20": next(scores)}

    trainer.fit(dataset, evaluate)
    again = make_trainer(tmp_path, steps=8, evaluations=8, patience=2, monitor="recall@20")
    again.fit(dataset, evaluate)  # taken up after it had stopped early: it has nothing left to train
    assert (int(trainer.progress.step), int(again.progress.step), len(seen)) == (4, 4, 4)
    np.testing.assert_array_equal(again.model.vectors.item_ids, seen[1])
    np.testing.assert_array_equal(trainer.model.vectors.item_ids, seen[1])
    other = make_model()
    other.compute_loss(make_batch())
    restore_weights(other, tmp_path)
    np.testing.assert_array_equal(other.vectors.item_ids, seen[1])


@pytest.mark.parametrize(("steps", "evaluations", "times"), [(19, 10, 10), (6, 6, 6), (7, 3, 3), (5, 0, 1), (3, 9, 3)])
def test_validations_are_no_more_than_asked_for_and_the_last_step_has_one(tmp_path, steps, evaluations, times):
    trainer, seen = make_trainer(tmp_path, Faint(), steps=steps, evaluations=evaluations), []
    trainer.fit(dataset, lambda: seen.append(int(trainer.progress.step)) or {"recall@20": 0.5})
    assert (len(seen), seen[-1]) == (times, steps)


def test_a_checkpoint_is_written_once(tmp_path, monkeypatch):
    written = []
    save = tf.train.CheckpointManager.save
    monkeypatch.setattr(
        tf.train.CheckpointManager,
        "save",
        lambda self, checkpoint_number: written.append(checkpoint_number) or save(self, checkpoint_number),
    )
    for _ in range(2):  # the second finds nothing left to do
        make_trainer(tmp_path).fit(dataset, lambda: {"recall@20": 0.5})
    assert written == [3, 6]


def test_weights_and_biases_are_told_by_a_run_of_each_folder(tmp_path, monkeypatch):
    begun, told = [], []

    def init(**options):
        begun.append(options)
        return SimpleNamespace(log=lambda values, step: told.append(step), finish=lambda: told.append("finished"))

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    for folder, steps in ((tmp_path / "a" / "run", 1), (tmp_path / "a" / "run", 2), (tmp_path / "b" / "run", 1)):
        make_trainer(folder, Faint(), steps=steps, wandb=True).fit(dataset, None)
    assert told == [1, "finished", 2, "finished", 1, "finished"]
    assert [options["name"] for options in begun] == ["a/run", "a/run", "b/run"]
    first, resumed, other = (options["id"] for options in begun)
    assert first == resumed != other
    failing = make_trainer(tmp_path / "c", Faint(), steps=1, wandb=True)
    monkeypatch.setattr(failing, "_take_steps", lambda *of: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        failing.fit(dataset, None)
    assert told[-2:] == ["finished", "finished"]


def test_the_smallest_perplexity_is_the_best(tmp_path):
    trainer = make_trainer(tmp_path, monitor="perplexity")
    for step, value in enumerate((50.0, 10.0, 30.0), start=1):
        trainer._validate(step, {"perplexity": value})
    assert int(trainer.progress.best_step) == 2


@pytest.mark.parametrize("stopped", [1, 2])
@pytest.mark.parametrize("killed", [False, True])
def test_the_best_weights_outlive_a_kill_in_their_exchange(tmp_path, stopped, killed):
    trainer = make_trainer(tmp_path / "run")
    trainer.keep_best()
    with stopped_at_rename(stopped, killed=tmp_path / "run" if killed else None):
        trainer.keep_best()
    restore_weights(trainer.model, tmp_path / "run")
    trainer.keep_best()
    assert [p.name for p in (tmp_path / "run").glob("*best*")] == ["best"]


def test_a_plateau_halves_the_rate(tmp_path):
    trainer = make_trainer(tmp_path, steps=4, evaluations=4, schedule="plateau")
    trainer.fit(dataset, lambda: {"recall@20": 0.5})
    assert float(trainer.progress.rate_cut) == pytest.approx(1 / 8)


def test_a_loss_that_is_no_number_stops_with_advice(tmp_path):
    trainer = make_trainer(tmp_path)
    with pytest.raises(FloatingPointError, match="lower training.learning_rate"):
        trainer._advance(tf.constant(math.nan))


def test_an_unknown_monitor_is_named(tmp_path):
    trainer = make_trainer(tmp_path, monitor="recal")
    with pytest.raises(ValueError, match="training.monitor=recal"):
        trainer._validate(1, {"recall@20": 0.1})


def test_broken_weights_are_told_and_none_is_left_at_random(tmp_path):
    with pytest.raises(RunError, match="cannot be read"):  # there are none
        restore_weights(make_model(), tmp_path)
    trainer = make_trainer(tmp_path)
    trainer._save()
    tf.train.Checkpoint(model=tf.Module()).write(str(tmp_path / "best" / "weights"))
    with pytest.raises(RunError, match="do not fit"):
        restore_weights(trainer.model, tmp_path)
    trainer.keep_best()
    next((tmp_path / "best").glob("*.data-*")).unlink()
    with pytest.raises(RunError, match="cannot be read"):
        restore_weights(trainer.model, tmp_path)
    with pytest.raises(RunError, match="begin the training again"):
        make_trainer(tmp_path, make_model(bias=True)).resume()


def test_the_schedule_rises_and_falls():
    schedule = WarmupCosine(1.0, steps=100, warmup=10)
    values = [float(schedule(step)) for step in (0, 9, 10, 55, 100)]
    np.testing.assert_allclose(values, [0.1, 1.0, 1.0, 0.5, 0.0], atol=1e-6)
    assert float(WarmupCosine(1.0, steps=100, warmup=10, fall=False)(90)) == 1.0


def test_history_keeps_rows_up_to_the_step(tmp_path):
    history = History(tmp_path / "h.csv")
    for step in (1, 2, 3):
        history.write(step, {"loss": step / 7})
    history.write(2, {"val_recall@20": 0.5})
    history.flush()
    again = History(tmp_path / "h.csv")
    again.load(up_to=2)
    assert again.rows == {1: {"loss": 1 / 7}, 2: {"loss": 2 / 7, "val_recall@20": 0.5}}


def test_the_batch_size_follows_the_memory_of_the_first_gpu(monkeypatch):
    devices = [
        SimpleNamespace(device_type="CPU", memory_limit=1 << 28),
        SimpleNamespace(device_type="GPU", memory_limit=8 << 20),
    ]
    monkeypatch.setattr("tfrec.training.environment.device_lib.list_local_devices", lambda: devices)
    assert automatic_batch_size(1 << 20) == 2  # a quarter of 8 MB
    monkeypatch.setattr("tfrec.training.environment.device_lib.list_local_devices", lambda: devices[:1])
    assert automatic_batch_size(1 << 20) > 2  # of the machine


@pytest.mark.parametrize(
    ("cpu", "bfloat16", "precision"),
    [(True, False, "float32"), (True, True, "mixed_bfloat16"), (False, True, "mixed_float16")],
)
def test_precision_follows_the_machine(monkeypatch, cpu, bfloat16, precision):
    monkeypatch.setattr("tfrec.training.environment.on_cpu", lambda: cpu)
    monkeypatch.setattr("tfrec.training.environment.multiplies_bfloat16", lambda: bfloat16)
    assert compute_precision("auto") == precision


def test_precision_and_batch_size_are_as_asked_and_bounded():
    assert compute_precision("mixed_float16") == "mixed_float16"
    assert automatic_batch_size(1) == 1024
    assert automatic_batch_size(1 << 60) == 1


def test_dropout_of_the_attribute_encoder_goes_on_where_a_checkpoint_stood(tmp_path):
    values = np.array([[[2], [3]], [[4], [2]]], np.int32)

    def encoder():
        tf.keras.utils.set_random_seed(0)
        layer = AttributeEncoder([5, 5], 4, alone=True, hidden_dim=16, output_dim=8, dropout=0.5)
        layer(values)
        return layer

    whole = encoder()
    whole(values, training=True)
    saved = tf.train.Checkpoint(model=whole).write(str(tmp_path / "weights"))
    again = encoder()
    tf.train.Checkpoint(model=again).restore(saved).expect_partial()
    np.testing.assert_array_equal(again(values, training=True), whole(values, training=True))


def test_weights_that_are_no_numbers_are_not_kept(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train_step(make_batch())
    trainer.model.vectors.item_ids.assign(trainer.model.vectors.item_ids * np.nan)
    for keep in (trainer.keep_best, trainer._save):
        with pytest.raises(
            FloatingPointError, match=r"item_ids.* is not finite at step 0; lower training.learning_rate"
        ):
            keep()
    assert not (tmp_path / "best").exists()
    assert not trainer.checkpoints.latest_checkpoint
