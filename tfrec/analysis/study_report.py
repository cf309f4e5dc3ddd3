"""A study as pictures, `analysis.json` and one page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tfrec.analysis import photos
from tfrec.analysis.catalogue_map import map_html
from tfrec.analysis.clustering import Clustering
from tfrec.analysis.inputs import Catalogue
from tfrec.analysis.projection import Projection
from tfrec.analysis.study import Study
from tfrec.evaluation.embedding_metrics import unit_rows
from tfrec.reports import charts
from tfrec.reports.fonts import missing_letters
from tfrec.reports.page import PAGE_FILE, Picture, Section, Table, write_page
from tfrec.reports.training_curves import training_curves
from tfrec.runs.folder import ATTENTION_FILE

NAMES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}


def write_study(catalogue: Catalogue, study: Study, out: Path) -> None:
    """Write `report.html`, `analysis.json`, and every picture as PNG (charts as SVG too).

    Args:
        catalogue: what was analysed.
        study: its results.
        out: folder to write into.
    """
    out.mkdir(parents=True, exist_ok=True)
    labels = None if study.labels is None else [str(label) for label in study.labels]
    colours = charts.palette(labels or [])
    shown = study.projections["after"][-1]  # UMAP where it is there, else t-SNE
    sections = [
        _summary(catalogue, study),
        Section(
            f"Map of the catalogue ({NAMES[shown.method]})",
            ["Hover over a point to see the item; scroll to zoom, drag to move. A frame has its label's colour."],
            embed=map_html(catalogue, shown, study.labels, colours),
        ),
        _projections(study, colours, out),
        _clusterings(catalogue, study, out),
        *_confusions(study, out),
        _neighbours(catalogue, study, out),
        *(training_curves(catalogue.folder, out) if catalogue.folder else []),
        *_attention(catalogue, out),
    ]
    subtitle = f"{len(catalogue):,} items, {catalogue.vectors.shape[1]} dimensions" + (
        f", evaluated by {study.by}" if study.by else ""
    )
    write_page(out / PAGE_FILE, f"Embedding analysis: {catalogue.name}", sections, subtitle=subtitle)
    text = json.dumps(as_json(catalogue, study), indent=2, ensure_ascii=False, allow_nan=False)
    (out / "analysis.json").write_text(text + "\n", encoding="utf-8")


def as_json(catalogue: Catalogue, study: Study) -> dict[str, Any]:
    """The study's numbers as plain JSON values (NaN becomes null)."""
    return _plain(
        {
            "name": catalogue.name,
            "items": len(catalogue),
            "dimensions": int(catalogue.vectors.shape[1]),
            "by": study.by,
            "metrics": study.metrics,
            "projections": {
                stage: [{"method": p.method, "rows": len(p.rows), "seconds": p.seconds} for p in made]
                for stage, made in study.projections.items()
            },
            "clusterings": [_record(one) for one in study.clusterings],
            "best_clustering": None if study.best is None else _record(study.best),
            "recall_by_label": None if study.per_label is None else study.per_label.to_dict("index"),
            "confused": None if study.confused is None else study.confused.to_dict("records"),
            "notes": study.notes,
        }
    )


def _summary(catalogue: Catalogue, study: Study) -> Section:
    section = Section("Summary", text=list(study.notes))
    missing = missing_letters(set() if study.labels is None else set(study.labels.tolist()))
    if missing:
        letters = missing[:10] + "..." * (len(missing) > 10)
        section.text.append(
            f"No installed font has letters of the labels ({letters}): they are boxes in the pictures. Install one, as Noto "
            "Sans CJK or NanumGothic, and write the page again, or open the .svg files."
        )
    if study.by is None:
        section.text.append("The items have no labels, so only the geometry is described; name some with --by FIELD.")
        return section
    table = pd.DataFrame(dict(study.metrics))
    if "before" in table:
        table["change"] = table["after"] - table["before"]
        section.points = [_change(study.metrics, name) for name in ("knn_accuracy", "recall@1", "map@r", "ari")]
    table.index.name = "metric"
    section.tables = [Table(table)]
    return section


def _change(metrics: dict[str, dict[str, float]], name: str) -> str:
    before, after = metrics["before"][name], metrics["after"][name]
    verb = "rose" if after > before else "fell" if after < before else "stayed"
    return f"{name} {verb} from {before:.3f} to {after:.3f} with training."


def _projections(study: Study, colours: dict[str, str], out: Path) -> Section:
    section = Section("Projections")
    for stage, made in study.projections.items():
        panels = [(NAMES[one.method], one.points, _labels_at(study, one)) for one in made]
        caption = {"before": "Before training.", "after": "After training."}[stage]
        file = charts.scatter(panels, colours, out / f"projections_{stage}")
        section.pictures.append(Picture(file, caption if len(study.projections) > 1 else ""))
    return section


def _labels_at(study: Study, projection: Projection) -> list[str] | None:
    return None if study.labels is None else [str(label) for label in study.labels[projection.rows]]


