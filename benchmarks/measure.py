"""How the benchmarks measure: contenders in turns, each run in its own process; median and spread."""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Measurement:
    """What the runs of one contender took.

    Attributes:
        seconds: wall-clock time of each run, without imports.
        peak_bytes: largest memory in use in each run, imports included.
        results: what each run returned.
    """

    seconds: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)

    @property
    def result(self) -> Any:
        return self.results[-1]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def measure(contenders: Mapping[str, Callable[..., Any]], *arguments: Any, repeats: int) -> dict[str, Measurement]:
    """Run every contender `repeats` times, in turns, so that a slow minute of the machine hits all of them.

    Args:
        contenders: name -> function at a module's top level. It returns a function that does the work (so that
            imports and set-up are not timed) and returns the contender's result.
        arguments: given to each contender.
        repeats: runs of each.
    """
    context = multiprocessing.get_context("spawn")
    measurements = {name: Measurement() for name in contenders}
    for _ in range(repeats):
        for name, contender in contenders.items():
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_run_once, args=(sender, contender, arguments))
            process.start()
            sender.close()
            try:
                seconds, peak_bytes, result = receiver.recv()
            except EOFError:
                raise RuntimeError(f"contender {name!r} failed; its error stands above") from None
            finally:
                process.join()
            measurements[name].seconds.append(seconds)
            measurements[name].peak_bytes.append(peak_bytes)
            measurements[name].results.append(result)
            print(f"  {name}: {seconds:.2f} s", file=sys.stderr, flush=True)
    return measurements


def _run_once(sender: Any, contender: Callable[..., Any], arguments: tuple) -> None:
    work = contender(*arguments)
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    sender.send((seconds, sum(peaks) * 1024, result))


def time_steps(losses: Iterable[float], warm: int) -> Callable[[], list[float]]:
    """What a contender that trains returns: it takes the remaining steps, `warm` of them taken already, and times each.

    Raises:
        RuntimeError: from the returned function: the training diverged.
    """
    remaining = iter(losses)
    for _ in range(warm):
        next(remaining)

    def run() -> list[float]:
        seconds, before = [], time.perf_counter()
        for loss in remaining:
            if not math.isfinite(loss):
                raise RuntimeError(f"the loss became {loss}: what was timed is no training")
            seconds.append(time.perf_counter() - before)
            before = time.perf_counter()
        return seconds

    return run


def step_seconds(measured: Measurement) -> list[float]:
    """What the steps of all runs of a contender of `time_steps` took."""
    return [seconds for run in measured.results for seconds in run]


def step_leads(measurements: Mapping[str, Measurement]) -> dict[str, float]:
    """By how much the median step of the first contender is shorter than that of each other one."""
    medians = {name: statistics.median(step_seconds(runs)) for name, runs in measurements.items()}
    first = next(iter(medians))
    return {name: median / medians[first] for name, median in medians.items() if name != first}


def leads(
    work: str, measurements: Mapping[str, Measurement], wanted: Mapping[str, float | None] | None = None
) -> list[Ratio]:
    """By how much the median run of the first contender is shorter than that of each other one."""
    first, *others = measurements
    own = measurements[first].median
    return [Ratio(work, name, measurements[name].median / own, (wanted or {}).get(name)) for name in others]


def step_table(measurements: Mapping[str, Measurement], *, units: int, unit: str) -> str:
    """A Markdown table of contenders that train: rate, spread of the steps, memory, the first one's lead.

    Args:
        measurements: of contenders of `time_steps`.
        units: in each step.
        unit: their name.
    """
    leads = step_leads(measurements)
    lines = [
        f"| contender | {unit}/s | seconds a step (min - max; steps) | peak memory | lead |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, runs in measurements.items():
        steps = step_seconds(runs)
        median = statistics.median(steps)
        spread = f"{median:.3f} ({min(steps):.3f} - {max(steps):.3f}; {len(steps)})"
        memory = f"{max(runs.peak_bytes) / 1e9:.2f} GB"
        lines.append(f"| {name} | {units / median:,.0f} | {spread} | {memory} | {leads.get(name, 1):.2f}x |")
    return "\n".join(lines)


def table(measurements: Mapping[str, Measurement], *, units: int, unit: str) -> str:
    """Return a Markdown table: each contender's rate, spread and memory, and the first one's lead over it."""
    first = next(iter(measurements.values()))
    lines = [
        f"| contender | {unit}/s | seconds (min - max) | peak memory | lead |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, runs in measurements.items():
        spread = f"{runs.median:.1f} ({min(runs.seconds):.1f} - {max(runs.seconds):.1f})"
        memory = f"{max(runs.peak_bytes) / 1e9:.2f} GB"
        lead = f"{runs.median / first.median:.2f}x"
        lines.append(f"| {name} | {units / runs.median:,.0f} | {spread} | {memory} | {lead} |")
    return "\n".join(lines)


def machine() -> str:
    """Describe the machine in a line."""
    models = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    model = models[0] if models else platform.machine()
    return f"{cores} cores of {model}, {memory:.0f} GB, Python {platform.python_version()}, load {load:.1f}"


@dataclass(frozen=True)
class Ratio:
    """By how much `tfrec` leads at a piece of work, for the chart.

    Attributes:
        work: what was timed.
        against: the other contender.
        ratio: its time over that of `tfrec`.
        wanted: the ratio that is aimed at; None where there is none.
        check: whether both sides are `tfrec` itself: the chart of leads leaves it out.
    """

    work: str
    against: str
    ratio: float
    wanted: float | None = None
    check: bool = False


@dataclass(frozen=True)
class Rate:
    """How fast `tfrec` did a piece of work: a unit cost, for `benchmarks.scale`.

    Attributes:
        work: what was timed.
        unit: what was counted.
        per_second: how many in a second.
    """

    work: str
    unit: str
    per_second: float


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option that asks for the ratios as a file."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the ratios, for benchmarks.chart")


def write_ratios(file: Path | None, ratios: list[Ratio], rates: Sequence[Rate] = ()) -> None:
    """Write the ratios, and the rates behind them, with the machine and the day, where a file is asked for."""
    if file is not None:
        day = time.strftime("%Y-%m-%d", time.gmtime())
        content = {"machine": machine(), "day": day, "ratios": [asdict(ratio) for ratio in ratios]}
        content |= {"rates": [asdict(rate) for rate in rates]} if rates else {}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []
