"""Photos and texts through an encoder, against the same model in PyTorch, eager and compiled.

    python -m benchmarks.encode                                    # four encoders, random weights
    python -m benchmarks.encode --models minilm --precision float32 --texts 2048 --threads 2

All contenders have the same weights, read the same batches in memory (texts sorted by length and padded to the batch's
longest, as `tfrec.encode` does), compute in the same precision (PyTorch's model holds its weights in it), and are warm:
compiling is not timed. Their vectors must agree. `one product` multiplies square matrices in that precision: what the
machine reaches at most. Its share of an encoder counts the multiplications of the encoder's matrix products alone.
"""

import argparse
import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.measure import Measurement, Rate, Ratio, add_json, machine, measure, table, write_ratios
from tfrec.cores import calls_at_a_time, in_order, one_thread_an_op

TEXT_BATCH, PHOTO_BATCH, BUCKET = 64, 16, 8
VOCABULARY, SIDE, PATCH = 30522, 224, 16
WANTED = 1.15
SQUARE, PRODUCTS = 2048, 20  # rows and columns of the products that show what the machine reaches; how many


@dataclass(frozen=True)
class Model:
    """An encoder: what it reads (`text` or `photo`), its width, blocks and heads."""

    kind: str
    dim: int
    layers: int
    heads: int

    def products(self, tokens: int) -> float:
        """Floating-point operations of the matrix products for an input of so many tokens."""
        weights = 12 * self.dim**2 * self.layers * tokens  # query, key, value, output; twice four times as wide
        attention = 2 * tokens**2 * self.dim * self.layers
        patches = (tokens - 1) * 3 * PATCH**2 * self.dim if self.kind == "photo" else 0
        return 2.0 * (weights + attention + patches)


MODELS = {
    "vit-b16": Model("photo", 768, 12, 12),
    "vit-ti16": Model("photo", 192, 12, 3),
    "bert-base": Model("text", 768, 12, 12),
    "minilm": Model("text", 384, 6, 12),
}


@dataclass(frozen=True)
class Work:
    """What a run encodes: `count` inputs, by the model in `folder`, in a precision; `threads` of PyTorch."""

    model: Model
    folder: Path
    count: int
    precision: str
    threads: int | None

    def batches(self) -> list[np.ndarray]:
        return text_batches(self.count) if self.model.kind == "text" else photo_batches(self.count)


def main(arguments: list[str] | None = None) -> list[Ratio]:
    """Make the models, time the contenders, print the tables; returns the leads over PyTorch."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.encode", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="default: all")
    add("--precision", choices=["auto", "float32", "bfloat16"], default="auto", help="default: as tfrec.encode chooses")
    add("--texts", type=int, default=1024, help="how many (default: %(default)s; a quarter of it for bert-base)")
    add("--photos", type=int, default=512, help="how many (default: %(default)s; a quarter of it for vit-b16)")
    add("--layers", type=int, help="keep only so many blocks of each model (default: all)")
    add("--repeats", type=int, default=3, help="runs of each contender (default: %(default)s)")
    add("--threads", type=int, help="of PyTorch (default: its own choice)")
    add_json(parser)
    args = parser.parse_args(arguments)
    if not importlib.util.find_spec("torch") or not importlib.util.find_spec("transformers"):
        raise SystemExit("benchmarks.encode compares with PyTorch: pip install torch==2.13.0 transformers==5.23.0")
    precision = chosen(args.precision)
    ratios, rates = [], []
    for name in args.models:
        model = MODELS[name]
        model = replace(model, layers=args.layers or model.layers)
        count = {"text": args.texts, "photo": args.photos}[model.kind]
        count = max(1, count // 4) if model.dim >= 768 else count
        with tempfile.TemporaryDirectory() as folder:
            make_model(Path(folder), model)
            work = Work(model, Path(folder), count, precision, args.threads)
            runs = measure(CONTENDERS, work, repeats=args.repeats)
        peak = runs.pop("one product")
        check(runs, precision)
        print(f"{name}: {count:,} {model.kind}s in {precision}, on {machine()}\n")
        print(f"{table(runs, units=count, unit=model.kind + 's')}\n\n{shares(runs, peak, work)}\n", flush=True)
        own = runs["tfrec"].median
        ratios += [
            Ratio(f"encode, {name}", other, run.median / own, WANTED) for other, run in runs.items() if other != "tfrec"
        ]
        rates.append(Rate(f"encode, {name}", model.kind + "s", count / own))
    write_ratios(args.json, ratios, rates)
    return ratios


def chosen(precision: str) -> str:
    """The type that `tfrec.encode --precision auto` computes in on this machine."""
    if precision != "auto":
        return precision
    from tfrec.training.environment import compute_precision

    return compute_precision("auto").removeprefix("mixed_")


def check(runs: dict[str, Measurement], precision: str) -> None:
    """The contenders' vectors must agree, as far as the precision lets them."""
    sums = {name: run.result for name, run in runs.items()}
    apart = 1e-3 if precision == "float32" else 2e-2
    if max(sums.values()) - min(sums.values()) > apart * max(sums.values()):
        raise RuntimeError(f"the contenders' vectors differ: {sums}")


