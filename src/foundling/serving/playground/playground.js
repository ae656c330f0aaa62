"use strict";

const ALTERNATIVES = 20;
const SLIDERS = ["temperature", "top_p", "top_k", "min_p", "max_tokens"];
const byId = (id) => document.getElementById(id);

let history = []; // the conversation so far, in OpenAI's message form
let running = null; // AbortController of the answers that are on their way
let pointed = null; // the alternatives of the token pointed at
const EXAMPLE = {
  type: "object",
  properties: { title: { type: "string", maxLength: 40 }, stars: { type: "integer", minimum: 1, maximum: 5 } },
  required: ["title", "stars"],
  additionalProperties: false,
};

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function headers() {
  const key = byId("key").value;
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function failure(response) {
  const body = await response.json().catch(() => null);
  return new Error(body?.error?.message ?? `the server answered ${response.status}`);
}

async function loadModels() {
  const response = await fetch("v1/models", { headers: headers() });
  if (!response.ok) throw await failure(response);
  const names = (await response.json()).data.map((model) => model.id);
  for (const id of ["model-a", "model-b"]) {
    byId(id).replaceChildren(...names.map((name) => new Option(name, name)));
  }
  if (names.length > 1) byId("model-b").selectedIndex = 1;
}

/* ---- the request ---- */

function schema() {
  if (!byId("schema").value.trim() || !byId("schema-box").open) return null;
  if (!checkSchema()) throw new Error("the schema is not JSON");
  return JSON.parse(byId("schema").value);
}

/* Say beside the editor whether it holds JSON. */
function checkSchema() {
  const status = byId("schema-status");
  status.textContent = "";
  try {
    if (byId("schema").value.trim()) JSON.parse(byId("schema").value);
    return true;
  } catch (error) {
    status.textContent = `Not JSON: ${error.message}`;
    return false;
  }
}

function requestBody(model) {
  const system = byId("system").value.trim();
  const body = {
    model,
    messages: [...(system ? [{ role: "system", content: system }] : []), ...history],
    stream: true,
    stream_options: { include_usage: true },
    logprobs: true,
    top_logprobs: ALTERNATIVES,
  };
  for (const name of SLIDERS) body[name] = Number(byId(name).value);
  if (byId("seed").value !== "") body.seed = Number(byId("seed").value);
  const wanted = schema();
  if (wanted) body.response_format = { type: "json_schema", json_schema: { name: "answer", schema: wanted } };
  return body;
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

/* Stream one answer into a box; returns its text. */
async function answer(body, box, signal) {
  box.ariaBusy = "true"; // screen readers wait for the whole of it
  try {
    return await streamInto(body, box, signal);
  } finally {
    box.ariaBusy = "false";
  }
}

async function streamInto(body, box, signal) {
  const response = await fetch("v1/chat/completions", {
    method: "POST", headers: headers(), body: JSON.stringify(body), signal,
  });
  if (!response.ok) throw await failure(response);
  const began = performance.now();
  let text = "";
  for await (const chunk of events(response)) {
    if (chunk.error) throw new Error(chunk.error.message);
    if (chunk.usage) showSpeed(chunk.usage, performance.now() - began);
    const choice = chunk.choices[0];
    if (!choice) continue;
    const said = choice.delta.content ?? "";
    text += said;
    if (said || choice.logprobs) addToken(box, said, choice.logprobs?.content ?? []);
    follow();
  }
  return text;
}

function showSpeed(usage, milliseconds) {
  const rate = (usage.completion_tokens / milliseconds) * 1000;
  const counts = `${usage.prompt_tokens} tokens read, ${usage.completion_tokens} written`;
  byId("status").textContent = `${counts}, ${rate.toFixed(rate < 10 ? 1 : 0)} a second.`;
}

/* ---- tokens and their alternatives ---- */

function addToken(box, text, tokens) {
  const span = element("span", "token", text);
  span.tabIndex = box.querySelector(".token") ? -1 : 0; // one tab stop per answer; arrows move inside
  span.alternatives = tokens.at(-1);
  if (span.alternatives) span.style.setProperty("--doubt", (1 - Math.exp(span.alternatives.logprob)).toFixed(3));
  box.append(span);
}

function point(span) {
  if (!span?.alternatives) return;
  document.querySelectorAll(".picked").forEach((other) => other.classList.remove("picked"));
  span.classList.add("picked");
  pointed = span.alternatives;
  drawChart();
  peek(span);
}

/* The likeliest few beside the token itself: the chart may be out of sight. */
function peek(span) {
  const box = byId("peek");
  box.replaceChildren(...odds().slice(0, 5));
  box.hidden = !box.children.length;
  const place = span.getBoundingClientRect();
  const left = Math.max(8, Math.min(place.left, document.documentElement.clientWidth - box.offsetWidth - 8));
  const above = place.bottom + box.offsetHeight + 8 > innerHeight - byId("ask").offsetHeight;
  box.style.left = `${left + scrollX}px`;
  box.style.top = `${(above ? place.top - box.offsetHeight - 6 : place.bottom + 6) + scrollY}px`;
  span.setAttribute("aria-describedby", "peek");
}

function unpeek() {
  byId("peek").hidden = true;
  document.querySelectorAll("[aria-describedby=peek]").forEach((span) => span.removeAttribute("aria-describedby"));
}

function moveFocus(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step || !event.target.classList.contains("token")) return;
  const tokens = [...event.target.parentElement.querySelectorAll(".token")];
  const next = tokens[tokens.indexOf(event.target) + step];
  if (!next) return;
  event.preventDefault();
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

/* What temperature, top-k, top-p and min-p make of the likeliest tokens' probabilities, in the engine's order. */
function reshape(logprobs) {
  const setting = Object.fromEntries(SLIDERS.map((name) => [name, Number(byId(name).value)]));
  if (setting.temperature === 0) return logprobs.map((_, rank) => (rank === 0 ? 1 : 0));
  let weights = logprobs.map((logprob) => Math.exp((logprob - logprobs[0]) / setting.temperature));
  const normal = () => {
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    weights = weights.map((weight) => weight / total);
  };
  normal();
  if (setting.top_k) weights = weights.map((weight, rank) => (rank < setting.top_k ? weight : 0));
  normal();
  let before = 0;
  weights = weights.map((weight) => {
    const kept = before < setting.top_p ? weight : 0;
    before += weight;
    return kept;
  });
  const top = weights[0];
  weights = weights.map((weight) => (weight >= setting.min_p * top ? weight : 0));
  normal();
  return weights;
}

function drawChart() {
  const rows = odds();
  byId("chart").replaceChildren(...rows.map((row) => {
    const item = element("li");
    item.append(row);
    return item;
  }));
  byId("chart-hint").hidden = rows.length > 0;
}

/* One row for each of the likeliest tokens at the place pointed at. */
function odds() {
  const rows = pointed?.top_logprobs ?? [];
  const after = reshape(rows.map((row) => row.logprob));
  return rows.slice(0, 10).map((row, rank) => {
    const before = Math.exp(row.logprob);
    const line = element("div", "odds");
    const name = element("code", row.token === pointed.token ? "said" : "", shown(row.token));
    const bars = element("div", "bars");
    for (const [kind, share] of [["before", before], ["after", after[rank]]]) {
      const bar = element("i", kind);
      bar.style.width = `${(share * 100).toFixed(1)}%`;
      bars.append(bar);
    }
    line.append(name, bars, element("span", "", `${(after[rank] * 100).toFixed(1)}%`));
    line.title = `model ${(before * 100).toFixed(2)}%, with these settings ${(after[rank] * 100).toFixed(2)}%`;
    return line;
  });
}

/* A token with its spaces and line ends to be seen. */
function shown(token) {
  return JSON.stringify(token).slice(1, -1).replace(/^ /, "\u00b7") || "\u2205";
}

/* ---- the conversation ---- */

/* Stay at the end while an answer grows, unless the reader has scrolled away from it. */
function follow() {
  const end = document.documentElement;
  if (end.scrollHeight - innerHeight - scrollY < 200) scrollTo(0, end.scrollHeight);
}

function turn(role, text) {
  const box = element("div", `turn ${role}`);
  box.append(element("h3", "", role === "user" ? "You" : text));
  if (role === "user") box.append(element("span", "", text));
  else box.ariaLabel = `Answer of ${text}`;
  return box;
}

async function send() {
  unpeek();
  const question = byId("question").value.trim();
  if (!question || running) return;
  byId("welcome").hidden = true;
  byId("question").value = "";
  history.push({ role: "user", content: question });
  byId("log").append(turn("user", question));
  setRunning(new AbortController());
  try {
    await (byId("compare").checked ? askTwo() : askOne());
  } catch (error) {
    const stopped = error.name === "AbortError";
    byId("log").append(element("p", stopped ? "" : "error", stopped ? "Stopped." : error.message));
    history.pop();
  } finally {
    setRunning(null);
    byId("question").focus();
  }
}

async function askOne() {
  const model = byId("model-a").value;
  const box = turn("assistant", model);
  byId("log").append(box);
  box.scrollIntoView({ block: "end" });
  const text = await answer(requestBody(model), box, running.signal);
  box.scrollIntoView({ block: "nearest" });
  history.push({ role: "assistant", content: text });
}

/* Two answers side by side, in random order and without names until the vote: a name would sway it. */
async function askTwo() {
  const models = [byId("model-a").value, byId("model-b").value];
  if (Math.random() < 0.5) models.reverse();
  const boxes = models.map((_, side) => turn("assistant", `Answer ${"AB"[side]}`));
  const pair = element("div", "pair");
  pair.append(...boxes);
  byId("log").append(pair);
  pair.scrollIntoView({ block: "end" });
  const signal = running.signal;
  const texts = await Promise.all(models.map((model, side) => answer(requestBody(model), boxes[side], signal)));
  history.push({ role: "assistant", content: texts[0] });
  byId("log").append(voteBar(models, texts, boxes));
  scrollTo(0, document.documentElement.scrollHeight);
}

function voteBar(models, texts, boxes) {
  const bar = element("div", "vote");
  const prompt = history.slice(0, -1);
  const own = history.at(-1);
  bar.setAttribute("role", "group");
  bar.ariaLabel = "Vote";
  bar.append(element("span", "", "Which is better?"));
  [0, 1].forEach((side) => {
    const button = element("button", "", `${"AB"[side]} is better`);
    button.type = "button";
    button.onclick = async () => {
      const problem = await vote(prompt, models, texts, side).then(() => null, (error) => error);
      own.content = texts[side]; // the conversation goes on from the better answer
      boxes[side].classList.add("chosen");
      boxes.forEach((box, place) => { box.querySelector("h3").textContent = `${"AB"[place]}: ${models[place]}`; });
      bar.replaceChildren(element("span", problem ? "error" : "", problem?.message ?? "Thank you, the vote is kept."));
      say("Vote for " + models[side]);
      byId("question").focus();
    };
    bar.append(button);
  });
  return bar;
}

async function vote(prompt, models, texts, side) {
  const other = 1 - side;
  const row = {
    prompt, chosen: texts[side], rejected: texts[other], chosen_model: models[side], rejected_model: models[other],
  };
  const response = await fetch("playground/votes", { method: "POST", headers: headers(), body: JSON.stringify(row) });
  if (!response.ok) throw await failure(response);
}

function setRunning(controller) {
  running = controller;
  byId("send").hidden = Boolean(controller);
  byId("stop").hidden = !controller;
}

function startOver() {
  running?.abort();
  unpeek();
  history = [];
  pointed = null;
  drawChart();
  byId("log").replaceChildren(byId("welcome"));
  byId("welcome").hidden = false;
  say("");
  byId("question").focus();
}

/* ---- wiring ---- */

function showSliders() {
  for (const name of SLIDERS) {
    const off = (name === "top_k" && byId(name).value === "0") || (name === "top_p" && byId(name).value === "1");
    document.querySelector(`output[for=${name}]`).textContent = off ? "off" : byId(name).value;
  }
  drawChart();
}

function wire() {
  byId("ask").addEventListener("submit", (event) => { event.preventDefault(); send(); });
  byId("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
  });
  byId("stop").addEventListener("click", () => running?.abort());
  byId("reset").addEventListener("click", startOver);
  for (const idea of byId("ideas").children) {
    idea.addEventListener("click", () => { byId("question").value = idea.textContent; send(); });
  }
  byId("open-settings").addEventListener("click", () => {
    byId("open-settings").ariaExpanded = String(byId("settings").classList.toggle("open"));
  });
  byId("doubt").addEventListener("change", () => byId("log").classList.toggle("doubt", byId("doubt").checked));
  byId("example").addEventListener("click", () => { byId("schema").value = JSON.stringify(EXAMPLE, null, 2); checkSchema(); });
  byId("schema").addEventListener("input", checkSchema);
  byId("compare").addEventListener("change", () => {
    document.querySelector(".compare-only").hidden = !byId("compare").checked;
  });
  byId("key").addEventListener("change", () => loadModels().then(() => say(""), say));
  for (const name of SLIDERS) byId(name).addEventListener("input", showSliders);
  for (const kind of ["pointerover", "focusin"]) {
    byId("log").addEventListener(kind, (event) => point(event.target.closest(".token")));
  }
  for (const kind of ["pointerleave", "focusout"]) byId("log").addEventListener(kind, unpeek);
  byId("log").addEventListener("keydown", moveFocus);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") unpeek(); });
}

function say(problem) {
  byId("status").textContent = problem?.message ?? problem;
}

wire();
showSliders();
loadModels().catch(say);
