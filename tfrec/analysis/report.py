"""Pages: a report is a list of sections with text, tables, pictures and perhaps the interactive map, in one
HTML file.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from tfrec.analysis import charts
from tfrec.analysis.inputs import read_history

TEMPLATE = "analysis.html"


@dataclass
class Picture:
    """A PNG beside the page, embedded into it.

    Attributes:
        file: the PNG.
        caption: what it shows.
    """

    file: Path
    caption: str = ""

    @property
    def uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.file.read_bytes()).decode("ascii")


@dataclass
class Section:
    """One part of a report.

    Attributes:
        title: its heading.
        text: paragraphs.
        points: findings, as a list.
        tables: frames; numbers are rounded, the index is shown.
        pictures: figures.
        embed: trusted HTML (the interactive map), placed as it is.
    """

    title: str
    text: list[str] = field(default_factory=list)
    points: list[str] = field(default_factory=list)
    tables: list[pd.DataFrame] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    embed: str = ""


def write_report(
    file: Path, title: str, sections: Sequence[Section], *, subtitle: str = "", head: str = "", foot: str = ""
) -> None:
    """Render a report as one self-contained HTML file.

    Args:
        file: where to.
        title: its heading and window title.
        sections: in order.
        subtitle: a line below the heading.
        head: trusted HTML for the page's head (Bokeh's resources).
        foot: trusted HTML for the body's end (Bokeh's script).
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("tfrec"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = cell
    page = environment.get_template(TEMPLATE).render(
        title=title, subtitle=subtitle, sections=sections, head=head, foot=foot
    )
    file.write_text(page, encoding="utf-8")


def training_curves(run: Path | None, out: Path) -> list[Section]:
    """The section of a run's training curves, drawn into the folder `out`; none where the run kept no history."""
    history = read_history(run)
    if history is None:
        return []
    out.mkdir(exist_ok=True)
    file = charts.curves(history, out / "training_curves")
    return [Section("Training curves", pictures=[Picture(file)])] if file else []


def cell(value: object) -> str:
    """A table cell: floats with four decimals, whole numbers with separators, NaN as a dash."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        number = getattr(value, "item", None)
        return cell(number()) if callable(number) and not isinstance(value, str) else str(value)
    if value != value:
        return "–"
    whole = isinstance(value, int) or (value.is_integer() and abs(value) > 1)
    return f"{int(value):,}" if whole else f"{value:.4f}"
