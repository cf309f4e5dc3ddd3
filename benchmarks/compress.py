"""What smaller numbers win and lose: a text encoder in bfloat16 and int8, and indexes of float16 and int8 vectors.

    python -m benchmarks.compress
    python -m benchmarks.compress --weights MINILM --data PREPARED     # real weights, the texts of a catalogue
    python -m benchmarks.compress --parts index --items 20000

Encoder: items a second, bytes of the model, the mean cosine of its vectors with those of float32, and the share of the ten
nearest other texts that stay. `TFLite, int8` is TensorFlow Lite's dynamic-range quantisation (weights int8, its XNNPACK
kernels on all cores). Index: queries a second at batch 256, bytes of the item vectors, recall@12 against the exact search.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import encode
from benchmarks.measure import machine, measure

K, NEIGHBOURS, BATCH = 12, 10, 256


@dataclass(frozen=True)
class Texts:
    """An encoder's folder, and a prepared dataset whose first `count` texts it reads (None: random ids)."""

    folder: Path
    data: Path | None
    count: int

    def batches(self) -> list[np.ndarray]:
        """Token ids, the longest texts first, in batches padded to their longest."""
        if self.data is None:
            return encode.text_batches(self.count)
        from pipelines.prepared import open_prepared
        from tfrec.encoders.checkpoints.source import open_checkpoint
        from tfrec.encoders.checkpoints.tokenizers import load_wordpiece

        texts = open_prepared(self.data).items["text"].drop_duplicates().tolist()[: self.count]
        ids = load_wordpiece(open_checkpoint(self.folder), 64)(texts).numpy()
        lengths = (ids != 0).sum(1)
        order = np.argsort(-lengths, kind="stable")
        parts = [order[start : start + encode.TEXT_BATCH] for start in range(0, len(ids), encode.TEXT_BATCH)]
        return [ids[part, : lengths[part].max()] for part in parts]


@dataclass(frozen=True)
class Found:
    """What a run made: vectors or rows, and the bytes that the model or the index takes."""

    values: np.ndarray
    size: int


def main(arguments: list[str] | None = None) -> None:
    """Time the contenders, print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compress", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=["encoder", "index"], default=["encoder", "index"], help="default: both")
    add("--weights", type=Path, help="folder of a BERT-shaped encoder (default: MiniLM's shape, random weights)")
    add("--data", type=Path, help="prepared dataset whose texts are encoded (default: random token ids)")
    add("--texts", type=int, default=2048, help="at most (default: %(default)s)")
    add("--items", type=int, default=105_000, help="of the index (default: %(default)s)")
    add("--dim", type=int, default=128, help="of its vectors (default: %(default)s)")
    add("--repeats", type=int, default=3, help="runs of each contender (default: %(default)s)")
    args = parser.parse_args(arguments)
    if "encoder" in args.parts:
        with tempfile.TemporaryDirectory() as folder:
            if args.weights is None:
                encode.make_model(Path(folder), encode.MODELS["minilm"])
            texts = Texts(args.weights or Path(folder), args.data, args.texts)
            runs = measure(ENCODERS, texts, repeats=args.repeats)
        exact = runs["float32"].result.values
        print(f"{len(exact):,} texts on {machine()}\n")
        print("| encoder | texts/s | MB | cosine with float32 | nearest ten kept |\n| --- | --- | --- | --- | --- |")
        for name, run in runs.items():
            vectors = run.result.values
            cosine = float((unit(vectors) * unit(exact)).sum(1).mean())
            rate, size = len(exact) / run.median, run.result.size / 1e6
            print(f"| {name} | {rate:,.0f} | {size:,.1f} | {cosine:.5f} | {kept(vectors, exact):.3f} |")
    if "index" in args.parts:
        runs = measure(INDEXES, args.items, args.dim, repeats=args.repeats)
        exact = runs["exact, float32"].result.values
        print(f"\n{args.items:,} x {args.dim} vectors on {machine()}\n")
        print(f"| index | queries/s | MB | recall@{K} |\n| --- | --- | --- | --- |")
        for name, run in runs.items():
            recall = float((exact[:, :, None] == run.result.values[:, None, :]).any(2).mean())
            rate, size = len(exact) / run.median, run.result.size / 1e6
            print(f"| {name} | {rate:,.0f} | {size:,.1f} | {recall:.4f} |")


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def kept(vectors: np.ndarray, exact: np.ndarray) -> float:
    """The share of each row's nearest other rows by `exact` that are its nearest by `vectors`."""

    def nearest(rows: np.ndarray) -> np.ndarray:
        scores = unit(rows) @ unit(rows).T
        np.fill_diagonal(scores, -np.inf)
        return np.argpartition(-scores, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]

    return float((nearest(exact)[:, :, None] == nearest(vectors)[:, None, :]).any(2).mean())


# -- encoders --------------------------------------------------------------------------------------------------


def all_texts(function: Callable[[np.ndarray], np.ndarray], texts: Texts, size: int) -> Callable[[], Found]:
    """What is timed, after one warm pass over every shape."""
    batches = texts.batches()
    for batch in {batch.shape: batch for batch in batches}.values():
        function(batch)
    return lambda: Found(np.concatenate([function(batch) for batch in batches]), size)


