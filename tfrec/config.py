"""Typed configuration: dataclasses, YAML recipes, dotted overrides.

A recipe (`tfrec/recipes/NAME.yaml`) names its `system`, and the system names the dataclass that holds its options. Values
are taken in this order, later ones winning: dataclass defaults, the recipe, `--config FILE`, options on the command line.
"""

import importlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, overload

from pipelines.publish import write_whole
from tfrec.config_ranges import wrong_numbers
from tfrec.runs.places import fix_places

if TYPE_CHECKING:
    import jsonargparse
    from _typeshed import DataclassInstance

RECIPES = Path(__file__).parent / "recipes"


class ConfigError(ValueError):
    """An option that is unknown, of the wrong type, or at odds with another one."""


@dataclass
class ImageConfig:
    """The photo encoder.

    Args:
        enabled: use photos.
        size: height and width that photos are resized to, in pixels; stored features (`features`) were made at their own.
        patch: side of a square patch in pixels.
        stem_convolutions: convolutions of stride 2 before the patches; small encoders learn faster with them.
        dim: token width.
        layers: transformer blocks.
        heads: attention heads.
        pool: average patch tokens over squares of this side before the fusion.
        weights: published weights: a folder, `hf://ORG/NAME` or `keras://resnet50`; None starts from random ones. They
            bring the encoder's sizes with them: from `patch` to `heads`, nothing counts then.
        train_blocks: blocks of published weights that train, from the last one back; 0 freezes the encoder, so that it
            runs once over the catalogue.
        lora_rank: rank of trained updates to the attention of published weights (all else frozen); 0: none.
        pooled: hand the fusion one vector a photo instead of the tokens.
    """

    enabled: bool = True
    size: tuple[int, int] = (224, 224)
    patch: int = 16
    stem_convolutions: int = 0
    dim: int = 768
    layers: int = 12
    heads: int = 12
    pool: int = 1
    weights: str | None = None
    train_blocks: int | Literal["all"] = 0
    lora_rank: int = 0
    pooled: bool = False


@dataclass
class TextConfig:
    """The text encoder.

    Args:
        enabled: use texts.
        vocabulary_size: WordPiece vocabulary trained on the catalogue when there are no pretrained weights.
        length: tokens of a text; longer texts are cut.
        dim: token width.
        layers: transformer blocks.
        heads: attention heads.
        weights: published weights: a folder, `hf://ORG/NAME` or a KerasNLP preset; None starts from random ones. They
            bring tokenizer and sizes with them: `vocabulary_size`, `dim`, `layers` and `heads` then count for nothing.
        train_blocks: blocks of published weights that train, from the last one back; 0 freezes the encoder, so that it
            runs once over the catalogue.
        lora_rank: rank of trained updates to the attention of published weights (all else frozen); 0: none.
        pooled: hand the fusion one vector a text instead of the tokens.
    """

    enabled: bool = True
    vocabulary_size: int = 8192
    length: int = 128
    dim: int = 768
    layers: int = 12
    heads: int = 12
    weights: str | None = None
    train_blocks: int | Literal["all"] = 0
    lora_rank: int = 0
    pooled: bool = False


@dataclass
class AttributeConfig:
    """The attribute encoder.

    Args:
        enabled: use attributes.
        fields: attribute fields to use; None uses all of the dataset.
        group: also use the product group (variants of one product) as a field.
        min_count: values rarer than this share one "unknown" id.
        max_values: values of a field that are read of an item; how many further ones there are is logged.
    """

    enabled: bool = True
    fields: list[str] | None = None
    group: bool = True
    min_count: int = 2
    max_values: int = 8


