"""Recommendations for every customer: the right ones, nobody twice, nobody missing, also after kill -9."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.prepared import PreparedWriter, open_prepared
from pipelines.publish import written_whole
from tests.serving_fakes import make_run
from tests.serving_server import publish_exact, republish
from tfrec import retrieve as command
from tfrec.batch_retrieval.customers import CustomerReader
from tfrec.batch_retrieval.files import (
    RecommendationFileError,
    check_submission,
    format_of,
    recommendation_table,
    safe_cells,
)
from tfrec.batch_retrieval.job import RetrieveError, RetrieveOptions, check_stages, load_job
from tfrec.publish import PublishError

USERS, ITEMS, LENGTH = 700, 60, 4
DAY = 86_400


def events_frame(seed: int = 0) -> pd.DataFrame:
    """0 to 8 purchases a customer; customer 3 has none, customer 5 has bought everything."""
    random = np.random.default_rng(seed)
    counts = random.integers(0, 9, USERS)
    counts[[3, 5]] = 0, ITEMS
    user = np.repeat(np.arange(USERS, dtype=np.int32), counts)
    item = random.integers(0, ITEMS, len(user)).astype(np.int32)
    item[user == 5] = np.arange(ITEMS)
    time_ = 1_600_000_000 + random.integers(0, 20, len(user)) * DAY
    order = np.lexsort((time_, user))
    return pd.DataFrame(
        {"user": user, "item": item, "time": time_[order].astype(np.int64), "split": np.zeros(len(user), np.int8)}
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """In the dataset, items stand in another order than in the model, and one of them is unknown to it."""
    out = tmp_path_factory.mktemp("data") / "prepared"
    clubs = np.resize(np.array(["member", "stranger", None, ""], object), USERS)
    with PreparedWriter(out, dataset="shop") as writer:
        writer.items(pd.DataFrame({"item_id": [*(f"{row:03d}" for row in reversed(range(1, ITEMS))), "new"]}))
        writer.users(pd.DataFrame({"user_id": [f"c{row}" for row in range(USERS)], "attr.club": clubs}))
        events = events_frame()
        writer.events([events[:1000], events[1000:]])  # two row groups
    return out


@pytest.fixture(scope="module")
def run():
    return make_run(ITEMS, rates=True)


@pytest.fixture(scope="module")
def models(run, shared) -> Path:
    return shared("retrieved-shop", lambda root: publish_exact(run, root))


def go(models: Path, prepared: Path, out: Path, **options) -> int:
    options = {"batch": 64, "part": 150, **options}
    return load_job(RetrieveOptions(models / "shop", prepared, out, **options)).run(lambda done: None)


@pytest.fixture(scope="module")
def recommended(models, prepared, tmp_path_factory) -> pd.DataFrame:
    out = tmp_path_factory.mktemp("out") / "recs.parquet"
    assert go(models, prepared, out) == USERS
    assert sorted(file.name for file in out.parent.iterdir()) == ["recs.parquet"]
    return pd.read_parquet(out)


def oracle(
    run, prepared: Path, user: int, k: int, *, until: float = np.inf, exclude_seen: bool = False, only=()
) -> list[str]:
    """One customer's recommendations by plain loops."""
    data = open_prepared(prepared)
    events = data.events()
    mine = events[(events["user"] == user) & (events["time"] < until)]
    ids = data.items["item_id"].to_numpy()[mine["item"]]
    now = until if np.isfinite(until) else events["time"].max()
    pairs = [(item, (now - time) / DAY) for item, time in zip(ids, mine["time"]) if item in run.item_ids]
    if pairs:
        weights = np.array([1 / (1 + days) for _, days in pairs[-LENGTH:]])
        rows = [run.item_ids.index(item) for item, _ in pairs[-LENGTH:]]
        club = {"member": 2, "stranger": 1}.get(data.users["attr.club"][user] or "", 0)
        query = (run.item_vectors[rows] * weights[:, None]).sum(0) / weights.sum() + 0.01 * club
        order = np.argsort(-(run.item_vectors @ query), kind="stable")
    else:
        order = np.argsort(-run.popularity, kind="stable")
    seen = {item for item, _ in pairs} if exclude_seen else set()
    kept = [run.item_ids[row] for row in order if run.item_ids[row] not in seen]
    return [item for item in kept if not only or item in only][:k]


