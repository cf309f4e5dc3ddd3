"""Typed configuration: dataclasses, YAML recipes, dotted overrides.

A recipe (`tfrec/recipes/NAME.yaml`) names its `system`, and the system names the dataclass that holds its options. Values
are taken in this order, later ones winning: dataclass defaults, the recipe, `--config FILE`, options on the command line.
"""

import importlib
from dataclasses import asdict, dataclass, field
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
        size: height and width that photos are resized to, in pixels.
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
class FusionConfig:
    """Cross-attention between photo and text.

    Args:
        dim: token width of both sides.
        layers: bidirectional cross-attention blocks.
        heads: attention heads.
        ratio: feed-forward width over `dim`.
        dropout: dropout rate.
        modality_dropout: probability that a training item loses its photo, and the probability that it loses its text.
    """

    dim: int = 768
    layers: int = 4
    heads: int = 12
    ratio: float = 4.0
    dropout: float = 0.1
    modality_dropout: float = 0.1


@dataclass
class ItemConfig:
    """The candidate side.

    Args:
        dim: width of candidate and query vectors.
        id_embedding: add a vector of its own to every item sold in training.
        id_dropout: probability that an item loses that vector in a training step, so that content must do without.
        bias: learn a popularity bias per item, served as one more dimension.
        normalize: compare by cosine (divided by the temperature) instead of inner product.
        deep: encode photo, text and attributes and fuse them by cross-attention.
        shallow: also sum up attributes and words without attention, afresh wherever an item is read.
        tie: the history reads the candidate vectors themselves instead of tables of its own.
    """

    dim: int = 512
    id_embedding: bool = True
    id_dropout: float = 0.3
    bias: bool = False
    normalize: bool = True
    deep: bool = True
    shallow: bool = True
    tie: bool = False


@dataclass
class QueryConfig:
    """The query side.

    Args:
        kind: `history` reads the last purchases with a causal transformer; `user` looks the customer up.
        length: purchases read.
        layers: transformer blocks.
        heads: attention heads.
        ratio: feed-forward width over the vector's width.
        positions: how the order of purchases is told.
        time_gaps: embed the days from each purchase to the next one (the last: to now).
        user_fields: embed the customer's fields (age group, club status ...).
        shortcut: add the mean of the purchases' candidate vectors to the decoder's output.
        repeats: learn, by the days since, what a candidate gains or loses for having been bought before.
        variants: what every purchase adds to all items of its product (the same in other colours), itself included, in
            logits; nothing where items name no product. It is set, not learned: of purchases that a model was trained on,
            its vectors explain too much.
        followers: what the last purchases add to the items that other customers bought soon after them, in logits a unit
            of a cosine; set likewise.
        companions: what every purchase adds to the items that the same customers bought, before it or after, in logits a
            unit of a regression's coefficient; set likewise.
        dropout: dropout rate.
    """

    kind: Literal["history", "user"] = "history"
    length: int = 20
    layers: int = 2
    heads: int = 8
    ratio: float = 4.0
    positions: Literal["learned", "sinusoidal", "rotary", "none"] = "learned"
    time_gaps: bool = True
    user_fields: bool = True
    shortcut: bool = True
    repeats: bool = True
    variants: float = 0.0
    followers: float = 0.0
    companions: float = 0.0
    dropout: float = 0.2


