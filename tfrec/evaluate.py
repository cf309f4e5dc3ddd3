"""Evaluate a trained run on its held-out data.

    python -m tfrec.evaluate --run RUN [--split val|test] [--k 5 10 12 20 50]

Prints the metrics and writes metrics.json and report.html to the run's folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code: 0 done, 1 failed, 2 wrong options or data."""
    from pipelines.command import run_command

    parser = argparse.ArgumentParser(
        prog="python -m tfrec.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished training")
    parser.add_argument("--split", choices=["val", "test"], help="which held-out events or items (default: test)")
    parser.add_argument("--k", type=int, nargs="+", help="cut-offs of the metrics (default: the run's own)")
    parser.add_argument(
        "--seen-filter",
        action=argparse.BooleanOptionalAction,
        help="never recommend what the customer bought before (default: the run's own choice)",
    )
    return run_command(lambda: run(parser.parse_args(arguments)))


def run(options: argparse.Namespace) -> int:
    """Evaluate, and print the main figures."""
    from tfrec.config import SYSTEMS, ConfigError, load_config, system_name
    from tfrec.reports.summary import summary_table
    from tfrec.train import system_of

    if not (options.run / "config.yaml").is_file():
        raise ConfigError(f"--run {options.run}: no config.yaml there; name the --out folder of python -m tfrec.train")
    if options.k and min(options.k) < 1:
        raise ConfigError(f"--k {min(options.k)}: cut-offs start at 1")
    config = load_config(options.run / "config.yaml")
    asked = {"split": options.split, "ks": options.k, "seen_filter": options.seen_filter}
    asked = {name: value for name, value in asked.items() if value is not None}
    name = system_name(config)
    if refused := sorted(asked.keys() - SYSTEMS[name].asked):
        words = ", ".join({"split": "--split", "ks": "--k", "seen_filter": "--seen-filter"}[word] for word in refused)
        raise ConfigError(f"{words}: the evaluation of a {name} run has no such option; leave it out")
    content = system_of(config).evaluate(options.run, **asked)
    for name, entry in content["metrics"].items():
        print(f"{name:16} {entry['value']:.4f}  [{entry['low']:.4f}, {entry['high']:.4f}]")
    print(summary_table(content))
    print(f"report: {options.run / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
