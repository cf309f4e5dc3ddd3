"""Run a grid of trainings from one YAML file. Finished runs are skipped, interrupted ones resumed.

    python -m tfrec.sweep --config sweep.yaml [--data PREPARED] --out RUNS
    python -m tfrec.analyze --runs RUNS --out REPORT

The YAML file:

    options: {recipe: compcars, data: prepared/cars, training.epochs: 10}    # for every run
    axes:
      task.loss: [arcface, contrastive, triplet]            # a list: the values of one option
      views:                                                # named variants, each with any options
        front: {model.views: [front]}
        front+rear: {model.views: [front, rear]}
    seeds: [0, 1, 2]
    metrics: [recall@1, map@r, knn_accuracy]                # the first one ranks the runs
    command: [python, -m, tfrec.train]                      # the default

Each run is stored in RUNS/runs/NAME and writes RUNS/results/TIME_NAME.json; RUNS/results.csv has one row per run. If
several sweep files wrote to the same RUNS, the analysis compares the runs of the last one. Stopping a sweep stops its
runs; the next sweep resumes them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import json
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.arguments import whole_number
from pipelines.publish import write_whole
from pipelines.remote import local_path
from tfrec.child_processes import Children, interrupted_by_signals
from tfrec.errors import SweepError
from tfrec.runs.lock import is_in_use, only_writer

KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {  # of a sweep file's keys, beside `axes`
    "options": ("options with their values, such as {recipe: compcars}", lambda value: isinstance(value, dict)),
    "seeds": ("a list of whole numbers, such as [0, 1, 2]", lambda value: bool(value) and _is_list(value, int)),
    "metrics": ("a list of names, such as [recall@1]", lambda value: _is_list(value, str)),
    "command": (
        "a list of words, such as [python, -m, tfrec.train]",
        lambda value: bool(value) and _is_list(value, str),
    ),
    "timeout_minutes": ("a number above 0", lambda value: type(value) in (int, float) and value > 0),
}
INTERRUPTED = (130, -signal.SIGINT, -signal.SIGTERM, -signal.SIGKILL)  # exit codes of runs that were stopped
IN_USE = 75  # stands for the exit code of a run that another process is at (EX_TEMPFAIL); it is not written
TAIL = 4_000  # characters of a failed run's output that its result keeps


@dataclass(frozen=True)
class Trial:
    """One point of the grid.

    Attributes:
        axes: axis -> name of the variant.
        seed: of the run.
        options: every option that the command gets, without `out`.
        command: that gets them.
    """

    axes: dict[str, str]
    seed: int
    options: dict[str, Any]
    command: list[str]

    @property
    def name(self) -> str:
        """A readable folder name that changes with the command and any option."""
        told = json.dumps([self.command, self.options], sort_keys=True)
        digest = hashlib.sha256(told.encode()).hexdigest()[:8]
        parts = [*self.axes.values(), f"seed{self.seed}", digest]
        return "_".join(re.sub(r"[^A-Za-z0-9.+-]+", "-", part) for part in parts)


@dataclass
class Sweep:
    """A parsed sweep file.

    Attributes:
        options: of every run.
        axes: axis -> variant -> options.
        seeds: each grid point runs once per seed.
        metrics: what reports show; the first decides.
        command: what is run.
        timeout_minutes: after which a run counts as failed; None waits.
    """

    options: dict[str, Any]
    axes: dict[str, dict[str, dict[str, Any]]]
    seeds: list[int] = field(default_factory=lambda: [0])
    metrics: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=lambda: ["python", "-m", "tfrec.train"])
    timeout_minutes: float | None = None

    def trials(self) -> Iterator[Trial]:
        """Every point of the grid with every seed, seeds innermost."""
        for names in itertools.product(*(variants for variants in self.axes.values())):
            axes = dict(zip(self.axes, names))
            chosen = dict(self.options)
            for axis, variant in axes.items():
                chosen.update(self.axes[axis][variant])
            for seed in self.seeds:
                yield Trial(axes, seed, {**chosen, "seed": seed}, self.command)


def read_sweep(file: str | Path) -> Sweep:
    """Parse a sweep file; a key without a value has its default.

    Raises:
        SweepError: the file is missing, no YAML, or a key is unknown, missing or of the wrong kind.
    """
    import yaml

    file = Path(file)
    if not file.is_file():
        raise SweepError(f"--config {file} is not a file")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SweepError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("axes"), dict) or not content["axes"]:
        raise SweepError(f"{file} has no `axes`; give at least one, such as `axes: {{task.loss: [arcface, triplet]}}`")
    unknown = sorted(set(content) - {"axes", *KINDS}, key=str)
    if unknown:
        raise SweepError(f"{file}: unknown key {unknown[0]!r}; known are {', '.join(sorted(['axes', *KINDS]))}")
    given = {key: value for key, value in content.items() if key != "axes" and value is not None}
    for key, value in given.items():
        words, fits = KINDS[key]
        if not fits(value):
            raise SweepError(f"{file}: `{key}` must be {words}; got {value!r}")
    axes: dict[str, dict[str, dict[str, Any]]] = {}
    for name, variants in content["axes"].items():
        short = str(name).rsplit(".", 1)[-1] if isinstance(variants, list) else str(name)
        if short in axes:
            raise SweepError(f"{file}: two axes are called {short!r}; name one by variants instead of a list")
        axes[short] = _variants(file, name, variants)
    chosen = [given.get("options", {}), *(options for variants in axes.values() for options in variants.values())]
    for name, instead in (("seed", "the key `seeds`, such as `seeds: [0, 1, 2]`"), ("out", "--out")):
        if any(name in options for options in chosen):
            raise SweepError(f"{file}: `{name}` is set for each run; give {instead} instead of an option or an axis")
    return Sweep(**{"options": {}, **given}, axes=axes)


def run_sweep(sweep: Sweep, out: str | Path, *, jobs: int = 1, dry_run: bool = False) -> int:
    """Run what is not done yet.

    Args:
        sweep: the grid.
        out: folder for runs and results.
        jobs: runs at a time.
        dry_run: print the commands instead.

    Returns:
        How many runs failed, or were left to another process.
    """
    out = Path(out)
    done = {result["name"] for result in read_results(out) if result["exit_code"] == 0}
    trials = list(sweep.trials())
    todo = [trial for trial in trials if trial.name not in done]
    print(f"{len(trials)} runs, {len(trials) - len(todo)} done already", flush=True)
    if dry_run:
        for trial in todo:
            print(shlex.join(command_of(sweep, trial, out)))
        return 0
    (out / "results").mkdir(parents=True, exist_ok=True)
    plan = {
        "axes": {axis: list(names) for axis, names in sweep.axes.items()},
        "metrics": sweep.metrics,
        "trials": [trial.name for trial in trials],
    }
    write_whole(out / "sweep.json", json.dumps(plan) + "\n")
    failed = 0
    with ThreadPoolExecutor(jobs) as pool, Children() as children:
        try:
            for number, result in enumerate(
                pool.map(lambda trial: run_trial(sweep, trial, out, children), todo), start=1
            ):
                failed += result["exit_code"] != 0
                write_csv(out)
                state = _headline(result, sweep.metrics)
                print(f"[{number}/{len(todo)}] {result['name']}: {state} ({result['seconds']:.0f} s)", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    write_csv(out)
    _tell_unknown_metrics(sweep.metrics, out)
    return failed


def _tell_unknown_metrics(metrics: list[str], out: Path) -> None:
    """Say which of the sweep file's metrics no run has: the runs would be ranked by another one."""
    from difflib import get_close_matches

    there = {name for result in read_results(out) if result["exit_code"] == 0 for name in result["metrics"]}
    for metric in metrics:
        if there and not any(is_metric(name, metric) for name in there):
            near = get_close_matches(metric, sorted({name.rpartition(".")[2] for name in there}), 3)
            told = f"; near it: {', '.join(near)}" if near else ""
            print(f"warning: no run has the metric {metric}{told}", file=sys.stderr)