@dataclass
class ModelConfig:
    """Two towers and what they are made of."""

    image: ImageConfig = field(default_factory=ImageConfig)
    text: TextConfig = field(default_factory=TextConfig)
    attributes: AttributeConfig = field(default_factory=AttributeConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    item: ItemConfig = field(default_factory=ItemConfig)
    query: QueryConfig = field(default_factory=QueryConfig)


@dataclass
class RetrievalTask:
    """The objective of retrieval.

    Args:
        candidates: what each purchase is told apart from: the items of the batch, or the whole catalogue.
        temperature: divides the cosine.
        logq: subtract the log of the probability that sampling picks a candidate (Yi et al. 2019).
        negatives: further candidates, drawn uniformly from the catalogue, with `in_batch`.
        hard_negatives: keep only so many of the highest-scoring negatives of each example; 0 keeps all.
        mask_own: the customer's other purchases that are not counted as negatives (of histories: a user tower's example is
            one purchase, which names no other).
        label_smoothing: share of the target spread over all candidates.
        encode_items: items encoded afresh, with gradient, in each step; the others are read from the bank.
        recency_days: an example's weight halves with every so many days before the end of training; 0: no weights.
        target_days: only purchases of the last so many days of training are predicted, older ones are read in histories
            alone; 0: all are predicted.
        collapse_repeats: read a customer's further purchases of an item as one with the first: not at all, within a
            day, or for ever; `auto`: for ever where the split holds out each customer's last new item, so that nothing
            is ever asked for twice, and within a day where it holds out days, in which people buy things again.
        shuffle: order purchases at random in each epoch: `ties`, those of one moment, as a log by days does not know their
            order; `days`, those of one day whatever their times; `none`.
    """

    candidates: Literal["in_batch", "catalogue"] = "in_batch"
    temperature: float = 0.07
    logq: bool = True
    negatives: int = 0
    hard_negatives: int = 0
    mask_own: Literal["none", "future", "all"] = "future"
    label_smoothing: float = 0.0
    encode_items: int = 256
    recency_days: float = 0.0
    target_days: int = 0
    collapse_repeats: Literal["auto", "never", "day", "always"] = "auto"
    shuffle: Literal["none", "ties", "days"] = "none"


@dataclass
class TrainingConfig:
    """How the weights are found.

    Args:
        batch_size: customers (history windows), items or texts in a step; `auto` picks by the device's memory.
        accumulate: parts that the encoders' work of a step is cut into; the gradient equals the uncut step's.
        epochs: passes over the examples.
        steps: number of steps; overrides `epochs`.
        learning_rate: peak learning rate.
        warmup: share of the steps in which the rate rises to its peak.
        schedule: `cosine` falls to zero; `plateau` cuts the rate by 2 when `monitor` stalls; `constant`.
        weight_decay: decoupled weight decay of matrices (not of embeddings, biases and norms).
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
class RetrievalTrainingConfig(TrainingConfig):
    """How the weights of a retrieval model are found.

    Args:
        min_steps: take at least so many, in more epochs: a few customers fill only a few steps an epoch.
        encoder_rate: the photo and text encoders learn at this multiple of the learning rate.
        max_eval_users: validation customers (a seeded sample); 0: all.
        final: train on the validation interactions as well, with no early stopping.
    """

    min_steps: int = 0
    encoder_rate: float = 1.0
    max_eval_users: int = 5000
    final: bool = False


@dataclass
class EvaluationConfig:
    """How the model is evaluated.

    Args:
        k: cut-offs of the ranking metrics.
        seen_filter: leave out items that the customer bought before.
        min_rating: an interaction rated lower neither counts as a target nor is left out as seen; 0: all do.
        max_users: customers evaluated on the test split (a seeded sample); 0: all.
    """

    k: list[int] = field(default_factory=lambda: [5, 10, 12, 20, 50])
    seen_filter: bool = False
    min_rating: float = 0.0
    max_users: int = 0


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


@dataclass
class RetrievalConfig(RunConfig):
    """Retrieval: the customer's history finds items of the catalogue.

    Args:
        features: what `python -m tfrec.encode` wrote of the dataset: the item tower reads it instead of running the
            encoders that are stored with it.
    """

    features: str = ""
    model: ModelConfig = field(default_factory=ModelConfig)
    task: RetrievalTask = field(default_factory=RetrievalTask)
    training: RetrievalTrainingConfig = field(default_factory=RetrievalTrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def monitors(self) -> list[str]:
        names = ("precision", "recall", "hit_rate", "ndcg", "map")
        return [*(f"{name}@{k}" for k in self.evaluation.k for name in names), "mrr"]

    @property
    def history_min_rating(self) -> float:
        """The lowest rating of what histories hold; 0: they hold everything."""
        return 0.0


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
    "retrieval": System("tfrec.config:RetrievalConfig", "tfrec.retrieval", RANKS),
    "ratings": System("tfrec.ratings.config:RatingsConfig", "tfrec.retrieval", RANKS),
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
