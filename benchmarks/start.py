"""How long a command takes before it does anything, beside importing the libraries that it stands on.

    python -m benchmarks.start                                         # after make demo, a cold retrieve of 10 users as well
    python -m benchmarks.start --model saved_models/hm_scann --data data/hm

Every run is a process of its own, in turns with the others, after one that fills the file system's cache.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from benchmarks.measure import Measurement, Ratio, add_json, machine, write_ratios

DEMO = Path("saved_models/demo_scann"), Path("data/demo")
STACK = (
    "import os; os.environ['TF_USE_LEGACY_KERAS'] = '1'; "
    "import tensorflow, tensorflow_recommenders, keras_cv, keras_nlp, scann, pandas"
)
COMMANDS = ["pipelines", *(f"tfrec.{name}" for name in ("train", "evaluate", "export", "retrieve", "encode"))]
COMMANDS += [f"tfrec.{name}" for name in ("analyze", "sweep", "serve", "client")]


def main(arguments: list[str] | None = None) -> dict:
    """Time the processes and print the table; returns the medians by name."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.start",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of each (default: 3)")
    model, data = DEMO if all(path.exists() for path in DEMO) else (None, None)
    told = "(default: the demo's, where it was made)"
    parser.add_argument("--model", type=Path, default=model, help=f"an exported model, for the cold retrieve {told}")
    parser.add_argument("--data", type=Path, default=data, help=f"the prepared dataset that it is asked about {told}")
    parser.add_argument("--commands", nargs="+", default=COMMANDS, help="modules (default: all)")
    add_json(parser)
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        runs = time_processes(contenders(args, Path(folder)), args.repeats)
    print(f"{args.repeats} runs each on {machine()}\n")
    print(table(runs))
    write_ratios(args.json, ratios(runs))
    return {name: measured.median for name, measured in runs.items()}


def contenders(args: argparse.Namespace, folder: Path) -> dict[str, list[str]]:
    """Name -> what Python is called with. The import of the whole stack comes first."""
    named = {"importing the stack": ["-c", STACK]}
    named |= {f"{module} --help": ["-m", module, "--help"] for module in args.commands}
    if args.model and args.data:
        users = folder / "users.csv"
        pd.read_parquet(args.data / "users.parquet", columns=["user_id"]).head(10).to_csv(users, index=False)
        words = [
            "--model",
            args.model,
            "--data",
            args.data,
            "--users",
            users,
            "--out",
            folder / "recommendations.parquet",
        ]
        named["retrieve 10 users"] = ["-m", "tfrec.retrieve", *map(str, words)]
    return named


def time_processes(named: dict[str, list[str]], repeats: int) -> dict[str, Measurement]:
    """Run each `1 + repeats` times, in turns; the first round counts for nothing."""
    runs = {name: Measurement() for name in named}
    for turn in range(1 + repeats):
        for name, words in named.items():
            start = time.perf_counter()
            done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{name} ended with {done.returncode}: {done.stderr[-500:]}")
            if turn:
                runs[name].seconds.append(time.perf_counter() - start)
    return runs


def ratios(runs: dict[str, Measurement]) -> list[Ratio]:
    """By how much importing the stack takes longer than the slowest `--help`, and than a cold retrieve."""
    stack, *others = runs
    helps = [runs[name].median for name in others if name.endswith("--help")]
    found = [Ratio("start, the slowest --help", stack, runs[stack].median / max(helps), check=True)]
    rest = [name for name in others if not name.endswith("--help")]
    return found + [Ratio(f"start, {name}", stack, runs[stack].median / runs[name].median, check=True) for name in rest]


def table(runs: dict[str, Measurement]) -> str:
    """A Markdown table: seconds, their spread, and the share of what importing the stack takes."""
    whole = next(iter(runs.values())).median
    lines = ["| | seconds (min - max) | of importing the stack |", "| --- | --- | --- |"]
    for name, measured in runs.items():
        spread = f"{measured.median:.2f} ({min(measured.seconds):.2f} - {max(measured.seconds):.2f})"
        lines.append(f"| {name} | {spread} | {measured.median / whole:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
