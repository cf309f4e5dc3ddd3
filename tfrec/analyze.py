"""Analyse an embedding, or compare the runs of a sweep.

    python -m tfrec.analyze --run RUN [--by LABEL] --out REPORT                 a trained run
    python -m tfrec.analyze --features FEATURES --data PREPARED --out REPORT    features of frozen encoders
    python -m tfrec.analyze --runs RUNS --out REPORT                            the runs of python -m tfrec.sweep

REPORT receives report.html (one file that works offline), analysis.json, and every picture as PNG and, for charts, SVG.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipelines.arguments import SEED, whole_number
from pipelines.remote import local_path

CLUSTERINGS = ("kmeans", "agglomerative", "dbscan", "hdbscan", "optics")


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 on success, 2 when the arguments or the inputs are at fault, 130 when interrupted.
    """
    from pipelines.command import run_command

    args = _parser().parse_args(arguments)
    return run_command(lambda: _compare_runs(args) if args.runs else _analyse(args))


def _analyse(args: argparse.Namespace) -> int:
    from tfrec.analysis.inputs import labels_of, read_features, read_run
    from tfrec.analysis.study import Limits, analyse
    from tfrec.analysis.study_report import write_study
    from tfrec.retrieval.embeddings import is_retrieval, write_retrieval_embeddings
    from tfrec.runs.folder import VECTORS_FILE

    if args.run and not (Path(args.run) / VECTORS_FILE).exists() and is_retrieval(Path(args.run)):
        write_retrieval_embeddings(Path(args.run), args.data)
    catalogue = read_run(args.run, args.data) if args.run else read_features(args.features, args.data)
    by, labels = labels_of(catalogue, args.by)
    study = analyse(
        catalogue,
        by,
        labels,
        methods=tuple(args.projections) if args.projections else None,
        clusterings=tuple(args.clusterings) if args.clusterings else None,
        limits=Limits(projection=args.max_points),
        seed=args.seed,
    )
    write_study(catalogue, study, args.out)
    print(args.out / "report.html")
    return 0


def _compare_runs(args: argparse.Namespace) -> int:
    from tfrec.analysis.sweep_report import write_comparison

    write_comparison(Path(args.runs), args.out)
    print(args.out / "report.html")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfrec.analyze", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", metavar="RUN", help="folder of a finished training run")
    what.add_argument("--features", metavar="DIR", help="feature store of python -m tfrec.encode")
    what.add_argument("--runs", metavar="RUNS", help="folder of a sweep")
    parser.add_argument("--out", type=local_path, required=True, metavar="REPORT", help="folder to write into")
    parser.add_argument("--data", metavar="PREPARED", help="the prepared dataset, where the run does not name it")
    parser.add_argument("--by", metavar="LABEL", help="evaluate by `label` or by an attribute field (default: label)")
    parser.add_argument(
        "--projections", nargs="+", choices=["pca", "tsne", "umap"], help="default: all that are installed"
    )
    parser.add_argument("--clusterings", nargs="+", choices=CLUSTERINGS, help="default: all")
    parser.add_argument(
        "--max-points", type=whole_number(3), default=3000, help="items projected and drawn (default 3000)"
    )
    parser.add_argument("--seed", type=SEED, default=0, help="of samples and methods (default 0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
