"""A small causal transformer over a catalogue's words: what word comes next."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipelines.batches import Batch, make_dataset
from pipelines.epochs import ShuffledRows
from pipelines.publish import write_whole
from pipelines.schema import TEST, TRAIN, VAL
from tfrec.attention import ResumableDropout
from tfrec.config import ConfigError, load_config
from tfrec.encoders.wordpiece import count_words, split_words
from tfrec.evaluation.bootstrap import exact
from tfrec.evaluation.labels import item_splits
from tfrec.evaluation.metrics import write_metrics
from tfrec.losses import softmax_losses, weighted_mean
from tfrec.pretraining.text_model_config import CausalTextConfig
from tfrec.reports.metrics_page import write_metrics_page
from tfrec.runs.dataset import open_own_data
from tfrec.towers import DecoderBlock, normal, sinusoids
from tfrec.trainable import Trainable
from tfrec.training.environment import prepare_evaluation, prepare_keras
from tfrec.training.trainer import Trainer, restore_weights

log = logging.getLogger("tfrec")

PAD, START, END, UNKNOWN = range(4)
SPECIAL = ("[PAD]", "[START]", "[END]", "[UNK]")
EVALUATION_BATCH = 256


class CausalTextModel(Trainable):
    """Words so far to the next one (Vaswani et al. 2017 without the encoder); one matrix reads and writes words.

    Args:
        vocabulary: number of words.
        dim, layers, heads, ratio, dropout: of the transformer.
        label_smoothing: of the training loss.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        dim: int,
        layers: int,
        heads: int,
        ratio: float,
        dropout: float,
        label_smoothing: float,
    ):
        super().__init__(name="text_model")
        self.dim, self.label_smoothing = dim, label_smoothing
        whole = {"experimental_autocast": False}  # logits are float32 whatever the blocks compute in
        self.words = self.add_weight(name="words", shape=(vocabulary, dim), initializer=normal(dim**-0.5)(), **whole)
        self.bias = self.add_weight(name="bias", shape=(vocabulary,), initializer="zeros", **whole)
        self.blocks = [
            DecoderBlock(dim, heads, ratio=ratio, dropout=dropout, name=f"block_{number}") for number in range(layers)
        ]
        self.dropout = ResumableDropout(dropout)
        self.norm = tf.keras.layers.LayerNormalization(epsilon=1e-6, name="norm")

    def call(self, words: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits float32 `[B, T, vocabulary]` of the word after each of `words` int32 `[B, T]`."""
        length = tf.shape(words)[1]
        x = tf.gather(self.words, words) * self.dim**0.5 + sinusoids(words.shape[1], self.dim)[None]
        x = self.dropout(tf.cast(x, self.compute_dtype), training=training)
        seen = (words != PAD)[:, None, :] & tf.linalg.band_part(tf.ones([length, length], tf.bool), -1, 0)[None]
        for block in self.blocks:
            x = block(x, seen, training=training)
        return tf.matmul(tf.cast(self.norm(x), tf.float32), self.words, transpose_b=True) + self.bias

    def compute_loss(self, batch: Batch, training: bool = False, fresh: tf.Tensor | None = None) -> tf.Tensor:
        """Mean cross-entropy in nats a word of `words` int32 `[B, T + 1]`, smoothed in training."""
        words = batch["words"]
        logits, targets = self(words[:, :-1], training=training), tf.reshape(words[:, 1:], [-1])
        smoothing = self.label_smoothing if training else 0.0
        losses = softmax_losses(tf.reshape(logits, [-1, logits.shape[-1]]), targets, label_smoothing=smoothing)
        return weighted_mean(losses, tf.cast(targets != PAD, tf.float32))


def learn_words(texts: list[str], size: int) -> list[str]:
    """The special tokens and the most frequent words, at most `size` in all."""
    counts = count_words(texts)
    frequent = sorted(counts, key=lambda word: (-counts[word], word))
    return [*SPECIAL, *frequent[: max(0, size - len(SPECIAL))]]


def to_rows(texts: list[str], vocabulary: list[str], length: int) -> np.ndarray:
    """Texts as `[START] words [END]` and padding, int32 `[N, length + 1]`; longer ones are cut."""
    ids = {word: number for number, word in enumerate(vocabulary)}
    rows = np.full((len(texts), length + 1), PAD, np.int32)
    for row, words in enumerate(split_words(texts).to_list()):
        found = [START, *(ids.get(word.decode(), UNKNOWN) for word in words), END][: length + 1]
        rows[row, : len(found)] = found
    return rows


def train(config: CausalTextConfig, run_dir: Path) -> None:
    """Train from wherever the run stands, and leave the best weights in the run."""
    prepare_keras(config.seed, config.training)
    model, rows, _ = assemble(config, run_dir)
    options, training, validation = config.training, rows["train"], rows["val"]
    size = options.fixed_batch_size(len(training), auto=128)
    order = ShuffledRows(len(training), size, config.seed)
    steps = options.steps or options.epochs * order.steps_per_epoch
    log.info("%d texts to train on, %d to validate on, %d steps of %d", len(training), len(validation), steps, size)
    trainer = Trainer(model, options=options, steps=steps, run_dir=run_dir)

    def dataset(start: int, stop: int) -> tf.data.Dataset:
        return make_dataset(lambda step: {"words": training[order(step)]}, start, stop)

    trainer.fit(dataset, (lambda: held_out_metrics(model, validation)) if len(validation) else None)
    trainer.finish()


def assemble(config: CausalTextConfig, run_dir: Path) -> tuple[CausalTextModel, dict[str, np.ndarray], list[str]]:
    """Model, rows by split, and vocabulary; what is learnt is kept in `RUN/assets`.

    Raises:
        ConfigError: the dataset has no texts to train on, or none to test on.
    """
    prepared, path = open_own_data(run_dir, config), run_dir / "assets" / "words.json"
    texts = list(prepared.items["text"])
    part = item_splits(prepared.items)
    if not (part == TEST).any():
        order = np.random.default_rng([config.seed, 2]).permutation(len(texts))
        part, share = np.full(len(texts), TRAIN, np.int8), max(1, round(len(texts) * config.task.test_share))
        part[order[:share]], part[order[share : 2 * share]] = TEST, VAL
    seen = [text for text, p in zip(texts, part) if text and p == TRAIN]
    chosen = {"train": seen, "val": held_texts(texts, part, VAL), "test": held_texts(texts, part, TEST)}
    if not seen and any(texts):
        raise ConfigError(
            f"--data {config.data}: its items with texts are all held out; lower task.test_share={config.task.test_share}, "
            "which is taken twice, for validation and test, or prepare the data with another split"
        )
    if not seen:
        raise ConfigError(f"--data {config.data}: no item has a text; this recipe learns from texts alone")
    if not chosen["test"]:
        raise ConfigError(
            f"--data {config.data}: no test item has a text that no training item has, so there is nothing to test on; "
            "prepare the data with another split, or (where their items have none) raise "
            f"task.test_share={config.task.test_share}"
        )
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(learn_words(seen, config.model.vocabulary_size), ensure_ascii=False))
    vocabulary = json.loads(path.read_text(encoding="utf-8"))
    tf.keras.utils.set_random_seed(config.seed)
    options = config.model
    model = CausalTextModel(
        len(vocabulary),
        dim=options.dim,
        layers=options.layers,
        heads=options.heads,
        ratio=options.ratio,
        dropout=options.dropout,
        label_smoothing=config.task.label_smoothing,
    )
    model(np.ones((1, options.length), np.int32))
    return model, {split: to_rows(words, vocabulary, options.length) for split, words in chosen.items()}, vocabulary


def held_texts(texts: list[str], part: np.ndarray, split: int) -> list[str]:
    """Texts of a split's items that no item of an earlier split has: a shop's variants share theirs."""
    seen = {text for text, p in zip(texts, part) if p < split}
    return [text for text, p in zip(texts, part) if text and p == split and text not in seen]


def held_out_metrics(model: CausalTextModel, rows: np.ndarray) -> dict[str, float]:
    """Loss in nats a word, perplexity, and how often the likeliest word is the next one."""
    run = tf.function(
        lambda words: (model.compute_loss({"words": words}), right_words(model, words)),
        autograph=False,
        reduce_retracing=True,
    )
    loss = right = count = 0.0
    for start in range(0, len(rows), EVALUATION_BATCH):
        part = rows[start : start + EVALUATION_BATCH]
        words = int((part[:, 1:] != PAD).sum())
        mean, hits = run(tf.constant(part))
        loss, right, count = loss + float(mean) * words, right + float(hits), count + words
    return {"loss": loss / count, "perplexity": float(np.exp(loss / count)), "accuracy": right / count}


def right_words(model: CausalTextModel, words: np.ndarray | tf.Tensor) -> tf.Tensor:
    """How many words of `[B, T + 1]` are the likeliest one at their place."""
    guesses = tf.argmax(model(words[:, :-1]), -1, output_type=tf.int32)
    return tf.math.count_nonzero((guesses == words[:, 1:]) & (words[:, 1:] != PAD))


def unigram(training: np.ndarray, held: np.ndarray, vocabulary: int) -> dict[str, float]:
    """What word frequencies alone reach (add-one smoothed)."""
    counts = np.bincount(training[:, 1:].ravel(), minlength=vocabulary).astype(float)
    counts[PAD] = 0.0
    p = (counts + 1.0) / (counts + 1.0).sum()
    targets = held[:, 1:][held[:, 1:] != PAD]
    loss = float(-np.log(p[targets]).mean())
    return {"loss": loss, "perplexity": float(np.exp(loss)), "accuracy": float((targets == counts.argmax()).mean())}


def evaluate(run_dir: Path) -> dict:
    """Evaluate a finished run on held-out texts: writes `metrics.json` and `report.html`.

    Args:
        run_dir: the run.

    Returns:
        The content of metrics.json.
    """
    config = load_config(run_dir / "config.yaml", CausalTextConfig)
    prepare_evaluation(run_dir)
    model, rows, vocabulary = assemble(config, run_dir)
    training, held = rows["train"], rows["test"]
    restore_weights(model, run_dir)
    about = {"recipe": config.recipe, "split": "test", "items": len(held), "training_items": len(training)}
    about["words"] = len(vocabulary)
    metrics, baseline = held_out_metrics(model, held), unigram(training, held, len(vocabulary))
    content = write_metrics(
        run_dir / "metrics.json",
        protocol=about,
        metrics={name: exact(value) for name, value in metrics.items()},
        baselines={"word frequency": {name: exact(value) for name, value in baseline.items()}},
        cohorts={},
    )
    words = [f"{len(held)} texts that training did not see; loss in nats a word, accuracy of the likeliest next word."]
    write_metrics_page(run_dir, content, title="Causal text model", words=words)
    log.info("perplexity %.2f (word frequency alone %.1f)", metrics["perplexity"], baseline["perplexity"])
    return content
