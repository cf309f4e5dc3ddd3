"""The shop window: its interface to the dataset, and the page in a real browser at desktop and phone width."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import io
from collections.abc import Callable
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from PIL import Image

from pipelines.prepared import PreparedWriter
from tests.serving_fakes import make_run
from tests.serving_server import ask, publish_exact, republish, running, small_shop
from tests.test_serving_model import best, mean_of
from tfrec.serve.shop_data import ShopData

ITEMS = 60
HOSTILE = "<img src=x onerror=document.title='broken'>"


@pytest.fixture(scope="module")
def run():
    return make_run(ITEMS)


def photo_of(row: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (60, 80), (row * 4, 90, 255 - row * 4)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def data(run, tmp_path_factory):
    """The model's items; item 7 has no photo, item 3 a hostile title. Customer `bob` bought three things and did
    not like the second one, `eve` bought none."""
    out = tmp_path_factory.mktemp("data") / "prepared"
    with PreparedWriter(out, dataset="demo") as writer:
        for row in range(ITEMS):
            writer.images.add(f"{row:03d}", photo_of(row))
        titles = [f"Item {row}" for row in range(ITEMS)]
        titles[3] = HOSTILE
        frame = pd.DataFrame(
            {"item_id": run.item_ids, "title": titles, "text": [f"Text of {row}" for row in range(ITEMS)]}
        )
        frame["images"] = [[] if row == 7 else [f"{row:03d}"] for row in range(ITEMS)]
        for field, values in run.item_attributes.items():
            frame[f"attr.{field}"] = values
        writer.items(frame)
        writer.users(pd.DataFrame({"user_id": ["bob", "eve", "../x y"], "attr.club": ["member", None, None]}))
        writer.events(
            [
                pd.DataFrame(
                    {
                        "user": np.array([0, 0, 0, 2, 2], np.int32),
                        "item": np.array([1, 5, 17, 2, 2], np.int32),
                        "time": np.array([0, 86_400, 259_200, 0, 0], np.int64),
                        "split": np.zeros(5, np.int8),
                        "rating": np.array([4, 2, 5, np.nan, np.nan], np.float32),
                    }
                )
            ]
        )
    return out


@pytest.fixture(scope="module")
def models(shared, tmp_path_factory):
    """Two versions that answer differently: the second one's vectors are other ones, and it reads what was liked alone."""
    root = tmp_path_factory.mktemp("models")
    republish(shared("small-shop", small_shop) / "shop" / "1", root / "shop", 1)
    other = tmp_path_factory.mktemp("other")
    republish(publish_exact(make_run(ITEMS, seed=1), other), root / "shop", 2, history_min_rating=4.0)
    return root


@pytest.fixture(scope="module")
def server(models, data):
    with running(models / "shop", latest=2, data=data) as started:
        yield started


def test_customers_are_found_by_the_beginning_of_their_id(run, tmp_path):
    random = np.random.default_rng(0)
    letters = list("ab\u00e9\uffee\U0001f600")
    users = sorted({"".join(random.choice(letters, random.integers(1, 6))) for _ in range(300)})
    random.shuffle(users)
    bought = np.sort(random.integers(0, len(users), 500)).astype(np.int32)
    with PreparedWriter(tmp_path / "data", dataset="demo") as writer:
        writer.items(pd.DataFrame({"item_id": run.item_ids}))
        writer.users(pd.DataFrame({"user_id": users}))
        none = np.zeros(len(bought))
        columns = {"item": none.astype(np.int32), "time": none.astype(np.int64), "split": none.astype(np.int8)}
        writer.events([pd.DataFrame({"user": bought, **columns})])
    data, counts = ShopData(tmp_path / "data"), np.bincount(bought, minlength=len(users))
    for beginning in ["", *letters, "ab", "b\u00e9", users[7], users[7] + "a", "nobody", "\U0010ffff"]:
        rows = [row for row, user in enumerate(users) if user.startswith(beginning)]
        rows.sort(key=lambda row: (-counts[row], row))
        for limit in (1, 20, 1000):
            expected = [{"user_id": users[row], "purchases": counts[row]} for row in rows[:limit]]
            assert data.customers(beginning, limit) == expected


