// A careful client: a key for each order, the same key for each retry, and patience where the server asks for it.

const $ = (id) => document.getElementById(id);
const SWITCHES = ["lose-reply", "slow-bank", "refuse-duplicates", "without-oncekey"];
const TRIES = 6;
const money = (cents) => `$${(cents / 100).toFixed(2)}`;
const short = (id) => id.slice(0, 8);
const seconds = (count) => new Promise((done) => setTimeout(done, count * 1000));

// The key belongs to the order, not to the click: it outlives a reload, as the order does.
const order = {
  get key() {
    return localStorage.getItem("order") ?? this.renew();
  },
  renew() {
    const key = crypto.randomUUID();
    localStorage.setItem("order", key);
    return key;
  },
};

// Sends one order until it is answered. What it is about is fixed at the press of the button.
async function pay(cents) {
  const key = order.key;
  const body = JSON.stringify({ order: key, amount_cents: cents });
  const demo = new Set(SWITCHES.filter((name) => $(name).checked));
  let earlier;
  for (let tries = 1; tries <= TRIES; tries += 1) {
    const entry = show(key, cents, demo, earlier);
    const answer = await send(key, body, demo);
    entry.answer(answer);
    const wait = patience(answer);
    if (wait === undefined) return;
    earlier = entry.number;
    // The next one gets through: it is the first reply that is lost.
    demo.delete("lose-reply");
    if (tries < TRIES) await seconds(wait);
  }
}

// One request: its answer, or `undefined` where none came in time.
async function send(key, body, demo) {
  const headers = { "Content-Type": "application/json", "Idempotency-Key": `"${key}"` };
  if (demo.size > 0) headers.Demo = [...demo].join(", ");
  // Where a reply is to be lost, nothing is gained by a long wait.
  const limit = !demo.has("lose-reply") ? 15 : demo.has("slow-bank") ? 6 : 3;
  try {
    const signal = AbortSignal.timeout(limit * 1000);
    const response = await fetch("charges", { method: "POST", headers, body, signal });
    return {
      status: response.status,
      replayed: response.headers.get("Idempotent-Replayed") === "true",
      after: response.headers.get("Retry-After"),
      text: await response.text(),
    };
  } catch (error) {
    return { none: error.name === "TimeoutError" ? `no answer within ${limit} s` : "not reachable" };
  }
}

// How many seconds to wait before asking again with the same key; `undefined` if that is it.
function patience(answer) {
  if (answer.none) return answer.none === "not reachable" ? 1 : 0;
  const retryable = answer.status === 409 || answer.status === 503;
  return retryable && answer.after !== null ? Number(answer.after) : undefined;
}

// Puts a request on the list, newest first.
let sent = 0;
function show(key, cents, demo, earlier) {
  sent += 1;
  const number = sent;
  $("no-requests").hidden = true;
  const entry = element("li");
  const top = element("div", "top");
  const then = element("span", "then");
  const body = element("div", "body");
  top.append(
    element("span", "nr", `#${number}`),
    element("code", "", "POST /charges"),
    element("span", "note", earlier ? `${money(cents)}, #${earlier} again` : money(cents)),
    element("span", "sent-key", `key ${short(key)}`),
    then,
  );
  if (demo.has("without-oncekey")) top.insertBefore(element("span", "tag warn", "without oncekey"), then);
  then.append(element("span", "tag wait", "waiting…"));
  entry.append(top, body);
  entry.dataset.number = number;
  $("requests").prepend(entry);
  return {
    number,
    answer({ none, status, replayed, after, text }) {
      const tags = [];
      if (none) tags.push(element("span", "tag warn status", none));
      else tags.push(element("span", `tag status ${status < 300 ? "good" : after ? "wait" : "warn"}`, `${status}`));
      if (replayed) tags.push(element("span", "tag good replayed", "replayed"));
      if (!none && after) tags.push(element("span", "note", `ask again in ${after} s`));
      then.replaceChildren(...tags);
      body.textContent = none ? "" : readable(text);
    },
  };
}

// The answer as it came, but for the key, which is shown above, and ids cut short.
function readable(text) {
  try {
    const { charge, amount_cents, title, detail } = JSON.parse(text);
    if (charge) return `${charge}, ${money(amount_cents)}`;
    return `${title}. ${detail}`;
  } catch {
    return text;
  }
}

function element(name, classes = "", text = "") {
  const made = document.createElement(name);
  made.className = classes;
  made.textContent = text;
  return made;
}

// The ledger, as the bank sends it.
let charges = [];
const empty = $("ledger").firstElementChild;
function account() {
  const rows = charges.slice(-12).reverse().map((charge) => {
    const row = element("tr", charge.order === order.key ? "this" : "");
    const first = charges.find((other) => other.order === charge.order);
    if (first !== charge) row.className = "again";
    row.append(
      element("td", "", charge.charge),
      cell(element("code", "", short(charge.order))),
      cell(element("code", "", charge.operation ? short(charge.operation) : "none")),
      element("td", "number", money(charge.amount_cents)),
    );
    return row;
  });
  $("ledger").replaceChildren(...(rows.length > 0 ? rows : [empty]));
  $("total").textContent = money(charges.reduce((sum, charge) => sum + charge.amount_cents, 0));

  const mine = charges.filter((charge) => charge.order === order.key);
  const sum = money(mine.reduce((sum, charge) => sum + charge.amount_cents, 0));
  const verdict = $("verdict");
  verdict.className = ["verdict", "verdict once"][mine.length] ?? "verdict more-than-once";
  verdict.textContent = ["Nothing yet for this order.", `This order was charged once: ${sum}.`][mine.length]
    ?? `This order was charged ${mine.length} times: ${sum}.`;
  $("key").textContent = order.key;
}

function cell(content) {
  const made = element("td");
  made.append(content);
  return made;
}

const ledger = new EventSource("ledger");
ledger.onmessage = ({ data }) => {
  charges = JSON.parse(data);
  account();
};
ledger.onopen = () => { $("away").hidden = true; };
ledger.onerror = () => { $("away").hidden = false; };

$("pay").addEventListener("click", () => pay(5000));
$("tamper").addEventListener("click", () => pay(8000));
$("new-order").addEventListener("click", () => {
  order.renew();
  account();
});
account();
