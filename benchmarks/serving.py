"""Measure `tfrec.serve` on loopback: load, overload, swaps.

python -m benchmarks.serving                                    a made-up shop with H&M's 105,000 items
python -m benchmarks.serving --model saved_models/hm_scann --only swap,overload

The server, the publisher of new versions and the clients are a process each. The made-up shop reads histories of 50 with
two blocks of 128 dimensions, of random weights. The saturation is the most that any number of clients in `CLIENTS` gets
answered. What is measured, each printed with its criterion:

first     the first request after a start (<= 2 of the 99th percentile of those that follow)
half      two minutes at half saturation (p99/p50 <= 3, no errors)
swap      a version swapped in under that load (throughput >= 0.9 of before, no errors)
swaps     sixty swaps in a row (memory <= 1.15 of after the fifth, no errors)
overload  twice the saturation (goodput >= 0.9 of the peak, the rest refused)
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.load import Answers, Load
from benchmarks.measure import machine
from benchmarks.publisher import Publisher, republish
from benchmarks.retrieve import model_folder, publish_model
from tfrec.publish import find_version

CLIENTS = (32, 64, 128)  # that each wait for their answer: fewer leave the model idle, more wait for each other
FOLLOWING_SECONDS = 2.0  # of requests that the first one is compared with
ITEMS, HISTORY = 105_000, 50  # of the made-up shop
PURCHASES = 23  # of a customer, on average; the newest `HISTORY` are sent
MADE_UP = model_folder(ITEMS, HISTORY)
SETTLED = 5  # swaps after which memory is settled: the first ones fill caches that every later one finds
SWAP_LIMIT = 120.0  # seconds that a swap may take


@dataclass(frozen=True)
class Finding:
    """What a measurement found.

    Attributes:
        text: for people, with the criterion.
        figures: by name.
        met: whether the criterion is.
    """

    text: str
    figures: dict[str, float]
    met: bool


@dataclass(frozen=True)
class Bench:
    """What the measurements share.

    Attributes:
        load: clients of the server.
        publisher: of new versions.
        peak: the saturation, requests a second.
        clients: with how many it was reached.
        options: of the command.
    """

    load: Load
    publisher: Publisher
    peak: float
    clients: int
    options: argparse.Namespace

    def at_half(self, seconds: float) -> Answers:
        """Ask at half saturation."""
        return self.load.at_rate(self.peak / 2, seconds)

    def saturation(self) -> float:
        """Requests a second that as many clients get answered now."""
        return self.load.by_clients(self.clients, self.options.peak_seconds).goodput()


def half(bench: Bench) -> Finding:
    """Latency at half saturation."""
    before = psutil.cpu_times()
    found = bench.at_half(bench.options.seconds)
    stolen = _stolen(before, psutil.cpu_times())
    p50, p99, errors = found.percentile(0.5), found.percentile(0.99), found.errors()
    text = (
        f"{bench.options.seconds:.0f} s at {bench.peak / 2:.0f}/s: p50 {p50:.2f} ms, p99 {p99:.2f} ms, p99/p50 "
        f"{p99 / p50:.2f} (<= 3), {errors} errors of {len(found.took)} (0); clients late by "
        f"{found.lateness(0.5):.2f} ms (median), {found.lateness(0.99):.2f} ms (p99); {stolen:.0%} of the processors' time "
        "taken by the host"
    )
    figures = {"p50": p50, "p99": p99, "ratio": p99 / p50, "errors": errors, "stolen": stolen}
    return Finding(text, figures, p99 <= 3 * p50 and not errors)


def _stolen(before: Any, after: Any) -> float:
    """The share of the time in which a virtual machine's processors were taken away (Linux); it lengthens the tail."""
    spent = sum(after[:8]) - sum(before[:8])  # the rest is counted in these already
    return (getattr(after, "steal", 0.0) - getattr(before, "steal", 0.0)) / max(spent, 1e-9)