def test_every_customer_once_in_the_datasets_order(recommended):
    assert recommended["user_id"].tolist() == [f"c{row}" for row in range(USERS)]
    assert (recommended["item_ids"].map(len) == 12).all()
    assert recommended["item_ids"].map(lambda items: len(set(items)) == 12).all()
    assert recommended["scores"].map(lambda scores: (np.diff(scores) <= 0).all()).all()


@pytest.mark.parametrize("user", [0, 1, 2, 3, 5, 149, 150, 699])
def test_recommendations_are_the_oracles(recommended, run, prepared, user):
    assert recommended["item_ids"][user].tolist() == oracle(run, prepared, user, 12)


def test_only_purchases_before_a_day_count(models, prepared, run, tmp_path):
    day = "2020-09-20"
    out = tmp_path / "recs.parquet"
    arguments = ["--model", str(models / "shop"), "--data", str(prepared), "--out", str(out), "--until", day]
    assert command.main(arguments) == 0
    found, until = pd.read_parquet(out), pd.Timestamp(day, tz="UTC").timestamp()
    for user in (0, 7, 11, 3):
        assert found["item_ids"][user].tolist() == oracle(run, prepared, user, 12, until=until)


def test_what_was_bought_can_be_left_out(models, prepared, run, tmp_path):
    go(models, prepared, tmp_path / "recs.parquet", exclude_seen=True, k=20)
    found = pd.read_parquet(tmp_path / "recs.parquet")
    for user in (0, 1, 5, 400):
        assert found["item_ids"][user].tolist() == oracle(run, prepared, user, 20, exclude_seen=True)
    assert len(found["item_ids"][5]) == 1  # has bought all but the item that only the model knows


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_only_what_is_in_stock_is_recommended(models, prepared, run, tmp_path, caplog, exclude_seen):
    stock = [run.item_ids[row] for row in range(0, ITEMS, 3)]
    (tmp_path / "stock.csv").write_text("\n".join(["item_id,count", *(f"{item},5" for item in [*stock, "novel"])]))
    options = {"only": tmp_path / "stock.csv", "exclude_seen": exclude_seen, "batch": 64, "part": 150}
    job = load_job(RetrieveOptions(models / "shop", prepared, tmp_path / "recs.parquet", **options))
    assert job.run(lambda done: None) == USERS
    assert "1 of the" in caplog.text
    assert "'novel'" in caplog.text
    found = pd.read_parquet(tmp_path / "recs.parquet")
    for user in (0, 1, 2, 3, 5, 149, 400, 699):
        expected = oracle(run, prepared, user, 12, exclude_seen=exclude_seen, only=set(stock))
        assert found["item_ids"][user].tolist() == expected


def test_of_a_stock_that_the_model_does_not_know_the_first_item_is_named(models, prepared, tmp_path):
    (tmp_path / "stock.txt").write_text("none\nother\nnone\n")
    with pytest.raises(RetrieveError, match=r"knows none of the items of --only .*, first 'none'"):
        go(models, prepared, tmp_path / "recs.parquet", only=tmp_path / "stock.txt")


def test_a_stock_of_fewer_items_than_are_asked_for(models, prepared, run, tmp_path):
    (tmp_path / "stock.txt").write_text("003\n001\n003\n")
    go(models, prepared, tmp_path / "recs.parquet", only=tmp_path / "stock.txt")
    found = pd.read_parquet(tmp_path / "recs.parquet")
    assert all(sorted(items) == ["001", "003"] for items in found["item_ids"])


