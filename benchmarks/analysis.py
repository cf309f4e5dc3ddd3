"""What it takes to analyse the vectors of a large catalogue: metrics, projections, clusterings, and the report.

    python -m benchmarks.analysis                      # 100,000 items of 768 dimensions
    python -m benchmarks.analysis --items 2000 --dim 64

The vectors are drawn around the centres of classes. What of them is sampled stands in the printed notes, as in the report.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.measure import machine, measure, table


@dataclass(frozen=True)
class Work:
    """Sizes of the drawn catalogue, and of the sample that is projected."""

    items: int
    dim: int
    classes: int
    projected: int = 3_000


def main(arguments: list[str] | None = None) -> None:
    """Analyse once per repeat; print time, peak memory, and what was sampled."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.analysis", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--items", type=int, default=100_000, help="vectors (default: 100,000)")
    add("--dim", type=int, default=768, help="their width (default: %(default)s)")
    add("--classes", type=int, default=100, help="of the labels (default: %(default)s)")
    add("--repeats", type=int, default=1, help="runs (default: %(default)s)")
    args = parser.parse_args(arguments)
    work = Work(args.items, args.dim, args.classes)
    with tempfile.TemporaryDirectory() as folder:
        runs = measure({"tfrec.analyze": with_tfrec}, work, Path(folder), repeats=args.repeats)
    print(f"{work.items:,} vectors of {work.dim} dimensions, {work.classes} classes, on {machine()}\n")
    print(table(runs, units=work.items, unit="items"))
    print("\n" + "\n".join(f"- {note}" for note in runs["tfrec.analyze"].result))


def with_tfrec(work: Work, folder: Path) -> Callable[[], list[str]]:
    """The whole of `python -m tfrec.analyze` but for reading the vectors; returns what it says of samples."""
    import pandas as pd

    from tfrec.analysis.inputs import Catalogue
    from tfrec.analysis.study import Limits, analyse
    from tfrec.analysis.study_report import write_study

    rng = np.random.default_rng(0)
    label = rng.integers(0, work.classes, work.items)
    vectors = rng.standard_normal((work.classes, work.dim), np.float32)[label]
    vectors += 2.0 * rng.standard_normal(vectors.shape, np.float32)
    names = [f"{row:06d}" for row in range(work.items)]
    items = pd.DataFrame({"item_id": names, "title": names, "images": [[]] * work.items})
    catalogue = Catalogue("drawn", vectors, None, items, None)

    def run() -> list[str]:
        names = np.array([f"class {number}" for number in label])
        study = analyse(catalogue, "label", names, limits=Limits(projection=work.projected))
        write_study(catalogue, study, folder / "report")
        return study.notes

    return run


if __name__ == "__main__":
    main()
