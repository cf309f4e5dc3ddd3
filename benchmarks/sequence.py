"""Training a causal transformer over histories of item ids, against the same model in PyTorch, eager and compiled.

    python -m benchmarks.sequence                       # 105,000 items, histories of 50, batches of 256 and 1024
    python -m benchmarks.sequence --batches 256 --full  # every customer with 50 purchases and more

Two blocks of 128 dimensions read the vectors of the items bought; every purchase is predicted among the distinct items of
the batch, by the same softmax with the same logQ correction, in float32, with the same dropout. PyTorch's batches lie ready
in memory; `tfrec` makes its own while it trains. PyTorch's AdamW updates whole tables (its fused kernel), `tfrec`'s the
rows that were read. Both start from the same weights. Rates are of customers, in warm steps; compiling is not timed.
"""

import argparse
import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.measure import Ratio, add_json, machine, measure, step_leads, step_table, time_steps, write_ratios
from benchmarks.shop import frequency, make_purchases

DIM, LENGTH, LAYERS, HEADS, DROPOUT, TEMPERATURE, RATE = 128, 50, 2, 4, 0.2, 0.07, 1e-3
WARM, WANTED = 3, 1.15


@dataclass(frozen=True)
class Work:
    """Sizes of a run: `steps` batches of customers with `purchases` each on average (all with `length` + 1 where `full`)."""

    items: int
    customers: int
    purchases: int
    batch: int
    steps: int
    full: bool = False
    dropout: float = DROPOUT
    length: int = LENGTH


