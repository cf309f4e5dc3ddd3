"""Whether a dataset has what a configuration needs: asked before a run is begun or TensorFlow loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pipelines.schema import SPLIT_CODES, TEST, TRAIN
from pipelines.time_bounds import dated
from tfrec.alignment.config import AlignmentConfig
from tfrec.config import ConfigError, RunConfig
from tfrec.evaluation.labels import can_be_evaluated, item_labels, item_splits
from tfrec.metric_learning.config import MetricLearningConfig
from tfrec.ratings.config import RatingsConfig
from tfrec.retrieval.config import ModelConfig, RetrievalConfig

if TYPE_CHECKING:
    from pipelines.prepared import Prepared


def check_data(config: RunConfig, prepared: Prepared) -> None:
    """Refuse a dataset that a configuration cannot learn from, or be evaluated on.

    Raises:
        ConfigError: attributes that it does not have; of systems over items none to train on or to be evaluated on; of
            retrieval nothing to train on or to be evaluated on, items that nothing tells apart, none of the content whose
            work is to be cut, ratings on another scale than the options', or days to be told apart without dates; steps
            that XLA would compile each.
    """
    problems = [*_fields(config, prepared), *_item_parts(config, prepared)]
    if isinstance(config, RetrievalConfig):
        problems += [*_parts(config, prepared), *_items(config.model, prepared)]
        problems += [*_accumulation(config, prepared), *_scale(config, prepared), *_steps(config, prepared)]
    if problems:
        raise ConfigError("; ".join(problems))


def _steps(config: RetrievalConfig, prepared: Prepared) -> Iterator[str]:
    if config.training.xla:  # by the lengths of its histories, a step is cut into parts of other shapes for each batch
        yield "training.xla=true: XLA would compile a step over purchases anew for every batch; set it to false"
    yield from _days(config, prepared)


def _days(config: RetrievalConfig, prepared: Prepared) -> Iterator[str]:
    """Options that tell days apart, where times are places in a sequence: all would be of one day."""
    task = config.task
    asked = {
        "target_days": (task.target_days > 0, "0"),
        "recency_days": (task.recency_days > 0, "0"),
        "collapse_repeats": (task.collapse_repeats == "day", "never or always"),
        "shuffle": (task.shuffle == "days", "ties or none"),
    }
    wrong = {name: cure for name, (counts, cure) in asked.items() if counts}
    if wrong and not dated(prepared.events(columns=["time"])["time"].to_numpy()):
        for name, cure in wrong.items():
            value = getattr(task, name)
            yield f"task.{name}={value}, but the purchases of {prepared.path} have no dates; set it to {cure}"


def leave_out_what_is_missing(config: RetrievalConfig, prepared: Prepared) -> list[str]:
    """Switch off the photo or text encoder of a dataset that has no photos or texts: it would learn nothing, and a search
    by photo or words would answer at random.

    Returns:
        What was switched off, each as a line for the user.

    Raises:
        ConfigError: weights are named for an encoder that has nothing to read.
    """
    told = []
    for name, what in (("image", "photos"), ("text", "texts")):
        options = getattr(config.model, name)
        if not options.enabled or what in prepared.content or not config.model.item.deep:
            continue
        if options.weights is not None:
            raise ConfigError(
                f"model.{name}.weights={options.weights}, but the items of {prepared.path} have no {what}"
            )
        options.enabled = False
        told.append(f"the items of {prepared.path} have no {what}: model.{name}.enabled is set to false")
    return told


def _parts(config: RetrievalConfig, prepared: Prepared) -> Iterator[str]:
    counts = prepared.manifest["counts"].get("events_by_split", {"train": 1, "test": 1})
    learned = counts.get("train") or (config.training.final and counts.get("val"))
    for there, what in ((learned, "there to train on"), (counts.get("test"), "held out to be evaluated on")):
        if not there:
            yield (
                f"{prepared.path}: none of its {prepared.manifest['counts']['events']:,} events is {what} "
                f"({counts}); prepare the data again with another --split"
            )


def _item_parts(config: RunConfig, prepared: Prepared) -> Iterator[str]:
    """Where items are split: some to train on, and enough held out to be evaluated on."""
    items = prepared.items
    if not isinstance(config, (AlignmentConfig, MetricLearningConfig)):
        return
    if "split" not in items and isinstance(config, AlignmentConfig):
        return  # it says itself which data it needs
    part, cure = item_splits(items), "prepare the data again with another --test-share or --split"
    for code, what in ((TRAIN, "to train on"), (TEST, "held out to be evaluated on")):
        if not (part == code).any():
            yield f"{prepared.path}: none of its {len(items):,} items is {what}; {cure}"
    if isinstance(config, MetricLearningConfig) and (part == TEST).any():
        labels = item_labels(items, config.task.label, option="task.label")[part == TEST]
        if not can_be_evaluated(labels[labels != ""]):
            yield (
                f"task.label={config.task.label}: the test items of {prepared.path} have {len(set(labels) - {''})} classes, "
                f"and neighbours are judged by two classes at least, one of them of two items; {cure}"
            )


def _fields(config: RunConfig, prepared: Prepared) -> Iterator[str]:
    """Attribute fields that are named and that the items do not have."""
    options = getattr(getattr(config, "model", None), "attributes", None)
    if not getattr(options, "enabled", True):
        return
    unknown = sorted(set(getattr(options, "fields", None) or []) - set(prepared.fields))
    if unknown:
        known = ", ".join(prepared.fields) or "none"
        yield f"model.attributes.fields: the items of {prepared.path} have no {', '.join(unknown)}; they have {known}"


def _content(model: ModelConfig, prepared: Prepared) -> dict[str, bool]:
    """Each kind of content that the model reads -> whether any item has it."""
    fields = prepared.fields if model.attributes.fields is None else model.attributes.fields
    grouped = model.attributes.group and "group" in prepared.items
    has = {
        "photos": (model.image.enabled, "photos" in prepared.content),
        "texts": (model.text.enabled, "texts" in prepared.content),
        "attributes": (model.attributes.enabled, bool(fields) or grouped),
    }
    return {name: there for name, (read, there) in has.items() if read}


def _items(model: ModelConfig, prepared: Prepared) -> Iterator[str]:
    """Where items have no vectors of their own, something else must tell them apart."""
    if model.item.id_embedding:
        return
    if not (model.item.deep or model.item.shallow):
        yield "model.item.id_embedding=false: set model.item.deep or model.item.shallow to true, or items are all alike"
        return
    content = _content(model, prepared)
    if any(content.values()):
        return
    yield (
        f"model.item.id_embedding=false: nothing tells the items of {prepared.path} apart, which have no "
        f"{' and no '.join(content) or 'content that is enabled'}; set it to true, or prepare data that have them "
        "(pipelines movielens and hm write texts and attributes, sequences attributes alone: --attributes FILE)"
    )


def _accumulation(config: RetrievalConfig, prepared: Prepared) -> Iterator[str]:
    """Without content there is no item tower, whose work alone can be cut into parts."""
    parts = config.training.accumulate
    if parts > 1 and config.model.item.deep and not any(_content(config.model, prepared).values()):
        yield (
            f"training.accumulate={parts} cuts the work of the item tower, but the items of {prepared.path} have nothing "
            "that it could encode; set it to 1, and lower training.batch_size where memory is short"
        )


def _scale(config: RetrievalConfig, prepared: Prepared) -> Iterator[str]:
    """Missing ratings, and thresholds that no rating reaches, as where ratings go from 0 to 1."""
    least, rates = config.evaluation.min_rating, isinstance(config, RatingsConfig)
    if not (rates or least):
        return
    if "rating" not in prepared.event_columns:
        if not rates:  # a model that rates says so itself
            yield f"evaluation.min_rating={least:g}: the events of {prepared.path} have no ratings; set it to 0"
        return
    events = prepared.events(columns=["rating", "split"])
    rating, split = events["rating"].to_numpy(), events["split"].to_numpy()
    missing = int(np.isnan(rating).sum()) if isinstance(config, RatingsConfig) else 0
    if missing:
        yield f"{prepared.path}: {missing:,} of its events have no rating; leave them out when the data are prepared"
        return
    liked = 0.0
    if isinstance(config, RatingsConfig) and (config.rating.retrieval_weight or config.history_min_rating):
        liked = config.rating.liked
    trained = rating[split <= (SPLIT_CODES["val"] if config.training.final else SPLIT_CODES["train"])]
    held = rating[split == SPLIT_CODES["test"]]
    for name, least, part, what in (
        ("rating.liked", liked, trained, "training rating, so that nothing is left to read or to recommend"),
        (
            "evaluation.min_rating",
            config.evaluation.min_rating,
            held,
            "held-out rating, so that nobody can be evaluated",
        ),
    ):
        if least and len(part) and part.max() < least:
            yield (
                f"{name}={least:g} is more than every {what}: the ratings of {prepared.path} go from {rating.min():g} to "
                f"{rating.max():g}; set --{name} to what counts as liked among them"
            )