@pytest.fixture(scope="module")
def evaluated_without_seen(models, tmp_path_factory) -> Path:
    """The model of a run that was judged on items that are new to the customer."""
    root = tmp_path_factory.mktemp("judged")
    republish(models / "shop" / "1", root / "shop", 1, config={"evaluation": {"seen_filter": True}})
    return root


def test_what_was_bought_is_left_out_of_models_that_were_judged_so(
    evaluated_without_seen, prepared, run, recommended, tmp_path
):
    go(evaluated_without_seen, prepared, tmp_path / "recs.parquet")
    found = pd.read_parquet(tmp_path / "recs.parquet")
    for user in (0, 1, 5, 400):
        assert found["item_ids"][user].tolist() == oracle(run, prepared, user, 12, exclude_seen=True)
    words = ["--model", str(evaluated_without_seen / "shop"), "--data", str(prepared)]
    assert command.main([*words, "--out", str(tmp_path / "all.parquet"), "--no-exclude-seen"]) == 0
    everything = pd.read_parquet(tmp_path / "all.parquet")["item_ids"]
    assert [list(items) for items in everything] == [list(items) for items in recommended["item_ids"]]
    assert command.main([*words, "--out", str(tmp_path / "next.parquet"), "--generate", "3"]) == 0
    assert len(pd.read_parquet(tmp_path / "next.parquet")["item_ids"][5]) == 1  # has bought all but one item


def test_parts_with_and_without_what_was_bought_are_not_mixed(evaluated_without_seen, prepared, tmp_path):
    model, out = evaluated_without_seen / "shop", tmp_path / "recs.parquet"
    load_job(RetrieveOptions(model, prepared, out))
    load_job(RetrieveOptions(model, prepared, out, exclude_seen=True, resume=True))  # the default, spelt out
    with pytest.raises(RecommendationFileError, match="another exclude_seen;"):
        load_job(RetrieveOptions(model, prepared, out, exclude_seen=False, resume=True))


@pytest.mark.parametrize("header", [[], ["customer_id"], ["user_id,group"]])
def test_a_list_of_customers_is_answered_alone(models, prepared, recommended, tmp_path, header):
    chosen = [699, 5, 0, 150, 5]
    (tmp_path / "users.csv").write_text("\n".join([*header, *(f"c{row}" for row in chosen), ""]))
    count = go(models, prepared, tmp_path / "recs.parquet", users=tmp_path / "users.csv", part=2)
    found = pd.read_parquet(tmp_path / "recs.parquet")
    assert count == 4
    expected = recommended.loc[sorted(set(chosen))].reset_index(drop=True)
    assert found["user_id"].tolist() == expected["user_id"].tolist()
    assert [row.tolist() for row in found["item_ids"]] == [row.tolist() for row in expected["item_ids"]]


def test_customers_that_are_not_in_the_dataset_are_an_error(models, prepared, tmp_path):
    (tmp_path / "users.txt").write_text("c1\nnobody\n")
    with pytest.raises(RetrieveError, match=r"users.txt: 1 of 2 customers are not in .*, first 'nobody' in line 2;"):
        go(models, prepared, tmp_path / "recs.parquet", users=tmp_path / "users.txt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("c1\nclient numéro 2\n".encode("cp1252"), "is no text or CSV in UTF-8"),
        (b"PAR1\x00\xff", "is no text or CSV in UTF-8"),
        (b"user_id\n", "names no customer"),
        (b"", "names no customer"),
    ],
)
def test_a_list_that_is_none_is_told(models, prepared, tmp_path, content, message):
    (tmp_path / "users.csv").write_bytes(content)
    with pytest.raises(RetrieveError, match=message):
        go(models, prepared, tmp_path / "recs.parquet", users=tmp_path / "users.csv")


