"""The embedding laboratory: projections, clusterings, pictures and the report of one run."""

import io
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipelines.prepared import PreparedWriter, open_prepared
from tfrec.analysis import photos
from tfrec.analysis.catalogue_map import spread
from tfrec.analysis.clustering import ALGORITHMS, best_of, search
from tfrec.analysis.inputs import AnalysisError, Catalogue, labels_of, read_run
from tfrec.analysis.projection import project, reduce
from tfrec.analysis.study import analyse
from tfrec.analysis.study_report import _sheet_rows, write_study
from tfrec.analyze import main
from tfrec.config import ConfigError
from tfrec.metric_learning.config import MetricLearningConfig
from tfrec.reports import charts, fonts
from tfrec.runs.dataset import keep_dataset
from tfrec.sampling import sample_rows

CLASSES, EACH, DIM = 4, 20, 12
TITLE = "Coat <b>& co</b>"


def _blobs(spread_by=0.15, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLASSES), EACH)
    centres = rng.normal(size=(CLASSES, DIM))
    return (centres[labels] + spread_by * rng.normal(size=(len(labels), DIM))).astype(np.float32), labels


def _jpeg(colour):
    out = io.BytesIO()
    Image.new("RGB", (40, 60), colour).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run over a small photo set: `after` separates the labels, `before` is noise."""
    root = tmp_path_factory.mktemp("analysis")
    vectors, labels = _blobs()
    names = [f"{n:03d}" for n in range(len(labels))]
    with PreparedWriter(root / "prepared", dataset="blobs") as writer:
        for name, label in zip(names, labels):
            writer.images.add(name, _jpeg((60 * label, 90, 200 - 40 * label)))
        writer.items(
            pd.DataFrame(
                {
                    "item_id": names,
                    "title": [TITLE] * len(names),
                    "images": [[name] for name in names],
                    "label": [f"kind {label}" for label in labels],
                    "attr.colour": [[] if n == 0 else ["dark" if n % 2 else "light"] for n in range(len(names))],
                }
            )
        )
    folder = root / "run"
    folder.mkdir()
    before = np.random.default_rng(1).normal(size=(len(labels), 6)).astype(np.float32)
    order = np.random.default_rng(2).permutation(len(names))
    np.savez(folder / "embeddings.npz", vectors=vectors[order], before=before[order], item_id=np.array(names)[order])
    np.savez(folder / "attention.npz", item_id=np.array(names[:3]), weights=np.random.default_rng(3).random((3, 4, 4)))
    (folder / "config.yaml").write_text(f"data: {root / 'prepared'}\n")
    pd.DataFrame({"step": [1, 2, 3], "loss": [3.0, 2.0, 1.0]}).to_csv(folder / "history.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def report(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "out"
    arguments = ["--projections", "pca", "tsne", "--clusterings", "kmeans", "dbscan"]
    assert main(["--run", str(run), "--out", str(out), *arguments]) == 0
    return out


def test_read_run_joins_by_item_id(run):
    catalogue = read_run(run)
    vectors, labels = _blobs()
    rows = catalogue.items["item_id"].astype(int).to_numpy()
    np.testing.assert_array_equal(catalogue.vectors, vectors[rows])
    assert catalogue.items["label"].tolist() == [f"kind {labels[row]}" for row in rows]
    assert catalogue.before.shape == (CLASSES * EACH, 6)


def test_labels_of(run):
    catalogue = read_run(run)
    assert labels_of(catalogue, None)[0] == "label"
    name, colours = labels_of(catalogue, "colour")
    assert name == "colour"
    assert sorted(set(colours)) == ["", "dark", "light"]
    with pytest.raises(ConfigError, match="--by size .* colour"):
        labels_of(catalogue, "size")


def test_broken_runs_say_what_to_do(run, tmp_path, capsys):
    assert main(["--run", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "embeddings.npz" in capsys.readouterr().err
    prepared = str(run.parent / "prepared")
    cases = {
        "item_id": {"vectors": np.ones((3, 2))},
        "one row per item": {"vectors": np.ones((3, 2)), "item_id": np.array(["000"])},
        "diverged": {"vectors": np.full((3, 2), np.nan), "item_id": np.array(["000", "001", "002"])},
        "first is 'x'": {"vectors": np.ones((3, 2)), "item_id": np.array(["000", "001", "x"])},
        "at least 3": {"vectors": np.ones((1, 2)), "item_id": np.array(["000"])},
    }
    for message, arrays in cases.items():
        np.savez(tmp_path / "embeddings.npz", **arrays)
        with pytest.raises(AnalysisError, match=message):
            read_run(tmp_path, prepared)
    with pytest.raises(AnalysisError, match="--data"):
        read_run(tmp_path)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_projections_keep_classes_apart(method):
    vectors, labels = _blobs(0.05)
    made = project(vectors, method, limit=60)
    assert made.points.shape == (60, 2)
    assert np.isfinite(made.points).all()
    kept = labels[made.rows]
    centres = np.stack([made.points[kept == c].mean(axis=0) for c in range(CLASSES)])
    nearest = np.linalg.norm(made.points[:, None] - centres, axis=2).argmin(axis=1)
    assert (nearest == kept).mean() > 0.9
    np.testing.assert_allclose(project(vectors, method, limit=60).points, made.points, rtol=1e-4, atol=1e-4)


@pytest.mark.long
def test_umap_keeps_classes_apart():
    pytest.importorskip("umap")
    vectors, labels = _blobs()
    points = project(vectors, "umap").points
    centres = np.stack([points[labels == c].mean(axis=0) for c in range(CLASSES)])
    nearest = np.linalg.norm(points[:, None] - centres, axis=2).argmin(axis=1)
    assert (nearest == labels).mean() > 0.95


@pytest.mark.parametrize("shape", [(3, 1), (3, 2), (4, 300), (3, 5)])
@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_projections_of_tiny_catalogues(method, shape):
    points = project(np.random.default_rng(0).normal(size=shape).astype(np.float32), method).points
    assert points.shape == (shape[0], 2)
    assert np.isfinite(points).all()


def test_unknown_projection_is_named():
    with pytest.raises(ValueError, match="pca"):
        project(np.ones((3, 2)), "mds")


def test_reduce_equals_the_singular_value_decomposition():
    vectors = np.random.default_rng(0).normal(size=(200, 80)).astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    _, singular, _ = np.linalg.svd(unit - unit.mean(axis=0), full_matrices=False)
    reduced = reduce(vectors, 10)
    np.testing.assert_allclose(np.linalg.norm(reduced, axis=0), singular[:10], rtol=1e-3)


def test_sample_rows_is_seeded_and_sorted():
    rows = sample_rows(1000, 50, seed=1)
    assert len(set(rows)) == 50
    assert (np.diff(rows) > 0).all()
    assert (rows == sample_rows(1000, 50, seed=1)).all()
    assert (sample_rows(np.arange(1000) + 7, 50, np.random.default_rng(1)) == rows + 7).all()
    assert (sample_rows(5, 50, seed=1) == np.arange(5)).all()
    assert len(sample_rows(5, None, seed=1)) == 5


def test_search_finds_clear_clusters_without_labels():
    vectors, labels = _blobs(0.05)
    found = search(vectors)
    assert {one.method for one in found} == set(ALGORITHMS)
    for method in ALGORITHMS:
        chosen = [one for one in found if one.method == method and one.chosen]
        assert len(chosen) == 1, method
        scores = [one.metrics["score"] for one in found if one.method == method]
        assert chosen[0].metrics["score"] == max(scores)
    judged = search(vectors, labels, methods=("agglomerative", "dbscan"))
    best = best_of(judged)
    assert best.metrics["ari"] > 0.9
    assert best.metrics["purity"] == 1.0


def test_search_samples_and_survives_equal_vectors():
    found = search(np.random.default_rng(0).normal(size=(300, 4)), limits={"kmeans": 50}, methods=("kmeans",))
    assert {len(one.rows) for one in found} == {50}
    assert search(np.ones((40, 4)))
    with pytest.raises(ValueError, match="kmeans"):
        search(np.ones((4, 2)), methods=("spectral",))


def test_report_is_whole_and_needs_no_network(report):
    page = (report / "report.html").read_text(encoding="utf-8")
    for heading in ("Summary", "Map of the catalogue", "Clusters", "What is confused", "Training curves", "looks at"):
        assert heading in page
    markup = re.sub(r"(<script[^>]*>).*?</script>", r"\1</script>", page, flags=re.S)
    loaded = re.findall(r"""\b(?:src|href)=["']([^"']+)""", markup)
    assert len(loaded) > 8
    assert all(source.startswith(("data:", "#")) for source in loaded)
    assert TITLE not in markup  # data never become markup
    for name in ("projections_before", "projections_after", "confusion", "hardest_labels", "cluster_search"):
        assert Image.open(report / f"{name}.png").size[0] > 100
        assert "<svg" in (report / f"{name}.svg").read_text()[:400]
    for name in ("clusters.png", "neighbours_0.png", "attention.png", "training_curves.png"):
        assert (report / name).stat().st_size > 500


HOVERED = """
const view = Bokeh.index.roots[0];
const find = (at, chosen) => [...at.querySelectorAll('*')].flatMap(
  (e) => [...(e.matches(chosen) ? [e] : []), ...(e.shadowRoot ? find(e.shadowRoot, chosen) : [])]);
"""
DOT = """
const dots = view.model.renderers[0].data_source.data, frame = view.frame, box = view.el.getBoundingClientRect();
return [box.left + frame.x_scale.compute(dots.x[arguments[0]]), box.top + frame.y_scale.compute(dots.y[arguments[0]]),
        dots.item[arguments[0]], dots.label[arguments[0]]];
"""
SHOWN = """
return find(document, '.bk-Tooltip').map(
  (e) => [find(e.shadowRoot, '.bk-tooltip-content').map((c) => c.textContent).join(),
          find(e.shadowRoot, 'img').map((i) => i.naturalWidth)]);
"""


def test_hovering_over_the_map_shows_the_item_without_a_network(report, browser):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.support.ui import WebDriverWait

    browser.set_network_conditions(offline=True, latency=0, throughput=0)
    try:
        browser.get((report / "report.html").as_uri())
        wait = WebDriverWait(browser, 120)
        wait.until(lambda driver: driver.execute_script("return Boolean(window.Bokeh?.documents[0]?.is_idle)"))
        browser.execute_script(HOVERED + "view.el.scrollIntoView({block: 'center'})")
        for row in (3, 70):
            x, y, item, label = browser.execute_script(HOVERED + DOT, row)
            mouse = ActionChains(browser)
            mouse.w3c_actions.pointer_action.move_to_location(round(x), round(y))
            mouse.perform()
            shown = wait.until(lambda driver, item=item: said(driver.execute_script(HOVERED + SHOWN), item))
            assert label in shown[0]
            assert TITLE in shown[0]  # as text: data never become markup
            assert min(shown[1]) > 0  # its photo
        problems = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert not problems
    finally:
        browser.delete_network_conditions()


def said(tooltips, item):
    """The tooltip that names `item`; None where there is none."""
    return next((one for one in tooltips if item in one[0]), None)


def test_analysis_json_says_after_is_better(report):
    content = json.loads((report / "analysis.json").read_text())
    before, after = content["metrics"]["before"], content["metrics"]["after"]
    assert after["recall@1"] == 1.0
    assert after["map@r"] > 0.95 > before["map@r"]
    assert before["ari"] < 0.2 < after["ari"]
    assert content["items"] == CLASSES * EACH
    assert content["best_clustering"]["chosen"]
    assert {one["recall@1"] for one in content["recall_by_label"].values()} == {1.0}
    assert content["confused"] == []


def test_a_run_is_not_judged_on_another_split(run, tmp_path):
    """Items that are the test's by now may have been trained on."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    config, prepared = MetricLearningConfig(), open_prepared(run.parent / "prepared")
    keep_dataset(folder, config, prepared)
    assert len(read_run(folder)) == CLASSES * EACH
    items = prepared.items.assign(split=np.where(np.arange(CLASSES * EACH) % 4, 0, 2))
    with PreparedWriter(tmp_path / "prepared", dataset="blobs") as writer:
        writer.items(items.drop(columns=["images", "views"], errors="ignore"))
    with pytest.raises(ConfigError, match="the split of its items is not the one that the run was trained on"):
        read_run(folder, str(tmp_path / "prepared"))


def test_neighbours_are_looked_up_for_the_test_items():
    vectors, numbers = _blobs(0.05)
    items = pd.DataFrame({"item_id": np.arange(len(numbers)).astype(str), "split": np.where(numbers % 2, 0, 2)})
    items.loc[::5, "split"] = 0
    labels = np.array([f"kind {number}" for number in numbers])
    catalogue = Catalogue("blobs", vectors, None, items, None)
    study = analyse(catalogue, "label", labels, methods=("pca",), clusterings=("agglomerative",))
    test = np.flatnonzero(items["split"] == 2)
    assert sorted(study.queries.tolist()) == test.tolist()
    assert set(study.neighbours.ravel().tolist()) <= set(test.tolist())
    assert study.per_label["items"].sum() == study.metrics["after"]["queries"] == len(test)
    assert "neighbours are those of the test items" in " ".join(study.notes)


def test_missing_labels_are_left_out(run, tmp_path):
    arguments = ["--projections", "pca", "--clusterings", "kmeans", "--by", "colour"]
    assert main(["--run", str(run), "--out", str(tmp_path), *arguments]) == 0
    content = json.loads((tmp_path / "analysis.json").read_text())
    assert "1 items have no label" in " ".join(content["notes"])
    assert content["metrics"]["after"]["queries"] == CLASSES * EACH - 1


def test_unlabelled_items_neither_make_a_class_nor_answer_for_one():
    vectors, numbers = _blobs(0.05)
    labels = np.array([f"kind {number}" for number in numbers])
    labels[1::2] = ""  # among them the nearest neighbours of labelled items
    catalogue = Catalogue("blobs", vectors, None, pd.DataFrame({"item_id": np.arange(len(labels)).astype(str)}), None)
    study = analyse(catalogue, "label", labels, methods=("pca",), clusterings=("agglomerative",))
    best = {one.params["clusters"]: one for one in search(vectors, labels, methods=("kmeans",))}[5]
    whole = search(vectors, numbers, methods=("kmeans",))[1]
    assert best.metrics["purity"] == 1.0
    assert best.metrics["noise"] == 0.0
    assert best.metrics["ari"] > 0.9
    assert best.metrics["silhouette"] == whole.metrics["silhouette"]
    assert set(study.per_label["recall@1"]) == {1.0}
    assert "" not in {*study.predicted, *labels[study.queries]}
    assert len(study.confused) == 0
    sheet = _sheet_rows(catalogue, study.best, labels)
    assert all(name.split("\n")[2].startswith("100% kind") for name, _ in sheet)
    unnamed = _sheet_rows(catalogue, study.best, np.full(len(labels), ""))
    assert [name.count("\n") for name, _ in unnamed] == [1] * len(unnamed)


def test_clusters_of_a_sample_without_labels_are_not_judged():
    vectors, _ = _blobs()
    (first, *_) = search(vectors, np.full(len(vectors), ""), methods=("kmeans",))
    assert "ari" not in first.metrics
    assert first.metrics["clusters"] == 2


def test_attention_overlay_warms_the_attended_corner():
    weights = np.zeros((4, 4))
    weights[0, 0] = 1.0
    overlay = np.asarray(photos.attention_overlay(_jpeg((128, 128, 128)), weights, size=64), int)
    plain = np.asarray(photos.attention_overlay(_jpeg((128, 128, 128)), np.zeros((4, 4)), size=64), int)
    changed = np.abs(overlay - plain).sum(axis=2)
    assert changed[:8, 12:20].mean() > 10 * (changed[40:, 40:].mean() + 1)
    with pytest.raises(ValueError, match=r"\[h, w\]"):
        photos.attention_overlay(_jpeg((0, 0, 0)), np.zeros(4))


def test_thumbnail_keeps_proportions_and_marks_missing_photos():
    tile = np.asarray(photos.thumbnail(_jpeg((0, 0, 0)), 60), int)
    assert tile.shape == (60, 60, 3)
    assert tile[:, 20:40].mean() < 10
    assert tile[:, :8].mean() > 245
    assert len(np.unique(np.asarray(photos.thumbnail(None)))) <= 3


def test_charts_are_equal_for_equal_inputs(tmp_path):
    table = pd.DataFrame([[0.1, float("nan")], [0.3, 0.4]], index=["a", "b"], columns=["x", "y"])
    first, second = (charts.heat_map(table, "t", tmp_path / name) for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    assert first.with_suffix(".svg").read_text() == second.with_suffix(".svg").read_text()


def test_labels_with_dollars_are_no_formulas(tmp_path):
    bands = ["$0_$10", "$10_$20", "a"]
    assert charts.confusion(bands, bands, tmp_path / "bands").is_file()


def test_letters_that_no_font_has_are_told(run, tmp_path, monkeypatch):
    files = fonts.font_files()
    assert next(iter(files)) == fonts.OWN
    assert fonts.file_for("Kleid für Ärzte") == files[fonts.OWN]
    monkeypatch.setattr(fonts, "font_files", lambda: {fonts.OWN: files[fonts.OWN]})
    assert fonts.missing_letters(["상의", "Mäntel", "상"]) == "상의"
    numbers = _blobs()[1]
    labels = np.array(["상의" if number % 2 else "하의" for number in numbers])
    catalogue = read_run(run)
    study = analyse(catalogue, "label", labels, methods=("pca",), clusterings=("agglomerative",))
    write_study(catalogue, study, tmp_path)
    assert "No installed font has letters of the labels (상의하)" in (tmp_path / "report.html").read_text()


def test_palette_colours_the_commonest():
    colours = charts.palette(["a"] * 3 + [f"n{i}" for i in range(30)] + [""] * 9)
    assert "a" in colours
    assert len(colours) == 21
    assert "" not in colours
    assert len(set(colours.values())) == 21


def test_spread_takes_points_apart():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(0, 0.01, (900, 2)), [[5.0, 5.0]]])
    chosen = spread(points, 20)
    assert len(chosen) <= 20
    assert 900 in chosen
