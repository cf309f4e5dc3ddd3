"""Recommendations for every customer of a prepared dataset, in parts: read, recommend and write side by
side.
"""

from __future__ import annotations

import csv
import json
import logging
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.prepared import Prepared, open_prepared
from pipelines.remote import local_copy
from tfrec.batch_retrieval.customers import CustomerReader, Customers
from tfrec.batch_retrieval.files import Parts, check_submission, format_of, recommendation_table
from tfrec.cores import calls_at_a_time, in_order, one_thread_an_op
from tfrec.histories import unpadded
from tfrec.pretraining.generation import Generation, Search, log_sales
from tfrec.publish import find_version, read_manifest, sha256_of

if TYPE_CHECKING:
    from tfrec.reports.explanations import Explainer
    from tfrec.saved_model.loading import LoadedModel

log = logging.getLogger("tfrec")


class RetrieveError(ValueError):
    """An option that does not fit the model or the data."""


@dataclass(frozen=True)
class RetrieveOptions:
    """What to recommend to whom.

    Attributes:
        model: folder of a model (its newest version is used) or of a version.
        data: a prepared dataset.
        out: the file to write.
        k: recommendations a customer.
        kind: `parquet`, `csv` or `submission`; by the name of `out` where None.
        batch: customers a call of the model.
        part: customers a part; what a stopped run loses at most.
        resume: keep the parts of a stopped run.
        exclude_seen: leave out what a customer has bought; None: as the model was evaluated (`evaluation.seen_filter`).
        users: a file whose first column lists customers; all where None.
        only: a file whose first column lists the items that may be recommended, such as those in stock; all where None.
        until: only purchases before this day count (UTC).
        generation: continue the histories by `generation.length` items, in their order, instead of listing the best k.
        explain: also write why, as a file of JSON lines beside `out`.
        engine: `local` makes the parts in this process, `ray` in processes of a Ray cluster.
        workers: such processes.
        rerank: let the ranking head order so many items that retrieval found, by predicted rating; 0: no second stage.
    """

    model: Path
    data: Path
    out: Path
    k: int = 12
    kind: str | None = None
    batch: int = 1024
    part: int = 32_768
    resume: bool = False
    exclude_seen: bool | None = None
    users: Path | None = None
    only: Path | None = None
    until: datetime | None = None
    generation: Generation | None = None
    rerank: int = 0
    explain: bool = False
    engine: str = "local"
    workers: int = 2

    @property
    def explanations(self) -> Path | None:
        """The file that says why; None where it is not asked for."""
        return self.out.with_suffix(".explained.jsonl") if self.explain else None


def load_job(options: RetrieveOptions, own_cores: float | None = None, *, joins: bool = False) -> Job:
    """Check the options and the data, load the model, and take up the parts of a stopped run: with `options.resume` they
    are kept, without it they are removed.

    Args:
        options: what to do.
        own_cores: the cores that this process has to itself; all that it may use where None.
        joins: make parts for another process, which has the job; else no other process may make parts of the same output
            until the job has run.

    Raises:
        FolderInUseError: another process makes the output.
        RetrieveError, PublishError, PreparedError, RecommendationFileError: an option, the model, the data or
            the parts of a stopped run are not as they should be.
    """
    kind = options.kind or format_of(options.out)
    version = find_version(options.model)
    options = _checked(options, version)
    prepared = open_prepared(options.data)
    least = read_manifest(version).get("history_min_rating", 0.0)
    if least and "rating" not in prepared.event_columns:
        raise RetrieveError(
            f"{options.data} has no ratings, and histories of {version} hold what was rated {least:g} or more; prepare the "
            "data with ratings, or train with --rating.history all"
        )
    from tfrec.saved_model.loading import load_model  # TensorFlow takes seconds: only once all else is in order

    one_thread_an_op()
    model = load_model(version)
    known = pd.Index([name.decode() for name in model.module.item_ids.numpy()])
    if kind == "submission":
        check_submission(known)
    reader = _reader(options, prepared.path, model, known)
    rows = np.arange(reader.count) if options.users is None else _rows_of_users(options, reader)
    among = None if options.only is None else _rows_among(options.only, model.path, known)
    begin = partial(Parts.resume, joins=joins) if options.resume else Parts.start_afresh
    parts = begin(options.out, _identity(options, version, prepared.path))
    return Job(options, kind, model, prepared, reader, parts, rows, known, calls_at_a_time(own_cores), among)


