"""The demo shop: H&M's raw format, same bytes by seed, hidden factors in their places, an exact oracle."""

from collections import deque
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipelines import demo
from pipelines.__main__ import main
from pipelines.demo import catalog as demo_catalog
from pipelines.demo import oracle as demo_oracle
from pipelines.demo import shop as demo_shop
from pipelines.demo.catalog import COLOURS, DESIGNS, FACTORS, LEVELS, MATERIALS, WEEKS, make_catalog
from pipelines.demo.customers import GROUPS, LIKED, make_customers, taste_columns
from pipelines.demo.drawing import Look, draw_photo
from pipelines.demo.shelves import FIRST_DAY, THEME_BONUS, Shelves, article_weights, choice_probabilities
from pipelines.prepared import PreparedError, PreparedWriter, open_prepared

ITEMS, CUSTOMERS, SEED = 60, 80, 3
TEST_WEEK = WEEKS - 1
CUTOFF = int((FIRST_DAY + 7 * TEST_WEEK).astype("datetime64[s]").astype(np.int64))


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "raw"
    demo.generate(folder, items=ITEMS, customers=CUSTOMERS, seed=SEED)
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "prepared"
    options = ["--size", "tiny", "--seed", str(SEED)]
    assert main(["demo", "--out", str(out), *options]) == 0
    assert [path.name for path in out.parent.iterdir()] == ["prepared"]  # the raw files are gone
    return open_prepared(out, verify=True)


