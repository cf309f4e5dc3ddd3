"""What numbers the options may have, by their names, which mean the same in every system."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

Rule = tuple[str, Callable[[Any], bool]]

POSITIVE: Rule = "at least 1", lambda value: value >= 1
WORDS: Rule = "at least 8, as four or five are special tokens", lambda value: value >= 8
NOT_NEGATIVE: Rule = "0 or more", lambda value: value >= 0
ABOVE_ZERO: Rule = "above 0", lambda value: value > 0
RATE: Rule = "0 or more and below 1", lambda value: 0 <= value < 1
SHARE: Rule = "0 to 1", lambda value: 0 <= value <= 1
PART: Rule = "above 0 and at most 1", lambda value: 0 < value <= 1
HALF: Rule = "0 to 0.5, as no item is to lose both", lambda value: 0 <= value <= 0.5
PLAY: Rule = "0 to 0.5, as the sides of a box are not to cross", lambda value: 0 <= value <= 0.5
SEED: Rule = "0 to 4294967295", lambda value: 0 <= value < 2**32

RULES: dict[str, Rule] = {
    name: rule
    for rule, names in {
        WORDS: "vocabulary_size",
        POSITIVE: "accumulate batch_size components depths dim embedding encode_items factors heads hidden hidden_dim k "
        "keep_layers length max_values min_count neighbors patch per_class pool side size steps width",
        NOT_NEGATIVE: "calibration_users checkpoint_seconds clip_norm companions contrastive encoder_rate epochs "
        "evaluations followers hard_negatives layers lora_rank max_eval_users max_rows max_users min_steps mlm negatives "
        "operations patience penalty recency_days retrieval_weight stage1_epochs stem_convolutions target_days "
        "train_blocks variants weight weight_decay",
        ABOVE_ZERO: "learning_rate ratio temperature",
        RATE: "dropout field_dropout id_dropout label_smoothing view_dropout",
        SHARE: "held_share magnitude mask_rate shift test_share warmup whiten",
        PART: "zoom",
        HALF: "modality_dropout",
        PLAY: "box_play",
        SEED: "seed",
    }.items()
    for name in names.split()
}


def wrong_numbers(config: Any) -> Iterator[str]:
    """What is wrong with the numbers of a configuration: a sentence for each, which names the option and its value."""
    yield from _of_the_query(config)
    yield from _of_pretraining(config)
    yield from _monitor(config)
    yield from _schedule(config)
    yield from _pairs(config)
    yield from _accumulation(config)
    yield from _targets(config)
    encodes = getattr(getattr(getattr(config, "model", None), "item", None), "deep", True)
    for path, owner, name, value in _options(config, ""):
        words, allows = RULES.get(name, ("", lambda value: True))
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if not all(allows(number) for number in numbers if isinstance(number, (int, float))):
            yield f"{path}={value} must be {words}"
        elif name == "k" and not numbers:
            yield f"{path}=[] must name a length of list"
        elif path == "model.text.length" and getattr(owner, "enabled", True) and value < 2:
            yield f"{path}={value} must be at least 2: a text's first and last id are [CLS] and [SEP]"
        elif name == "heads" and encodes and _own_size(owner) and (width := getattr(owner, "dim", 0)) % value:
            yield f"{path}={value} must divide the width {path.removesuffix('heads')}dim={width}"
        elif name == "patch" and encodes and _own_size(owner):
            yield from _patches(path.removesuffix("patch"), owner)


def _own_size(part: Any) -> bool:
    """Whether a part's width and heads are those of its options: not where weights or another kind bring their own."""
    given = getattr(part, "weights", None) or getattr(part, "kind", "") == "resnet"
    return getattr(part, "enabled", True) and not given and getattr(part, "layers", 1) > 0


def _patches(prefix: str, owner: Any) -> Iterator[str]:
    """Whether photos can be cut into the patches of a ViT's options."""
    sides = owner.size if isinstance(owner.size, (list, tuple)) else [owner.size]
    if any(side % owner.patch for side in sides):
        yield f"{prefix}patch={owner.patch} must divide both sides of {prefix}size={list(sides)}"
    elif owner.patch % 2 ** max(0, owner.stem_convolutions):
        yield f"{prefix}stem_convolutions={owner.stem_convolutions} halve {prefix}patch={owner.patch} too often"