def in_type(texts: Texts, policy: str, width: int) -> Callable[[], Found]:
    """The encoder that computes in a type, weights of `width` bytes."""
    function = encode.mean_of_tokens(texts.folder, policy)  # imports tfrec, which comes before TensorFlow
    import tensorflow as tf

    weights = (texts.folder / "model.safetensors").stat().st_size // 4 * width
    return all_texts(lambda ids: function(tf.constant(ids)).numpy(), texts, weights)


def in_float32(texts: Texts) -> Callable[[], Found]:
    """As the recipes of float32 encode."""
    return in_type(texts, "float32", 4)


def in_bfloat16(texts: Texts) -> Callable[[], Found]:
    """As `tfrec.encode` does where the processor has it."""
    return in_type(texts, "mixed_bfloat16", 2)


def with_tflite(texts: Texts, int8: bool = True) -> Callable[[], Found]:
    """TensorFlow Lite, all cores; with dynamic-range quantisation or in float32."""
    function = encode.mean_of_tokens(texts.folder, "float32")  # holds the weights while it is converted
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    converter.optimizations = [tf.lite.Optimize.DEFAULT] if int8 else []
    model = converter.convert()
    interpreter = tf.lite.Interpreter(model_content=model, num_threads=len(os.sched_getaffinity(0)))
    place = interpreter.get_input_details()[0]["index"]
    answer = interpreter.get_output_details()[0]["index"]

    def run(ids: np.ndarray) -> np.ndarray:
        if tuple(interpreter.get_input_details()[0]["shape"]) != ids.shape:
            interpreter.resize_tensor_input(place, ids.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(place, ids)
        interpreter.invoke()
        return interpreter.get_tensor(answer)

    return all_texts(run, texts, len(model))


def with_tflite_float32(texts: Texts) -> Callable[[], Found]:
    """The same kernels without quantisation."""
    return with_tflite(texts, int8=False)


ENCODERS: dict[str, Callable[[Texts], Callable[[], Found]]] = {
    "float32": in_float32,
    "bfloat16": in_bfloat16,
    "TFLite, float32": with_tflite_float32,
    "TFLite, int8": with_tflite,
}


# -- indexes ---------------------------------------------------------------------------------------------------


def searched(search: Callable[[np.ndarray], np.ndarray], queries: np.ndarray, size: int) -> Callable[[], Found]:
    """What is timed, after a warm batch: all queries, a batch at a time."""
    search(queries[:BATCH])
    parts = [queries[start : start + BATCH] for start in range(0, len(queries), BATCH)]
    return lambda: Found(np.concatenate([search(part) for part in parts]), size)


def exact_index(items: int, dim: int, width: int = 4) -> Callable[[], Found]:
    """The exact index of the served model, its vectors held in float32, float16 (2) or int8 with a scale each (1)."""
    import tfrec  # noqa: F401  (pins Keras 2)

    # isort: split
    import tensorflow as tf

    from benchmarks.index import make_data

    vectors, queries = make_data(items, 8 * BATCH, dim, 0)
    scale = np.abs(vectors).max(1) / 127.0
    kinds = {4: np.float32, 2: np.float16, 1: np.int8}
    stored = np.round(vectors / scale[:, None]) if width == 1 else vectors
    held = tf.constant(stored.astype(kinds[width]))
    scales = tf.constant(scale.astype(np.float32))

    @tf.function(input_signature=[tf.TensorSpec([None, dim])])
    def search(batch):
        scores = tf.matmul(batch, tf.cast(held, tf.float32), transpose_b=True)
        return tf.math.top_k(scores * scales if width == 1 else scores, K).indices

    size = items * dim * width + (4 * items if width == 1 else 0)
    return searched(lambda batch: search(tf.constant(batch)).numpy(), queries, size)


def exact_float16(items: int, dim: int) -> Callable[[], Found]:
    """Half the bytes."""
    return exact_index(items, dim, 2)


def exact_int8(items: int, dim: int) -> Callable[[], Found]:
    """A quarter of them."""
    return exact_index(items, dim, 1)


def scann_index(items: int, dim: int, reorder: str = "FLOAT32") -> Callable[[], Found]:
    """ScaNN through its Python binding (its TensorFlow op reorders in float32 alone), codes of half a byte a dimension,
    and the vectors that candidates are reordered by in a type."""
    from benchmarks.index import make_data, raw_scann_search
    from tfrec.index.indexes import default_leaves

    vectors, queries = make_data(items, 8 * BATCH, dim, 0)
    leaves = default_leaves(items)
    search = raw_scann_search(vectors, leaves, reorder)(max(1, leaves // 10), 150)
    width = {"FLOAT32": 4, "BFLOAT16": 2, "INT8": 1}[reorder]
    return searched(search, queries, round(items * dim * (width + 0.5)))


def scann_bfloat16(items: int, dim: int) -> Callable[[], Found]:
    """Reordering by bfloat16."""
    return scann_index(items, dim, "BFLOAT16")


def scann_int8(items: int, dim: int) -> Callable[[], Found]:
    """Reordering by int8."""
    return scann_index(items, dim, "INT8")


INDEXES: dict[str, Callable[[int, int], Callable[[], Found]]] = {
    "exact, float32": exact_index,
    "exact, float16": exact_float16,
    "exact, int8": exact_int8,
    "ScaNN, reordered by float32": scann_index,
    "ScaNN, reordered by bfloat16": scann_bfloat16,
    "ScaNN, reordered by int8": scann_int8,
}

if __name__ == "__main__":
    main()
