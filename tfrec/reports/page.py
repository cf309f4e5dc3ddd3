"""Pages: one is a list of sections with text, tables and pictures, in one HTML file that loads nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from pipelines.publish import write_whole

PAGE_FILE = "report.html"
PICTURES = "pictures"  # folder of the charts of a run's page


@dataclass
class Picture:
    """A PNG beside the page, embedded into it.

    Attributes:
        file: the PNG.
        caption: what it shows.
        alt: the same for those who do not see it; the caption where "".
    """

    file: Path
    caption: str = ""
    alt: str = ""

    @property
    def uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.file.read_bytes()).decode("ascii")


@dataclass
class Table:
    """A frame; numbers are rounded, the index is shown.

    Attributes:
        frame: what to show.
        best: cells in bold, a frame of bool; None for none.
        fold: what to click on to see the table; it is open where "".
    """

    frame: pd.DataFrame
    best: pd.DataFrame | None = None
    fold: str = ""

    def rows(self) -> Iterator[tuple[str, list[tuple[str, bool]]]]:
        """Every row as its name and its cells: text, and whether it is bold."""
        for place, (name, *values) in enumerate(self.frame.itertuples(name=None)):
            bold = [False] * len(values) if self.best is None else self.best.iloc[place].tolist()
            yield cell(name), list(zip(map(cell, values), bold))


@dataclass
class Section:
    """One part of a page, shown in the order of its attributes.

    Attributes:
        title: its heading.
        text: paragraphs.
        points: findings, as a list.
        embed: trusted HTML (the interactive map, the customers), placed as it is.
        tables: frames.
        pictures: figures.
    """

    title: str
    text: list[str] = field(default_factory=list)
    points: list[str] = field(default_factory=list)
    embed: str = ""
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


def write_page(file: Path, title: str, sections: Sequence[Section], *, subtitle: str = "") -> Path:
    """Write a page whole or not at all.

    Args:
        file: where to.
        title: its heading and window title.
        sections: in order.
        subtitle: a line below the heading.

    Returns:
        The file.
    """
    scripted = any("<script" in section.embed for section in sections)
    page = render("page.html", title=title, subtitle=subtitle, sections=sections, scripted=scripted)
    write_whole(file, page, shared=True)
    return file


def render(template: str, **values: object) -> str:
    """A template of `tfrec/templates` filled in; all text is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tfrec"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(**values)


def cell(value: object) -> str:
    """A table cell: floats with four decimals, whole numbers with separators, NaN as a dash."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        number = getattr(value, "item", None)
        return cell(number()) if callable(number) and not isinstance(value, str) else str(value)
    if value != value:
        return "–"
    whole = isinstance(value, int) or (value.is_integer() and abs(value) > 1)
    return f"{int(value):,}" if whole else f"{value:.4f}"