def _of_the_query(config: Any) -> Iterator[str]:
    model = getattr(config, "model", None)
    query, item = getattr(model, "query", None), getattr(model, "item", None)
    if query is None or item is None:
        return
    if query.kind != "history":
        for name in ("variants", "followers", "companions"):
            if (weight := getattr(query, name)) > 0:
                yield f"model.query.{name}={weight} is for model.query.kind history, which reads purchases; set it to 0"
        return
    if getattr(getattr(config, "rating", None), "history", "all") == "liked":
        for name in ("time_gaps", "repeats"):
            if getattr(query, name):
                yield (
                    f"model.query.{name}=true reads the time of every purchase, which histories of liked ones do not have; "
                    "set it to false, or rating.history to all"
                )
    if query.layers < 1 or query.heads < 1:
        return
    if item.dim % query.heads:
        yield f"model.query.heads={query.heads} must divide the width model.item.dim={item.dim}"
    elif query.positions == "rotary" and item.dim // query.heads % 2:
        yield f"model.query.heads={query.heads}: with rotary positions, model.item.dim={item.dim} a head must be even"


def _of_pretraining(config: Any) -> Iterator[str]:
    """Without words to find again or photos to tell apart there is no loss."""
    task: Any = getattr(config, "task", None)
    if not (hasattr(task, "mlm") and hasattr(task, "contrastive")):
        return
    photos = config.model.image.enabled
    if task.mlm <= 0 and not (photos and task.contrastive > 0):
        yield (
            f"task.mlm={task.mlm}, task.contrastive={task.contrastive}, model.image.enabled={str(photos).lower()}: nothing "
            "is left to learn; raise one of the weights, with photos for the second"
        )


def _monitor(config: Any) -> Iterator[str]:
    """A monitor that no validation tells would end the training at its first one."""
    training: Any = getattr(config, "training", None)
    if training is None or getattr(training, "final", False):
        return
    known = config.monitors()
    if training.monitor not in known:
        yield f"training.monitor={training.monitor} is no metric of the validation; name one of {', '.join(known)}"


def _schedule(config: Any) -> Iterator[str]:
    """A plateau is seen by validations alone."""
    training: Any = getattr(config, "training", None)
    if getattr(training, "schedule", "") != "plateau":
        return
    why = "training.final=true" if getattr(training, "final", False) else "training.evaluations=0"
    if why == "training.final=true" or training.evaluations == 0:
        yield (
            "training.schedule=plateau cuts the rate by what validations tell, of which there are none before the end with "
            f"{why}; name cosine or constant"
        )


def _pairs(config: Any) -> Iterator[str]:
    """Losses over pairs learn nothing of batches in which no two photos are of one class."""
    task: Any = getattr(config, "task", None)
    if getattr(task, "per_class", 0) == 1 and not task.classifies:
        yield (
            f"task.per_class=1: task.loss={task.loss} compares photos of one class, of which a batch then has no two; set it"
            " to 2 or more, or name a loss that classifies"
        )


def _accumulation(config: Any) -> Iterator[str]:
    """Only the work of an item tower can be cut into parts."""
    parts = getattr(getattr(config, "training", None), "accumulate", 1)
    item = getattr(getattr(config, "model", None), "item", None)
    if parts > 1 and not getattr(item, "deep", False):
        yield f"training.accumulate={parts}: there is no item tower whose work could be cut; lower training.batch_size"


def _targets(config: Any) -> Iterator[str]:
    """Older ratings may be read for a target that no window of its own holds; and the ranking head learns from all."""
    days = getattr(getattr(config, "task", None), "target_days", 0)
    if days and hasattr(config, "rating"):
        yield f"task.target_days={days}: rating models learn from all ratings; set it to 0"
    elif days and config.model.query.kind == "user":
        yield f"task.target_days={days} is for model.query.kind history: a user tower reads no older purchases; set it to 0"


def _options(config: Any, prefix: str) -> Iterator[tuple[str, Any, str, Any]]:
    for field in fields(config):
        value, path = getattr(config, field.name), prefix + field.name
        if is_dataclass(value):
            yield from _options(value, f"{path}.")
        else:
            yield path, config, field.name, value