def test_csv_has_a_line_a_recommendation(models, prepared, recommended, tmp_path):
    go(models, prepared, tmp_path / "recs.csv", k=3)
    with open(tmp_path / "recs.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["user_id", "rank", "item_id", "score"]
    assert [(row["user_id"], row["rank"]) for row in rows] == [
        (f"c{u}", str(r)) for u in range(USERS) for r in (1, 2, 3)
    ]
    assert [row["item_id"] for row in rows[6:9]] == recommended["item_ids"][2].tolist()[:3]
    np.testing.assert_allclose([float(row["score"]) for row in rows[6:9]], recommended["scores"][2][:3], rtol=1e-6)


def test_a_submission_is_as_kaggle_wants_it(models, prepared, recommended, tmp_path):
    go(models, prepared, tmp_path / "submission.csv")
    lines = (tmp_path / "submission.csv").read_text().splitlines()
    assert lines[0] == "customer_id,prediction"
    assert lines[1:] == [f"c{row},{' '.join(items)}" for row, items in enumerate(recommended["item_ids"])]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("recs.parquet", "parquet"),
        ("recs.csv", "csv"),
        ("submission.csv", "submission"),
        ("submission_2.csv", "submission"),
    ],
)
def test_the_name_says_the_format(name, kind):
    assert format_of(Path("some/folder") / name) == kind
    with pytest.raises(RecommendationFileError, match="must end in"):
        format_of(Path("recs.txt"))


