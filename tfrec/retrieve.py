"""Recommend to every customer of a prepared dataset, with a published model.

Customers are written in the dataset's order, including those without purchases, who get popular items. The name of
--out sets the format:

    NAME.parquet         user_id, item_ids (list), scores (list), best first
    NAME.csv             user_id,rank,item_id,score: one line per recommendation
    submission*.csv      Kaggle's: customer_id,prediction, item ids separated by spaces

With --explain, NAME.explained.jsonl says which purchases, modalities, words and photo regions contribute to each item.

Finished parts are kept in OUT.parts until all are done. A stopped run continues with --resume and writes the same bytes
as an uninterrupted one. With --engine ray (pip install '.[ray]'), worker processes make the parts, on the cluster of
RAY_ADDRESS or on this machine; the bytes are the same.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipelines.command import run_command
from pipelines.remote import location

if TYPE_CHECKING:
    from tfrec.batch_retrieval.job import RetrieveOptions


OF_STRATEGY = {"beams": "beam", "temperature": "sample", "top_k": "sample", "seed": "sample"}
RERANKED = 100  # candidates


def main(arguments: list[str] | None = None) -> int:
    """Retrieve; 0 on success, 2 when an option, the model or the data is at fault, 1 on any other failure."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _retrieve(options), after_full_disk="go on with --resume")


def _retrieve(options: argparse.Namespace) -> int:
    from pipelines.progress import Progress
    from tfrec.batch_retrieval.job import load_job

    job = load_job(_stages(options))
    with Progress("recommend", len(job.rows), unit=" customers", done=job.ready) as bar:
        if job.options.engine == "ray":
            from tfrec.distributed.ray_retrieval import run_on_ray

            count = run_on_ray(job, bar.update)
        else:
            count = job.run(bar.update)
    which = ", without what they bought before" if job.options.exclude_seen else ""
    print(f"{options.out}: up to {job.options.k} recommendations for each of {count} customers{which}")
    return 0


def _stages(options: argparse.Namespace) -> RetrieveOptions:
    """What to do, from the command line."""
    from tfrec.batch_retrieval.files import RecommendationFileError
    from tfrec.batch_retrieval.job import RetrieveError, RetrieveOptions
    from tfrec.pretraining.generation import Generation

    if "://" not in str(options.out) and options.out.is_dir():  # else it would be found when all is computed
        raise RecommendationFileError(f"--out {options.out} is a folder; name the file to write")
    values = {name: value for name, value in vars(options).items() if value is not None}
    for name, (wanted, is_there) in _idle_without(options).items():
        if name in values and not is_there:
            raise RetrieveError(f"--{name.replace('_', '-')} does nothing without {wanted}; add that, or leave it out")
    rerank, length = values.pop("rerank"), values.pop("generate", None)
    how = {name: values.pop(name) for name in (*OF_STRATEGY, "strategy", "candidates") if name in values}
    if length is not None:
        if "k" in values:
            raise RetrieveError("--k and --generate exclude each other: --generate N says how many items")
        values |= {"k": length, "generation": Generation(length, **how)}
    return RetrieveOptions(**values, rerank=how.get("candidates", RERANKED) if rerank else 0)


def _idle_without(options: argparse.Namespace) -> dict[str, tuple[str, bool]]:
    """Options that do nothing without another one: that one, and whether it is there."""
    generates, strategy = options.generate is not None, options.strategy or "greedy"
    idle = {
        "strategy": ("--generate", generates),
        "candidates": ("--rerank or --generate", generates or options.rerank),
        "workers": ("--engine ray", options.engine == "ray"),
    }
    for name, needed in OF_STRATEGY.items():
        idle[name] = (f"--generate and --strategy {needed}", generates and strategy == needed)
    return idle


def _day(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day like 2020-09-16") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfrec.retrieve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", type=location, required=True, help="folder of a model (its newest version) or of a version")
    add("--data", type=location, required=True, metavar="PREPARED", help="a prepared dataset")
    add("--out", type=location, required=True, metavar="FILE", help="the file to write; replaced when it exists")
    add("--k", type=int, help="recommendations a customer (default: 12)")
    add(
        "--format",
        dest="kind",
        choices=["parquet", "csv", "submission"],
        help="default: by the name of --out",
    )
    add("--users", type=location, metavar="FILE", help="only the customers in this file's first column")
    add(
        "--only",
        type=location,
        metavar="FILE",
        help="recommend only the items in this file's first column, such as those in stock (by exact search)",
    )
    add("--until", type=_day, metavar="YYYY-MM-DD", help="only purchases before this day are read")
    add(
        "--rerank", action="store_true", help="order what retrieval found by the ratings that the ranking head predicts"
    )
    add("--explain", action="store_true", help="also write why, to NAME.explained.jsonl: slow, so best with --users")
    add("--generate", type=int, metavar="N", help="continue each history by N items, listed in their order")
    add(
        "--strategy",
        choices=["greedy", "beam", "sample"],
        help="of --generate (default: greedy)",
    )
    add("--beams", type=int, help="continuations that beam search keeps (default: 4)")
    add("--temperature", type=float, help="of sampling: below 1 sharper (default: 1)")
    add("--top-k", type=int, help="sample among so many best items; 0: all candidates (default: 0)")
    add("--seed", type=int, help="of sampling (default: 0)")
    add("--candidates", type=int, help="items found for --rerank (default: 100), or for a step of --generate (500)")
    add(
        "--exclude-seen",
        action=argparse.BooleanOptionalAction,
        help="leave out what a customer has bought (default: as the model was evaluated, evaluation.seen_filter)",
    )
    add("--resume", action="store_true", help="go on where a stopped run with the same options was")
    add("--batch", type=int, default=1024, help="customers a call of the model (default: %(default)s)")
    add("--part", type=int, default=32_768, help="customers a part (default: %(default)s)")
    add("--engine", choices=["local", "ray"], default="local", help="who makes the parts (default: %(default)s)")
    add("--workers", type=int, help="processes of --engine ray (default: 2)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
