"""The benchmarks run, on a little data, and their contenders do the same work."""

import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from benchmarks import (
    analysis,
    chart,
    compress,
    encode,
    feed,
    fit,
    growth,
    index,
    measure,
    seasons,
    sequence,
    serving,
    shop,
    start,
    step,
    update,
    workers,
)
from benchmarks.load import Answers, Load
from pipelines.__main__ import main as prepare
from pipelines.prepared import open_prepared
from pipelines.time_bounds import DAY


@pytest.fixture(autouse=True)
def _float32():
    """Contenders run in processes of their own, where they may compute in half precision; here the next test must not."""
    yield
    tf.keras.mixed_precision.set_global_policy("float32")


def test_the_feeds_read_the_same_examples(tmp_path):
    feed.write_records(tmp_path, 20_000, 500)
    for contender in (feed.from_arrays, feed.from_windows, feed.from_examples):
        assert contender(tmp_path, 20_000, 500, 3_000)() >= 3_000
    batch = feed.batches_of(20_000, 500)(0)
    parsed = next(iter(feed.parsed(tmp_path / "windows", feed.LENGTH + 1)))
    assert {name: parsed[name].shape for name in parsed} == {name: batch[name].shape for name in parsed}
    single = next(iter(feed.parsed(tmp_path / "examples", 1)))
    assert (single["targets"].numpy() >= 0).all()


def test_processes_are_timed_in_turns_and_failures_told():
    runs = start.time_processes({"nothing": ["-c", "pass"], "help": ["-m", "tfrec.client", "--help"]}, 2)
    assert [len(measured.seconds) for measured in runs.values()] == [2, 2]
    assert "| help |" in start.table(runs)
    with pytest.raises(RuntimeError, match="oh no"):
        start.time_processes({"broken": ["-c", "raise SystemExit('oh no')"]}, 1)


def test_both_optimizers_update_the_same_weights():
    own, keras = (contender(update.Work(blocks=1, steps=2))() for contender in update.CONTENDERS.values())
    assert own[0] == keras[0] > 1_000_000
    assert [len(own[2]), len(keras[2])] == [2, 2]


def test_a_second_worker_is_judged_by_what_grows_with_the_work(tmp_path, monkeypatch):
    job = workers.Job("texts", (100, 500), lambda size, out: ["tfrec.encode", str(size)])

    def run(job, size, folder, cores):
        return workers.Run(20.0 + 3 * len(cores) + size / (10.0 if len(cores) == 1 else 16.0), folder)

    monkeypatch.setattr(workers, "run", run)
    shares = [[[0]], [[0, 1]], [[0], [1]]]  # one worker, two, and two jobs apart
    assert [workers.rate(job, tmp_path, cores, 1) for cores in shares] == pytest.approx([10.0, 16.0, 20.0])
    monkeypatch.setattr(workers, "run", lambda *given: workers.Run(20.0, tmp_path))
    with pytest.raises(RuntimeError, match="500 texts took no longer than 100: give a larger --scale"):
        workers.rate(job, tmp_path, [[0]], 1)


def test_a_worker_in_training_is_judged_by_its_median_step(tmp_path):
    times = {1: 0.0, 2: 0.1, 3: 0.2, 4: 60.2, 6: 60.4}  # of steps; the fourth was held up
    (tmp_path / "run" / "logs").mkdir(parents=True)
    with tf.io.TFRecordWriter(str(tmp_path / "run" / "logs" / "events.out.tfevents.1")) as file:
        for step, moment in times.items():
            event = tf.compat.v1.Event(wall_time=1e9 + moment, step=step)
            event.summary.value.add(tag="loss")
            file.write(event.SerializeToString())
    job = workers.Job("steps", (6,), lambda size, out: [], pace=lambda out: workers.seconds_a_step(out / "run"))
    assert job.pace(tmp_path) == pytest.approx(0.1, rel=1e-3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "run", lambda *given: workers.Run(999.0, tmp_path))
        assert workers.rate(job, tmp_path, [[0], [1]], 2) == pytest.approx(20.0, rel=1e-3)


