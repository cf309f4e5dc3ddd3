"""MovieLens: every layout gives the same dataset, bad rows are named, splits keep their promises."""

import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import ratio_splits
from pipelines.__main__ import main
from pipelines.movielens import files as movielens_files
from pipelines.movielens.ratings import Log, keep_core
from pipelines.prepared import open_prepared
from pipelines.raw.csv_lines import UNSPLIT
from pipelines.schema import PreparedError

RATINGS = [(1, 10, 4.0, 100), (1, 20, 3.0, 90), (2, 10, 5.0, 50), (1, 30, 2.0, 100), (2, 30, 1.0, 60)]


def flags(*genres):
    return "|".join("1" if genre in genres else "0" for genre in movielens_files.GENRES_100K)


def write_100k(raw):
    (raw / "u.data").write_text("".join(f"{u}\t{i}\t{r:.0f}\t{t}\n" for u, i, r, t in RATINGS))
    movies = (
        f"10|Toy Story (1995)|01-Jan-1995||http://x|{flags('Animation', 'Comedy')}\n"
        f"20|Café Löwe (1971)|01-Jan-1971||http://x|{flags('Drama')}\n"
        f"30|unknown||||{flags('unknown')}\n"
    )
    (raw / "u.item").write_bytes(movies.encode("latin-1"))
    (raw / "u.user").write_text("1|24|M|technician|85711\n2|53|F|other|94043\n3|1|F|other|94043\n")


def write_dat(raw):
    (raw / "ratings.dat").write_text("".join(f"{u}::{i}::{r:g}::{t}\n" for u, i, r, t in RATINGS))
    movies = "10::Toy Story (1995)::Animation|Comedy\n20::Café Löwe (1971)::Drama\n"
    movies += "30::unknown::(no genres listed)\n"
    (raw / "movies.dat").write_bytes(movies.encode("latin-1"))
    (raw / "users.dat").write_text("1::M::18::technician::85711\n2::F::50::other::94043\n3::F::1::other::1\n")


def write_csv(raw):
    rows = "".join(f"{u},{i},{r},{t}\n" for u, i, r, t in RATINGS)
    (raw / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + rows)
    movies = 'movieId,title,genres\n10,"Toy Story (1995)",Animation|Comedy\n'
    movies += "20,Café Löwe (1971),Drama\n30,unknown,\n"
    (raw / "movies.csv").write_text(movies, encoding="utf-8")


def write_kaggle(raw):
    rows = "".join(f'{u},{i},{r},"1970-01-01 00:{t // 60:02}:{t % 60:02}"\n' for u, i, r, t in RATINGS)
    (raw / "rating.csv").write_text('"userId","movieId","rating","timestamp"\n' + rows)
    write_csv(raw)
    (raw / "movies.csv").rename(raw / "movie.csv")
    (raw / "ratings.csv").unlink()


def write_recbole(raw):
    rows = "".join(f"{u}\t{i}\t{r}\t{t}\n" for u, i, r, t in RATINGS)
    (raw / "ml.inter").write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + rows)
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    movies = "10\tToy Story\t1995\tAnimation Comedy\n20\tCafé Löwe\t1971\tDrama\n30\tunknown\t\t\n"
    (raw / "ml.item").write_text(header + movies, encoding="utf-8")
    header = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    (raw / "ml.user").write_text(header + "1\t24\tM\ttechnician\t8\n2\t53\tF\tother\t9\n3\t1\tF\tother\t9\n")


WRITERS = {
    "100k": write_100k,
    "dat": write_dat,
    "csv": write_csv,
    "kaggle": write_kaggle,
    "recbole": write_recbole,
}


