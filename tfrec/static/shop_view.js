// Elements of the page, made of data. Text goes in as text, never as HTML.

import { photoSource } from "./shop_api.js";

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value != null) made.setAttribute(key, value);
  made.append(...children.filter((child) => child != null));
  return made;
}

/** A field's name as people write it: index_group_name -> Index group. */
export function readable(field) {
  const words = field.replace(/_name$/, "").replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

const FIELDS = ["product_type_name", "colour_group_name"];

export function facts(item) {
  const fields = Object.keys(item.attributes);
  const preferred = FIELDS.filter((field) => fields.includes(field));
  return (preferred.length ? preferred : fields.slice(0, 2)).map((field) => item.attributes[field].join(", ")).join(" · ");
}

function frame(item) {
  if (!item.photo) return element("span", { class: "frame none" }, "no photo");
  const image = element("img", { alt: `${item.title}, ${facts(item)}`, loading: "lazy", decoding: "async" });
  photoSource(item.item_id).then((source) => (image.src = source));
  return element("span", { class: "frame" }, image);
}

export function card(item, { reason, note, only } = {}) {
  const caption = element(
    "span",
    { class: "caption" },
    element("b", {}, item.title),
    element("small", {}, facts(item)),
    note && element("small", {}, note),
    reason && element("small", { class: "reason" }, reason),
    only && element("small", { class: "only" }, only),
  );
  const link = element("a", { href: `#item=${encodeURIComponent(item.item_id)}`, "data-item": item.item_id }, frame(item), caption);
  return element("li", {}, link);
}

export function cards(made, kind = "") {
  return element("ul", { class: `cards ${kind}`.trim() }, ...made);
}

export function panel(heading, explanation, ...children) {
  return element("section", { class: "panel" }, element("h2", {}, heading), explanation && element("p", {}, explanation), ...children);
}

export function itemPage(item) {
  const list = element("dl");
  for (const [field, values] of Object.entries(item.attributes)) {
    list.append(element("dt", {}, readable(field)), element("dd", {}, values.join(", ")));
  }
  const words = element("div", {}, element("h2", {}, item.title), element("p", {}, item.text || "no description"), list);
  return element("section", { class: "panel item" }, frame(item), words);
}

export function options(select, choices, chosen) {
  select.replaceChildren(
    ...choices.map(({ value, text }) => {
      const option = element("option", { value }, text);
      option.selected = value === chosen;
      return option;
    }),
  );
}

export function daysAgo(days) {
  const whole = Math.floor(days);
  return whole < 1 ? "on the last day" : whole === 1 ? "1 day before" : `${whole} days before`;
}
