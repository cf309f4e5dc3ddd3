"""Photos and texts through an encoder, against the same model in PyTorch, eager and compiled.

    python -m benchmarks.encode                       # ViT-B/16 at 224 px and MiniLM-L6, random weights
    python -m benchmarks.encode --texts 2000 --photos 100 --threads 2

All contenders have the same weights, read the same batches in memory (texts sorted by length and padded to the batch's
longest, as `tfrec.encode` does), compute in float32, and are warm: compiling is not timed. Their vectors must agree.
"""

import argparse
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.measure import machine, measure, table

TEXT = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
PHOTO = {"image_size": 224, "patch_size": 16, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
TEXT_BATCH, PHOTO_BATCH, BUCKET = 64, 16, 8
VOCABULARY = 30522


def main(arguments: list[str] | None = None) -> dict:
    """Make the models, time the contenders, print both tables; returns the leads over PyTorch."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.encode", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=1024, help="how many (default: %(default)s)")
    parser.add_argument("--photos", type=int, default=64, help="how many (default: %(default)s)")
    parser.add_argument("--layers", type=int, help="keep only so many blocks of both models (default: all)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each contender (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="of PyTorch (default: its own choice)")
    args = parser.parse_args(arguments)
    if not importlib.util.find_spec("torch") or not importlib.util.find_spec("transformers"):
        raise SystemExit("benchmarks.encode compares with PyTorch: pip install torch==2.13.0 transformers==5.23.0")
    leads = {}
    for kind, count in (("text", args.texts), ("photo", args.photos)):
        with tempfile.TemporaryDirectory() as folder:
            make_model(Path(folder), kind, args.layers)
            runs = measure(CONTENDERS[kind], Path(folder), count, args.threads, repeats=args.repeats)
        sums = {name: runs[name].result for name in runs}
        if max(sums.values()) - min(sums.values()) > 1e-3 * abs(max(sums.values())):
            raise RuntimeError(f"the contenders' vectors differ: {sums}")
        print(f"{count:,} {kind}s on {machine()}\n\n{table(runs, units=count, unit=kind + 's')}\n")
        leads[kind] = {name: run.median / runs["tfrec"].median for name, run in runs.items() if name != "tfrec"}
    return leads


def make_model(folder: Path, kind: str, layers: int | None) -> None:
    """Save a model of random weights as Hugging Face does."""
    import torch
    import transformers

    torch.manual_seed(0)
    if kind == "text":
        config = transformers.BertConfig(vocab_size=VOCABULARY, **TEXT)
        config.num_hidden_layers = layers or config.num_hidden_layers
        transformers.BertModel(config).save_pretrained(folder)
    else:
        config = transformers.ViTConfig(**PHOTO, intermediate_size=4 * PHOTO["hidden_size"])
        config.num_hidden_layers = layers or config.num_hidden_layers
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
    side = PHOTO["image_size"]
    return [rng.integers(0, 256, (size, side, side, 3), dtype=np.uint8) for size in sizes]


def run_all(encode: Callable[[np.ndarray], np.ndarray], batches: list[np.ndarray]) -> Callable[[], float]:
    """What is timed, after one warm pass over every shape: the sum of all vectors' absolute values."""
    for batch in {batch.shape: batch for batch in batches}.values():
        encode(batch)
    return lambda: float(sum(np.abs(encode(batch)).sum() for batch in batches))


def tfrec_text(folder: Path, count: int, threads: int | None) -> Callable[[], float]:
    """The encoder as `tfrec.encode` runs it."""
    import tfrec  # noqa: F401  (pins Keras 2)

    # isort: split
    import tensorflow as tf

    from tfrec.encoders.checkpoints.bert import load_bert
    from tfrec.encoders.checkpoints.source import open_checkpoint
    from tfrec.encoders.flat import flat_tokens

    encoder = load_bert(open_checkpoint(folder))

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)])
    def encode(ids):
        weight = tf.cast(encoder.mask(ids), tf.float32)[..., None]
        return tf.reduce_sum(flat_tokens(encoder, ids) * weight, 1) / tf.reduce_sum(weight, 1)

    return run_all(lambda ids: encode(tf.constant(ids)).numpy(), text_batches(count))


def torch_text(folder: Path, count: int, threads: int | None, compiled: bool = False) -> Callable[[], float]:
    """The reference, eager or compiled."""
    import torch
    import transformers

    if threads:
        torch.set_num_threads(threads)
    model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    model = torch.compile(model, dynamic=True) if compiled else model

    def encode(ids):
        with torch.inference_mode():
            ids = torch.from_numpy(ids.astype(np.int64))
            mask = (ids != 0).long()
            tokens = model(ids, attention_mask=mask).last_hidden_state
            return ((tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).numpy()

    return run_all(encode, text_batches(count))


def torch_text_compiled(folder: Path, count: int, threads: int | None) -> Callable[[], float]:
    """The reference, compiled."""
    return torch_text(folder, count, threads, compiled=True)


def tfrec_photo(folder: Path, count: int, threads: int | None) -> Callable[[], float]:
    """The encoder as `tfrec.encode` runs it."""
    import tfrec  # noqa: F401  (pins Keras 2)

    # isort: split
    import tensorflow as tf

    from tfrec.encoders.checkpoints import load_image_encoder
    from tfrec.encoders.flat import flat_tokens

    encoder = load_image_encoder(folder)
    side = PHOTO["image_size"]

    @tf.function(input_signature=[tf.TensorSpec([None, side, side, 3], tf.uint8)])
    def encode(photos):
        return encoder.pooled(flat_tokens(encoder, photos))

    return run_all(lambda photos: encode(tf.constant(photos)).numpy(), photo_batches(count))


def torch_photo(folder: Path, count: int, threads: int | None, compiled: bool = False) -> Callable[[], float]:
    """The reference, eager or compiled."""
    import torch
    import transformers

    if threads:
        torch.set_num_threads(threads)
    model = transformers.ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
    model = torch.compile(model) if compiled else model

    def encode(photos):
        with torch.inference_mode():
            pixels = torch.from_numpy(photos).permute(0, 3, 1, 2).float() / 127.5 - 1.0
            return model(pixels).last_hidden_state[:, 0].numpy()

    return run_all(encode, photo_batches(count))


def torch_photo_compiled(folder: Path, count: int, threads: int | None) -> Callable[[], float]:
    """The reference, compiled."""
    return torch_photo(folder, count, threads, compiled=True)


CONTENDERS: dict[str, dict[str, Callable]] = {
    "text": {"tfrec": tfrec_text, "PyTorch eager": torch_text, "PyTorch compiled": torch_text_compiled},
    "photo": {"tfrec": tfrec_photo, "PyTorch eager": torch_photo, "PyTorch compiled": torch_photo_compiled},
}

if __name__ == "__main__":
    main()