def test_of_a_customer_all_that_was_bought_is_known_though_little_is_shown(run, tmp_path):
    bought = np.random.default_rng(0).integers(0, ITEMS, 1300)
    with PreparedWriter(tmp_path / "data", dataset="demo") as writer:
        writer.items(pd.DataFrame({"item_id": run.item_ids}))
        writer.users(pd.DataFrame({"user_id": ["ann"]}))
        times, none = np.arange(1300) * 86_400, np.zeros(1300, np.int8)
        writer.events(pd.DataFrame({"user": none.astype(np.int32), "item": bought, "time": times, "split": none}))
    ann = ShopData(tmp_path / "data").customer("ann")
    ids = [run.item_ids[row] for row in bought]
    assert (len(ann["purchases"]), ann["history"], ann["days_ago"]) == (24, ids[-1024:], list(range(1023, -1, -1)))
    assert ann["bought"] == sorted(set(ids))


# -- the interface -------------------------------------------------------------------------------------------


def test_customers_and_items_are_the_datasets(server, run):
    _, overview = server.ask("GET", "/shop/overview")
    assert (overview["dataset"], overview["items"], overview["customers"]) == ("demo", ITEMS, 3)
    assert overview["filters"] == {"kind": ["dress", "shirt"], "colour": ["blue", "bright", "green", "red"]}
    assert [(model["name"], model["version"]) for model in overview["models"]] == [("shop", 2), ("shop", 1)]
    _, found = server.ask("GET", "/shop/customers?beginning=b")
    assert found == {"customers": [{"user_id": "bob", "purchases": 3}]}
    _, bob = server.ask("GET", "/shop/customers/bob")
    assert bob["fields"] == {"club": "member"}
    assert [(item["item_id"], item["days_ago"]) for item in bob["purchases"]] == [("001", 3), ("005", 2), ("017", 0)]
    assert bob["ratings"] == [item["rating"] for item in bob["purchases"]] == [4, 2, 5]
    _, unrated = server.ask("GET", f"/shop/customers/{quote('../x y', safe='')}")
    assert unrated["ratings"] == [None, None]
    assert server.ask("GET", f"/shop/customers/{quote('../x y', safe='')}")[1]["count"] == 2
    assert server.ask("GET", "/shop/customers/nobody")[0] == 404
    _, cards = server.ask("POST", "/shop/items", {"item_ids": ["007", "no such item"]})
    assert [(card["title"], card["photo"]) for card in cards["items"]] == [("Item 7", False), ("no such item", False)]
    for wrong in ({}, {"item_ids": "007"}, {"item_ids": [7]}, {"item_ids": ["x"] * 501}, b"{", b"\xff"):
        assert server.ask("POST", "/shop/items", wrong)[0] == 400


HOSTILE_IDS = [
    "../../x",
    "../../../../etc/passwd",
    "/etc/passwd",
    "a\0b",
    "..",
    "%2e%2e",
    "=HYPERLINK(1)",
    "x" * 5000,
    "한글",
]


@pytest.mark.parametrize("item", HOSTILE_IDS)
def test_ids_are_never_paths(server, item):
    """Neither encoded nor as they are: ids are looked up in the dataset, and files have fixed names."""
    assert server.ask("GET", f"/shop/photos/{quote(item, safe='')}")[0] == 404
    assert server.ask("GET", f"/shop/photos/{quote(item)}")[0] in (400, 404)
    assert server.ask("GET", f"/{quote(item)}")[0] in (400, 404)
    assert server.ask("POST", "/shop/items", {"item_ids": [item]})[1]["items"][0]["title"] == item
    answer = server.predict(inputs={"history": [[item]], "exclude": [[item]], "k": 3})
    assert answer[0] == 200