@dataclass
class TrainingConfig:
    """How the weights are found.

    Args:
        batch_size: customers (history windows), items or texts in a step; `auto`: by the device's memory in retrieval, a
            fixed number in alignment, pretraining and the text model; metric learning takes none.
        accumulate: parts that the encoders' work of a step is cut into; the gradient equals the uncut step's.
        epochs: passes over the examples.
        steps: number of steps; overrides `epochs`, and bounds an earlier stage.
        learning_rate: peak learning rate.
        warmup: share of the steps in which the rate rises to its peak.
        schedule: `cosine` falls to zero; `plateau` cuts the rate by 2 when `monitor` stalls, where there are validations;
            `constant`.
        weight_decay: decoupled weight decay of layers' kernels (not of embeddings, biases, norms and low-rank updates).
        clip_norm: bound on the global gradient norm; 0: none.
        precision: compute type; `auto` takes float16 on GPUs, bfloat16 where the CPU has it, float32 otherwise.
        evaluations: how often the validation metric is computed over the whole training.
        monitor: the validation metric that picks the best weights.
        patience: evaluations without a better metric before training stops; 0: never stop early.
        checkpoint_seconds: time between checkpoints.
        deterministic: two runs of one seed are equal to the bit.
        xla: compile the step with XLA; not of systems that learn from purchases, whose steps are cut by their lengths.
        wandb: report to Weights & Biases (needs `pip install wandb`).
    """

    batch_size: int | Literal["auto"] = 256
    accumulate: int = 1
    epochs: int = 10
    steps: int | None = None
    learning_rate: float = 1e-3
    warmup: float = 0.05
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    evaluations: int = 10
    monitor: str = "recall@20"
    patience: int = 0
    checkpoint_seconds: float = 60.0
    deterministic: bool = True
    xla: bool = False
    wandb: bool = False

    def fixed_batch_size(self, examples: int, *, auto: int) -> int:
        """Examples in a step, at most all of them; `auto` is what `batch_size: auto` stands for."""
        return min(auto if self.batch_size == "auto" else self.batch_size, examples)


@dataclass
class RunConfig:
    """What every system's options begin with.

    Args:
        recipe: name of the recipe.
        data: the prepared dataset.
        out: the run's folder.
        seed: of everything random.
    """

    recipe: str = ""
    data: str = ""
    out: str = ""
    seed: int = 0

    def monitors(self) -> list[str]:
        """The metrics that a validation tells: what `training.monitor` can name."""
        return []


@dataclass(frozen=True)
class System:
    """A system that recipes can train.

    Args:
        config: `module:class` of the dataclass that holds its options; the module must not import TensorFlow.
        module: the module whose `train(config, run_dir)` and `evaluate(run_dir, **asked)` do the work.
        asked: what `evaluate` can be asked for: of `split`, `ks` and `seen_filter`.
    """

    config: str
    module: str
    asked: frozenset[str] = frozenset()

    @property
    def config_class(self) -> "type[RunConfig]":
        """The dataclass of its options."""
        module, name = self.config.split(":")
        return getattr(importlib.import_module(module), name)


RANKS = frozenset({"split", "ks", "seen_filter"})
SYSTEMS = {
    "retrieval": System("tfrec.retrieval.config:RetrievalConfig", "tfrec.retrieval.system", RANKS),
    "ratings": System("tfrec.ratings.config:RatingsConfig", "tfrec.retrieval.system", RANKS),
    "metric_learning": System(
        "tfrec.metric_learning.config:MetricLearningConfig", "tfrec.metric_learning.system", RANKS - {"seen_filter"}
    ),
    "alignment": System("tfrec.alignment.config:AlignmentConfig", "tfrec.alignment.system", frozenset({"split"})),
    "pretrain": System("tfrec.pretraining.config:PretrainConfig", "tfrec.pretraining.system"),
    "text_model": System("tfrec.pretraining.text_model_config:CausalTextConfig", "tfrec.pretraining.text_model"),
}

Config = TypeVar("Config", bound=RunConfig)


def system_name(config: RunConfig) -> str:
    """The name of the system whose options `config` holds."""
    return next(name for name, system in SYSTEMS.items() if type(config) is system.config_class)


