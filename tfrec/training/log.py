"""Where a training writes what it measures: a CSV file, and TensorBoard."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from pipelines.publish import write_whole


class History:
    """What was logged, a row a step and a column a name; written whole at each flush.

    Args:
        path: the CSV file.
    """

    def __init__(self, path: Path):
        self.path = path
        self.rows: dict[int, dict[str, float]] = {}

    def write(self, step: int, values: dict[str, float]) -> None:
        self.rows.setdefault(step, {}).update({name: float(value) for name, value in values.items()})

    def flush(self) -> None:
        names = ["step", *dict.fromkeys(name for row in self.rows.values() for name in row)]
        text = io.StringIO()
        writer = csv.DictWriter(text, names)
        writer.writeheader()
        writer.writerows({"step": step, **row} for step, row in sorted(self.rows.items()))
        write_whole(self.path, text.getvalue())

    def load(self, up_to: int) -> None:
        """Read back the rows up to a step; later ones are forgotten."""
        self.rows = {}
        if self.path.exists():
            with self.path.open(newline="") as file:
                for row in csv.DictReader(file):
                    step = int(row.pop("step"))
                    if step <= up_to:
                        self.write(step, {name: float(value) for name, value in row.items() if value})


def tensorboard(folder: Path) -> Callable[[int, dict], None]:
    """The function to report to TensorBoard by: step, values by name."""
    writer = tf.summary.create_file_writer(str(folder))

    def write(step: int, values: dict[str, float]) -> None:
        with writer.as_default():
            for name, value in values.items():
                tf.summary.scalar(name, value, step=step)

    return write
