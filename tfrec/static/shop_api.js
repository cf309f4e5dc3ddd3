// The server's interfaces: TensorFlow Serving's REST for predictions, and the dataset's own routes.

const TOKEN = "token";
const LOWEST = -3e38; // a place that no item was left for

export class RequestError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

let askToken = async () => null;

/** Say how to ask for a token when the server wants one. */
export function onTokenWanted(ask) {
  askToken = ask;
}

async function request(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) {
    const given = await askToken();
    if (given) {
      sessionStorage.setItem(TOKEN, given);
      return request(path, options);
    }
  }
  if (!response.ok) {
    const answer = await response.json().catch(() => ({}));
    throw new RequestError(answer.error ?? `the server answered ${response.status}`, response.status);
  }
  return response;
}

async function post(path, body) {
  const options = { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  return (await request(path, options)).json();
}

export const overview = async () => (await request("/shop/overview")).json();

export async function customers(beginning) {
  const found = await request(`/shop/customers?beginning=${encodeURIComponent(beginning)}`);
  return (await found.json()).customers;
}

export const customer = async (id) => (await request(`/shop/customers/${encodeURIComponent(id)}`)).json();

export const items = async (ids) => (await post("/shop/items", { item_ids: ids })).items;

/** Where an <img> finds an item's photo; behind a token, a copy of it in memory. */
export async function photoSource(id) {
  const path = `/shop/photos/${encodeURIComponent(id)}`;
  if (!sessionStorage.getItem(TOKEN)) return path;
  return URL.createObjectURL(await (await request(path)).blob());
}

/** Call a signature with one row of inputs: [{ item_id, score }], best first. */
export async function predict(model, signature, inputs) {
  const place = `/v1/models/${encodeURIComponent(model.name)}/versions/${model.version}:predict`;
  const { predictions } = await post(place, { signature_name: signature, instances: [inputs] });
  const [{ item_id: ids, score: scores }] = predictions;
  return ids.map((id, place) => ({ item_id: id, score: scores[place] })).filter((found) => found.score > LOWEST);
}

/**
 * For each item found, the purchase that it is most like: found id -> purchase id. A purchase that the model does not know
 * is answered, as an empty id is, with what sells: it is like nothing.
 */
export async function nearestPurchases(model, purchases, found) {
  const place = `/v1/models/${encodeURIComponent(model.name)}/versions/${model.version}:predict`;
  const inputs = { item_id: [...purchases, ""], allow_items: [found], k: [found.length] };
  const { outputs } = await post(place, { signature_name: "similar", inputs });
  const rows = outputs.item_id.map((ids, purchase) => JSON.stringify([ids, outputs.score[purchase]]));
  const nearest = new Map();
  outputs.item_id.forEach((row, purchase) => {
    if (rows[purchase] === rows.at(-1)) return;
    row.forEach((id, rank) => {
      const score = outputs.score[purchase][rank];
      if (score > LOWEST && !(nearest.get(id)?.score >= score)) nearest.set(id, { id: purchases[purchase], score });
    });
  });
  return new Map([...nearest].map(([id, { id: purchase }]) => [id, purchase]));
}
