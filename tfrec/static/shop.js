// What the page shows is said by the part of its address after #: customer=ID, item=ID, words=TEXT, or nothing.

import * as api from "./shop_api.js";
import { card, cards, daysAgo, element, itemPage, options, panel, readable } from "./shop_view.js";

const find = (id) => document.getElementById(id);
const READ = 12; // purchases that reasons are looked for among
const MAX_UPLOAD = 2_000_000;

let models = [];
let photo = null; // base64 of the photo that was dropped last
let turn = 0; // answers to an older choice than the last are not shown
let listing = 0; // nor are lists of customers

start();

async function start() {
  api.onTokenWanted(askToken);
  if (matchMedia("(max-width: 46rem)").matches) find("choices").open = false;
  try {
    const overview = await api.overview();
    models = overview.models;
    find("dataset").textContent = `${overview.dataset}, ${overview.items.toLocaleString("en")} items`;
    fillModels();
    fillFilters(overview.filters);
    await listCustomers();
  } catch (error) {
    return say(error.message, true);
  }
  listen();
  show();
}

function listen() {
  addEventListener("hashchange", show);
  find("beginning").addEventListener("input", () => listCustomers().catch((error) => say(error.message, true)));
  find("customers").addEventListener("change", (event) => go("customer", event.target.value));
  find("nobody").addEventListener("click", () => go("customer", ""));
  find("clear").addEventListener("click", clearFilters);
  for (const id of ["model-a", "model-b", "k", "unseen", "filters"]) find(id).addEventListener("change", show);
  find("search").addEventListener("submit", (event) => {
    event.preventDefault();
    if (find("words").value.trim()) go("words", find("words").value.trim());
  });
  find("photo").addEventListener("change", (event) => {
    takePhoto(event.target.files[0]);
    event.target.value = ""; // so that the same file can be chosen again
  });
  for (const kind of ["dragover", "dragleave", "drop"]) addEventListener(kind, dragged);
}

// -- choices -------------------------------------------------------------------------------------------------

const key = (model) => `${model.name}/${model.version}`;
const chosenModel = (id) => models.find((model) => key(model) === find(id).value);

function fillModels() {
  const choices = models.map((model) => ({ value: key(model), text: `${model.name}, version ${model.version} (${model.index})` }));
  options(find("model-a"), choices);
  options(find("model-b"), [{ value: "", text: "nothing" }, ...choices]);
}

function fillFilters(filters) {
  for (const [number, [field, values]] of Object.entries(filters).entries()) {
    const select = element("select", { id: `filter-${number}`, "data-field": field });
    options(select, [{ value: "", text: "any" }, ...values.map((value) => ({ value, text: value }))]);
    find("filters").append(element("label", { for: select.id }, readable(field)), select);
  }
}

function clearFilters() {
  for (const select of find("filters").querySelectorAll("select")) select.value = "";
  find("unseen").checked = false;
  show();
}

/** The inputs that every signature takes, from the filters. */
function limits(exclude) {
  const chosen = [...find("filters").querySelectorAll("select")].filter((select) => select.value);
  const inputs = { k: Number(find("k").value) };
  if (chosen.length) inputs.allow = chosen.map((select) => `${select.dataset.field}=${select.value}`);
  if (exclude?.length && find("unseen").checked) inputs.exclude = exclude;
  return inputs;
}

async function listCustomers() {
  const mine = ++listing;
  const found = await api.customers(find("beginning").value.trim());
  if (mine !== listing) return; // of an older beginning than the last
  const text = ({ user_id: id, purchases }) => `${id.length > 14 ? `${id.slice(0, 13)}…` : id}  ${purchases} bought`;
  options(find("customers"), found.map((one) => ({ value: one.user_id, text: text(one) })), place().value);
}

// -- where we are --------------------------------------------------------------------------------------------

function place() {
  const [kind, value = ""] = location.hash.slice(1).split("=");
  return { kind, value: decodeURIComponent(value) };
}