def test_cells_that_a_spreadsheet_would_run_are_text(tmp_path):
    cells = safe_cells(pa.array(["=HYPERLINK(1)", "+1", "-1", "@x", "\tx", "0108", "a=b", "=a\nb"]))
    assert cells.to_pylist() == ["'=HYPERLINK(1)", "'+1", "'-1", "'@x", "'\tx", "0108", "a=b", "'=a\nb"]
    table = recommendation_table(pa.array(['=cmd|"x"', "b"]), np.array([[0, 1], [1, -1]], np.int32),
                                 np.array([[0.5, -0.5], [1, 0]], np.float32), pa.array(["a,b", "-2"]))  # fmt: skip
    from tfrec.batch_retrieval.files import WRITERS

    with written_whole(tmp_path / "x.csv") as stream:
        WRITERS["csv"](iter([table]), stream)
    with open(tmp_path / "x.csv", newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[1:] == [['\'=cmd|"x"', "1", "a,b", "0.5"], ['\'=cmd|"x"', "2", "'-2", "-0.5"], ["b", "1", "'-2", "1"]]


def test_an_id_with_a_space_cannot_be_in_a_submission():
    check_submission(["x", "y"])
    with pytest.raises(RecommendationFileError, match=r"item id 'x\\ty' holds a space.*--format csv"):
        check_submission(["x", "x\ty"])


# -- stopped and resumed -------------------------------------------------------------------------------------

CRASH = """
import os, shutil, sys
from pathlib import Path
from tfrec.batch_retrieval import files
from tfrec.batch_retrieval.job import RetrieveOptions, load_job

step, seen = int(sys.argv[4]), 0

def count(function):
    def wrapped(*args, **kwargs):
        global seen
        seen += 1
        if seen == step:
            os.kill(os.getpid(), 9)
        return function(*args, **kwargs)
    return wrapped

os.replace, os.fsync = count(os.replace), count(os.fsync)
shutil.rmtree = count(shutil.rmtree)
files.pq.write_table = count(files.pq.write_table)
options = RetrieveOptions(*map(Path, sys.argv[1:4]), batch=64, part=250, resume=True)
load_job(options).run(lambda done: None)
print("steps", seen)
"""


def crash(models: Path, prepared: Path, out: Path, step: int) -> subprocess.CompletedProcess:
    command_line = [sys.executable, "-c", CRASH, str(models / "shop"), str(prepared), str(out), str(step)]
    return subprocess.run(command_line, capture_output=True, text=True)


@pytest.mark.long
def test_killed_and_resumed_is_the_same_to_the_byte(models, prepared, tmp_path):
    """SIGKILL in the first part, before a part's rename, in the last file and before the parts are
    removed.
    """
    go(models, prepared, tmp_path / "whole.csv", part=250)
    whole = (tmp_path / "whole.csv").read_bytes()
    for step in (5, 10, 16, 19):
        out = tmp_path / f"killed{step}.csv"
        killed = crash(models, prepared, out, step)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert out.exists() == (step == 19)
        go(models, prepared, out, part=250, resume=True)
        assert out.read_bytes() == whole
        assert not out.with_name(out.name + ".parts").exists()
        assert sorted(tmp_path.glob(".*")) == []


def test_what_a_stopped_removal_left_is_not_taken_for_parts(models, prepared, tmp_path):
    out = tmp_path / "recs.parquet"
    go(models, prepared, tmp_path / "whole.parquet", part=150)
    job = load_job(RetrieveOptions(models / "shop", prepared, out, batch=64, part=150))
    job.parts.write(1, pq.read_table(tmp_path / "whole.parquet").slice(0, 1))
    (job.parts.folder / "job.json").unlink()
    job.parts.close()
    go(models, prepared, out, part=150, resume=True)
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_resuming_keeps_the_parts_that_are_there(models, prepared, tmp_path):
    out = tmp_path / "recs.parquet"
    job = load_job(RetrieveOptions(models / "shop", prepared, out, batch=64, part=150))
    customers = job.reader.read(job.cuts()[1])
    marked = recommendation_table(
        customers.ids, np.zeros((150, 1), np.int32), np.ones((150, 1), np.float32), pa.array(["marked"])
    )
    job.parts.write(1, marked)
    job.parts.close()
    done = []
    resumed = load_job(RetrieveOptions(models / "shop", prepared, out, batch=64, part=150, resume=True))
    assert resumed.ready == 150
    resumed.run(done.append)
    assert sum(done) == USERS - 150
    found = pq.read_table(out).to_pandas()
    assert found["user_id"].tolist() == [f"c{row}" for row in range(USERS)]
    assert [items.tolist() == ["marked"] for items in found["item_ids"]] == [150 <= row < 300 for row in range(USERS)]


def test_parts_of_another_job_are_not_mixed(models, prepared, tmp_path):
    out = tmp_path / "recs.parquet"
    load_job(RetrieveOptions(models / "shop", prepared, out, k=5))
    with pytest.raises(RecommendationFileError, match="another k;"):
        load_job(RetrieveOptions(models / "shop", prepared, out, k=6, resume=True))
    assert go(models, prepared, out, k=6) == USERS  # without --resume it starts afresh
    assert len(pd.read_parquet(out)["item_ids"][0]) == 6


@pytest.mark.parametrize("more", [[], ["--resume"], ["--k", "5"]])
def test_a_second_retrieval_to_the_same_file_is_refused_and_disturbs_nothing(models, prepared, tmp_path, capsys, more):
    """It would remove the first one's parts, or add its own to them."""
    out = tmp_path / "recs.parquet"
    job = load_job(RetrieveOptions(models / "shop", prepared, out, batch=64, part=150))
    job.make(0)
    words = ["--model", str(models / "shop"), "--data", str(prepared), "--out", str(out)]
    assert command.main([*words, *more]) == 2
    assert f"error: --out {out}: another process makes it" in capsys.readouterr().err.splitlines()[-1]
    assert job.missing() == [1, 2, 3, 4]
    assert job.run(lambda done: None) == USERS
    go(models, prepared, tmp_path / "whole.parquet")
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert go(models, prepared, out) == USERS  # it is free again
    assert sorted(file.name for file in tmp_path.iterdir()) == ["recs.parquet", "whole.parquet"]


def test_a_failing_writer_ends_the_run(models, prepared, tmp_path, monkeypatch):
    from tfrec.batch_retrieval.files import Parts

    def full(self, number, table):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Parts, "write", full)
    arguments = ["--model", str(models / "shop"), "--data", str(prepared), "--out", str(tmp_path / "recs.csv")]
    assert command.main([*arguments, "--part", "100"]) == 1
    assert not (tmp_path / "recs.csv").exists()