def _clusterings(catalogue: Catalogue, study: Study, out: Path) -> Section:
    section = Section(
        "Clusters",
        ["Each algorithm's setting is chosen by silhouette, noise counting 0, without looking at labels."],
    )
    chosen = pd.DataFrame([_row(one) for one in study.clusterings if one.chosen])
    if len(chosen):
        section.tables.append(Table(chosen.set_index("algorithm").sort_values("score", ascending=False)))
    by_count = {
        name: ([one.metrics["clusters"] for one in tried], [one.metrics["score"] for one in tried])
        for name in dict.fromkeys(one.method for one in study.clusterings)
        if (tried := sorted((o for o in study.clusterings if o.method == name), key=lambda o: o.metrics["clusters"]))
    }
    axes = "clusters found", "silhouette x share clustered"
    file = charts.lines({"Parameter search": by_count}, axes, out / "cluster_search")
    section.pictures.append(Picture(file, "Every setting tried."))
    if study.best is not None and catalogue.images is not None:
        sheet = out / "clusters.png"
        photos.cluster_sheet(catalogue, _sheet_rows(catalogue, study.best, study.labels), sheet)
        section.pictures.append(
            Picture(sheet, f"The largest clusters of {study.best.method}: the members nearest to the middle.")
        )
    return section


def _sheet_rows(
    catalogue: Catalogue, best: Clustering, labels: np.ndarray | None, most: int = 12
) -> list[tuple[str, np.ndarray]]:
    """Names of the largest clusters, with the share of their commonest label among the labelled rows, and their rows,
    those nearest to the middle first.
    """
    numbers, counts = np.unique(best.clusters[best.clusters >= 0], return_counts=True)
    groups = []
    for number in numbers[np.argsort(-counts, kind="stable")][:most]:
        rows = best.rows[best.clusters == number]
        name = f"cluster {number}\n{len(rows)} items"
        known = [] if labels is None else [label for label in labels[rows] if label]
        if known:
            names, sizes = np.unique(known, return_counts=True)
            name += f"\n{sizes.max() / len(known):.0%} {names[sizes.argmax()]}"
        unit = unit_rows(catalogue.vectors[rows])
        groups.append((name, rows[np.argsort(-unit @ unit.mean(axis=0), kind="stable")]))
    return groups


def _confusions(study: Study, out: Path) -> list[Section]:
    if study.predicted is None or study.labels is None or study.per_label is None or study.confused is None:
        return []
    worst = study.per_label[study.per_label["items"] >= 3].head(20)
    pictures = [Picture(charts.confusion(list(study.labels[study.queries]), list(study.predicted), out / "confusion"))]
    if len(worst):
        title = "recall@1 of the hardest labels"
        pictures.append(
            Picture(charts.ranking(list(worst.index), worst["recall@1"].tolist(), title, out / "hardest_labels"))
        )
    tables = [Table(study.confused.set_index("label"))] if len(study.confused) else []
    return [Section("What is confused with what", pictures=pictures, tables=tables)]


def _neighbours(catalogue: Catalogue, study: Study, out: Path, each: int = 8) -> Section:
    """Strips of random queries, and of queries whose first neighbour is wrong."""
    section = Section("Nearest neighbours")
    if catalogue.images is None:
        return section
    rng = np.random.default_rng(0)
    order = rng.permutation(len(study.queries))
    kinds = {"random queries": order[:each]}
    if study.predicted is not None and study.labels is not None:
        wrong = study.predicted != study.labels[study.queries]
        kinds["queries whose nearest neighbour has another label"] = order[wrong[order]][:each]
    for number, (caption, chosen) in enumerate(kinds.items()):
        if len(chosen):
            file = out / f"neighbours_{number}.png"
            strips = [(int(study.queries[place]), study.neighbours[place]) for place in chosen]
            photos.neighbour_strips(catalogue, strips, study.labels, file)
            section.pictures.append(Picture(file, f"Left the query: {caption}."))
    return section


def _attention(catalogue: Catalogue, out: Path, most: int = 8) -> list[Section]:
    """Attention maps over photos, where the run kept some: `item_id [n]` and `weights [n, h, w]`."""
    file = catalogue.folder / ATTENTION_FILE if catalogue.folder else None
    if file is None or not file.is_file() or catalogue.images is None:
        return []
    with np.load(file, allow_pickle=False) as arrays:
        ids, weights = arrays["item_id"].astype(str), arrays["weights"]
    row_of = {item: row for row, item in enumerate(catalogue.items["item_id"])}
    kept = [number for number, item in enumerate(ids) if item in row_of][:most]
    if not kept:
        return []
    photos.attention_sheet(catalogue, [row_of[ids[number]] for number in kept], weights[kept], out / "attention.png")
    return [Section("Where the text looks at the photo", pictures=[Picture(out / "attention.png")])]


def _record(one: Clustering) -> dict[str, Any]:
    return {"method": one.method, "params": one.params, "rows": len(one.rows), "chosen": one.chosen, **one.metrics}


def _row(one: Clustering) -> dict[str, Any]:
    params = ", ".join(f"{name} {value}" for name, value in one.params.items())
    return {"algorithm": one.method, "setting": params, "rows": len(one.rows), **one.metrics}


def _plain(value: Any) -> Any:
    """NumPy scalars to Python's, NaN to None, at any depth."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