def shares(runs: dict[str, Measurement], peak: Measurement, work: Work) -> str:
    """What of the machine's matrix product each contender reaches."""
    reached = 2.0 * SQUARE**3 * PRODUCTS / min(peak.seconds)
    needed = sum(rows * work.model.products(tokens) for rows, tokens in sizes(work))
    parts = [f"{name} {needed / run.median / reached:.0%}" for name, run in runs.items()]
    return f"Of the {reached / 1e9:,.0f} GFLOP/s of one product of {SQUARE:,} squared: {', '.join(parts)}."


def sizes(work: Work) -> list[tuple[int, int]]:
    """Rows and tokens of each batch, padding counted."""
    if work.model.kind == "text":
        return [batch.shape for batch in work.batches()]
    return [(len(batch), (SIDE // PATCH) ** 2 + 1) for batch in work.batches()]


def make_model(folder: Path, model: Model) -> None:
    """Save a model of random weights as Hugging Face does."""
    import torch
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": model.dim, "num_hidden_layers": model.layers, "num_attention_heads": model.heads}
    sizes["intermediate_size"] = 4 * model.dim
    if model.kind == "text":
        config = transformers.BertConfig(vocab_size=VOCABULARY, **sizes)
        transformers.BertModel(config).save_pretrained(folder)
    else:
        config = transformers.ViTConfig(image_size=SIDE, patch_size=PATCH, **sizes)
        transformers.ViTModel(config).save_pretrained(folder)


def text_batches(count: int) -> list[np.ndarray]:
    """Token ids of texts as long as a shop's (20 to 64 tokens), the longest first; int32 `[64, T]` each."""
    rng = np.random.default_rng(0)
    lengths = np.sort(rng.integers(20, 65, count))[::-1]
    batches = []
    for start in range(0, count, TEXT_BATCH):
        part = lengths[start : start + TEXT_BATCH]
        width = -(-int(part.max()) // BUCKET) * BUCKET
        ids = rng.integers(1000, VOCABULARY, (len(part), width))
        batches.append(np.where(np.arange(width) < part[:, None], ids, 0).astype(np.int32))
    return batches


def photo_batches(count: int) -> list[np.ndarray]:
    """Photos of noise, uint8 `[16, 224, 224, 3]` each."""
    rng = np.random.default_rng(0)
    sizes = [min(PHOTO_BATCH, count - start) for start in range(0, count, PHOTO_BATCH)]
    return [rng.integers(0, 256, (size, SIDE, SIDE, 3), dtype=np.uint8) for size in sizes]


def run_all(
    encode: Callable[[np.ndarray], np.ndarray], batches: list[np.ndarray], calls: int = 1
) -> Callable[[], float]:
    """What is timed, after a warm pass over every shape: the sum of all vectors' sizes; so many calls at a time."""
    for batch in {batch.shape: batch for batch in batches}.values():
        encode(batch)
    return lambda: float(sum(np.abs(vectors).sum() for vectors in in_order(encode, batches, calls)))


def mean_of_tokens(folder: Path, policy: str):
    """A BERT-shaped encoder that computes by a Keras policy: ids int32 `[B, T]` -> the mean of their tokens `[B, D]`, traced
    when called."""
    import tfrec  # noqa: F401  (pins Keras 2)

    # isort: split
    import tensorflow as tf

    from tfrec.encoders.checkpoints.bert import load_bert
    from tfrec.encoders.checkpoints.source import open_checkpoint
    from tfrec.encoders.flat import held_blocks

    tf.keras.mixed_precision.set_global_policy(policy)
    encoder = load_bert(open_checkpoint(folder))
    blocks = held_blocks(encoder)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, None], tf.int32)])
    def encode(ids):
        weight = tf.expand_dims(tf.cast(encoder.mask(ids), tf.float32), -1)
        return tf.reduce_sum(tf.cast(encoder(ids, held=blocks), tf.float32) * weight, 1) / tf.reduce_sum(weight, 1)

    return encode


