"""Train a recipe on a prepared dataset. Without arguments, train the demo, and generate its dataset if absent; otherwise
give --recipe, --data and --out. Options of the recipe are set by dotted name, such as --training.epochs 5.

Several processes, on one machine or many, can share the training of a retrieval recipe and reach the losses of a single
process: with --engine ray --workers N (pip install '.[ray]'), or by starting the same command once for each worker that
TF_CONFIG names.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from tfrec.config import ConfigError, make_parser, parse_config, plain, read_yaml, recipe_path
from tfrec.distributed.cluster import place_in_cluster
from tfrec.runs.places import fix_places

if TYPE_CHECKING:
    import jsonargparse

    from pipelines.prepared import Prepared
    from tfrec.config import RunConfig
    from tfrec.retrieval.config import RetrievalConfig

log = logging.getLogger("tfrec")

DEMO_DATA = "data/demo"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code: 0 done, 1 failed, 2 wrong options or data."""
    from pipelines.command import run_command

    words = sys.argv[1:] if arguments is None else arguments
    return run_command(lambda: run(words), after_full_disk="give the same command again with --resume")


def run(arguments: list[str]) -> int:
    """Read the configuration, train, evaluate."""
    if "--sanity-check" in arguments:
        from tfrec.alignment.sanity_check import run_sanity_check

        run_sanity_check()
        return 0
    config, switches = configure(arguments)
    if config is None:
        return 0
    from pipelines.prepared import open_prepared  # not before the options are read: it would double what --help takes
    from pipelines.remote import local_path
    from tfrec.reports.summary import summary_table
    from tfrec.retrieval.config import RetrievalConfig
    from tfrec.runs.data_checks import check_data, leave_out_what_is_missing
    from tfrec.runs.dataset import keep_dataset
    from tfrec.runs.folder import run_folder
    from tfrec.runs.lock import only_writer
    from tfrec.training.weights_and_biases import import_wandb

    if not config.data and config.recipe == "demo":
        config.data = DEMO_DATA
        prepare_demo(Path(config.data))
    if not config.data:
        raise ConfigError(
            "--data: name a prepared dataset (make one with: python -m pipelines DATASET --raw DIR --out DIR)"
        )
    run_dir = local_path(config.out or f"runs/{Path(config.recipe).stem}")
    config.out = str(run_dir)
    fix_places(config)
    prepared = open_prepared(config.data)  # wrong data are told before a run is begun, and before TensorFlow is loaded
    check_engine(config, prepared, switches)
    check_data(config, prepared)
    if isinstance(config, RetrievalConfig):
        for line in leave_out_what_is_missing(config, prepared):
            log.warning(line)
    if getattr(getattr(config, "training", None), "wandb", False):
        import_wandb()  # told now, if it is not there
    if not place_in_cluster().chief:
        system_of(config).train(config, run_dir)
        return 0
    with only_writer(run_dir):
        trained = None
        with run_folder(run_dir, config, resume=switches.resume):
            keep_dataset(run_dir, config, prepared)
            if switches.engine == "ray":
                from tfrec.distributed.ray_training import train_on_ray

                train_on_ray(run_dir, switches.workers)
            else:
                trained = system_of(config).train(config, run_dir)
            content = system_of(config).evaluate(run_dir, **({} if trained is None else {"trained": trained}))
        print(summary_table(content))
    log.info("done: %s", run_dir / "report.html")
    return 0


def configure(arguments: list[str]) -> tuple[RunConfig | None, jsonargparse.Namespace]:
    """The configuration and the command's own switches; (None, ...) when only help or the options were asked for."""
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--recipe", default="demo")
    first.add_argument("--config", action="append", default=[])
    chosen, _ = first.parse_known_args(arguments)
    layers = [read_yaml(recipe_path(chosen.recipe))]
    system = layers[0].pop("system", "retrieval")
    for path in chosen.config:
        layers.append(read_yaml(Path(path)))
        if layers[-1].pop("system", system) != system:
            raise ConfigError(f"--config {path} is of another system than recipe {chosen.recipe} ({system})")
    parser = make_parser(system, prog="python -m tfrec.train")
    parser.description = __doc__
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="YAML options over the recipe's")
    parser.add_argument("--print-config", action="store_true", help="print all options with their values, and stop")
    parser.add_argument(
        "--sanity-check", action="store_true", help="train and check the alignment system on drawn outfits, and stop"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out after it was interrupted")
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="who trains: this process, or Ray's"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes of --engine ray; they share each batch")
    config, switches = parse_config(system, [*layers, {"recipe": chosen.recipe}], arguments, parser=parser)
    if switches.print_config:
        import yaml

        print(yaml.safe_dump({"system": system, **plain(config)}, sort_keys=False), end="")
        return None, switches
    return config, switches


def check_engine(config: RunConfig, prepared: Prepared, switches: argparse.Namespace) -> None:
    """See that the configuration can be trained by those who are to train it.

    Raises:
        ConfigError: it cannot.
    """
    from tfrec.retrieval.config import RetrievalConfig

    if switches.engine == "ray" and switches.workers < 1:
        raise ConfigError(f"--workers {switches.workers} must be at least 1")
    if switches.engine == "ray" and place_in_cluster().count > 1:
        raise ConfigError("--engine ray: Ray names the workers itself; unset TF_CONFIG")
    several = switches.engine == "ray" or place_in_cluster().count > 1
    if several and not isinstance(config, RetrievalConfig):
        raise ConfigError("several workers train retrieval recipes alone; leave out --engine ray, and unset TF_CONFIG")
    count = switches.workers if switches.engine == "ray" else place_in_cluster().count
    if isinstance(config, RetrievalConfig) and count > 1:
        check_shares(config, prepared, count)


def check_shares(config: RetrievalConfig, prepared: Prepared, workers: int) -> None:
    """See that each of several workers gets something of every batch.

    Raises:
        ConfigError: the batches are too small.
    """
    training, items = config.training, prepared.manifest["counts"]["items"]
    if training.batch_size != "auto" and training.batch_size < workers:
        raise ConfigError(
            f"training.batch_size={training.batch_size}: {workers} workers need at least one customer each"
        )
    if config.model.item.deep and min(config.task.encode_items, items) < workers:
        raise ConfigError(
            f"task.encode_items={config.task.encode_items} of {items} items: {workers} workers need one item each"
        )


def system_of(config: RunConfig) -> ModuleType:
    """The module that trains and evaluates configurations of this type; with it TensorFlow is loaded."""
    import importlib

    from tfrec.config import SYSTEMS, system_name

    return importlib.import_module(SYSTEMS[system_name(config)].module)


def prepare_demo(path: Path) -> None:
    """Make the demo's data if they are absent."""
    if (path / "manifest.json").exists():
        return
    from pipelines.__main__ import main as prepare

    log.info("making the demo's data in %s", path)
    if prepare(["demo", "--out", str(path)]):
        raise ConfigError(f"the demo's data could not be made in {path}; see the message above")


if __name__ == "__main__":
    sys.exit(main())