function go(kind, value) {
  const hash = `#${kind}=${encodeURIComponent(value)}`;
  if (location.hash === hash) show();
  else location.hash = hash;
}

function say(text, isError = false) {
  find("status").textContent = text;
  find("status").classList.toggle("error", isError);
}

async function show() {
  const mine = ++turn;
  const { kind, value } = place();
  const pages = { customer: customerPage, item: similarPage, words: wordsPage, photo: photoPage };
  if (!pages[kind]) {
    const [first] = find("customers").options;
    return location.replace(`#customer=${encodeURIComponent(first?.value ?? "")}`); // which comes back here
  }
  say("Looking …");
  try {
    const made = await pages[kind](value).catch(async (error) => {
      if (!(await versionsChanged(error))) throw error;
      return pages[kind](value);
    });
    if (mine !== turn) return;
    find("content").replaceChildren(...made);
    say("");
  } catch (error) {
    if (mine === turn) {
      find("content").replaceChildren();
      say(error.message, true);
    }
  }
}

/** Whether an error may come from versions that were swapped since they were listed; they are listed anew then. */
async function versionsChanged(error) {
  if (error.status !== 404) return false;
  const before = models.map(key).join();
  models = (await api.overview()).models;
  if (models.map(key).join() === before) return false;
  fillModels();
  return true;
}

// -- pages ---------------------------------------------------------------------------------------------------

async function customerPage(id) {
  const nobody = { purchases: [], count: 0, fields: {}, history: [], days_ago: [], bought: [] };
  const who = id ? await api.customer(id) : nobody;
  if (id) find("customers").value = id;
  const answers = await beside((model) => recommend(model, id, who), who);
  const fields = Object.entries(who.fields).map(([name, value]) => `${readable(name)} ${value}`).join(" · ");
  if (!id) return [panel("Somebody new", "Nothing is known of this customer: the most popular items are shown."), answers];
  const read = who.purchases.length;
  const count = who.count > read ? `the latest ${read} of ${who.count} purchases` : `${who.count} purchases`;
  const latest = runs([...who.purchases].reverse()).map(([item, times]) =>
    card(item, { note: daysAgo(item.days_ago) + (times > 1 ? `, ${times} times` : "") + rated(item) }),
  );
  return [panel(`Bought by ${id.slice(0, 13)}`, [count, fields].filter(Boolean).join(" · "), cards(latest, "strip")), answers];
}

const rated = ({ rating }) => (rating === undefined ? "" : ` · rated ${rating}`);

/** Purchases in a row of one item on one day, as pairs of the item and how often. */
function runs(purchases) {
  const found = [];
  for (const item of purchases) {
    const last = found.at(-1);
    if (last?.[0].item_id === item.item_id && daysAgo(last[0].days_ago) === daysAgo(item.days_ago)) last[1] += 1;
    else found.push([item, 1]);
  }
  return found;
}

function recommend(model, id, who) {
  if (model.query_kind === "user") return api.predict(model, "recommend_user", { user_id: id, ...limits(who.bought) });
  const { history, days_ago } = readBy(model, who);
  const read = history.length ? { history, days_ago } : { history: [""], days_ago: [0] };
  return api.predict(model, "recommend", { ...read, ...limits(who.bought) });
}

/** What a model reads of a customer: every purchase, or those that were rated high enough. */
function readBy(model, who) {
  if (model.history_min_rating && who.count && !who.ratings) {
    throw new Error(`${model.name} version ${model.version} reads what was rated high, and these data have no ratings.`);
  }
  const liked = (_, row) => !model.history_min_rating || who.ratings?.[row] >= model.history_min_rating;
  return { history: who.history.filter(liked), days_ago: who.days_ago.filter(liked) };
}

async function similarPage(id) {
  const [item] = await api.items([id]);
  return [itemPage(item), await beside((model) => api.predict(model, "similar", { item_id: id, ...limits() }), null, "Similar")];
}