# -- what can be wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "--k 0 must be 1 to 500"),
        ({"k": 501}, "--k 501 must be"),
        ({"batch": 0}, "--batch 0"),
        ({"model": Path("/nowhere")}, "no published version"),
        ({"data": Path("/nowhere")}, "not a folder"),
        ({"out": Path("recs.xlsx")}, "must end in"),
        ({"users": Path("/nowhere.csv")}, "No such file"),
        ({"only": Path("/nowhere.csv")}, "No such file"),
        ({"only": Path(__file__)}, "knows none of the items of --only"),
    ],
)
def test_wrong_options_are_one_line_and_exit_code_2(models, prepared, tmp_path, capsys, change, message):
    options = {"model": models / "shop", "data": prepared, "out": tmp_path / "recs.csv", **change}
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    assert command.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_model_of_another_catalogue_is_an_error(models, prepared, tmp_path):
    with PreparedWriter(tmp_path / "other", dataset="other") as writer:
        writer.items(pd.DataFrame({"item_id": ["x", "y"]}))
        writer.users(pd.DataFrame({"user_id": ["a"]}))
        writer.events([events_frame()[:0]])
    with pytest.raises(RetrieveError, match="knows none of the items"):
        go(models, tmp_path / "other", tmp_path / "recs.csv")


def test_an_altered_model_is_refused(models, prepared, tmp_path):
    shutil.copytree(models / "shop", tmp_path / "shop")
    with open(tmp_path / "shop" / "1" / "saved_model.pb", "ab") as stream:
        stream.write(b"x")
    with pytest.raises(PublishError, match="bytes"):
        go(tmp_path, prepared, tmp_path / "recs.csv")


def test_customers_are_read_alike_whole_and_chosen(prepared):
    rows = np.arange(ITEMS, dtype=np.int32)
    reader = CustomerReader(prepared, rows, length=LENGTH, fields={"club": ["member"]}, with_seen=True)
    whole, chosen = reader.read(np.arange(USERS)), np.array([2, 3, 5, 250, 698])
    part = reader.read(chosen)
    np.testing.assert_array_equal(part.history, whole.history[chosen])
    np.testing.assert_array_equal(part.days_ago, whole.days_ago[chosen])
    np.testing.assert_array_equal(part.fields, whole.fields[chosen])
    assert [part.seen[i].tolist() for i in range(5)] == [whole.seen[row].tolist() for row in chosen]
    assert part.excluded(0, 3).shape == (3, ITEMS)
    assert whole.fields[:4, 0].tolist() == [2, 1, 0, 0]  # known, unknown, missing twice


@pytest.mark.parametrize("chosen", [np.arange(USERS), np.array([2, 3, 5, 250, 698])])
def test_purchases_that_the_model_does_not_read_take_no_place_in_a_history(prepared, chosen):
    """Of items that an export added. Customers who bought such ones lately would be answered as if they were new."""
    rows, readable = np.arange(ITEMS, dtype=np.int32), ITEMS // 4
    options = {"fields": {"club": ["member"]}, "with_seen": True}
    every = CustomerReader(prepared, rows, length=1000, **options).read(chosen)
    some = CustomerReader(prepared, rows, length=LENGTH, readable=readable, **options).read(chosen)
    for history, days, short, short_days in zip(every.history, every.days_ago, some.history, some.days_ago):
        read = (history >= 0) & (history < readable)
        expected = np.concatenate([np.full(LENGTH, -1), history[read]])[-LENGTH:]
        assert short.tolist() == expected.tolist()
        assert short_days[short >= 0].tolist() == days[read][-LENGTH:].tolist()
    assert (some.history >= 0).any()
    assert [some.seen[i].tolist() for i in range(len(chosen))] == [every.seen[i].tolist() for i in range(len(chosen))]


