"""The interactive map: a catalogue on a plane with its photos as points; hovering shows the item. Needs no
network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tfrec.analysis.inputs import Catalogue
from tfrec.analysis.photos import data_uri
from tfrec.analysis.projection import Projection
from tfrec.reports.charts import OTHER
from tfrec.sampling import sample_rows

if TYPE_CHECKING:
    from bokeh.plotting import figure

MAX_POINTS = 3_000  # each brings its thumbnail along: 2.5 KB
PHOTO_POINTS = 400  # photos drawn on the map; more would hide each other
HOVER_SIDE = 144
TOOLTIP = """
<div style="max-width: 200px; font-family: system-ui, sans-serif">
  <img src="@photo" width="144" height="144" style="display: block" alt="">
  <div style="font-weight: 600">@title</div>
  <div style="color: #555">@label</div>
  <div style="color: #888; font-size: 11px">@item</div>
</div>
"""


def map_html(
    catalogue: Catalogue, projection: Projection, labels: np.ndarray | None, colours: Mapping[str, str]
) -> str:
    """Build the map.

    Args:
        catalogue: items and photos.
        projection: where each item lies.
        labels: `[N]`, or None.
        colours: label -> colour, with `other`.

    Returns:
        HTML to place where the map is to stand.
    """
    from bokeh.embed import components
    from bokeh.resources import INLINE

    if len(projection.rows) > MAX_POINTS:
        kept = sample_rows(len(projection.rows), MAX_POINTS, seed=0)
        projection = replace(projection, rows=projection.rows[kept], points=projection.points[kept])

    script, div = components(_figure(catalogue, projection, labels, colours))
    return INLINE.render() + div + script


def spread(points: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Choose rows whose points lie apart: one a cell of a grid, the grid refined until `count` is reached.

    Returns:
        At most `count` row numbers.
    """
    order = np.random.default_rng(seed).permutation(len(points))
    low, span = points.min(axis=0), np.ptp(points, axis=0)
    scaled = (points - low) / np.where(span > 0, span, 1.0)
    best = order[:1]
    for cells in range(2, 200):
        cell = np.minimum((scaled[order] * cells).astype(int), cells - 1)
        first = np.unique(cell[:, 0] * cells + cell[:, 1], return_index=True)[1]
        if len(first) > count:
            break
        best = order[first]
    return best


def _figure(
    catalogue: Catalogue, projection: Projection, labels: np.ndarray | None, colours: Mapping[str, str]
) -> figure:
    from bokeh.models import ColumnDataSource, HoverTool, WheelZoomTool
    from bokeh.plotting import figure

    columns = _columns(catalogue, projection, labels, colours)
    source, photos = ColumnDataSource(columns), ColumnDataSource(_photo_columns(columns, projection))
    plot = figure(
        height=680,
        sizing_mode="stretch_width",
        tools="pan,box_zoom,reset,save",
        match_aspect=True,
        background_fill_color="#fbfbfc",
        output_backend="canvas",
    )
    plot.axis.visible = False
    plot.grid.visible = False
    plot.toolbar.logo = None
    dots = plot.scatter("x", "y", source=source, size=7, color="colour", line_color="white", line_width=0.5)
    plot.scatter("x", "y", source=photos, size=32, marker="square", color="colour")  # a frame in the label's colour
    plot.image_url("photo", "x", "y", source=photos, w=26, h=26, w_units="screen", h_units="screen", anchor="center")
    wheel = WheelZoomTool()
    plot.add_tools(wheel, HoverTool(renderers=[dots], tooltips=TOOLTIP, attachment="horizontal"))
    plot.toolbar.active_scroll = wheel
    return plot


def _columns(
    catalogue: Catalogue, projection: Projection, labels: np.ndarray | None, colours: Mapping[str, str]
) -> dict[str, Any]:
    rows = projection.rows
    names = [""] * len(rows) if labels is None else [str(label) for label in labels[rows]]
    return {
        "x": projection.points[:, 0].tolist(),
        "y": projection.points[:, 1].tolist(),
        "title": catalogue.titles(rows),
        "item": catalogue.items["item_id"].iloc[rows].astype(str).tolist(),
        "label": names,
        "colour": [colours.get(name, colours[OTHER]) for name in names],
        "photo": [data_uri(catalogue.photo(int(row)), HOVER_SIDE // 2) for row in rows],
    }


def _photo_columns(columns: Mapping[str, Any], projection: Projection) -> dict[str, Any]:
    """The few points that are drawn as photos, beside their dots."""
    chosen = spread(projection.points, PHOTO_POINTS)
    return {name: [columns[name][row] for row in chosen] for name in ("x", "y", "photo", "colour")}
