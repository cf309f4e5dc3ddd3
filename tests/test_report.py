"""A recommender's page: one self-contained page, from whatever a run has left, safe against what the data say."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipelines.prepared import PreparedWriter, open_prepared
from tfrec.evaluation.metrics import write_metrics
from tfrec.evaluation.protocol import DAY, build_protocol
from tfrec.examples import sample_examples, write_examples
from tfrec.reports.customers import customers
from tfrec.reports.metric_tables import figure, metric_table, readable
from tfrec.reports.page import cell
from tfrec.reports.recommender_page import headline, protocol_words, write_recommender_page
from tfrec.reports.training_curves import read_curves

EVIL = "<script>alert('x')</script> & \"quoted\""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two users who bought item 0 and then item 1; item 2 has no photo and a hostile title."""
    photo = io.BytesIO()
    Image.new("RGB", (300, 400), "teal").save(photo, "JPEG")
    path = tmp_path_factory.mktemp("shop") / "data"
    with PreparedWriter(path, dataset="tiny") as writer:
        for key in ("a", "b"):
            writer.images.add(key, photo.getvalue())
        writer.images.add("broken", b"no photo at all")
        writer.items(
            pd.DataFrame(
                {
                    "item_id": ["i0", "i1", "i2", "i3"],
                    "title": ["Shirt", "Skirt", EVIL, ""],
                    "images": [["a"], ["b"], [], ["broken"]],
                    "attr.section": [["Ladies"], [], [], []],
                    "attr.product_type_name": [["Shirt"], ["Skirt"], [], []],
                    "attr.colour_group_name": [["Red"], [], [], []],
                }
            )
        )
        writer.users(pd.DataFrame({"user_id": ["anna", "<b>ben</b>"]}))
        writer.events(
            pd.DataFrame(
                [(0, 0, 0, 0), (0, 1, DAY, 2), (1, 0, 0, 0), (1, 1, DAY, 2)],
                columns=["user", "item", "time", "split"],
            )
        )
        writer.split = {"kind": "leave-last-out"}
    return open_prepared(path)


def interval(value):
    return {"value": value, "low": value * 0.9, "high": value * 1.1}


@pytest.fixture
def run(tmp_path, data):
    """A run's folder with everything that the report reads."""
    protocol = build_protocol(data, "test")
    write_metrics(
        tmp_path / "metrics.json",
        protocol=protocol.describe(),
        metrics={"recall@20": interval(0.3), "map@12": interval(0.1), "recall@50": interval(0.5)},
        baselines={"popularity": {"recall@20": interval(0.1)}, "item_cosine": {"recall@20": interval(0.2)}},
        cohorts={"history 1": {"users": 2, "targets": 2, "recall@20": interval(0.3)}},
        oracle={"recall@20": {"value": 0.4}},
    )
    (tmp_path / "history.csv").write_text("step,loss,val_loss\n0,4,\n10,3,3.5\n20,2.5,\n")
    ranked = np.array([[1, 0, 2], [2, 3, -1]])
    scores = np.array([[0.9, 0.5, 0.1], [0.8, 0.2, 0.0]])
    examples = sample_examples(protocol, ranked, scores, data.users["user_id"])
    for example in examples:  # as `tfrec.reports.reasons` adds them
        reason = "same colour" if example["recommended"][0][0] == 1 else ""
        example["reasons"] = [reason] + [""] * (len(example["recommended"]) - 1)
    write_examples(tmp_path, sorted(examples, key=lambda example: example["user_id"], reverse=True))
    return tmp_path