def prepare(tmp_path, *options, write=write_csv):
    raw = tmp_path / "raw"
    raw.mkdir(exist_ok=True)
    write(raw)
    out = tmp_path / "prepared"
    assert main(["movielens", "--raw", str(raw), "--out", str(out), "--overwrite", *options]) == 0
    return open_prepared(out, verify=True)


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_gives_the_same_dataset(tmp_path, layout):
    data = prepare(tmp_path, write=WRITERS[layout])
    assert data.items["item_id"].tolist() == ["10", "20", "30"]
    assert data.items["title"].tolist() == ["Toy Story", "Café Löwe", "unknown"]
    assert data.items["attr.genres"].map(list).tolist() == [["Animation", "Comedy"], ["Drama"], []]
    assert data.items["attr.year"].map(list).tolist() == [["1995"], ["1971"], []]
    assert data.items["attr.decade"].map(list).tolist() == [["1990s"], ["1970s"], []]
    events = data.events()
    assert events["user"].tolist() == [0, 0, 0, 1, 1]
    assert events["item"].tolist() == [1, 0, 2, 0, 2]  # by time; ties in the order of the file
    assert events["time"].tolist() == [90, 100, 100, 50, 60]
    assert events["rating"].tolist() == [3.0, 4.0, 2.0, 5.0, 1.0]
    assert events["split"].tolist() == [0, 1, 2, 0, 0]
    assert data.manifest["rejected"] == {}


@pytest.mark.parametrize("layout", ["100k", "dat", "recbole"])
def test_user_fields_and_users_without_ratings_are_kept(tmp_path, layout):
    data = prepare(tmp_path, write=WRITERS[layout])
    assert data.users["user_id"].tolist() == ["1", "2", "3"]
    assert data.users["attr.age"].tolist() == ["18-24", "50-55", "under 18"]
    assert data.users["attr.gender"].tolist() == ["M", "F", "F"]
    assert data.users["attr.occupation"].tolist() == ["technician", "other", "other"]


def test_the_folder_inside_the_archive_is_found(tmp_path):
    inner = tmp_path / "raw" / "ml-1m"
    inner.mkdir(parents=True)
    write_dat(inner)
    data = prepare(tmp_path, write=lambda raw: None)
    assert data.manifest["counts"]["layout"] == "dat"


def test_bad_rows_are_rejected_with_their_row_and_the_rest_is_kept(tmp_path):
    def write(raw):
        write_csv(raw)
        with open(raw / "ratings.csv", "a") as file:
            file.write("3,10,five,100\n3,10\n3,,4,100\n3,20,4,soon\n3,20,4,-5\n3,20,4,120\n")

    data = prepare(tmp_path, "--max-rejected", "0.5", write=write)
    rejected = pd.read_parquet(data.path / "rejected.parquet")
    assert {(row.row, row.field, row.value) for row in rejected.itertuples()} == {
        (7, "rating", "five"),
        (8, "", "3,10"),
        (9, "movieId", ""),
        (10, "timestamp", "soon"),
        (11, "timestamp", "-5"),
    }
    assert len(data.events()) == len(RATINGS) + 1