def swap(bench: Bench) -> Finding:
    """Throughput while a version is swapped in at half saturation."""
    start = bench.options.swap_seconds / 3
    bench.publisher.begin(1, after=start)
    found = bench.at_half(bench.options.swap_seconds)
    seconds, errors = bench.publisher.swaps()[0].seconds, found.errors()
    before, during = found.goodput(0, start), found.goodput(start, start + max(seconds, 1.0))
    slowest = float(found.took.max() * 1000)
    text = (
        f"a swap of {seconds:.1f} s at {bench.peak / 2:.0f}/s: {during:.0f}/s, {during / before:.2f} of before "
        f"(>= 0.9), {errors} errors of {len(found.took)} (0), slowest answer {slowest:.0f} ms"
    )
    figures = {"swap_ratio": during / before, "swap_errors": errors, "swap_seconds": seconds, "swap_slowest": slowest}
    return Finding(text, figures, during >= 0.9 * before and not errors)


def swaps(bench: Bench) -> Finding:
    """Memory and errors over many swaps, at an eighth of the saturation."""
    count = bench.options.swaps
    bench.publisher.begin(count)
    found = bench.load.at_rate(bench.peak / 8, count * SWAP_LIMIT, until=lambda: bench.publisher.done)
    done = bench.publisher.swaps()
    memory = [one.memory for one in done]
    ratio, errors = memory[-1] / memory[min(SETTLED, count) - 1], found.errors()
    early, late = (float(np.median([one.seconds for one in some])) for some in (done[:SETTLED], done[-SETTLED:]))
    text = (
        f"{count} swaps: memory {memory[-1] >> 20} MiB, {ratio:.3f} of after the fifth (<= 1.15; at most "
        f"{max(memory) >> 20} MiB), {errors} errors of {len(found.took)} (0; {found.kinds()}); {early:.1f} s a swap at "
        f"first, {late:.1f} s at the end"
    )
    figures = {"rss_ratio": ratio, "swaps_errors": errors, "swap_early": early, "swap_late": late}
    return Finding(text, figures, ratio <= 1.15 and not errors)


def overload(bench: Bench) -> Finding:
    """Goodput at twice the saturation, each time between two measurements of the saturation: machines vary by the minute."""
    seconds, shares, found = bench.options.peak_seconds, [], []
    peaks = [bench.saturation()]
    for _ in range(bench.options.rounds):
        found.append(bench.load.at_rate(2 * peaks[-1], seconds))
        peaks.append(bench.saturation())
        shares.append(2 * found[-1].goodput(0, seconds) / (peaks[-2] + peaks[-1]))
    share, errors = float(np.median(shares)), sum(one.errors((200, 429)) for one in found)
    p99 = float(np.median([one.percentile(0.99) for one in found]))
    refused = float(np.median([np.mean(one.status == 429) for one in found]))
    each = ", ".join(f"{share:.2f}" for share in shares)
    text = (
        f"twice the saturation: {share:.2f} of the peak answered (>= 0.9; median of {each}), p99 {p99:.0f} ms, "
        f"{refused:.0%} refused with 429, {errors} other errors (0)"
    )
    return Finding(text, {"goodput_ratio": share, "overload_errors": errors}, share >= 0.9 and not errors)


def first(load: Load) -> Finding:
    """The first request of a fresh server beside those that follow, one after the other."""
    took = [float(load.by_clients(1, 0.0).took[0] * 1000)]
    following = load.by_clients(1, FOLLOWING_SECONDS)
    p99 = following.percentile(0.99)
    text = f"first request after the start {took[0]:.1f} ms, {took[0] / p99:.2f} of p99 {p99:.1f} ms of the next (<= 2)"
    return Finding(text, {"first": took[0], "first_ratio": took[0] / p99}, took[0] <= 2 * p99)


MEASUREMENTS: dict[str, Callable[[Bench], Finding]] = {"half": half, "swap": swap, "swaps": swaps, "overload": overload}
NAMES = ["first", *MEASUREMENTS]


