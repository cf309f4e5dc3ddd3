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

from pipelines.remote import location
from tfrec.command import run_command

if TYPE_CHECKING:
    from tfrec.batch_retrieval.job import RetrieveOptions


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
    print(f"{options.out}: {job.options.k} recommendations for each of {count} customers{which}")
    return 0


def _stages(options: argparse.Namespace) -> RetrieveOptions:
    """What to do, from the command line."""
    from tfrec.batch_retrieval.files import RecommendationFileError
    from tfrec.batch_retrieval.job import RetrieveOptions
    from tfrec.pretraining.generation import Generation

    if "://" not in str(options.out) and options.out.is_dir():  # else it would be found when all is computed
        raise RecommendationFileError(f"--out {options.out} is a folder; name the file to write")
    values = vars(options)
    length, rerank, candidates = values.pop("generate"), values.pop("rerank"), values.pop("candidates")
    drawn = {name: values.pop(name) for name in ("strategy", "beams", "temperature", "top_k", "seed")}
    if length is not None:
        values |= {"k": length, "generation": Generation(length, candidates=candidates or 500, **drawn)}
    return RetrieveOptions(**values, rerank=(candidates or 100) if rerank else 0)


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
    add("--k", type=int, default=12, help="recommendations a customer (default: %(default)s)")
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
    add("--until", type=_day, metavar="YYYY-MM-DD", help="only purchases before this day count")
    add(
        "--rerank", action="store_true", help="order what retrieval found by the ratings that the ranking head predicts"
    )
    add("--explain", action="store_true", help="also write why, to NAME.explained.jsonl: slow, so best with --users")
    add("--generate", type=int, metavar="N", help="continue each history by N items, listed in their order")
    add(
        "--strategy",
        choices=["greedy", "beam", "sample"],
        default="greedy",
        help="of --generate (default: %(default)s)",
    )
    add("--beams", type=int, default=4, help="continuations that beam search keeps (default: %(default)s)")
    add("--temperature", type=float, default=1.0, help="of sampling: below 1 sharper (default: %(default)s)")
    add(
        "--top-k", type=int, default=0, help="sample among so many best items; 0: all candidates (default: %(default)s)"
    )
    add("--seed", type=int, default=0, help="of sampling (default: %(default)s)")
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
    add("--workers", type=int, default=2, help="processes of --engine ray (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