def test_timestamps_in_milliseconds_are_rejected_as_such(tmp_path, capsys):
    reason = "timestamp is after the year 9999: looks like milliseconds, give seconds"
    last_second = 253_402_300_799

    def write(raw):
        write_csv(raw)
        with open(raw / "ratings.csv", "a") as file:
            file.write(f"3,20,4,{last_second}\n3,20,4,{last_second + 1}\n3,20,4,inf\n")

    data = prepare(tmp_path, "--split", "random", "--max-rejected", "0.5", write=write)
    assert data.manifest["rejected"] == {reason: 1, "timestamp is no time": 1, "timestamp: time lies in the future": 1}
    rows = "".join(f"{u},{i},{r},{1_600_000_000_000 + t}\n" for u, i, r, t in RATINGS)
    (tmp_path / "raw" / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + rows)
    words = ["movielens", "--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "out"), "--split", "temporal"]
    assert main(words) == 2
    assert reason in capsys.readouterr().err


def test_rows_of_a_file_without_a_header_are_numbered_from_1(tmp_path):
    def write(raw):
        write_100k(raw)
        lines = (raw / "u.data").read_text().splitlines()
        (raw / "u.data").write_text("\n".join([*lines[:2], "7\t10", "7\t10\t4\tsoon", *lines[2:], "8\t10\t4\tsoon"]))

    data = prepare(tmp_path, "--max-rejected", "0.5", write=write)
    assert sorted(pd.read_parquet(data.path / "rejected.parquet")["row"]) == [3, 4, 8]
    assert len(data.events()) == len(RATINGS)


def test_the_command_says_what_it_wrote(tmp_path, capsys):
    prepare(tmp_path)
    said = capsys.readouterr().out
    assert "3 items, 2 users, 5 events" in said
    assert "events: 3 train, 1 val, 1 test" in said


def test_too_many_bad_rows_are_an_error(tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    write_csv(raw)
    (raw / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,10,x,1\n1,20,3,1\n")
    assert main(["movielens", "--raw", str(raw), "--out", str(tmp_path / "out")]) == 2
    assert "--max-rejected" in capsys.readouterr().err


def test_a_missing_column_and_an_unknown_folder_are_errors_that_say_so(tmp_path, capsys):
    (tmp_path / "ratings.csv").write_text("userId,movieId,timestamp\n1,10,1\n")
    assert main(["movielens", "--raw", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "column 'rating' is missing" in capsys.readouterr().err
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating\n1,10,1\n")
    assert main(["movielens", "--raw", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "column 'timestamp' is missing (found userId, movieId, rating); it is required" in said
    assert "empty" not in said
    (tmp_path / "empty").mkdir()
    assert main(["movielens", "--raw", str(tmp_path / "empty"), "--out", str(tmp_path / "out")]) == 2
    assert "expected u.data, ratings.dat" in capsys.readouterr().err


def test_a_rated_movie_that_is_not_listed_is_kept(tmp_path):
    def write(raw):
        write_csv(raw)
        with open(raw / "ratings.csv", "a") as file:
            file.write("2,99,4,100\n")

    data = prepare(tmp_path, write=write)
    assert data.items["item_id"].tolist()[-1] == "99"
    assert data.items["title"].tolist()[-1] == ""
    assert data.manifest["counts"]["movies_without_metadata"] == 1


def test_movies_whose_ids_are_of_another_form_are_warned_of(tmp_path, capsys):
    def write(raw):
        write_csv(raw)
        (raw / "movies.csv").write_text("movieId,title,genres\n10.0,Heat (1995),\n20.0,Up,\n30,Alien,\n")

    assert prepare(tmp_path, write=write).manifest["counts"]["movies_without_metadata"] == 2
    said = capsys.readouterr().out
    assert "2 of 3 movies of ratings.csv are not in movies.csv" in said
    assert "written differently? ratings.csv: '10', movies.csv: '10.0'" in said or "'20', movies.csv: '20.0'" in said


def test_gzipped_files_and_blanks_around_names_give_the_same(tmp_path):
    def write(raw):
        write_csv(raw)
        for name in ("ratings.csv", "movies.csv"):
            header, rest = (raw / name).read_bytes().split(b"\n", 1)
            (raw / f"{name}.gz").write_bytes(gzip.compress(header.replace(b",", b" , ") + b"\n" + rest))
            (raw / name).unlink()

    (tmp_path / "plain").mkdir()
    (tmp_path / "packed").mkdir()
    expected, data = prepare(tmp_path / "plain", write=write_csv), prepare(tmp_path / "packed", write=write)
    pd.testing.assert_frame_equal(data.items, expected.items)
    pd.testing.assert_frame_equal(data.events(), expected.events())


def test_a_folder_without_movies_is_read_and_told(tmp_path, capsys):
    def write(raw):
        write_csv(raw)
        (raw / "movies.csv").unlink()

    assert prepare(tmp_path, write=write).items["title"].tolist() == ["", "", ""]
    said = capsys.readouterr().out
    assert "movies.csv is missing or empty: movies have no titles" in said
    assert "warning" not in said


def test_duplicate_movies_keep_the_first(tmp_path):
    def write(raw):
        write_csv(raw)
        with open(raw / "movies.csv", "a") as file:
            file.write("10,Another (2000),Drama\n")

    data = prepare(tmp_path, "--max-rejected", "0.5", write=write)
    assert data.items["title"].tolist()[0] == "Toy Story"
    assert data.manifest["rejected"] == {"duplicate movie": 1}


def test_a_stray_quote_costs_one_movie(tmp_path):
    def write(raw):
        write_csv(raw)
        lines = (raw / "movies.csv").read_text(encoding="utf-8").splitlines()
        movies = [lines[0], '11,"Stray (1990),Drama', *lines[1:], '12,"Second (1991),Drama']
        (raw / "movies.csv").write_text("\n".join(movies) + "\n", encoding="utf-8")

    data = prepare(tmp_path, "--max-rejected", "0.5", write=write)
    assert data.items["title"].tolist() == ["Toy Story", "Café Löwe", "unknown"]
    rejected = pd.read_parquet(data.path / "rejected.parquet")
    assert rejected[["file", "row", "reason"]].values.tolist() == [
        ["movies.csv", 2, UNSPLIT],
        ["movies.csv", 6, UNSPLIT],
    ]


def test_columns_of_movies_are_found_by_their_names(tmp_path):
    def write(raw):
        write_csv(raw)
        movies = "genres,imdbId,movieId,title\nDrama|Comedy,7,20,Café Löwe (1971)\nDrama,8,30\n"
        (raw / "movies.csv").write_text(movies, encoding="utf-8")

    data = prepare(tmp_path, "--max-rejected", "0.5", write=write)
    assert data.items["item_id"].tolist()[0] == "20"
    assert data.items["title"].tolist()[0] == "Café Löwe"
    assert data.items["attr.genres"][0].tolist() == ["Drama", "Comedy"]
    assert data.manifest["rejected"] == {"malformed row": 1}


def test_movies_without_a_column_are_refused(tmp_path, capsys):
    write_csv(tmp_path)
    (tmp_path / "movies.csv").write_text("movieId,name,genres\n10,Toy Story,Drama\n")
    assert main(["movielens", "--raw", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "movies.csv: column 'title' is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("layout", "name", "line"),
    [("csv", "movies.csv", "11\n"), ("dat", "users.dat", "9::M\n"), ("100k", "u.item", "4|x\n")],
)
def test_too_many_bad_movies_or_users_are_an_error(tmp_path, capsys, layout, name, line):
    raw = tmp_path / "raw"
    raw.mkdir()
    WRITERS[layout](raw)
    with open(raw / name, "a") as file:
        file.write(line)
    words = ["movielens", "--raw", str(raw), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert f"{name}: 1 of 4 rows were rejected, more than --max-rejected 0.1 allows" in capsys.readouterr().err
    assert main([*words, "--max-rejected", "0.25"]) == 0


def test_recbole_files_in_latin_1_are_read_as_the_older_sets_are(tmp_path):
    def write(raw):
        write_recbole(raw)
        movies = (raw / "ml.item").read_text(encoding="utf-8")
        (raw / "ml.item").write_bytes(movies.encode("latin-1"))

    assert prepare(tmp_path, write=write).items["title"][1] == "Café Löwe"


@pytest.mark.parametrize("name", ["raw", "ml"])
def test_recbole_parts_beside_the_whole_are_passed_over(tmp_path, name):
    """The whole is named like the folder, or as its parts begin."""

    def write(raw):
        write_recbole(raw)
        header = (raw / "ml.inter").read_text().splitlines()[0]
        (raw / "ml.inter").rename(raw / f"{name}.inter")
        for part in ("a", "ml.train", "ml.test") if name == "raw" else ("ml.train", "ml.test"):
            (raw / f"{part}.inter").write_text(f"{header}\n1\t10\t4.0\t100\n")

    assert len(prepare(tmp_path, write=write).events()) == len(RATINGS)


def test_recbole_parts_without_the_whole_are_refused_by_name(tmp_path, capsys):
    write_recbole(tmp_path)
    parts = [f"ml.{part}.inter" for part in ("test", "train", "valid")]
    for part in parts:
        (tmp_path / part).write_text((tmp_path / "ml.inter").read_text())
    (tmp_path / "ml.inter").unlink()
    assert main(["movielens", "--raw", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert ", ".join(parts) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("age", "bracket"),
    [("17", "under 18"), ("18", "18-24"), ("49", "45-49"), ("56", "56+"), ("", ""), ("x", "")],
)
def test_age_brackets(age, bracket):
    assert movielens_files.age_bracket(age) == bracket


def test_min_interactions_keeps_the_core(tmp_path):
    data = prepare(tmp_path, "--min-interactions", "2")
    assert data.items["item_id"].tolist() == ["10", "30"]
    assert data.users["user_id"].tolist() == ["1", "2"]
    assert len(data.events()) == 4
    assert data.manifest["rejected"] == {"outside the core of --min-interactions": 1}
    rejected = pd.read_parquet(data.path / "rejected.parquet")
    assert rejected[["file", "row", "field", "value"]].values.tolist() == [["ratings.csv", 3, "movieId", "20"]]


@pytest.mark.parametrize(
    ("options", "rows", "reason"),
    [
        (["--split", "leave-last-out"], [9], "repeat of an older rating after a held-out one"),
        (
            ["--split", "temporal", "--cutoff", "1970-01-02", "--test-days", "1", "--val-days", "0"],
            [8],
            "rating after the last day of the test",
        ),
    ],
)
def test_ratings_dropped_by_the_split_are_set_aside_by_their_rows(tmp_path, options, rows, reason):
    def write(raw):
        write_csv(raw)
        with open(raw / "ratings.csv", "a") as file:
            file.write("too,few\n9,10,4,172800\n1,20,3,90000\n")

    data = prepare(tmp_path, *options, "--max-rejected", "0.5", write=write)
    assert data.manifest["rejected"] == {"wrong number of fields": 1, reason: 1}
    assert data.manifest["split"]["dropped"] == 1
    rejected = pd.read_parquet(data.path / "rejected.parquet")
    assert rejected.loc[rejected["reason"] == reason, "row"].tolist() == rows


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=80), st.integers(2, 4))
@settings(max_examples=60, deadline=None)
def test_keep_core_matches_removing_one_by_one(pairs, least):
    left = list(pairs)
    while True:
        users, items = [u for u, _ in left], [i for _, i in left]
        kept = [(u, i) for u, i in left if users.count(u) >= least and items.count(i) >= least]
        if kept == left:
            break
        left = kept
    user, item = (np.array(column, np.int32) for column in zip(*pairs))
    log = Log(user, item, np.arange(len(pairs)), None, np.arange(len(pairs)))
    if not left:
        with pytest.raises(PreparedError, match="--min-interactions"):
            keep_core(log, least)
        return
    core, users, items = keep_core(log, least)
    assert list(zip(users[core.user], items[core.item])) == left


def test_random_split_draws_exact_shares_by_seed():
    shares = {"test_share": 0.1, "val_share": 0.2}
    split = ratio_splits.random_split(1000, **shares, seed=1)
    assert np.bincount(split).tolist() == [700, 200, 100]
    assert (split == ratio_splits.random_split(1000, **shares, seed=1)).all()
    assert (split != ratio_splits.random_split(1000, **shares, seed=2)).any()


def test_random_split_by_user_takes_its_share_of_every_user():
    lengths = np.array([3, 10, 25, 100])
    user = np.repeat(np.arange(4), lengths)
    split = ratio_splits.random_split_by_user(user, test_share=0.1, val_share=0.1, seed=0)
    counts = [np.bincount(split[user == row], minlength=3).tolist() for row in range(4)]
    assert counts == [[3, 0, 0], [8, 1, 1], [21, 2, 2], [80, 10, 10]]
    other = ratio_splits.random_split_by_user(user, test_share=0.1, val_share=0.1, seed=1)
    assert (split != other).any()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=10, max_size=120), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_random_split_keeps_a_users_ratings_of_a_movie_together(pairs, within_users):
    user, item = (np.array(column, np.int32) for column in zip(*sorted(pairs, key=lambda pair: pair[0])))
    shares = {"test_share": 0.3, "val_share": 0.2, "seed": 1}

    def draw(user):
        if within_users:
            return ratio_splits.random_split_by_user(user, **shares)
        return ratio_splits.random_split(len(user), **shares)

    split = ratio_splits.by_pair(user, item, draw)
    of_pair = {}
    for pair, part in zip(zip(user.tolist(), item.tolist()), split.tolist()):
        assert of_pair.setdefault(pair, part) == part
    firsts = np.array([pair[0] for pair in of_pair], np.int32)
    assert list(of_pair.values()) == draw(firsts).tolist()  # the shares are of pairs, which are drawn in their order


@pytest.mark.parametrize("split", ["random", "random-by-user"])
def test_duplicate_ratings_are_set_aside_and_do_not_leak(tmp_path, split):
    """Every rating twice in the file, and some changed later: none is in training and in the test."""
    rng = np.random.default_rng(0)
    rated = [(u, i, int(rng.integers(1, 6)), 100 + u) for u in range(12) for i in range(10)]
    changed = [(u, i, 6, 500 + i) for u, i, _, _ in rated if i % 3 == 0]

    def write(raw):
        write_csv(raw)
        rows = [*rated, *changed, *rated]
        (raw / "ratings.csv").write_text(
            "userId,movieId,rating,timestamp\n" + "".join(f"{u},{i},{r},{t}\n" for u, i, r, t in rows)
        )

    data = prepare(tmp_path, "--split", split, "--test-share", "0.3", write=write)
    assert data.manifest["rejected"] == {"duplicate rating": len(rated)}
    rejected = pd.read_parquet(data.path / "rejected.parquet")
    assert sorted(rejected["row"]) == list(range(2 + len(rated) + len(changed), 2 + 2 * len(rated) + len(changed)))
    events = data.events()
    assert len(events) == len(rated) + len(changed)
    assert (events.groupby(["user", "item"])["split"].nunique() == 1).all()
    assert (events["split"] == 2).sum() > 20


def test_ratings_of_one_second_are_no_duplicates(tmp_path):
    def write(raw):
        write_csv(raw)
        with open(raw / "ratings.csv", "a") as file:
            file.write("1,20,5,90\n1,20,3.0,90\n2,10,5,50\n")  # another rating; twice what is there

    data = prepare(tmp_path, write=write)
    assert data.manifest["rejected"]["duplicate rating"] == 2
    rejected = pd.read_parquet(data.path / "rejected.parquet")
    assert sorted(rejected.loc[rejected["reason"] == "duplicate rating", "row"]) == [8, 9]


@pytest.mark.parametrize("rating", ["1e39", "-1e39", "inf", "nan"])
def test_ratings_that_are_not_finite_as_stored_are_rejected(tmp_path, rating):
    def write(raw):
        write_csv(raw)
        with open(raw / "ratings.csv", "a") as file:
            file.write(f"3,20,{rating},100\n")

    data = prepare(tmp_path, "--max-rejected", "0.5", write=write)
    assert data.manifest["rejected"] == {"rating is not a number": 1}
    assert np.isfinite(data.events()["rating"]).all()


@given(st.lists(st.integers(0, 50), min_size=10, max_size=200))
@settings(max_examples=60, deadline=None)
def test_a_time_split_never_trains_on_the_future(times):
    time = np.array(times)
    edges = ratio_splits.time_edges(time, test_share=0.2, val_share=0.1)
    split = ratio_splits.split_at(time, edges)
    for earlier, later in ((0, 1), (0, 2), (1, 2)):
        if (split == earlier).any() and (split == later).any():
            assert time[split == earlier].max() < time[split == later].min()


def test_a_time_split_takes_about_its_shares(tmp_path):
    time = np.random.default_rng(0).permutation(10_000)
    split = ratio_splits.split_at(time, ratio_splits.time_edges(time, test_share=0.2, val_share=0.08))
    assert np.bincount(split).tolist() == [7200, 800, 2000]


@pytest.mark.parametrize(("test", "val"), [(0.6, 0.4), (-0.1, 0.1), (0.1, -0.1)])
def test_shares_that_leave_nothing_are_an_error(test, val):
    with pytest.raises(PreparedError, match="--test-share"):
        ratio_splits.check_shares(test, val)


@pytest.mark.parametrize("split", ["temporal", "time-ratio", "random", "random-by-user"])
def test_every_split_is_recorded(tmp_path, split):
    options = ["--cutoff", "1970-01-02", "--test-days", "1", "--val-days", "0"] if split == "temporal" else []

    def write(raw):
        write_csv(raw)
        with open(raw / "ratings.csv", "a") as file:
            file.writelines(f"{user},10,4,{86_000 + 20 * user}\n" for user in range(3, 40))

    data = prepare(tmp_path, "--split", split, *options, write=write)
    assert data.manifest["split"]["kind"] == split
    assert sum(data.manifest["counts"]["events_by_split"].values()) == len(data.events())


@pytest.mark.real_data
def test_movielens_100k_has_its_published_size(tmp_path, real_data):
    out = tmp_path / "out"
    assert main(["movielens", "--raw", str(real_data("ml_100k")), "--out", str(out), "--min-interactions", "5"]) == 0
    data = open_prepared(out)
    assert len(data.users) == 943
    assert len(data.items) == 1349  # the 5-core
    assert data.manifest["rejected"] == {"outside the core of --min-interactions": 100_000 - len(data.events())}