def main(arguments: list[str] | None = None) -> list[Ratio]:
    """Time the contenders at each batch size, print the tables; returns the leads."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sequence", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--items", type=int, default=105_000, help="size of the catalogue (default: 105,000)")
    add("--batches", type=int, nargs="+", default=[256, 1024], help="customers a step (default: 256 1024)")
    add("--customers", type=int, default=6_144, help="customers that a run trains on (default: 6,144)")
    add("--full", action="store_true", help="every customer has more than 50 purchases; else 23 on average, as at H&M")
    add("--repeats", type=int, default=3, help="runs of each contender (default: %(default)s)")
    add_json(parser)
    args = parser.parse_args(arguments)
    if not importlib.util.find_spec("torch"):
        raise SystemExit("benchmarks.sequence compares with PyTorch: pip install torch==2.13.0")
    ratios, sizes = [], Work(args.items, 20_000, 23, batch=0, steps=0, full=args.full)
    for batch in args.batches:
        work = replace(sizes, batch=batch, steps=max(1, args.customers // batch))
        with tempfile.TemporaryDirectory() as folder:
            runs = measure(CONTENDERS, work, Path(folder), repeats=args.repeats)
        kind = "full histories" if args.full else "histories as long as customers have them"
        size = f"batch {batch:,}, {kind} (up to {LENGTH}), {work.items:,} items of {DIM} dimensions"
        print(f"{size}, on {machine()}\n\n{step_table(runs, units=batch, unit='customers')}\n")
        ratios += [Ratio(f"sequence, batch {batch}", name, lead, WANTED) for name, lead in step_leads(runs).items()]
    write_ratios(args.json, ratios)
    return ratios


def make_batches(work: Work):
    """The batches that every contender trains on, and how often each item was bought."""
    from pipelines.batches import HistoryBatches, Purchases

    purchases = make_purchases(work.customers, work.items, work.customers * work.purchases)
    if work.full:
        user = np.repeat(np.arange(work.customers, dtype=np.int32), work.length + 1)
        item = np.resize(np.random.default_rng(1).permutation(purchases.item), len(user))
        purchases = Purchases(user, item, np.arange(len(user)), work.customers)
    batches = HistoryBatches(
        purchases,
        length=work.length,
        batch_size=work.batch,
        seed=0,
        items=work.items,
        user_fields=np.zeros((work.customers, 0), np.int32),
    )
    return batches, frequency(purchases, work.items)


def build(work: Work, batches, shares: np.ndarray):
    """The model as `tfrec` has it."""
    from tfrec.models import ItemVectors, TwoTower
    from tfrec.towers import HistoryTower

    model = TwoTower(
        vectors=ItemVectors(work.items, DIM, content=False, id_embedding=True, tie=True, name="vectors"),
        query_tower=HistoryTower(
            DIM, work.length, layers=LAYERS, heads=HEADS, dropout=work.dropout, time_gaps=False, name="query_tower"
        ),
        item_tower=None,
        frequency=shares,
        temperature=TEMPERATURE,
        mean_purchases=batches.mean_purchases,
        mask_own="none",
    )
    model.compute_loss(as_tensors(batches(0)), training=True)  # creates every variable
    return model


def as_tensors(batch: dict) -> dict:
    """A batch of arrays as tensors."""
    import tensorflow as tf

    return {name: tf.convert_to_tensor(array) for name, array in batch.items()}


def with_tfrec(work: Work, folder: Path) -> Callable[[], list[float]]:
    """The steps of `tfrec.train`; returns the seconds of each."""
    import tfrec  # noqa: F401  (pins Keras 2)

    # isort: split
    from pipelines.batches import make_dataset
    from tfrec.config import TrainingConfig
    from tfrec.training.environment import prepare_keras
    from tfrec.training.trainer import Trainer

    options = TrainingConfig(precision="float32", learning_rate=RATE, schedule="constant", warmup=0.0, clip_norm=0.0)
    prepare_keras(0, options)
    batches, shares = make_batches(work)
    steps = WARM + work.steps
    model = build(work, batches, shares)
    trainer = Trainer(model, options=options, steps=steps, run_dir=folder)
    return time_steps((float(trainer.train_step(batch)) for batch in make_dataset(batches, 0, steps)), WARM)


def with_torch(work: Work, folder: Path, compiled: bool = False) -> Callable[[], list[float]]:
    """The same steps in PyTorch."""
    import tfrec  # noqa: F401  (pins Keras 2: its weights are where both start)

    # isort: split
    import torch

    batches, shares = make_batches(work)
    weights = [variable.numpy() for variable in build(work, batches, shares).trainable_variables]
    model = torch_model(weights, work, batches.mean_purchases, shares)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0, eps=1e-7, fused=True)
    loss_of = torch.compile(model, dynamic=True) if compiled else model

    def step(batch: dict) -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(**batch)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    ready = [torch_batch(batches(number)) for number in range(WARM + work.steps)]
    return time_steps(map(step, ready), WARM)


def with_torch_compiled(work: Work, folder: Path) -> Callable[[], list[float]]:
    """The same, compiled."""
    return with_torch(work, folder, compiled=True)


def torch_batch(batch: dict) -> dict:
    """A batch as PyTorch reads it: the places that have a target, and which candidate each is."""
    import torch

    places = np.flatnonzero(batch["targets"] >= 0)
    labels = np.searchsorted(batch["rows"], batch["targets"].ravel()[places])
    whole = {"history": batch["history"], "places": places, "labels": labels, "rows": batch["rows"]}
    return {name: torch.from_numpy(array.astype(np.int64)) for name, array in whole.items()}


def torch_model(weights: list[np.ndarray], work: Work, targets: float, shares: np.ndarray):
    """`TwoTower` over histories of item ids as PyTorch has it, from the `trainable_variables` of `build`."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    from tfrec.losses import sampling_log_probability

    correction = sampling_log_probability(shares, targets=targets, negatives=0, catalogue=work.items).numpy()
    left = iter([torch.from_numpy(weight) for weight in weights if weight.ndim])  # scalars: of parts that are off

    def dense(out: int, into: int = DIM) -> nn.Linear:
        layer = nn.Linear(into, out)
        layer.weight.data, layer.bias.data = next(left).T.contiguous(), next(left).clone()
        return layer

    def norm() -> nn.LayerNorm:
        layer = nn.LayerNorm(DIM, eps=1e-6)
        layer.weight.data, layer.bias.data = next(left).clone(), next(left).clone()
        return layer

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.qkv, self.out = norm(), dense(3 * DIM), dense(DIM)
            self.widen_norm, self.widen, self.narrow = norm(), dense(4 * DIM), dense(DIM, 4 * DIM)

        def forward(self, x, mask):
            batch, length, _ = x.shape
            q, k, v = self.qkv(self.norm(x)).view(batch, length, 3, HEADS, DIM // HEADS).permute(2, 0, 3, 1, 4)
            dropout = work.dropout if self.training else 0.0
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
            x = x + drop(self.out(mixed.transpose(1, 2).reshape(batch, length, DIM)))
            return x + drop(self.narrow(drop(F.gelu(self.widen(self.widen_norm(x))))))

    drop = nn.Dropout(work.dropout)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.items = nn.Embedding.from_pretrained(next(left).clone(), freeze=False)
            self.start, self.positions = nn.Parameter(next(left).clone()), nn.Parameter(next(left).clone())
            self.blocks = nn.ModuleList([Block() for _ in range(LAYERS)])
            self.norm, self.query_out = norm(), dense(DIM)
            self.drop = drop
            self.register_buffer("log_q", torch.from_numpy(correction))
            self.register_buffer("causal", torch.ones(work.length + 1, work.length + 1, dtype=torch.bool).tril())

        def forward(self, history, places, labels, rows):
            seen = F.pad(history >= 0, (1, 0), value=True)
            bought = F.normalize(self.items(history.clamp(min=0)), dim=-1)
            x = torch.cat([self.start.expand(len(history), 1, DIM), bought + self.positions], 1)
            mask = (self.causal & seen[:, None, :])[:, None]
            x = self.drop(x)
            for block in self.blocks:
                x = block(x, mask)
            queries = self.query_out(self.norm(x).flatten(0, 1)[places])
            candidates = F.normalize(self.items(rows), dim=-1)
            logits = F.normalize(queries, dim=-1) / TEMPERATURE @ candidates.T - self.log_q[rows]
            return F.cross_entropy(logits, labels)

    return Model().train()


CONTENDERS: dict[str, Callable[[Work, Path], Callable[[], list[float]]]] = {
    "tfrec": with_tfrec,
    "PyTorch eager": with_torch,
    "PyTorch compiled": with_torch_compiled,
}

if __name__ == "__main__":
    main()