def is_metric(name: str, wanted: str) -> bool:
    """Whether a run's number of this dotted name is the metric that a sweep file asks for."""
    return name == wanted or name.endswith(f".{wanted}")


def run_trial(sweep: Sweep, trial: Trial, out: Path, children: Children) -> dict[str, Any]:
    """Run one command and write its result; an interrupted run is taken up where its folder can be.

    A run whose folder another process still writes into, as one whose sweep was killed, is left to that one.
    """
    folder = out / "runs" / trial.name
    if is_in_use(folder):
        return {"name": trial.name, "exit_code": IN_USE, "seconds": 0.0, "metrics": {}}
    if trial.name in failures(out):
        shutil.rmtree(folder, ignore_errors=True)  # begin afresh
    folder.parent.mkdir(parents=True, exist_ok=True)
    started, clock = datetime.now(UTC), time.monotonic()
    command = command_of(sweep, trial, out) + (["--resume"] if (folder / "config.yaml").is_file() else [])
    exit_code, output = children.run(command, minutes=sweep.timeout_minutes)
    result: dict[str, Any] = {
        "name": trial.name,
        "axes": trial.axes,
        "seed": trial.seed,
        "options": trial.options,
        "command": command,
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - clock, 3),
        "exit_code": exit_code,
        "metrics": {},
    }
    metrics_file = folder / "metrics.json"
    if exit_code == 0 and metrics_file.is_file():
        result["metrics"] = flatten(json.loads(metrics_file.read_text(encoding="utf-8")))
    elif exit_code == 0:
        result.update(exit_code=1, error=f"the command ended well but wrote no {metrics_file}")
    else:
        result["error"] = output[-TAIL:]
    stamp = started.strftime("%Y%m%dT%H%M%S.%fZ")
    file = out / "results" / f"{stamp}_{trial.name}.json"
    write_whole(file, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return result


def command_of(sweep: Sweep, trial: Trial, out: Path) -> list[str]:
    """The command line of one trial; `python` becomes the interpreter at hand."""
    first, *rest = sweep.command
    words = [sys.executable if first == "python" else first, *rest]
    for name, value in {**trial.options, "out": str(out / "runs" / trial.name)}.items():
        words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return words


def read_results(out: str | Path) -> list[dict[str, Any]]:
    """The latest result of every run, oldest first."""
    latest: dict[str, dict[str, Any]] = {}
    for file in sorted((Path(out) / "results").glob("*.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        latest.pop(result["name"], None)
        latest[result["name"]] = result
    return list(latest.values())


def failures(out: Path) -> set[str]:
    """The runs that failed by themselves; those that were interrupted can be taken up."""
    return {result["name"] for result in read_results(out) if result["exit_code"] not in (0, *INTERRUPTED)}


def write_csv(out: Path) -> Path:
    """Write `results.csv`, one row a successful run: axes, seed, metrics, seconds, start."""
    import csv

    results = [result for result in read_results(out) if result["exit_code"] == 0]
    rows = [
        {
            "name": result["name"],
            **result["axes"],
            "seed": result["seed"],
            **result["metrics"],
            "seconds": result["seconds"],
            "started": result["started"],
        }
        for result in sorted(results, key=lambda result: result["name"])
    ]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_whole(out / "results.csv", text.getvalue())
    return out / "results.csv"


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of nested dicts under dotted names; of a value with its interval, the value under the name itself."""
    flat: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            if {"value", "low", "high"} == set(value):
                value = {"": value["value"], ".low": value["low"], ".high": value["high"]}
                flat.update({f"{prefix}{name}{end}": number for end, number in value.items()})
            else:
                flat.update(flatten(value, f"{prefix}{name}."))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[f"{prefix}{name}"] = value
    return flat


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when every run succeeded, 1 when some failed, 2 when the sweep file is at fault, 130 when
        interrupted.
    """
    from pipelines.command import run_command

    args = _parser().parse_args(arguments)
    return run_command(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    sweep = read_sweep(args.config)
    if args.data:
        sweep.options["data"] = args.data
    if args.dry_run:
        return run_sweep(sweep, args.out, dry_run=True)
    with only_writer(args.out), interrupted_by_signals():
        return min(1, run_sweep(sweep, args.out, jobs=args.jobs))


def _is_list(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(type(one) is kind for one in value)  # of numbers, True is none


def _variants(file: Path, name: object, variants: object) -> dict[str, dict[str, Any]]:
    """One axis as variant -> options."""
    if isinstance(variants, list) and variants:
        return {value if isinstance(value, str) else json.dumps(value): {str(name): value} for value in variants}
    if isinstance(variants, dict) and variants and all(isinstance(options, dict) for options in variants.values()):
        return {str(variant): dict(options) for variant, options in variants.items()}
    raise SweepError(f"{file}: axis {name!r} must be a list of values, or variants with options each; got {variants!r}")


def last_line(result: dict[str, Any]) -> str:
    """The last line of what a failed run wrote, "" where it wrote nothing."""
    return (result.get("error", "").strip().splitlines() or [""])[-1]


def _headline(result: dict[str, Any], metrics: list[str]) -> str:
    """The first metric of a finished run, or how it ended, for the progress line."""
    if result["exit_code"]:
        if result["exit_code"] == IN_USE:
            return "left out, another process writes there"
        return f"failed: {last_line(result) or 'it said nothing'}"
    for wanted in metrics:
        for name, value in result["metrics"].items():
            if is_metric(name, wanted):
                return f"{wanted} {value:.4f}"
    return "done"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfrec.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="the grid, as YAML")
    parser.add_argument("--out", type=local_path, required=True, metavar="RUNS", help="folder for runs and results")
    parser.add_argument("--data", metavar="PREPARED", help="the dataset of every run, over the file's options")
    parser.add_argument("--jobs", type=whole_number(1), default=1, help="runs at a time (default 1)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands that would run, and stop")
    return parser


if __name__ == "__main__":
    sys.exit(main())