def measure(options: argparse.Namespace, say: Callable[[str], object] = print) -> dict[str, Finding]:
    """Run the measurements that the options name, print each, and return what they found."""
    if options.model == MADE_UP:
        publish_model(ITEMS, HISTORY)
    source = find_version(options.model)
    bodies, found = bodies_of(source), {}
    say(f"{source} on {machine()}")
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / options.model.name
        republish(source, folder, 1)
        with server(folder, options.options) as (url, process):
            load = Load(f"{url}:predict", bodies)
            if "first" in options.only:
                found["first"] = first(load)
                say(found["first"].text)
            load.by_clients(max(CLIENTS), min(3.0, options.seconds))  # caches
            reached = {count: load.by_clients(count, options.peak_seconds).goodput() for count in CLIENTS}
            clients, peak = max(reached.items(), key=lambda one: one[1])
            each = ", ".join(f"{rate:.0f} by {count}" for count, rate in reached.items())
            say(f"saturation: {peak:.0f} requests/s by {clients} clients ({each})")
            with closing(Publisher(source, folder, url, process)) as publisher:
                bench = Bench(load, publisher, peak, clients, options)
                for name in (name for name in MEASUREMENTS if name in options.only):
                    found[name] = MEASUREMENTS[name](bench)
                    say(found[name].text)
    return found


@contextmanager
def server(model: Path, options: Sequence[str]) -> Iterator[tuple[str, int]]:
    """A server process of the model: the model's address, and the process's id."""
    command = [sys.executable, "-m", "tfrec.serve", "--model", str(model), "--port", "0", "--no-grpc"]
    command += ["--poll-seconds", "0.2", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("{") and json.loads(line).get("event") == "started":
                break
        else:
            raise SystemExit(f"the server did not start (exit code {process.wait()})")
        # Nobody else reads its log, whose lines would wait in its memory.
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        try:
            yield f"http://127.0.0.1:{json.loads(line)['port']}/v1/models/{model.name}", process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            drain.wait(60)


def bodies_of(version: Path) -> list[bytes]:
    """Requests for twelve items with as many purchases as H&M's customers have, of the items that the warm-up names."""
    from tfrec.saved_model.warmup import read_warmup

    requests = dict(read_warmup(version))
    named = [*requests["recommend"]["history"].flat, *requests["similar"]["item_id"].flat]
    items = sorted({item.decode() for item in named} - {""})
    random = np.random.default_rng(0)
    lengths = np.minimum(random.geometric(1 / PURCHASES, 500), HISTORY)
    histories = (random.choice(items, length).tolist() for length in lengths)
    return [json.dumps({"inputs": {"history": [history], "k": [12]}}).encode() for history in histories]


def main(arguments: list[str] | None = None) -> int:
    """Measure; 0 when every criterion is met, 1 when one is not."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=MADE_UP, help="folder of a model (default: %(default)s)")
    parser.add_argument("--only", type=_names, default=NAMES, metavar="NAMES", help="some of the measurements: a,b")
    parser.add_argument("--seconds", type=float, default=120.0, help="at half saturation (default: %(default)s)")
    parser.add_argument("--peak-seconds", type=float, default=10.0, help="at saturation (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of twice the saturation (default: %(default)s)")
    parser.add_argument("--swap-seconds", type=float, default=60.0, help="around one swap (default: %(default)s)")
    parser.add_argument("--swaps", type=int, default=60, help="in a row (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("options", nargs="*", metavar="-- OPTION", help="further options of tfrec.serve")
    options = parser.parse_args(arguments)
    found = measure(options)
    if options.json:
        figures = {name: value for one in found.values() for name, value in one.figures.items()}
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    missed = [name for name, one in found.items() if not one.met]
    print(f"not met: {', '.join(missed)}" if missed else "every criterion is met")
    return 1 if missed else 0


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        raise argparse.ArgumentTypeError(f"no measurement {unknown[0]!r}; there are {', '.join(NAMES)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
