"""Options that cannot be: one line that names the option, exit code 2, and no run in the way of the corrected command."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import shlex
import sys

import numpy as np
import pandas as pd
import pytest

from pipelines.prepared import PreparedWriter
from tests.metric_data import write_items
from tfrec import train

SMALL = {
    "photos": shlex.split(
        "--recipe metric-small --model.encoder.size [16,16] --model.encoder.patch 8 --model.encoder.stem_convolutions 0 "
        "--model.encoder.dim 16 --model.encoder.layers 1 --model.encoder.heads 2 --model.views [front,rear] "
        "--training.batch_size 16 --task.per_class 4 --training.steps 2"
    ),
    "aligned": ["--recipe", "kfashion"],
    "pretrained": ["--recipe", "pretrain"],
    "shop": ["--recipe", "hm-small"],
    "rated": ["--recipe", "movielens"],
    "text": ["--recipe", "text-model"],
    "bare": ["--recipe", "hm", "--model.text.enabled", "false", "--model.image.enabled", "false"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The datasets: photos of classes, and purchases of items with and without texts."""
    root = tmp_path_factory.mktemp("data")
    write_items(root / "photos")
    events = pd.DataFrame({"user": 0, "item": [0, 1, 2], "time": [0, 1, 2], "split": np.array([0, 0, 2], np.int8)})
    for name, text in (("shop", "a word"), ("bare", "")):
        with PreparedWriter(root / name, dataset=name) as writer:
            writer.items(pd.DataFrame({"item_id": ["a", "b", "c"], "text": text}))
            writer.users(pd.DataFrame({"user_id": ["u"]}))
            writer.events(events)
    return root


@pytest.mark.parametrize(
    ("kind", "words", "says"),
    [
        ("photos", "--model.fusion attention --model.heads 5", "model.heads=5 must divide the width 16"),
        (
            "photos",
            "--task.options '{triplet: {mining: hardest}}'",
            "triplet.mining='hardest' must be one of all, semi",
        ),
        ("photos", "--task.options '{triplet: {margin: wide}}'", "triplet.margin='wide' must be a number"),
        (
            "photos",
            "--task.loss triplet --task.per_class 1",
            "compares photos of one class, of which a batch then has no two",
        ),
        ("photos", "--task.options '{ntxent: {temperature: 0}}'", "ntxent.temperature=0 must be above 0"),
        ("photos", "--augment.operations 2 --augment.magnitude 1.5", "augment.magnitude=1.5 must be 0 to 1"),
        ("photos", "--augment.zoom 0", "augment.zoom=0.0 must be above 0 and at most 1"),
        ("photos", "--augment.shift -0.1", "augment.shift=-0.1 must be 0 to 1"),
        ("photos", "--augment.box_play 0.7", "augment.box_play=0.7 must be 0 to 0.5"),
        ("photos", "--model.pixels.whiten 2", "model.pixels.whiten=2.0 must be 0 to 1"),
        ("photos", "--training.wandb true", "pip install wandb"),
        ("photos", "--training.monitor recall@7", "training.monitor=recall@7 is no metric of the validation"),
        ("photos", "--engine ray", "several workers train retrieval recipes alone"),
        ("aligned", "--model.attributes.fields [colour]", "have no colour; they have front"),
        ("pretrained", "--task.mlm 0 --model.image.enabled false", "nothing is left to learn"),
        ("pretrained", "--task.mlm 0 --task.contrastive 0", "nothing is left to learn"),
        ("shop", "--model.attributes.fields [colour]", "have no colour; they have none"),
        ("shop", "--training.final false --training.monitor recal", "name one of precision@5, recall@5"),
        ("shop", "--model.query.kind user", "model.query.variants=1.0 is for model.query.kind history"),
        ("shop", "--task.target_days 7", "task.target_days=7, but the purchases of"),
        ("shop", "--task.recency_days 7", "have no dates; set it to 0"),
        ("shop", "--task.collapse_repeats day", "have no dates; set it to never or always"),
        ("shop", "--task.shuffle days", "have no dates; set it to ties or none"),
        ("shop", "--training.schedule plateau", "training.schedule=plateau cuts the rate by what validations tell"),
        (
            "photos",
            "--training.schedule plateau --training.evaluations 0",
            "with training.evaluations=0; name cosine or constant",
        ),
        ("text", "--model.vocabulary_size 4", "model.vocabulary_size=4 must be at least 8"),
        (
            "shop",
            "--task.target_days 7 --model.query.kind user --model.query.variants 0 --model.query.followers 0",
            "task.target_days=7 is for model.query.kind history",
        ),
        ("rated", "--task.target_days 7", "task.target_days=7: rating models learn from all ratings"),
        ("shop", "--training.xla true", "XLA would compile a step over purchases anew for every batch"),
        ("shop", "--engine ray --training.batch_size 1", "2 workers need at least one customer each"),
        ("shop", "--engine ray --workers 4", "of 3 items: 4 workers need one item each"),
        ("bare", "", "training.accumulate=8 cuts the work of the item tower"),
    ],
)
def test_what_cannot_be_leaves_no_run(data, tmp_path, capsys, monkeypatch, kind, words, says):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as where it is not installed
    folder = data / (kind if kind in ("shop", "bare") else "photos")
    command = [*SMALL[kind], "--data", str(folder), "--out", str(tmp_path / "run"), *shlex.split(words)]
    assert train.main(command) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("error: ")
    assert says in told
    assert not (tmp_path / "run").exists()