@pytest.mark.parametrize("chosen", [np.arange(USERS), np.array([2, 3, 5, 250, 698])])
def test_what_was_not_liked_is_left_out_and_not_read(tmp_path, chosen):
    events = events_frame().assign(rating=lambda frame: np.resize([5, 1, 4, 3], len(frame)).astype(np.float32))
    with PreparedWriter(tmp_path / "rated", dataset="shop") as writer:
        writer.items(pd.DataFrame({"item_id": [f"{row:03d}" for row in range(ITEMS)]}))
        writer.users(pd.DataFrame({"user_id": [f"c{row}" for row in range(USERS)]}))
        writer.events([events[:1000], events[1000:]])
    options = {"length": LENGTH, "fields": {}, "with_seen": True}
    rows = np.arange(ITEMS, dtype=np.int32)
    customers = CustomerReader(tmp_path / "rated", rows, history_min_rating=4.0, **options).read(chosen)
    for row, history, days in zip(chosen, customers.history, customers.days_ago):
        liked = events[(events["user"] == row) & (events["rating"] >= 4)][-LENGTH:]
        assert history[history >= 0].tolist() == liked["item"].tolist()
        assert days[history >= 0].tolist() == ((events["time"].max() - liked["time"]) / DAY).tolist()
    bought = [sorted(set(events["item"][events["user"] == row])) for row in chosen]
    assert [sorted(customers.seen[row].tolist()) for row in range(len(chosen))] == bought


def test_ratings_that_a_model_reads_must_be_there(models, prepared, tmp_path):
    republish(models / "shop" / "1", tmp_path / "shop", 1, history_min_rating=4.0)
    with pytest.raises(
        RetrieveError, match=r"has no ratings, and histories of .* hold what was rated 4 or more; prepare"
    ):
        go(tmp_path, prepared, tmp_path / "recs.csv")


@pytest.mark.parametrize("module", ["tfrec.retrieve", "tfrec.export", "tfrec.versions"])
def test_help_does_not_wait_for_tensorflow(module):
    code = (
        f"import sys; sys.argv = ['x', '--help']\ntry:\n  import {module}; {module}.main()\nexcept SystemExit: pass\n"
    )
    code += "assert not {'tensorflow', 'pandas', 'pyarrow', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert result.returncode == 0, result.stderr
    assert "usage:" in result.stdout
    assert time.perf_counter() - start < 30


def test_histories_are_continued(models, prepared, tmp_path):
    words = ["--model", str(models / "shop"), "--data", str(prepared), "--out", str(tmp_path / "next.parquet")]
    assert command.main([*words, "--generate", "3", "--candidates", "20", "--exclude-seen"]) == 0
    found = pd.read_parquet(tmp_path / "next.parquet")
    assert set(found["item_ids"].map(len)) <= {1, 3}  # one customer has bought all but one item
    assert found["item_ids"].map(lambda items: len(set(items)) == len(items)).all()


@pytest.mark.long
def test_samples_without_a_history_follow_the_sales(models, prepared, run, tmp_path):
    nobody = set(range(USERS)) - set(events_frame()["user"])
    (tmp_path / "nobody.txt").write_text("".join(f"c{row}\n" for row in nobody))
    words = ["--model", str(models / "shop"), "--data", str(prepared), "--users", str(tmp_path / "nobody.txt")]
    words += ["--out", str(tmp_path / "next.parquet"), "--generate", "1", "--strategy", "sample", "--candidates", "60"]
    share, drawn = run.popularity / run.popularity.sum(), []
    for seed in range(12):
        assert command.main([*words, "--seed", str(seed)]) == 0
        found = pd.read_parquet(tmp_path / "next.parquet")
        rows = [run.item_ids.index(items[0]) for items in found["item_ids"]]
        np.testing.assert_allclose(np.concatenate(found["scores"].tolist()), np.log(share[rows]), rtol=1e-4)
        drawn += rows
    deviation = np.sqrt((share * np.arange(ITEMS) ** 2).sum() - (share * np.arange(ITEMS)).sum() ** 2)
    assert abs(np.mean(drawn) - (share * np.arange(ITEMS)).sum()) < 4 * deviation / np.sqrt(len(drawn))