async function wordsPage(words) {
  find("words").value = words;
  return [await beside((model) => search(model, "search_text", { text: words }), null, `Matches for “${words}”`)];
}

async function photoPage() {
  if (!photo) throw new Error("Choose a photo first.");
  return [await beside((model) => search(model, "search_photo", { photo: { b64: photo } }), null, "Matches for your photo")];
}

function search(model, signature, query) {
  if (!model.signatures.includes(signature)) {
    throw new Error(`${model.name} version ${model.version} reads no ${signature === "search_text" ? "words" : "photos"}.`);
  }
  return api.predict(model, signature, { ...query, ...limits() });
}

/** Ask one model, or two side by side, and show what each found. */
async function beside(ask, who, heading = "Would be shown") {
  const asked = [chosenModel("model-a"), chosenModel("model-b")].filter(Boolean);
  const answers = await Promise.all(asked.map(ask));
  const sides = await Promise.all(
    answers.map((found, side) => answerPanel(asked[side], found, answers[1 - side], who, heading)),
  );
  return sides.length > 1 ? element("div", { class: "sides" }, ...sides) : sides[0];
}

async function answerPanel(model, found, other, who, heading) {
  const name = `${model.name}, version ${model.version}`;
  if (!found.length) return panel(heading, `${name}: nothing matches these filters.`);
  const ids = found.map((one) => one.item_id);
  const [details, reasons] = await Promise.all([api.items(ids), reasonsFor(model, ids, who)]);
  const made = details.map((item, rank) => {
    const only = other && !other.some((one) => one.item_id === item.item_id) ? "only here" : null;
    return card(item, { reason: reasons(item), note: `${rank + 1}. score ${found[rank].score.toPrecision(3)}`, only });
  });
  const shared = other ? ` · ${ids.filter((id) => other.some((one) => one.item_id === id)).length} of ${ids.length} in both` : "";
  return panel(heading, name + shared, cards(made));
}

/** Why an item is shown: bought before, or like which purchase, and in what. */
async function reasonsFor(model, ids, who) {
  const latest = who ? [...new Set(readBy(model, who).history.slice(-READ))] : [];
  const popular = () => (place().kind === "customer" ? "popular now" : null);
  if (!latest.length) return popular;
  const [nearest, cards] = await Promise.all([api.nearestPurchases(model, latest, ids), api.items(latest)]);
  const byId = new Map(cards.map((item) => [item.item_id, item]));
  const bought = new Set(who.bought);
  return (item) => {
    if (bought.has(item.item_id)) return "bought before";
    const purchase = byId.get(nearest.get(item.item_id));
    if (!purchase) return nearest.size ? null : popular();
    const values = (one) => Object.values(one.attributes).flat();
    const same = values(item).filter((value) => values(purchase).includes(value));
    const shared = [...new Set(same)].slice(0, 2).join(", ");
    return `like ${purchase.title}${shared ? ` (${shared})` : ""}`;
  };
}

// -- photos and the token ------------------------------------------------------------------------------------

function dragged(event) {
  if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
  event.preventDefault();
  find("drop").classList.toggle("over", event.type === "dragover");
  if (event.type === "drop") takePhoto(event.dataTransfer.files[0]);
}

async function takePhoto(file) {
  if (!file) return;
  try {
    const content = file.size > MAX_UPLOAD ? await smaller(file) : file;
    photo = await base64(content);
    go("photo", file.name);
  } catch {
    say(`${file.name} is no photo that this browser can read.`, true);
  }
}

/** A phone's photo, in the size that a model could use of it. */
async function smaller(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, 1024 / Math.max(bitmap.width, bitmap.height));
  const canvas = element("canvas", { width: Math.round(bitmap.width * scale), height: Math.round(bitmap.height * scale) });
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // a JPEG has no transparency: it would turn black
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
}

function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = reject;
    reader.readAsDataURL(blob);
  });
}

function askToken() {
  const dialog = find("token-dialog");
  if (dialog.open) return Promise.resolve(null);
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(find("token").value.trim()), { once: true }));
}