def test_photos_and_files_are_sent_once(server):
    status, photo, headers = ask(server.port, "GET", "/shop/photos/001")
    assert (status, photo, headers["Content-Type"]) == (200, photo_of(1), "image/jpeg")
    assert ask(server.port, "GET", "/shop/photos/001", headers={"If-None-Match": headers["ETag"]})[0] == 304
    assert server.ask("GET", "/shop/photos/007")[0] == 404
    for path, kind in (("/", "text/html"), ("/shop.css", "text/css"), ("/shop.js", "text/javascript")):
        status, _, headers = ask(server.port, "GET", path)
        assert (status, headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
        assert "default-src 'self'" in headers["Content-Security-Policy"]


def test_behind_a_token_only_the_page_is_open(models, data):
    with running(models / "shop", data=data, token="secret") as locked:
        assert locked.ask("GET", "/")[0] == 200
        for path in ("/shop/overview", "/shop/customers", "/shop/photos/001"):
            assert locked.ask("GET", path)[0] == 401


# -- the page ------------------------------------------------------------------------------------------------


class Page:
    """What a visitor sees and does."""

    def __init__(self, driver, url: str):
        self.driver, self.url = driver, url

    def open(self, hash_: str = "") -> None:
        self.driver.get("about:blank")
        self.driver.get(f"{self.url}/{hash_}")
        self.settled()

    def settled(self) -> None:
        """Wait until the page shows what was asked for."""
        from selenium.webdriver.support.ui import WebDriverWait

        script = "return document.querySelector('#content')?.children.length > 0 && status.textContent === ''"
        script = script.replace("status.", "document.getElementById('status').")
        WebDriverWait(self.driver, 120).until(lambda driver: driver.execute_script(script))

    def run(self, script: str, *arguments):
        return self.driver.execute_script(script, *arguments)

    def after(self, action: Callable[[], object]) -> None:
        """Do something, and wait until the page shows what comes of it, not what it showed before."""
        self.run("document.getElementById('status').textContent = 'waiting'")
        action()
        self.settled()

    def choose(self, id_: str, value: str) -> None:
        self.run(
            "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
            "document.getElementById('status').textContent = 'waiting';"
            "e.dispatchEvent(new Event('change', {bubbles: true}))",
            id_,
            value,
        )
        self.settled()

    def items(self, panel: int) -> list[str]:
        """Ids of a panel's cards."""
        panels = self.driver.find_elements("css selector", ".panel")
        return [link.get_attribute("data-item") for link in panels[panel].find_elements("css selector", "a[data-item]")]

    def headings(self) -> list[str]:
        return [heading.text for heading in self.driver.find_elements("css selector", ".panel h2")]

    def problems(self) -> list[str]:
        return [line["message"] for line in self.driver.get_log("browser") if line["level"] == "SEVERE"]


@pytest.fixture
def page(browser, server):
    browser.set_window_size(1280, 900)
    page = Page(browser, server.url)
    page.problems()
    yield page
    assert page.problems() == []
    assert browser.title == "Shop window"


def test_a_customer_sees_purchases_recommendations_and_reasons(page, run):
    page.open("#customer=bob")
    assert page.items(0) == ["017", "005", "001"]
    assert "member" in page.driver.find_element("css selector", ".panel p").text
    page.choose("model-a", "shop/1")
    vectors = run.item_vectors[[1, 5, 17]]
    weights = 1 / (1 + np.array([3, 2, 0]))
    assert page.items(1) == best(run, (weights[:, None] * vectors).sum(0) / weights.sum(), 12)
    reasons = [one.text for one in page.driver.find_elements("css selector", ".panel:nth-of-type(2) .reason")]
    assert len(reasons) == 12
    assert all(reason == "bought before" or reason.startswith("like Item ") for reason in reasons)
    assert reasons[page.items(1).index("017")] == "bought before"
    photos = page.run(
        "return [...document.querySelectorAll('.frame img')].every((i) => i.alt && (i.complete ? i.naturalWidth : 1))"
    )
    assert photos


def test_a_model_of_what_was_liked_is_told_nothing_else(page):
    page.open("#customer=bob")
    notes = [one.text for one in page.driver.find_elements("css selector", ".panel:nth-of-type(1) .cards small")]
    assert [note.split(" · ")[-1] for note in notes[1::2]] == ["rated 5", "rated 2", "rated 4"]
    page.choose("model-a", "shop/2")
    liked = make_run(ITEMS, seed=1)
    weights = 1 / (1 + np.array([3, 0]))
    assert page.items(1) == best(liked, (weights[:, None] * liked.item_vectors[[1, 17]]).sum(0) / weights.sum(), 12)


def test_what_was_bought_more_than_once_stands_there_once(page):
    page.open(f"#customer={quote('../x y', safe='')}")
    assert page.items(0) == ["002"]
    assert page.driver.find_element("css selector", ".panel p").text.startswith("2 purchases")
    assert page.driver.find_element("css selector", ".panel .cards li").text.endswith("days before, 2 times")


def test_filters_and_purchases_left_out(page, run):
    page.open("#customer=bob")
    page.choose("model-a", "shop/1")
    page.choose("filter-0", "shirt")
    assert {run.item_attributes["kind"][int(item)][0] for item in page.items(1)} == {"shirt"}
    page.after(lambda: page.run("document.getElementById('clear').click()"))
    page.after(lambda: page.run("document.getElementById('unseen').click()"))
    assert not set(page.items(1)) & {"001", "005", "017"}
    assert len(page.items(1)) == 12


def test_somebody_new_is_shown_what_is_popular(page, run):
    page.open("#customer=eve")
    page.after(lambda: page.run("document.getElementById('nobody').click()"))
    assert page.headings()[0] == "Somebody new"
    assert page.items(1) == run.item_ids[::-1][:12]
    assert {one.text for one in page.driver.find_elements("css selector", ".reason")} == {"popular now"}


def test_an_item_leads_to_similar_ones_by_keyboard_and_back(page, run):
    from selenium.webdriver.common.keys import Keys

    page.open("#customer=bob")
    page.choose("model-a", "shop/1")
    page.after(lambda: page.driver.find_element("css selector", "a[data-item='005']").send_keys(Keys.ENTER))
    assert page.headings() == ["Item 5", "Similar"]
    assert page.items(1) == best(run, mean_of(run, "005"), 12, excluded=["005"])
    page.after(page.driver.back)
    assert page.headings()[0].startswith("Bought by bob")


def test_words_and_photos_are_searched(page, run, tmp_path):
    page.open("#customer=bob")
    page.choose("model-a", "shop/1")
    page.after(lambda: page.driver.find_element("id", "words").send_keys("red dress\n"))
    assert page.headings() == ["Matches for “red dress”"]
    query = run.towers.text_query(run.towers.tokens(tf.constant(["red dress"]))).numpy()[0]
    assert page.items(0) == best(run, query, 12)
    (tmp_path / "photo.jpg").write_bytes(photo_of(9))
    page.after(lambda: page.driver.find_element("id", "photo").send_keys(str(tmp_path / "photo.jpg")))
    assert page.headings() == ["Matches for your photo"]
    pixels, _ = run.towers.pixels(tf.constant([photo_of(9)]))
    assert page.items(0) == best(run, run.towers.photo_query(pixels).numpy()[0], 12)
    (tmp_path / "other.jpg").write_bytes(b"<html>")
    page.driver.find_element("id", "photo").send_keys(str(tmp_path / "other.jpg"))
    page.driver.implicitly_wait(120)
    assert "readable JPEG" in page.driver.find_element("css selector", "#status.error").text
    page.driver.implicitly_wait(0)
    page.driver.get_log("browser")  # the refusal is in the browser's log


def test_two_versions_stand_side_by_side(page):
    page.open("#customer=bob")
    page.choose("model-a", "shop/1")
    page.choose("model-b", "shop/2")
    left, right = page.items(1), page.items(2)
    assert len(left) == len(right) == 12
    assert left != right
    only = page.run("return [...document.querySelectorAll('.only')].length")
    assert only == len(set(left) ^ set(right))


def test_titles_are_text_never_html(page):
    page.open("#item=003")
    assert page.headings()[0] == HOSTILE
    assert page.driver.title == "Shop window"


def test_the_page_fits_a_phone_and_can_be_read_aloud(page):
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        for place in ("#customer=bob", "#item=005", "#words=red"):
            page.open(place)
            assert page.run("return document.documentElement.scrollWidth") <= 390
            unnamed = page.run(
                "return [...document.querySelectorAll('input, select, button, img, a')].filter((e) => !(e.labels?.length"
                " || e.getAttribute('aria-label') || e.alt || e.textContent.trim())).map((e) => e.outerHTML)"
            )
            assert unnamed == []
            small = page.run(
                "return [...document.querySelectorAll('header button, header input, a[data-item]')]"
                ".filter((e) => e.offsetHeight && e.offsetHeight < 36).map((e) => e.outerHTML)"
            )
            assert small == []
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