def with_tfrec(work: Work) -> Callable[[], float]:
    """The encoder as `tfrec.encode` runs it, a batch on each core: a text's mean of its tokens, a photo's first token."""
    import tfrec  # noqa: F401  (pins Keras 2)

    # isort: split
    import tensorflow as tf

    from tfrec.encoders.checkpoints import load_image_encoder
    from tfrec.encoders.flat import held_blocks

    one_thread_an_op()
    policy = "float32" if work.precision == "float32" else f"mixed_{work.precision}"
    if work.model.kind == "text":
        encode = mean_of_tokens(work.folder, policy)
    else:
        tf.keras.mixed_precision.set_global_policy(policy)
        encoder = load_image_encoder(work.folder)
        blocks = held_blocks(encoder)

        @tf.function(input_signature=[tf.TensorSpec([None, SIDE, SIDE, 3], tf.uint8)])
        def encode(photos):
            return tf.cast(encoder.pooled(encoder(photos, held=blocks)), tf.float32)

    return run_all(lambda batch: encode(tf.constant(batch)).numpy(), work.batches(), calls_at_a_time())


def with_torch(work: Work, compiled: bool = False) -> Callable[[], float]:
    """The reference, eager or compiled."""
    import torch
    import transformers

    if work.threads:
        torch.set_num_threads(work.threads)
    kind = transformers.BertModel if work.model.kind == "text" else transformers.ViTModel
    dtype = getattr(torch, work.precision)
    model = kind.from_pretrained(work.folder, add_pooling_layer=False).to(dtype).eval()
    model = torch.compile(model, dynamic=work.model.kind == "text") if compiled else model

    def encode(batch):
        with torch.inference_mode():
            if work.model.kind == "photo":
                pixels = torch.from_numpy(batch).permute(0, 3, 1, 2).to(dtype) / 127.5 - 1.0
                return model(pixels).last_hidden_state[:, 0].float().numpy()
            ids = torch.from_numpy(batch.astype(np.int64))
            mask = (ids != 0).long()
            tokens = model(ids, attention_mask=mask).last_hidden_state.float()
            return ((tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).numpy()

    return run_all(encode, work.batches())


def with_torch_compiled(work: Work) -> Callable[[], float]:
    """The reference, compiled."""
    return with_torch(work, compiled=True)


def one_product(work: Work) -> Callable[[], float]:
    """Products of square matrices, by PyTorch."""
    import torch

    if work.threads:
        torch.set_num_threads(work.threads)
    dtype = getattr(torch, work.precision)
    left, right = torch.randn(SQUARE, SQUARE).to(dtype), torch.randn(SQUARE, SQUARE).to(dtype)
    for _ in range(3):
        left @ right
    return lambda: sum(float((left @ right)[0, 0]) for _ in range(PRODUCTS))


CONTENDERS: dict[str, Callable[[Work], Callable[[], float]]] = {
    "tfrec": with_tfrec,
    "PyTorch eager": with_torch,
    "PyTorch compiled": with_torch_compiled,
    "one product": one_product,
}

if __name__ == "__main__":
    main()
