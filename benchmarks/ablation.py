"""What each part of a model carries: the recipe trained with and without it, compared customer by customer.

    python -m benchmarks.ablation --recipe demo --data data/demo --out runs/ablation \
        --arm "no photo: model.image.enabled=false" --arm "no text: model.text.enabled=false"

The first row is the recipe itself; every arm is the recipe with its options. Trainings that are done are not repeated.
Differences are paired over the same customers, with 95 % bootstrap intervals. Writes OUT/ablation.md and OUT/ablation.csv.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from tfrec.evaluation.bootstrap import bootstrap_means

RECIPE = "recipe"


def parse_arm(text: str) -> tuple[str, list[str]]:
    """`name: option=value option=value` as a name and command-line options.

    Raises:
        argparse.ArgumentTypeError: not of that form.
    """
    name, colon, options = text.partition(":")
    words = options.split()
    if not colon or not name.strip() or not words or not all("=" in word for word in words):
        raise argparse.ArgumentTypeError(f"{text!r}: write 'name: option=value [option=value ...]'")
    return name.strip(), [f"--{word}" for word in words]


def train(options: argparse.Namespace, name: str, words: list[str]) -> Path:
    """Train an arm, or go on with it; its run folder."""
    run = options.out / re.sub(r"\W+", "-", name)
    if not (run / "users.parquet").exists():
        command = [sys.executable, "-m", "tfrec.train", "--recipe", options.recipe, "--data", str(options.data)]
        command += ["--out", str(run), "--seed", str(options.seed), *words]
        subprocess.run(command + ["--resume"] * (run / "config.yaml").exists(), check=True)
    return run


def compare(runs: dict[str, Path], metrics: list[str]) -> pd.DataFrame:
    """A row an arm: each metric with its interval, and its paired difference from the first run's.

    Raises:
        ValueError: the runs were not evaluated on the same customers.
    """
    rows, reference = [], None
    for name, run in runs.items():
        users = pd.read_parquet(run / "users.parquet")
        users = users[users["history"] > 0].set_index("user_id")
        reference = users if reference is None else reference
        if not users.index.equals(reference.index):
            raise ValueError(
                f"{run} was evaluated on other customers than the first run; give both the same data and seed"
            )
        row: dict[str, float | str] = {"arm": name, "customers": len(users)}
        for metric in metrics:
            values = {metric: users[metric].to_numpy()}
            values["difference"] = values[metric] - reference[metric].to_numpy()
            for what, interval in bootstrap_means(values).items():
                label = metric if what == metric else f"{metric} difference"
                row |= {label: interval["value"], f"{label} low": interval["low"], f"{label} high": interval["high"]}
        rows.append(row)
    return pd.DataFrame(rows)


def table(frame: pd.DataFrame, metrics: list[str]) -> str:
    """The comparison as a Markdown table."""
    header = ["", *(title for metric in metrics for title in (metric, "difference"))]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for _, row in frame.iterrows():
        cells = [row["arm"]]
        for metric in metrics:
            cells.append(_cell(row, metric, ".3f"))
            cells.append("" if row["arm"] == RECIPE else _cell(row, f"{metric} difference", "+.3f"))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: pd.Series, name: str, style: str) -> str:
    return f"{row[name]:{style}} [{row[f'{name} low']:{style}}, {row[f'{name} high']:{style}}]"


def main(arguments: list[str] | None = None) -> int:
    """Train every arm and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--recipe", default="demo", help="default: %(default)s")
    add("--data", type=Path, default=Path("data/demo"), help="prepared dataset (default: %(default)s)")
    add("--out", type=Path, default=Path("runs/ablation"), help="folder of the runs (default: %(default)s)")
    add("--seed", type=int, default=0)
    add("--metrics", nargs="+", default=["recall@12", "recall@20"])
    add("--arm", type=parse_arm, action="append", help="'name: option=value ...'; default: no photo, no text")
    options = parser.parse_args(arguments)
    arms = dict(
        options.arm or map(parse_arm, ("no photo: model.image.enabled=false", "no text: model.text.enabled=false"))
    )
    options.out.mkdir(parents=True, exist_ok=True)
    runs = {name: train(options, name, words) for name, words in ({RECIPE: list[str]()} | arms).items()}
    frame = compare(runs, options.metrics)
    frame.replace([np.inf, -np.inf], np.nan).to_csv(options.out / "ablation.csv", index=False)
    protocol = json.loads((next(iter(runs.values())) / "metrics.json").read_text())["protocol"]
    text = "\n".join([f"`{json.dumps(protocol)}`", "", table(frame, options.metrics)])
    (options.out / "ablation.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
