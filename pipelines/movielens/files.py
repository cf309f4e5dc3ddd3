"""MovieLens as GroupLens and RecBole publish it: ratings, movies and users of five layouts, described as one.

100K (`u.data`, `u.item`, `u.user`), 1M and 10M (`ratings.dat`, `movies.dat`, `users.dat`), 20M, 25M, 32M and
latest (`ratings.csv`, `movies.csv`), Kaggle's copy of 20M (`rating.csv`, `movie.csv`), and RecBole's
`.inter`, `.item` and `.user`.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.raw.csv_lines import csv_rows
from pipelines.raw.raw_csv import CsvLayout, check_text, open_bytes, or_gzipped
from pipelines.schema import PreparedError

GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
MOVIE_COLUMNS = ("movieId", "title", "genres")  # of movies.csv
NO_GENRE = {"", "(no genres listed)", "unknown"}
TITLE_YEAR = re.compile(r"^(.*?)\s*\((\d{4})(?:[-–]\d{0,4})?\)\s*$", re.DOTALL)
AGE_BRACKETS = ((18, "under 18"), (25, "18-24"), (35, "25-34"), (45, "35-44"), (50, "45-49"), (56, "50-55"))


@dataclass(frozen=True)
class Ratings:
    """Where the ratings are: the file, its layout, and its columns; `rating` is None where there is none."""

    path: Path
    layout: CsvLayout
    user: str
    item: str
    time: str
    rating: str | None


@dataclass(frozen=True)
class Movie:
    """One row of the movies file; what is missing is empty."""

    item_id: str
    title: str
    year: str
    genres: list[str]


@dataclass
class Source:
    """A MovieLens folder.

    Attributes:
        layout: its name, for the manifest.
        ratings: where the ratings are.
        movies: movie id -> row of the movies file, in its order; empty without such a file.
        movies_file: the name of that file.
        users: user id -> field -> value ("" = missing); empty without such a file.
        users_file: the name of that file.
        rejected: the rows of those two files that could not be used, as arguments of `PreparedWriter.reject`.
    """

    layout: str
    ratings: Ratings
    movies: dict[str, Movie] = field(default_factory=dict)
    movies_file: str = ""
    users: dict[str, dict[str, str]] = field(default_factory=dict)
    users_file: str = ""
    rejected: list[dict[str, Any]] = field(default_factory=list)

    def reject(self, *, file: str, row: int, value: str, reason: str, field: str = "") -> None:
        """Set a row aside until there is a writer."""
        self.rejected.append({"file": file, "row": row, "field": field, "value": value, "reason": reason})

    def settle(self, max_rejected: float) -> None:
        """Refuse files of movies or users of which more than the share `max_rejected` was rejected.

        Raises:
            PreparedError: the file, and why its rows were rejected.
        """
        for file, rejected in Counter(entry["file"] for entry in self.rejected).items():
            rows = rejected + len(self.users if file == self.users_file else self.movies)
            if rejected > max_rejected * rows:
                reasons = dict(Counter(entry["reason"] for entry in self.rejected if entry["file"] == file))
                raise PreparedError(
                    f"{self.ratings.path.with_name(file)}: {rejected:,} of {rows:,} rows were rejected, more than "
                    f"--max-rejected {max_rejected:g} allows: {reasons}"
                )


def open_source(raw: Path) -> Source:
    """Recognise the layout of a MovieLens folder (or of the one folder in it) and read its small tables.

    Raises:
        PreparedError: no known ratings file, or one without the columns it needs.
    """
    folders = [raw, *sorted(path for path in raw.glob("*") if path.is_dir())] if raw.is_dir() else []
    for folder in folders:
        for names, reader in LAYOUTS.items():
            if all(or_gzipped(folder / name).is_file() for name in names):
                return reader(folder)
        if atomic := sorted(folder.glob("*.inter")):
            return _recbole(_whole_log(folder, atomic))
    state = "has no ratings file" if raw.is_dir() else "is not a folder"
    raise PreparedError(
        f"--raw {raw} {state}; expected u.data, ratings.dat, ratings.csv, rating.csv or a RecBole .inter file"
    )


def _100k(folder: Path) -> Source:
    names = ("user", "item", "rating", "time")
    source = Source(
        "100k",
        Ratings(or_gzipped(folder / "u.data"), CsvLayout("\t", names, quoted=False), "user", "item", "time", "rating"),
    )
    source.movies_file = "u.item"
    for row, cells in _rows(folder / "u.item", "|"):
        if len(cells) < 5 + len(GENRES_100K):
            source.reject(file="u.item", row=row, value="|".join(cells), reason="malformed row")
            continue
        title, year = _title_and_year(cells[1])
        genres = [genre for genre, flag in zip(GENRES_100K, cells[5:]) if flag == "1"]
        _add_movie(source, "u.item", row, Movie(cells[0], title, year or cells[2][-4:], genres))
    source.users_file = "u.user"
    for row, cells in _rows(folder / "u.user", "|"):
        _add_user(source, "u.user", row, cells, ("user_id", "age", "gender", "occupation"))
    return source


def _dat(folder: Path) -> Source:
    # Arrow's delimiter is one character: "::" is ":" with an empty column between, as no cell has a colon.
    names = ("user", "_1", "item", "_2", "rating", "_3", "time")
    source = Source(
        "dat",
        Ratings(
            or_gzipped(folder / "ratings.dat"), CsvLayout(":", names, quoted=False), "user", "item", "time", "rating"
        ),
    )
    source.movies_file = "movies.dat"
    for row, cells in _rows(folder / "movies.dat", "::"):
        _add_listed_movie(source, "movies.dat", row, cells)
    source.users_file = "users.dat"
    for row, cells in _rows(folder / "users.dat", "::"):
        _add_user(source, "users.dat", row, cells, ("user_id", "gender", "age", "occupation"))
    return source


def _csv(ratings: Path, movies: Path) -> Source:
    layout = CsvLayout()
    ratings, movies = or_gzipped(ratings), or_gzipped(movies)
    source = Source("csv", Ratings(ratings, layout, "userId", "movieId", "timestamp", "rating"))
    source.movies_file = movies.name
    lines = io.StringIO(_text(movies), newline="")
    rows = csv_rows(lines, file=movies.name, reject=source.reject)
    _, header = next(rows, (1, list(MOVIE_COLUMNS)))  # no rows: there need not be such a file
    header = [name.strip() for name in header]
    for name in MOVIE_COLUMNS:
        if name not in header:
            raise PreparedError(f"{movies}: column '{name}' is missing from the header; found {header}")
    places = [header.index(name) for name in MOVIE_COLUMNS]
    for row, cells in rows:
        if len(cells) == len(header):
            _add_listed_movie(source, movies.name, row, [cells[at] for at in places])
        else:
            source.reject(file=movies.name, row=row, value=",".join(cells), reason="malformed row")
    return source


def _whole_log(folder: Path, atomic: list[Path]) -> Path:
    """The one of RecBole's `.inter` files that holds all interactions: a folder may hold its parts beside it.

    Raises:
        PreparedError: several, none of which is named as the whole.
    """
    named = folder / f"{folder.resolve().name}.inter"
    shortest = min(atomic, key=lambda path: len(path.name))
    if named in atomic:
        return named
    if all(path == shortest or path.name.startswith(f"{shortest.stem}.") for path in atomic):
        return shortest  # alone, or x.inter beside x.train.inter ...
    raise PreparedError(
        f"{folder} holds several .inter files, of which none is the whole: {', '.join(path.name for path in atomic)}. "
        f"Put all their rows into {named.name}, with the header once; --split divides them"
    )


def _recbole(inter: Path) -> Source:
    columns = _atomic_columns(inter)
    for needed in ("user_id", "item_id", "timestamp"):
        if needed not in columns:
            raise PreparedError(f"{inter}: column '{needed}' is missing from the header; found {list(columns)}")
    source = Source(
        "recbole",
        Ratings(
            inter,
            CsvLayout("\t", quoted=False),
            columns["user_id"],
            columns["item_id"],
            columns["timestamp"],
            columns.get("rating"),
        ),
    )
    source.movies_file = f"{inter.stem}.item"
    for row, cells in _atomic_rows(inter.with_suffix(".item")):
        title, year = _title_and_year(cells.get("movie_title", ""))
        genres = next((cells[name] for name in ("class", "genre", "genres") if name in cells), "")
        year = cells.get("release_year", "") or year
        _add_movie(source, f"{inter.stem}.item", row, Movie(cells.get("item_id", ""), title, year, genres.split()))
    source.users_file = f"{inter.stem}.user"
    for row, cells in _atomic_rows(inter.with_suffix(".user")):
        _add_user(source, source.users_file, row, list(cells.values()), tuple(cells))
    return source


LAYOUTS = {
    ("u.data",): _100k,
    ("ratings.dat",): _dat,
    ("ratings.csv",): lambda folder: _csv(folder / "ratings.csv", folder / "movies.csv"),
    ("rating.csv",): lambda folder: _csv(folder / "rating.csv", folder / "movie.csv"),
}


def _add_listed_movie(source: Source, file: str, row: int, cells: list[str]) -> None:
    """Add a row `id, title (year), genre|genre`."""
    if len(cells) != 3:
        source.reject(file=file, row=row, value="::".join(cells), reason="malformed row")
        return
    title, year = _title_and_year(cells[1])
    _add_movie(source, file, row, Movie(cells[0], title, year, cells[2].split("|")))


def _add_movie(source: Source, file: str, row: int, movie: Movie) -> None:
    year = movie.year if re.fullmatch(r"\d{4}", movie.year) else ""
    genres = [genre for genre in movie.genres if genre not in NO_GENRE]
    if not movie.item_id:
        source.reject(file=file, row=row, value=movie.title, reason="movie without an id")
    elif movie.item_id in source.movies:
        source.reject(file=file, row=row, value=movie.item_id, reason="duplicate movie")
    else:
        source.movies[movie.item_id] = Movie(movie.item_id, movie.title, year, genres)


def _add_user(source: Source, file: str, row: int, cells: list[str], names: tuple[str, ...]) -> None:
    values = dict(zip(names, cells))
    user = values.get("user_id", "")
    if not user or len(cells) < len(names):
        source.reject(file=file, row=row, value="|".join(cells), reason="malformed row")
    elif user in source.users:
        source.reject(file=file, row=row, value=user, reason="duplicate user")
    else:
        wanted = {name: values[name] for name in ("gender", "occupation") if name in values}
        source.users[user] = wanted | ({"age": age_bracket(values["age"])} if "age" in values else {})


def age_bracket(age: str) -> str:
    """Put an age into the brackets of MovieLens 1M (its codes are their first years); "" if no number."""
    if not age.isdecimal():
        return ""
    return next((name for end, name in AGE_BRACKETS if int(age) < end), "56+")


def _title_and_year(title: str) -> tuple[str, str]:
    """Cut `Toy Story (1995)` into its title and year; the year is "" where there is none."""
    match = TITLE_YEAR.match(title)
    return (match[1], match[2]) if match else (title.strip(), "")


def _rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield `(row, cells)` of a small table without quotes."""
    lines = _text(path).split("\n")  # not splitlines: in Latin-1 it takes some letters for line ends
    cells_by_row = (line.rstrip("\r").split(delimiter) for line in lines)
    yield from ((row, cells) for row, cells in enumerate(cells_by_row, start=1) if any(cells))


def _text(path: Path) -> str:
    """The text of a small table, plain or gzipped, "" without one; the older sets are in Latin-1, newer ones in UTF-8."""
    path = or_gzipped(path)
    if not path.is_file():
        return ""
    check_text(path)
    with open_bytes(path) as file:
        data = file.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _atomic_columns(path: Path) -> dict[str, str]:
    """The columns of a RecBole file: name -> the header as written (`user_id:token`)."""
    with open(path, encoding="utf-8-sig", errors="replace") as lines:  # it decodes more than the header
        header = lines.readline().rstrip("\r\n").split("\t")
    return {column.split(":")[0].strip(): column.strip() for column in header}


def _atomic_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    if path.is_file():
        names = list(_atomic_columns(path))
        yield from ((row, dict(zip(names, cells))) for row, cells in _rows(path, "\t") if row > 1)