class Page(HTMLParser):
    """Collects the tags of a page, and fails on tags that do not nest."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self, html):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_page_is_whole_and_loads_nothing_from_elsewhere(run, data):
    path = write_recommender_page(run, data, title="Spring")
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert path == run / "report.html"
    assert not page.all("script")
    assert [link["href"] for link in page.all("link")] == ["data:,"]
    assert "default-src 'none'" in page.all("meta")[2]["content"]
    sources = [image["src"] for image in page.all("img")]
    assert sources
    assert all(source.startswith(("data:image/jpeg;base64,", "data:image/png;base64,")) for source in sources)
    assert all(link["href"].startswith("#") for link in page.all("a"))
    assert not re.search(r"https?://|url\(", html)
    targets = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {link["href"][1:] for link in page.all("a")} <= targets
    assert [file.name for file in run.iterdir() if file.name.startswith(".")] == []


def test_page_says_what_was_measured(run, data):
    html = write_recommender_page(run, data).read_text(encoding="utf-8")
    assert "Recall@20 is 0.3000, 1.50 times the best simple rule, Item-item cosine (0.2000)." in html
    assert '<td class="best">0.3000 [0.2700, 0.3300]</td>' in html
    assert "75 %" in html  # of the best reachable
    assert "1 purchase before" in html
    assert "All 3 metrics" in html
    assert 'alt="Loss: training goes from 4 to 2.5; validation goes from 3.5 to 3.5."' in html
    for name in ("against_rules", "cohorts", "training_curves"):
        assert "<svg" in (run / "pictures" / f"{name}.svg").read_text()[:400]


def test_hostile_text_is_shown_as_text(run, data):
    html = write_recommender_page(run, data).read_text(encoding="utf-8")
    assert "<script>" not in html
    assert "&lt;script&gt;alert(" in html
    assert "<b>ben" not in html


def test_every_photo_has_an_alternative_text(run, data):
    page = Page(write_recommender_page(run, data).read_text(encoding="utf-8"))
    assert "Shirt (section: Ladies; product type: Shirt; colour group: Red)" in {i["alt"] for i in page.all("img")}
    assert all(image["alt"] for image in page.all("img"))
    missing = [tag for tag in page.all("div") if tag.get("role") == "img"]
    assert missing
    assert all(tag["aria-label"].endswith(", no photo") for tag in missing)


def test_hits_and_seen_items_are_marked(run, data):
    anna = next(
        customer
        for customer in customers(data, json.loads((run / "examples.json").read_text()))
        if customer.user_id == "anna"
    )
    marks = {card.title: card.marks for card in anna.recommended}
    assert marks == {"Skirt": ("hit",), "Shirt": ("seen",), EVIL: ()}
    assert [card.rank for card in anna.recommended] == [1, 2, 3]
    assert anna.recommended[0].reason == "same colour"
    assert anna.targets[0].marks == ("hit",)
    assert [card.title for card in anna.history] == ["Shirt"]
    assert anna.history[0].caption == "Shirt · Red"


def test_photos_are_shrunk_and_broken_ones_left_out(data):
    examples = [{"user_id": "u", "history": [0], "targets": [3], "recommended": [[1, 0.5]]}]
    (customer,) = customers(data, examples)
    source = str(customer.history[0].photo)
    photo = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))
    assert photo.size == (200, 267)
    assert customer.targets[0].photo is None
    assert customer.targets[0].title == "i3"  # no title: the id
    assert customer.summary == "none of 1 next purchase among the first 1"


def test_a_run_with_metrics_alone_still_makes_a_page(run, data):
    (run / "history.csv").unlink()
    (run / "examples.json").unlink()
    (run / "metrics.json").write_text(
        json.dumps({"protocol": {"split": "test"}, "metrics": {"accuracy": interval(0.9)}, "baselines": {}})
    )
    html = write_recommender_page(run, data).read_text(encoding="utf-8")
    Page(html)
    assert "Accuracy is 0.9000." in html
    assert "<h2" in html
    assert "Customers</h2>" not in html
    (run / "metrics.json").unlink()
    with pytest.raises(FileNotFoundError, match="evaluate first"):
        write_recommender_page(run, data)


def test_examples_are_seeded_item_rows_of_the_protocol(data):
    protocol = build_protocol(data, "test")
    ranked = np.array([[1, -1], [2, 0]])
    scores = np.array([[0.5, 0.0], [0.4, 0.3]])
    examples = sample_examples(protocol, ranked, scores, data.users["user_id"], n=2, seed=1)
    assert examples == sample_examples(protocol, ranked, scores, data.users["user_id"], n=2, seed=1)
    by_user = {example["user_id"]: example for example in examples}
    assert by_user["anna"] == {
        "user_id": "anna",
        "purchases": 1,
        "history": [0],
        "targets": [1],
        "recommended": [[1, 0.5]],
        "seen": [],
    }
    ben = by_user["<b>ben</b>"]
    assert (ben["recommended"], ben["seen"]) == ([[2, 0.4], [0, 0.3]], [0])
    (short,) = sample_examples(protocol, ranked, scores, data.users["user_id"], n=1, k=1, max_history=1)
    assert len(short["recommended"]) == 1


def test_headline_compares_with_the_best_rule():
    model = {"mrr": interval(0.1)}
    assert headline("mrr", model, {}) == "MRR is 0.1000."
    below = headline("mrr", model, {"tfidf": {"mrr": interval(0.2)}})
    assert below == "MRR is 0.1000, below the best simple rule, TF-IDF of text (0.2000)."
    nothing = headline("mrr", model, {"popularity": {"mrr": interval(0.0)}})
    assert nothing == "MRR is 0.1000; every simple rule is at 0."


def test_training_curves_pair_training_with_validation_and_put_the_loss_first(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("step,val_recall@20,loss,val_loss,note\n0,,4,,x\n10,0.1,3,3.5,x\n20,,2,,x\n")
    counter, panels = read_curves(tmp_path)
    assert counter == "step"
    assert list(panels) == ["Loss", "Recall@20"]
    assert panels["Loss"] == {"validation": ([10], [3.5]), "training": ([0, 10, 20], [4, 3, 2])}
    assert panels["Recall@20"] == {"validation": ([10], [0.1])}
    path.write_text("step,loss\n")
    assert read_curves(tmp_path) == ("step", {})
    assert read_curves(tmp_path / "none") == ("row", {})


def test_protocol_in_words():
    protocol = {
        "split": "test",
        "dataset": "hm",
        "split_kind": "temporal",
        "cutoff": "2020-09-16",
        "test_days": 7,
        "users": 1200,
        "candidates": 50000,
        "cold_users": 30,
        "max_users": 1230,
        "eligible_users": 9000,
        "seed": 4,
        "seen_filter": False,
    }
    said = " ".join(protocol_words(protocol))
    for part in (
        "7 days from 2020-09-16",
        "1,200 customers",
        "50,000 items",
        "30 customers without",
        "9,000 (seed 4)",
    ):
        assert part in said
    assert "may be recommended again" in said


@pytest.mark.parametrize(
    ("protocol", "says"),
    [
        ({"split_kind": "time-ratio"}, "The latest interactions of all are held out"),
        ({"split_kind": "leave-last-out", "split": "test"}, "Each customer's last new item is held out"),
        ({"split_kind": "leave-last-out", "split": "val"}, "Each customer's last but one new item is held out"),
        (
            {"split_kind": "leave-last-out", "held_out": "last interaction"},
            "Each customer's last interaction is held out",
        ),
    ],
)
def test_the_protocol_tells_what_was_held_out(protocol, says):
    assert says in protocol_words(protocol)[0]


def test_the_protocol_tells_what_became_of_repeats():
    missed = protocol_words({"seen_filter": True, "missed_repeat_targets": 1200})
    assert "1,200 held-out items are such, and count as misses." in missed
    dropped = protocol_words({"seen_filter": True, "dropped_repeat_targets": 40, "dropped_users": 7})
    assert "40 held-out items were such and are no targets; 7 customers had no other and are left out." in dropped


def test_tables_fill_gaps_and_mark_the_best_of_each_metric():
    model, rule = {"loss": interval(2.0), "mrr": interval(0.1)}, {"loss": interval(1.0)}
    table = metric_table({"Model": model, "Rule": rule}, ["loss", "mrr"])
    assert list(table.rows()) == [
        ("Loss", [("2.0000 [1.8000, 2.2000]", False), ("1.0000 [0.9000, 1.1000]", True)]),
        ("MRR", [("0.1000 [0.0900, 0.1100]", True), ("–", False)]),
    ]
    assert figure({"value": 0.5, "low": 0.5, "high": 0.5}) == figure({"value": 0.5}) == "0.5000"


@pytest.mark.parametrize(
    ("value", "text"), [(1234, "1,234"), (0.5, "0.5000"), (float("nan"), "–"), ("x", "x"), (np.float64(2.0), "2")]
)
def test_cell(value, text):
    assert cell(value) == text


def test_readable_metric_names():
    named = {"hit_rate@10": "Hit rate@10", "ndcg@5": "NDCG@5", "mrr": "MRR", "rating_rmse": "Rating RMSE"}
    assert {name: readable(name) for name in named} == named
