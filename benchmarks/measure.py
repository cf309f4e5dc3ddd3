"""How the benchmarks measure: contenders in turns, each run in its own process; median and spread."""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Measurement:
    """What the runs of one contender took.

    Attributes:
        seconds: wall-clock time of each run, without imports.
        peak_bytes: largest memory in use in each run, imports included.
        result: what the last run returned.
    """

    seconds: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)
    result: Any = None

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
                seconds, peak_bytes, measurements[name].result = receiver.recv()
            except EOFError:
                raise RuntimeError(f"contender {name!r} failed; its error stands above") from None
            finally:
                process.join()
            measurements[name].seconds.append(seconds)
            measurements[name].peak_bytes.append(peak_bytes)
    return measurements


def _run_once(sender: Any, contender: Callable[..., Any], arguments: tuple) -> None:
    work = contender(*arguments)
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    sender.send((seconds, sum(peaks) * 1024, result))


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


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []
