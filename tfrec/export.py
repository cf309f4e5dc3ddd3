"""Publish a trained run as two SavedModels, `<name>` with an exact index and `<name>_scann` with a ScaNN index, under the
same version number.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.arguments import SHARE, whole_number
from pipelines.command import run_command
from pipelines.remote import local_path, location
from tfrec.publish import PublishError, check_name, keep_last, next_version, publish_version, versions

if TYPE_CHECKING:
    from tfrec.index.indexes import ExactIndex, ScannIndex
    from tfrec.index.tuning import IndexReport
    from tfrec.runs.run import Run

Say = Callable[[str], object]


def export_run(
    run: Run,
    name: str,
    root: Path,
    *,
    max_k: int = 500,
    recall: float = 0.98,
    leaves: int | None = None,
    say: Say = print,
) -> list[Path]:
    """Publish a run's exact and ScaNN models.

    Args:
        run: the trained run.
        name: of the model; the ScaNN one is `<name>_scann`.
        root: folder of all models.
        max_k: the largest k that is answered.
        recall: recall@12 against the exact search that ScaNN is tuned to.
        leaves: partitions of ScaNN; chosen by the number of items where None.
        say: told what happens.

    Returns:
        The two version folders.

    Raises:
        PublishError: the name is no name, or the version exists.
        RetrievalIndexError: an item vector holds NaN or infinity.
        ForeignOpError: the exact model holds an op that stock TensorFlow Serving lacks.
    """
    from tfrec.index.indexes import ExactIndex, check_vectors
    from tfrec.index.tuning import IndexReport, build_scann

    folders = [root / check_name(name), root / f"{name}_scann"]
    vectors = check_vectors(run.item_vectors, run.item_ids)
    version = next_version(*folders)
    exact = ExactIndex(vectors), IndexReport("exact", *vectors.shape)
    scann = build_scann(vectors, queries=run.sample_queries, target=recall, leaves=leaves, progress=say)
    published = []
    for folder, (index, report) in zip(folders, (exact, scann)):
        write = _writer(run, folder.name, index, report, max_k)
        published.append(publish_version(folder, version, write))
        say(f"published {published[-1]} ({report.kind} index of {report.items} items)")
    return published


def _writer(
    run: Run, name: str, index: ExactIndex | ScannIndex, report: IndexReport, max_k: int
) -> Callable[[Path], dict[str, Any]]:
    """What `publish_version` calls to fill a version's folder."""

    def write(path: Path) -> dict[str, Any]:
        import tensorflow as tf

        from tfrec.graphs import skip_rewrites
        from tfrec.saved_model.model import ServingModel
        from tfrec.saved_model.ops import check_ops
        from tfrec.saved_model.warmup import write_warmup

        skip_rewrites()  # a saved function carries how it is to be run: without this, every load rewrites it
        tf.get_logger().setLevel("ERROR")  # Keras cannot rebuild the layers, it warns; signatures are what is served
        model = ServingModel(run, index, max_k=max_k)
        signatures = model.signatures()
        options = tf.saved_model.SaveOptions(namespace_whitelist=["Scann", "TFText"])
        tf.saved_model.save(model, str(path), signatures=signatures, options=options)
        libraries = check_ops(path, scann=report.kind == "scann")
        return {
            "run": run.name,
            "config": run.config,
            "index": report.as_dict(),
            "max_k": max_k,
            "query_kind": run.query_kind,
            "history_length": run.history_length,
            "history_min_rating": run.history_min_rating,
            "readable_items": len(run.item_ids) if run.readable_items is None else run.readable_items,
            "user_fields": user_field_values(run),
            "modalities": sorted(run.modalities),
            "signatures": sorted(signatures),
            "op_libraries": sorted(name for name, needed in libraries.items() if needed),
            "warmup_requests": write_warmup(path, name, signatures, run, max_k=max_k),
        }

    return write


def user_field_values(run: Run) -> dict[str, list[str]]:
    """The known values of each customer field, in the order of their ids: batch retrieval encodes by them."""
    return run.user_vocabulary.values if run.user_vocabulary else {}


def main(arguments: list[str] | None = None) -> int:
    """Export; 0 on success, 2 when the run, the data or an option is at fault, 130 when stopped, 1 on any other failure."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _export(options))


def _export(options: argparse.Namespace) -> int:
    folders = [options.root / check_name(options.name), options.root / f"{options.name}_scann"]
    version = next_version(*folders)
    try:
        _publish(options, folders)
    except KeyboardInterrupt:
        published = [str(folder / str(version)) for folder in folders if version in versions(folder)]
        print(f"stopped; published: {' and '.join(published) or 'nothing'}", file=sys.stderr)
        return 130
    return 0


def _publish(options: argparse.Namespace, folders: list[Path]) -> None:
    """Publish the run into the two models' `folders`, then delete old versions."""
    if not options.run.is_dir():
        raise PublishError(f"{options.run} is not a run's folder; train first (python -m tfrec.train --help)")
    from tfrec.runs.run import load_run

    run = load_run(options.run, max_users=options.max_users)
    if options.items is not None:
        from tfrec.saved_model.new_items import with_new_items

        run = with_new_items(run, options.items)
    if run.users is None:
        print(f"no recommend_user: the run has more customers than --max-users {options.max_users}")
    export_run(run, options.name, options.root, max_k=options.max_k, recall=options.recall, leaves=options.leaves)
    if options.keep is not None:
        for folder in folders:
            keep_last(folder, options.keep)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tfrec.export", description=__doc__)
    add = parser.add_argument
    add("--run", type=Path, required=True, metavar="RUN", help="folder of a trained run")
    add("--name", required=True, help="name to publish under")
    add("--root", type=local_path, default=Path("saved_models"), help="folder of models (default: %(default)s)")
    add(
        "--items",
        type=location,
        metavar="PREPARED",
        help="a prepared dataset with further items, which are encoded with the run's towers",
    )
    add("--max-k", type=whole_number(1), default=500, help="largest k that is answered (default: %(default)s)")
    add("--recall", type=SHARE, default=0.98, help="recall@12 to tune ScaNN to (default: %(default)s)")
    add("--leaves", type=whole_number(1), help="partitions of ScaNN (default: by the number of items)")
    add(
        "--max-users",
        type=whole_number(0),
        default=200_000,
        help="up to so many customers, keep their histories for recommend_user (default: %(default)s)",
    )
    add("--keep", type=whole_number(1), metavar="N", help="delete all but the newest N versions afterwards")
    return parser


if __name__ == "__main__":
    sys.exit(main())