def test_the_ranking_head_orders_what_was_found(models, prepared, tmp_path):
    words = ["--model", str(models / "shop"), "--data", str(prepared)]
    assert command.main([*words, "--out", str(tmp_path / "wide.parquet"), "--k", "20"]) == 0
    two = [*words, "--out", str(tmp_path / "two.parquet"), "--k", "5", "--rerank", "--candidates", "20"]
    assert command.main(two) == 0
    wide, best = pd.read_parquet(tmp_path / "wide.parquet"), pd.read_parquet(tmp_path / "two.parquet")
    for found, ordered in zip(wide["item_ids"], best["item_ids"]):
        assert list(ordered) == sorted(found, reverse=True)[:5]  # the fake's ratings rise with the row
    assert command.main([*two[:-1], "3"]) == 2  # fewer candidates than recommendations
    assert command.main([*two, "--generate", "2"]) == 2


def test_a_model_without_a_ranking_head_cannot_rerank(tmp_path):
    manifest = {"max_k": 500, "signatures": ["recommend"], "query_kind": "history"}
    options = RetrieveOptions(tmp_path, tmp_path, tmp_path / "x.parquet", rerank=20)
    with pytest.raises(RetrieveError, match="ranking head"):
        check_stages(options, manifest, tmp_path)


def test_a_model_of_before_cannot_recommend_from_a_stock(tmp_path):
    manifest = {"max_k": 500, "signatures": ["recommend", "recommend_rows"], "query_kind": "history"}
    options = RetrieveOptions(tmp_path, tmp_path, tmp_path / "x.parquet", only=tmp_path / "stock.csv")
    with pytest.raises(RetrieveError, match="export its run again"):
        check_stages(options, manifest, tmp_path)


def test_explanations_are_what_the_score_loses(models, prepared, run, tmp_path):
    (tmp_path / "some.txt").write_text("user_id\nc0\nc1\nc3\n")
    words = ["--model", str(models / "shop"), "--data", str(prepared), "--users", str(tmp_path / "some.txt")]
    assert command.main([*words, "--out", str(tmp_path / "recs.csv"), "--k", "2", "--explain", "--part", "2"]) == 0
    told = [json.loads(line) for line in (tmp_path / "recs.explained.jsonl").read_text().splitlines()]
    assert [line["user_id"] for line in told] == ["c0", "c1", "c3"]
    assert [list(item) for item in told[2]["recommended"]] == [["item_id", "popular"]] * 2  # has bought nothing
    rows = pd.Index(run.item_ids).get_indexer(open_prepared(prepared).items["item_id"]).astype(np.int32)
    customer = CustomerReader(prepared, rows, length=LENGTH, fields={"club": ["member"]}).read(np.array([0]))
    history, days = customer.history[0], customer.days_ago[0]

    def query(kept):
        weights = np.where(kept & (history >= 0), 1 / (1 + days), 0)
        return (run.item_vectors[history] * weights[:, None]).sum(0) / max(
            weights.sum(), 1e-9
        ) + 0.01 * customer.fields[0, 0]

    best = told[0]["recommended"][0]
    vector = run.item_vectors[run.item_ids.index(best["item_id"])]
    everything = np.ones(len(history), bool)
    assert best["score"] == pytest.approx(query(everything) @ vector, abs=1e-4)
    gains = {}
    for place in np.flatnonzero(history >= 0):
        rest = everything.copy()
        rest[place] = False
        gains.setdefault(run.item_ids[history[place]], []).append((query(everything) - query(rest)) @ vector)
    for entry in best["because"]:
        assert any(entry["gain"] == pytest.approx(gain, abs=1e-4) for gain in gains[entry["name"]])
    assert set(best["modalities"]) == {"photo", "text", "attributes", "id"}