def recipe_path(name: str) -> Path:
    """The file of a recipe, given its name or a path to a YAML file.

    Raises:
        ConfigError: there is no such recipe; the message lists those there are.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise ConfigError(f"--recipe {name}: no such recipe. Known: {known}; or give a path to a YAML file.")
    return path


def read_yaml(path: Path) -> dict:
    """Read a mapping from a YAML file.

    Raises:
        ConfigError: the file is absent, is not YAML, or holds something other than a mapping.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds {type(values).__name__}, expected options as 'name: value' lines")
    return values


def save_config(config: RunConfig, path: Path) -> None:
    """Write a configuration, with its system's name, as YAML that `load_config` and `--config` read."""
    import yaml

    write_whole(path, yaml.safe_dump({"system": system_name(config), **plain(config)}, sort_keys=False))


def plain(config: "DataclassInstance") -> dict:
    """A configuration as nested dicts, lists and scalars."""

    def simplify(value: object) -> object:
        if isinstance(value, dict):
            return {k: simplify(v) for k, v in value.items()}
        return [simplify(v) for v in value] if isinstance(value, (list, tuple)) else value

    return {name: simplify(value) for name, value in asdict(config).items()}


@overload
def load_config(path: Path) -> RunConfig: ...


@overload
def load_config(path: Path, kind: type[Config]) -> Config: ...


def load_config(path: Path, kind: type[RunConfig] = RunConfig) -> RunConfig:
    """Read a configuration that `save_config` wrote; relative places start at the working folder.

    Args:
        path: the file.
        kind: the dataclass of the system that is wanted, or what several have in common; any system's where it is left out.

    Raises:
        ConfigError: an unknown or mistyped option, or the configuration of another system.
    """
    values = read_yaml(path)
    config = parse_config(values.pop("system", "retrieval"), [values], [])[0]
    if not isinstance(config, kind):
        wanted = " or ".join(name for name, system in SYSTEMS.items() if issubclass(system.config_class, kind))
        raise ConfigError(f"{path} is of the system {system_name(config)}; a run of {wanted} is wanted here")
    fix_places(config)
    return config


def make_parser(system: str, *, prog: str = "tfrec.train") -> "jsonargparse.ArgumentParser":
    """The command-line parser of a system's options.

    Raises:
        ConfigError: no system of that name.
    """
    import jsonargparse

    if system not in SYSTEMS:
        raise ConfigError(f"system: {system!r} is not one of {', '.join(SYSTEMS)}")
    parser = jsonargparse.ArgumentParser(prog=prog, exit_on_error=False, default_env=False)
    parser.add_class_arguments(SYSTEMS[system].config_class)
    return parser


def parse_config(
    system: str, layers: list[dict], arguments: list[str], *, parser: "jsonargparse.ArgumentParser | None" = None
) -> "tuple[RunConfig, jsonargparse.Namespace]":
    """Merge layers of options and command-line arguments into a system's dataclass.

    Args:
        system: a key of `SYSTEMS`.
        layers: option mappings, later ones winning.
        arguments: command-line arguments, winning over all layers.
        parser: a parser of `make_parser` to which the command has added switches of its own.

    Returns:
        The configuration, and the namespace of all parsed values.

    Raises:
        ConfigError: an unknown or mistyped option, or a number that it cannot have, named by its dotted path.
    """
    import argparse

    parser = parser or make_parser(system)
    try:
        namespace = parser.get_defaults()
        for values in layers:
            namespace = parser.parse_object(values, cfg_base=namespace)
        namespace = parser.parse_args(arguments, namespace=namespace)
        parts = vars(parser.instantiate(namespace))
    except (argparse.ArgumentError, TypeError, ValueError, KeyError) as error:
        raise ConfigError(" ".join(str(error).split())) from error  # one line
    cls = SYSTEMS[system].config_class
    config = cls(**{name: parts[name] for name in vars(cls)["__dataclass_fields__"]})
    if wrong := list(wrong_numbers(config)):
        raise ConfigError("; ".join(wrong))
    return config, namespace