class Odd(BaseHTTPRequestHandler):
    """Answers a body "good" with 200, "busy" with 429, and hangs up on everything else."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body not in (b"good", b"busy"):
            self.close_connection = True
            return
        self.send_response(200 if body == b"good" else 429)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def odd():
    with ThreadingHTTPServer(("127.0.0.1", 0), Odd) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_every_request_of_the_load_is_accounted_for(odd):
    found = Load(odd, [b"good", b"busy", b"bad", b"good"]).at_rate(200, 1.0)
    assert len(found.status) == 200
    assert [int((found.status == status).sum()) for status in (200, 429, 0)] == [100, 50, 50]
    assert (found.errors(), found.errors((200, 429))) == (100, 50)
    assert (found.took > 0).all()
    assert (found.sent >= found.due).all()


def test_clients_wait_for_their_answers_and_a_load_ends_when_told(odd):
    load = Load(odd, [b"good"])
    one = load.by_clients(1, 0.3)
    order = np.argsort(one.sent)
    assert (one.sent[order][1:] >= (one.sent + one.took)[order][:-1]).all()
    assert (one.status == 200).all()
    assert len(load.by_clients(3, 0.0).status) == 3
    assert load.at_rate(100, 60.0, until=lambda: True).due.max() < 1.0


def test_goodput_and_percentiles_are_of_the_good_answers():
    found = Answers(np.zeros(4), np.arange(4.0), np.array([0.5, 0.1, 0.5, 0.3]), np.array([200, 429, 200, 200]))
    assert found.goodput(0.0, 3.0) == pytest.approx(2 / 3)
    assert found.percentile(0.5) == pytest.approx(500)
    with pytest.raises(SystemExit):
        serving.main(["--only", "half,nothing"])


def test_a_shop_sells_as_unevenly_as_hm():
    shares = shop.popularity(105_000)
    assert shares.sum() == pytest.approx(1)
    assert -np.expm1(8192 * np.log1p(-shares)).sum() == pytest.approx(
        5968, rel=0.01
    )  # distinct items of 8,192 purchases
    purchases = shop.make_purchases(300, 200, 5_000)
    assert (len(purchases), purchases.user.max() < 300, purchases.item.max() < 200) == (5_000, True, True)
    order = np.lexsort((purchases.time, purchases.user))
    assert (order == np.arange(5_000)).all()
    counts = np.sort(np.bincount(purchases.user, minlength=300))
    assert 0.08 < counts[:150].sum() / 5_000 < 0.2
    assert shop.frequency(purchases, 200).sum() == pytest.approx(1)


def test_items_of_a_drawn_log_come_and_go(tmp_path):
    assert seasons.main(["--out", str(tmp_path / "raw"), "--rows", "20000"]) == 0
    assert prepare(["hm", "--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "data"), "--split", "temporal"]) == 0
    data = open_prepared(tmp_path / "data")
    events = data.events()
    assert len(events) == 20_000
    assert (data.items["images"].map(len) == 1).all()
    assert data.items["group"].nunique() < len(data.items)
    sold = events.groupby("item")["time"].agg(["min", "max"])
    assert (sold["max"] - sold["min"]).median() < 200 * DAY  # of two years
    styles = data.items["attr.product_type_name"].str[0].to_numpy()[events["item"]]
    own = pd.Series(styles).groupby(events["user"].to_numpy()).agg(lambda x: x.value_counts(normalize=True).iloc[0])
    assert own.mean() > 1.5 * pd.Series(styles).value_counts(normalize=True).iloc[0]


@pytest.mark.long
def test_both_ways_to_fit_train(tmp_path):
    work = fit.Work(users=300, items=100, purchases=4_000, dim=8, features=6, batch=128, steps=2)
    for contender in fit.CONTENDERS.values():
        assert len(contender(work, tmp_path)()) == work.steps
    assert 0 < fit.waiting(work, tmp_path / "waiting")() < 1


@pytest.mark.slow
def test_pytorch_trains_the_same_sequence_model(tmp_path):
    torch = pytest.importorskip("torch")
    work = sequence.Work(items=300, customers=60, purchases=12, batch=16, steps=2, dropout=0.0)
    batches, shares = sequence.make_batches(work)
    model = sequence.build(work, batches, shares)
    theirs = sequence.torch_model([v.numpy() for v in model.trainable_variables], work, batches.mean_purchases, shares)
    with torch.no_grad():
        loss = float(theirs(**sequence.torch_batch(batches(1))))
    assert loss == pytest.approx(float(model.compute_loss(sequence.as_tensors(batches(1)), training=True)), rel=1e-5)
    assert len(sequence.with_torch(work, tmp_path)()) == work.steps


@pytest.mark.long
@pytest.mark.parametrize("name", ["minilm", "vit-ti16"])
def test_pytorch_encodes_to_the_same_vectors(tmp_path, name):
    pytest.importorskip("transformers")
    model = replace(encode.MODELS[name], layers=1)
    encode.make_model(tmp_path, model)
    work = encode.Work(model, tmp_path, count=4, precision="float32", threads=None)
    sums = [contender(work)() for contender in (encode.with_tfrec, encode.with_torch)]
    assert sums[0] == pytest.approx(sums[1], rel=1e-4)
    assert model.products(10) == 2 * (
        12 * model.dim**2 * 10 + 200 * model.dim + (9 * 768 * model.dim) * (name != "minilm")
    )
    if name == "minilm":
        texts = compress.Texts(tmp_path, None, 4)
        exact, small = (compress.with_tflite(texts, int8=int8)() for int8 in (False, True))
        assert small.size < exact.size / 3
        assert (compress.unit(small.values) * compress.unit(exact.values)).sum(1).min() > 0.98


def test_smaller_numbers_find_nearly_the_same():
    exact = compress.exact_index(3000, 16)().values
    for name, contender in compress.INDEXES.items():
        found = contender(3000, 16)()
        kept = (exact[:, :, None] == found.values[:, None, :]).any(2).mean()
        assert kept > (0.8 if "ScaNN" in name else 0.95), name
    assert compress.exact_int8(3000, 16)().size < compress.exact_float16(3000, 16)().size < 3000 * 16 * 4
    assert compress.kept(np.eye(30)[:, ::-1], np.eye(30)) > 0


def test_the_index_is_compared_with_raw_scann_and_the_best_peer():
    names = {"tfrec SavedModel": 30, "scann pybind": 20, "faiss": 10, "hnswlib": 15}
    rows = [
        {"target": 0.95, "index": name, "batch": batch, "queries/s": speed}
        for name, speed in names.items()
        for batch in index.BATCHES
    ]
    found = {ratio.against: ratio for ratio in index.ratios(rows, 3000) if ratio.wanted}
    assert (found["scann pybind"].ratio, found["best peer"].ratio, found["best peer"].wanted) == (1.5, 2.0, 3.0)


@pytest.mark.long
def test_a_step_trains_with_the_item_of_every_example_encoded(tmp_path):
    work = step.Work(customers=200, items=150, batch=16, steps=1, layers=1, side=32)
    assert len(step.every_example_encoded(work, tmp_path)()) == work.steps


def test_ratios_become_a_chart(tmp_path, capsys):
    ratios = [
        measure.Ratio("fit", "Adam", 9.0, 8.0),
        measure.Ratio("step", "all", 0.9, 1.8),
        measure.Ratio("x", "y", 2.0),
        measure.Ratio("start", "itself", 35.0, check=True),
    ]
    measure.write_ratios(tmp_path / "figures.json", ratios)
    assert chart.read_ratios(tmp_path / "figures.json") == ratios
    assert chart.main([str(tmp_path / "figures.json"), "--out", str(tmp_path / "chart.png")]) == 0
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "other.json").write_text("{}")
    assert chart.main([str(tmp_path / "other.json")]) == 2
    assert "other.json holds no ratios" in capsys.readouterr().err


def test_what_compares_tfrec_with_itself_is_no_lead(tmp_path, monkeypatch):
    lead, check = measure.Ratio("fit", "Adam", 9.0), measure.Ratio("start", "itself", 35.0, check=True)
    measure.write_ratios(tmp_path / "figures.json", [check, lead])
    drawn = []
    monkeypatch.setattr(chart, "draw", lambda ratios, out: drawn.extend(ratios))
    assert chart.main([str(tmp_path / "figures.json")]) == 0
    assert drawn == [lead]


def test_steps_are_timed_after_the_warm_ones_and_a_training_that_diverged_is_not():
    assert len(measure.time_steps(iter([3.0, 2.0, 1.0]), 1)()) == 2
    with pytest.raises(RuntimeError, match="no training"):
        measure.time_steps(iter([3.0, float("nan")]), 1)()
    runs = {
        "ours": measure.Measurement([1.0], [10**9], [[0.1, 0.3, 0.2]]),
        "theirs": measure.Measurement([1.0], [10**9]),
    }
    runs["theirs"].results += [[0.4], [0.8, 0.6]]
    assert measure.step_leads(runs) == {"theirs": pytest.approx(3.0)}
    text = measure.step_table(runs, units=60, unit="examples")
    assert "| theirs | 100 | 0.600 (0.400 - 0.800; 3) | 1.00 GB | 3.00x |" in text


@pytest.mark.long
def test_growth_is_measured_and_drawn(tmp_path):
    axis = growth.Axis("batch", (16,), lambda size: (fit.with_tfrec, fit.Work(60, 40, 500, 8, 4, size, 2)))
    points = growth.measure_axis(axis, repeats=1)
    assert [point.size for point in points] == [16]
    assert all(point.microseconds > 0 for point in points)
    growth.draw({"batch": points}, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
def test_the_analysis_says_what_it_sampled(tmp_path):
    notes = analysis.with_tfrec(analysis.Work(items=310, dim=8, classes=4, projected=300), tmp_path)()
    assert any("300 of 310" in note for note in notes)
    assert (tmp_path / "report" / "report.html").is_file()
