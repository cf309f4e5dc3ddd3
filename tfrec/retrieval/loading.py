"""The model of a finished run, with its weights and its dataset."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from tfrec.config import load_config
from tfrec.features.frozen import frozen_features
from tfrec.ratings.config import RatingsConfig
from tfrec.ratings.system import RatingAssembly
from tfrec.retrieval.assembly import RetrievalAssembly
from tfrec.retrieval.assets import Assets
from tfrec.retrieval.config import RetrievalConfig
from tfrec.runs.dataset import open_own_data
from tfrec.training.environment import prepare_evaluation
from tfrec.training.trainer import restore_weights


def assembly_class(config: RetrievalConfig) -> type[RetrievalAssembly]:
    """What puts together the model of a configuration."""
    return RatingAssembly if isinstance(config, RatingsConfig) else RetrievalAssembly


def load_assembly(run_dir: Path, *, data: str | None = None, other_events: bool = False) -> RetrievalAssembly:
    """The model of a finished run with its weights, and its dataset.

    Args:
        run_dir: the run.
        data: where its dataset is by now; where the configuration says when None.
        other_events: take a dataset whose events or split are not those of the training: it is not to be evaluated on them.

    Raises:
        RunError: the training did not finish, or its weights are broken.
        ConfigError: the dataset is not the run's own.
    """
    config = load_config(run_dir / "config.yaml", RetrievalConfig)
    config.data = data or config.data
    prepare_evaluation(run_dir)
    tf.keras.utils.set_random_seed(config.seed)
    prepared = open_own_data(run_dir, config, other_events=other_events)
    assets = Assets.load(run_dir / "assets", config)
    assembly = assembly_class(config)(config, prepared, assets, frozen_features(config, prepared, assets, run_dir))
    restore_weights(assembly.model, run_dir)
    return assembly