def files_of(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_files_have_the_competitions_format(raw):
    articles = pd.read_csv(raw / "articles.csv", dtype=str)
    customers = pd.read_csv(raw / "customers.csv", dtype=str)
    sales = pd.read_csv(raw / "transactions_train.csv", dtype={"article_id": str})
    assert articles.shape == (ITEMS, 25)
    assert list(articles.columns[:3]) == ["article_id", "product_code", "prod_name"]
    assert articles["article_id"].str.fullmatch(r"0\d{9}").all()
    assert articles["article_id"].is_unique
    assert (articles["article_id"].str[:7] == articles["product_code"]).all()
    assert customers["customer_id"].str.fullmatch(r"[0-9a-f]{64}").all()
    assert list(customers.columns[1:5]) == ["FN", "Active", "club_member_status", "fashion_news_frequency"]
    assert list(sales.columns) == ["t_dat", "customer_id", "article_id", "price", "sales_channel_id"]
    assert sales["article_id"].isin(articles["article_id"]).all()
    assert sales["customer_id"].isin(customers["customer_id"]).all()
    assert sales["t_dat"].is_monotonic_increasing
    assert sales["t_dat"].min() >= str(FIRST_DAY)
    assert sales["t_dat"].max() <= "2020-09-22"
    for path in (raw / "images").rglob("*.jpg"):
        assert path.parent.name == path.stem[:3]
        assert path.stem in set(articles["article_id"])


def test_same_seed_same_bytes_also_when_drawn_by_processes(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_PHOTOS_WORTH_PROCESSES", 1)
    monkeypatch.setattr(demo, "_PHOTOS_A_TASK", 20)
    demo.generate(tmp_path / "again", items=ITEMS, customers=CUSTOMERS, seed=SEED)
    assert files_of(tmp_path / "again") == files_of(raw)
    monkeypatch.undo()
    demo.generate(tmp_path / "other", items=ITEMS, customers=CUSTOMERS, seed=SEED + 1)
    other = files_of(tmp_path / "other")
    assert all(other[name] != content for name, content in files_of(raw).items() if name in other)


def test_design_is_in_no_column_and_material_in_the_description_only():
    catalog = make_catalog(600, seed=1)
    product = np.unique([article_id[:7] for article_id in catalog.article_ids], return_inverse=True)[1]

    def frame_with(factor: str) -> pd.DataFrame:
        number = FACTORS.index(factor)
        levels = catalog.levels.copy()
        levels[:, number] = (levels[:, number] + 1) % LEVELS[number]
        return demo_catalog._articles_frame(catalog.article_ids, levels, catalog.cuts, product, 1)

    pd.testing.assert_frame_equal(frame_with("design"), catalog.frame)
    changed = frame_with("material")
    described = catalog.frame["detail_desc"] != ""
    assert 0.9 < described.mean() < 1.0
    assert (changed["detail_desc"] != catalog.frame["detail_desc"])[described].all()
    rest = catalog.frame.columns.drop("detail_desc")
    pd.testing.assert_frame_equal(changed[rest], catalog.frame[rest])


def test_description_names_its_material_and_no_other():
    catalog = make_catalog(300, seed=2)
    material = catalog.levels[:, FACTORS.index("material")]
    for number, text in zip(material, catalog.frame["detail_desc"]):
        named = [m.name for m in MATERIALS if m.name in text.lower()]
        assert named == ([MATERIALS[number].name] if text else [])


@pytest.mark.parametrize("kind", range(LEVELS[FACTORS.index("type")]))
def test_every_visible_factor_shows(kind):
    def photo(**change) -> np.ndarray:
        look = Look(type=kind, colour=7, pattern=0, design=0, neckline=0, length=0)._replace(**change)
        return np.asarray(draw_photo(look, np.random.default_rng(0)), dtype=np.float32)

    def share_changed(**change) -> float:
        return float((np.abs(photo(**change) - photo()).max(axis=2) > 40).mean())

    assert photo().shape == (200, 160, 3)
    assert share_changed(colour=9) > 0.1
    for design in range(1, len(DESIGNS)):
        assert share_changed(design=design) > 0.03
    for pattern in range(1, 5):
        assert share_changed(pattern=pattern) > 0.01


def test_photos_of_equal_looks_differ():
    look = Look(0, 0, 0, 0, 0, 0)
    first, second = (np.asarray(draw_photo(look, np.random.default_rng(seed)), float) for seed in (1, 2))
    assert np.abs(first - second).mean() > 2.0


def test_choices_follow_the_probabilities_a_plain_loop_computes():
    """Choices drawn in three steps, and the oracle's closed form, against one sum over all articles."""
    catalog, customers = make_catalog(80, seed=5), make_customers(20, seed=5)
    week, tastes = 30, customers.tastes[:1]
    weights = article_weights(catalog.levels, catalog.popularity, catalog.release, week)
    likes = [tastes[0, taste_columns(f)].astype(float) for f in range(len(FACTORS))]
    base = [
        weight * np.exp(sum(likes[f][level] for f, level in enumerate(levels)))
        for weight, levels in zip(weights, catalog.levels)
    ]
    themes = np.exp(likes[2]) / np.exp(likes[2]).sum()
    expected = np.zeros(80)
    for theme, share in enumerate(themes):
        mass = [m * (THEME_BONUS if lv[2] == theme else 1.0) for m, lv in zip(base, catalog.levels)]
        expected += share * np.array(mass) / sum(mass)

    closed_form = choice_probabilities(tastes, catalog.levels, weights)
    np.testing.assert_allclose(closed_form[0], expected, rtol=1e-9)

    rng, draws = np.random.default_rng(0), 40_000
    theme = rng.choice(len(COLOURS), draws, p=themes)
    chosen = Shelves(catalog, week).choose(np.repeat(tastes, draws, axis=0), theme, np.arange(draws), rng)
    observed = np.bincount(chosen, minlength=80) / draws
    assert observed[weights == 0].sum() == 0
    error = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(observed - expected) <= 5 * error + 1e-12).all()


def test_recent_purchases_are_the_last_ten():
    recent = np.full((3, demo_shop.RECENT), -1, dtype=np.int32)
    bought, rng = np.zeros(3, dtype=np.int64), np.random.default_rng(0)
    expected = [deque(maxlen=demo_shop.RECENT) for _ in range(3)]
    for size in (4, 0, 9, 30, 1, 50):
        customer, article = rng.integers(0, 3, size), rng.integers(0, 99, size)
        demo_shop._remember(recent, bought, customer, article)
        for who, what in zip(customer, article):
            expected[who].append(what)
        for who in range(3):
            assert sorted(recent[who][recent[who] >= 0]) == sorted(expected[who])


def test_oracle_scores_are_probabilities_of_released_items(prepared):
    scores = demo_oracle.best_reachable(prepared)
    users = np.arange(CUSTOMERS)
    now = scores(users, time=CUTOFF)
    assert now.shape == (CUSTOMERS, ITEMS)
    np.testing.assert_allclose(now.sum(axis=1), 1.0, rtol=1e-4)
    events = prepared.events(["item", "time"])
    early = scores(users, time=np.full(CUSTOMERS, CUTOFF - 20 * 7 * 86_400))
    assert (early == 0).any()
    sold_early = events["item"][events["time"] < CUTOFF - 19 * 7 * 86_400].unique()
    assert (early[:, sold_early] > 0).all()
    mixed = scores(users[:2], time=np.array([CUTOFF, CUTOFF - 20 * 7 * 86_400]))
    np.testing.assert_array_equal(mixed, [now[0], early[1]])
    lists = demo_oracle.best_lists(prepared, users, time=CUTOFF, k=5, batch=33)
    top = np.take_along_axis(now, lists, axis=1)
    np.testing.assert_array_equal(top, -np.sort(-now, axis=1)[:, :5])
    seen = [lists[row, :2] for row in users]
    rest = demo_oracle.best_lists(prepared, users, time=CUTOFF, k=ITEMS + 9, batch=33, excluded=seen)
    np.testing.assert_array_equal(rest[:, :3], lists[:, 2:])
    assert (rest[:, -11:] == -1).all()  # two are excluded, nine are more than the catalogue has
    assert demo_oracle.best_lists(prepared, users, time=CUTOFF + 86_400, k=5) is None  # in the midst of a week


def test_oracle_reads_repeats_from_the_purchases_before_the_week(prepared):
    """The generator's own memory of recent purchases is what the oracle rebuilds from the prepared events."""
    oracle = demo_oracle.best_reachable(prepared)
    catalog, customers = make_catalog(ITEMS, seed=SEED), make_customers(CUSTOMERS, seed=SEED)
    before = list(demo_shop.simulate(catalog, customers, seed=SEED))[:TEST_WEEK]
    history = pd.concat(before).groupby("customer")["article"].apply(lambda rows: rows.to_numpy()[-10:])
    user = int(history.map(len).idxmax())
    repeats = np.bincount(history[user], minlength=ITEMS) / len(history[user])
    share = customers.repeat_share[user]
    weights = article_weights(catalog.levels, catalog.popularity, catalog.release, TEST_WEEK)
    new = choice_probabilities(customers.tastes[[user]], catalog.levels, weights)[0]
    expected = (1 - share) * new + share * repeats
    np.testing.assert_allclose(oracle(np.array([user]), time=CUTOFF)[0], expected, rtol=1e-4)


def test_dataset_keeps_the_oracle_as_a_listed_file(prepared, tmp_path):
    assert "oracle.npz" in prepared.manifest["files"]
    assert prepared.manifest["counts"]["items"] == ITEMS
    assert prepared.manifest["split"]["cutoff"] == "2020-09-16"
    items = pd.DataFrame({"item_id": ["1"], "title": [""], "text": [""], "images": [[]], "views": [[]]})
    with PreparedWriter(tmp_path / "other", dataset="other") as writer:
        writer.items(items)
        for name in ("items.parquet", "manifest.json", "../oracle.npz"):
            with pytest.raises(PreparedError, match="extra file"):
                writer.extra(name, prepared.path / "oracle.npz")
    assert demo_oracle.best_reachable(open_prepared(tmp_path / "other")) is None


def test_oracle_of_another_version_is_refused(prepared, monkeypatch):
    monkeypatch.setattr(demo_oracle, "THEME_BONUS", 9.0)
    with pytest.raises(PreparedError, match="another version"):
        demo_oracle.best_reachable(prepared)


def test_numbers_and_folders_are_checked(tmp_path, raw, capsys):
    with pytest.raises(PreparedError, match="--items is 3"):
        demo.generate(tmp_path / "a", items=3, customers=50)
    with pytest.raises(PreparedError, match="--overwrite"):
        demo.generate(raw, items=ITEMS, customers=CUSTOMERS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(PreparedError, match="not a generated shop"):
        demo.generate(tmp_path / "mine", items=ITEMS, customers=CUSTOMERS, overwrite=True)
    assert main(["demo", "--out", str(tmp_path / "mine"), "--size", "tiny"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
    assert Image.open(next((raw / "images").rglob("*.jpg"))).size == (160, 200)


class Shop:
    """A shop somewhat smaller than the demo's, its test week, and recall@12 of any scores on it."""

    def __init__(self):
        self.catalog, self.customers = make_catalog(1_200, seed=0), make_customers(3_000, seed=0)
        catalog = self.catalog
        self.weights = article_weights(catalog.levels, catalog.popularity, catalog.release, TEST_WEEK)
        sales = pd.concat(list(demo_shop.simulate(self.catalog, self.customers, seed=0)))
        test = sales["day"] >= FIRST_DAY + 7 * TEST_WEEK
        self.targets = sales[test].groupby("customer")["article"].apply(set)
        self.users = self.targets.index.to_numpy()
        self.bought = np.zeros((len(self.customers.customer_ids), len(self.catalog.levels)))
        np.add.at(self.bought, (sales[~test]["customer"], sales[~test]["article"]), 1.0)

    def recall(self, scores: np.ndarray) -> float:
        top = np.argpartition(-scores, 12, axis=1)[:, :12]
        hits = [len(bought & set(row)) / len(bought) for bought, row in zip(self.targets, top.tolist())]
        return float(np.mean(hits))

    def content_scores(self, without: str = "") -> np.ndarray:
        """Articles as they are, but tastes inferred from history by Bayes' rule, factor by factor."""
        logits = np.log(np.maximum(self.weights, 1e-9))[None]
        for factor, name in enumerate(FACTORS):
            one_hot = np.eye(LEVELS[factor])[self.catalog.levels[:, factor]]
            counts = self.bought @ one_hot
            base = counts.sum(axis=0) / counts.sum()
            liked, strength = LIKED[name]
            assert liked == 1
            groups = GROUPS.get(name, np.arange(LEVELS[factor]))
            taste = np.exp(strength * (groups == np.arange(groups.max() + 1)[:, None]))  # [hypotheses, levels]
            taste /= (taste @ base)[:, None]
            evidence = counts[self.users] @ np.log(taste).T
            belief = np.exp(evidence - evidence.max(axis=1, keepdims=True))
            belief /= belief.sum(axis=1, keepdims=True)
            if name != without:
                logits = logits + np.log(belief @ taste)[:, self.catalog.levels[:, factor]]
        return logits


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop()


def test_the_shop_rewards_content_over_popularity_and_ids(shop):
    tastes = shop.customers.tastes[shop.users]
    best = shop.recall(choice_probabilities(tastes, shop.catalog.levels, shop.weights))
    content = shop.recall(shop.content_scores())
    seen = np.minimum(shop.bought, 1.0)
    popularity = shop.recall(np.tile(seen.sum(axis=0), (len(shop.users), 1)))
    together = seen.T @ seen
    norm = np.sqrt(np.diag(together)) + 1e-9
    ids = shop.recall(seen[shop.users] @ (together / np.outer(norm, norm)))
    print(f"best {best:.3f} content {content:.3f} ids {ids:.3f} popularity {popularity:.3f}")
    assert best > 0.4
    assert content > 0.85 * best
    assert popularity < 0.15 * best
    assert ids < 0.8 * content


@pytest.mark.parametrize("factor", ["design", "material"])
def test_neither_photo_nor_text_can_be_spared(shop, factor):
    full, without = shop.recall(shop.content_scores()), shop.recall(shop.content_scores(without=factor))
    print(f"with {full:.3f} without {factor} {without:.3f}")
    assert without < 0.88 * full