def _checked(options: RetrieveOptions, version: Path) -> RetrieveOptions:
    """The options with what the version decides where they leave it open, refused where it cannot answer them."""
    manifest = read_manifest(version)
    if options.exclude_seen is None:
        options = replace(options, exclude_seen=evaluated_without_seen(manifest))
    if options.generation is None and not 1 <= options.k <= manifest["max_k"]:
        raise RetrieveError(f"--k {options.k} must be 1 to {manifest['max_k']}, the most that {version} answers")
    check_stages(options, manifest, version)
    for name in ("batch", "part", "workers"):
        if getattr(options, name) < 1:
            raise RetrieveError(f"--{name} {getattr(options, name)} must be at least 1")
    return options


@dataclass(frozen=True)
class Job:
    """A retrieval that is ready to run.

    Attributes:
        options: what to do.
        kind: of the output.
        model: the loaded version.
        prepared: the dataset.
        reader: of the customers.
        parts: finished ones and where they stand.
        rows: of the customers, int64 `[U]`, rising.
        item_ids: the model's, by row `[N]`.
        calls: of the model, side by side.
        among: rows of the items that may be recommended, int32 `[M]`; None: all may.
    """

    options: RetrieveOptions
    kind: str
    model: LoadedModel
    prepared: Prepared
    reader: CustomerReader
    parts: Parts
    rows: np.ndarray
    item_ids: pd.Index
    calls: int = 1
    among: np.ndarray | None = None

    def cuts(self) -> list[np.ndarray]:
        """The customers' rows of each part."""
        size = self.options.part
        return [self.rows[start : start + size] for start in range(0, len(self.rows), size)]

    def missing(self) -> list[int]:
        """The parts that are still to be made."""
        return [number for number in range(len(self.cuts())) if not self.parts.done(number)]

    @property
    def ready(self) -> int:
        """Customers of the parts that are made."""
        cuts = self.cuts()
        return len(self.rows) - sum(len(cuts[number]) for number in self.missing())

    def run(self, progress: Callable[[int], object]) -> int:
        """Make all parts that are missing and put them together; returns the number of customers.

        Reading the next part, the model and writing the part before run side by side.
        """
        try:
            return self._run(progress)
        finally:
            self.parts.close()

    def _run(self, progress: Callable[[int], object]) -> int:
        cuts, missing = self.cuts(), self.missing()
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            reads = {number: reader.submit(self.reader.read, cuts[number]) for number in missing[:1]}
            writing: Future[None] | None = None
            for number, following in zip(missing, [*missing[1:], None]):
                customers = reads.pop(number).result()
                if following is not None:
                    reads[following] = reader.submit(self.reader.read, cuts[following])
                answers = self.recommend(customers, progress)
                if writing is not None:
                    writing.result()  # at most one part waits in memory; its error is raised here
                writing = writer.submit(self.write, number, customers, *answers)
            if writing is not None:
                writing.result()
        self.model.close()
        return self.finish()

    def make(self, number: int) -> int:
        """Make one part, after which it is on the disk; returns the number of its customers."""
        customers = self.reader.read(self.cuts()[number])
        self.write(number, customers, *self.recommend(customers, lambda done: None))
        return len(customers)

    def write(self, number: int, customers: Customers, rows: np.ndarray, scores: np.ndarray) -> None:
        """Write a part: what its customers are recommended and, where asked for, why."""
        if self.options.explain:
            self.parts.write_lines(number, self.explain(customers, rows))
        self.parts.write(number, recommendation_table(customers.ids, rows, scores, self._item_ids))

    def finish(self) -> int:
        """Put all parts together as the output; returns the number of customers."""
        self.parts.finish(len(self.cuts()), self.options.out, self.kind, self.options.explanations)
        return len(self.rows)

    @cached_property
    def _item_ids(self) -> pa.Array:
        return pa.array(self.item_ids, pa.string())

    def recommend(self, customers: Customers, progress: Callable[[int], object]) -> tuple[np.ndarray, np.ndarray]:
        """Item rows int32 `[U, k]` and scores float32 `[U, k]` of a part's customers."""
        customers, places = customers.by_length()
        users = self._user_rows(customers)
        rows = np.empty((len(customers), self.options.k), np.int32)
        scores = np.empty(rows.shape, np.float32)

        def answer(start: int) -> int:
            stop = min(start + self.options.batch, len(customers))
            rows[places[start:stop]], scores[places[start:stop]] = self._answer(customers, users, start, stop)
            return stop - start

        for done in in_order(answer, range(0, len(customers), self.options.batch), self.calls):
            progress(done)
        return rows, scores

    def _answer(self, customers: Customers, users: np.ndarray, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Item rows and scores `[B, k]` of the customers `start` to `stop`, by the stages that are asked for."""
        user, fields = users[start:stop], customers.fields[start:stop]
        history, days_ago = customers.history[start:stop], customers.days_ago[start:stop]
        excluded = customers.excluded(start, stop)

        def search(
            history: np.ndarray, days_ago: np.ndarray, excluded: np.ndarray, rows: np.ndarray, k: int
        ) -> tuple[np.ndarray, np.ndarray]:
            read = unpadded(history)
            query = {"history": history[:, read], "days_ago": days_ago[:, read], "exclude": excluded}
            query |= {"user": user[rows], "user_fields": fields[rows]}
            if self.among is None:
                found = self.model("recommend_rows", **query, k=k)
            else:
                found = self.model("recommend_rows_among", **query, k=k, among=self.among[None])
            return found["item_row"].numpy(), found["score"].numpy()

        if self.options.generation is not None:
            numbers = np.array([zlib.crc32(name.encode()) for name in customers.ids[start:stop].to_pylist()])
            return self.options.generation(self._by_logits(search), history, days_ago, excluded, numbers)
        everyone = np.arange(stop - start)
        rows, scores = search(history, days_ago, excluded, everyone, self.options.rerank or self.options.k)
        if not self.options.rerank:
            return rows, scores
        query = {"history": history, "days_ago": days_ago, "user": user, "user_fields": fields}
        found = {name: array.numpy() for name, array in self.model("rate_rows", **query, items=rows).items()}
        ratings = np.where(rows >= 0, found["rating"], scores)  # "no item" has the lowest score
        order = np.where(rows >= 0, found.get("order", found["rating"]), scores)  # older versions tell ratings alone
        best = np.argsort(-order, axis=1, kind="stable")[:, : self.options.k]
        return np.take_along_axis(rows, best, 1), np.take_along_axis(ratings, best, 1)

    def _by_logits(self, search: Search) -> Search:
        """The search with logits throughout: where it reads nothing of a history, it scores popular items by their sales."""

        def logits(
            history: np.ndarray, days_ago: np.ndarray, excluded: np.ndarray, customers: np.ndarray, k: int
        ) -> tuple[np.ndarray, np.ndarray]:
            rows, scores = search(history, days_ago, excluded, customers, k)
            return rows, np.where(self._reads(history)[:, None], scores, log_sales(scores))

        return logits

    def _reads(self, history: np.ndarray) -> np.ndarray:
        """Whether the query tower reads anything of histories `[..., L]`; who it knows nothing of gets popular items."""
        readable = self.model.manifest.get("readable_items", len(self.item_ids))
        return ((history >= 0) & (history < readable)).any(-1)

    def explain(self, customers: Customers, rows: np.ndarray) -> list[str]:
        """Why each of a part's customers got the items `rows` int32 `[U, k]`: a line of JSON for each."""
        lines = []
        for place, user_id in enumerate(customers.ids.to_pylist()):
            shown = rows[place][rows[place] >= 0]
            if not self._reads(customers.history[place]):  # the score is not what found these
                told = [{"item_id": self.item_ids[row], "popular": True} for row in shown]
                lines.append(json.dumps({"user_id": user_id, "recommended": told}, ensure_ascii=False))
                continue
            told = self._explainer(customers.history[place], customers.days_ago[place], customers.fields[place], shown)
            lines.append(json.dumps({"user_id": user_id, "recommended": told}, ensure_ascii=False))
        return lines

    @cached_property
    def _explainer(self) -> Explainer:
        from tfrec.reports.explanations import Explainer

        return Explainer(self.model, self.prepared)

    def _user_rows(self, customers: Customers) -> np.ndarray:
        """The model's rows of customers int32 `[U]`, where it looks them up; else -1."""
        looks_up = self.model.manifest["query_kind"] == "user" or self.options.rerank
        if not looks_up or "recommend_user" not in self.model.signatures:
            return np.full(len(customers), -1, np.int32)
        return self._known_users.get_indexer(customers.ids.to_pylist()).astype(np.int32)

    @cached_property
    def _known_users(self) -> pd.Index:
        return pd.Index([name.decode() for name in self.model.module.user_ids.numpy()])


def evaluated_without_seen(manifest: dict[str, Any]) -> bool:
    """Whether a version's model was evaluated on items that are new to the customer: its scores of the others were not."""
    return bool(manifest.get("config", {}).get("evaluation", {}).get("seen_filter", False))


def check_stages(options: RetrieveOptions, manifest: dict[str, Any], version: Path) -> None:
    """Refuse stages that a version cannot answer, by its manifest.

    Raises:
        RetrieveError: generation or reranking that does not fit the model or the other options.
    """
    most = manifest["max_k"]
    if options.generation is not None:
        if options.rerank:
            raise RetrieveError("--generate and --rerank exclude each other: a continuation has an order of its own")
        if options.generation.candidates > most:
            raise RetrieveError(
                f"--candidates {options.generation.candidates} is more than the {most} {version} answers"
            )
        if options.explain:
            raise RetrieveError(
                "--explain tells why items were recommended, not why they were generated: leave one out"
            )
        if manifest["query_kind"] == "user":
            raise RetrieveError(f"{version} looks customers up and reads no history, so it has none to continue")
    if options.only is not None and "recommend_rows_among" not in manifest["signatures"]:
        raise RetrieveError(f"{version} cannot answer --only; export its run again with this tfrec")
    if options.explain and options.rerank:
        raise RetrieveError(
            "--explain tells why retrieval found items, and --rerank orders them by their ratings: leave one out"
        )
    if options.explain and "explain_rows" not in manifest["signatures"]:
        raise RetrieveError(f"{version} cannot explain itself; export a model that reads histories with this tfrec")
    if options.rerank and "rate_rows" not in manifest["signatures"]:
        raise RetrieveError(f"{version} has no ranking head; train one with --recipe movielens, or leave out --rerank")
    knows_customers = options.rerank or manifest["query_kind"] == "user"
    if knows_customers and "recommend_user" not in manifest["signatures"]:
        raise RetrieveError(f"{version} was exported without its customers; export it with a larger --max-users")
    if options.rerank and not options.k <= options.rerank <= most:
        raise RetrieveError(
            f"--candidates {options.rerank} must be {options.k} (--k) to {most}, what {version} answers"
        )


def _reader(options: RetrieveOptions, data: Path, model: LoadedModel, known: pd.Index) -> CustomerReader:
    """A reader of the dataset in the folder `data` that speaks the model's rows, of the items `known` `[N]`."""
    items = pq.read_table(data / "items.parquet", columns=["item_id"])["item_id"].to_pylist()
    item_rows = known.get_indexer(pd.Index(items)).astype(np.int32)
    if len(items) and (item_rows < 0).all():
        raise RetrieveError(f"the model {model.path} knows none of the items of {options.data}; give its own data")
    return CustomerReader(
        data,
        item_rows,
        length=model.manifest["history_length"],
        fields=model.manifest["user_fields"],
        until=None if options.until is None else int(options.until.timestamp()),
        with_seen=bool(options.exclude_seen),
        readable=model.manifest.get("readable_items"),
        history_min_rating=model.manifest.get("history_min_rating", 0.0),
    )


def _identity(options: RetrieveOptions, version: Path, data: Path) -> dict[str, Any]:
    """What decides the recommendations: parts with another identity must not be mixed."""
    return {
        "model": sha256_of(version / "manifest.json"),
        "data": sha256_of(data / "manifest.json"),
        "users": None if options.users is None else sha256_of(local_copy(options.users)),
        "only": None if options.only is None else sha256_of(local_copy(options.only)),
        "until": None if options.until is None else options.until.isoformat(),
        "k": options.k,
        "batch": options.batch,
        "part": options.part,
        "exclude_seen": options.exclude_seen,
        "generation": None if options.generation is None else asdict(options.generation),
        "rerank": options.rerank,
        "explain": options.explain,
    }


# Of the options that name a list: what it lists, and headers of its column.
LISTED = {"users": ("customer", ("user_id", "customer_id")), "only": ("item", ("item_id", "article_id"))}


def _listed(file: Path, option: str) -> dict[str, int]:
    """The first column of the text or CSV file of `--users` or `--only`, without the header of a table: ids in the file's
    order, each with the line that it stands in first."""
    what, headers = LISTED[option]
    try:
        with local_copy(file).open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            ids = [(row[0], reader.line_num) for row in reader if row and row[0]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise RetrieveError(
            f"--{option} {file} is no text or CSV in UTF-8 ({error}); give one {what} id a line"
        ) from error
    ids = ids[1:] if ids and ids[0][0] in headers else ids
    if not ids:
        raise RetrieveError(f"--{option} {file} names no {what}; give one {what} id a line")
    lines: dict[str, int] = {}
    for name, line in ids:
        lines.setdefault(name, line)
    return lines


def _rows_of_users(options: RetrieveOptions, reader: CustomerReader) -> np.ndarray:
    """The rows of the customers that a file lists, int64 `[U]`, rising."""
    assert options.users is not None
    lines = _listed(options.users, "users")
    rows, unknown = reader.rows_of(lines)
    if unknown:
        first = min(unknown, key=lines.__getitem__)
        raise RetrieveError(
            f"--users {options.users}: {len(unknown)} of {len(lines)} customers are not in {options.data}, first {first!r} "
            f"in line {lines[first]}; list ids of its users.parquet, under a header user_id or none"
        )
    return rows


def _rows_among(file: Path, version: Path, known: pd.Index) -> np.ndarray:
    """The rows among the items `known` `[N]` of a version of those that a file lists, int32 `[M]`, rising, no repeats."""
    ids = list(_listed(file, "only"))
    rows = known.get_indexer(pd.Index(ids))
    unknown = [name for name, row in zip(ids, rows, strict=True) if row < 0]
    if len(unknown) == len(ids):
        raise RetrieveError(f"the model {version} knows none of the items of --only {file}, first {ids[0]!r}")
    if unknown:
        log.warning(
            "%d of the %d items of --only %s are unknown to the model and are not recommended, first %r",
            len(unknown),
            len(ids),
            file,
            unknown[0],
        )
    return np.unique(rows[rows >= 0]).astype(np.int32)
