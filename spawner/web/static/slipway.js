// The live parts. Pages are complete without this file: it follows the event stream, fetches the page again and
// puts its live parts in place, lets the build's log grow, keeps times running, and opens a session that was
// waited for.
"use strict";

const source = document.querySelector("[data-stream]");
const REFRESH_MILLISECONDS = 120; // several events come at once; one fetch shows them all
let refreshing = null;
let opened = false;

function passed(since) {
  const seconds = Math.max(0, Math.floor((Date.now() - since) / 1000));
  const minutes = Math.floor(seconds / 60);
  const hours = Math.floor(minutes / 60);
  if (seconds < 60) return `${seconds} s`;
  if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d`;
}

function tell(root) {
  for (const each of root.querySelectorAll("time[data-clock]")) {
    each.textContent = new Date(each.dateTime).toLocaleTimeString();
  }
  for (const each of root.querySelectorAll("time[data-moment]")) {
    each.textContent = new Date(each.dateTime).toLocaleString();
  }
  for (const each of root.querySelectorAll("[data-scripted]")) each.hidden = false;
}

function tick() {
  for (const each of document.querySelectorAll("time[data-passed]")) {
    each.textContent = passed(Date.parse(each.dateTime));
  }
}

async function refresh() {
  refreshing = null;
  let text;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
    if (!answer.ok) return;
    text = await answer.text();
  } catch {
    return; // the next event, or the stream's own reconnect, tries again
  }
  const page = new DOMParser().parseFromString(text, "text/html");
  document.title = page.title;
  for (const part of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(part.id);
    if (!fresh || fresh.innerHTML === (part.dataset.shown ?? part.innerHTML)) continue;
    const focused = part.contains(document.activeElement) ? document.activeElement.textContent : null;
    part.dataset.shown = fresh.innerHTML;
    part.className = fresh.className;
    part.replaceChildren(...document.importNode(fresh, true).childNodes);
    tell(part);
    if (focused) [...part.querySelectorAll("button, a")].find((each) => each.textContent === focused)?.focus();
  }
  tick();
}

function soon() {
  refreshing ??= setTimeout(refresh, REFRESH_MILLISECONDS);
}

function grow(data) {
  const log = document.getElementById("build-log");
  if (!log) return;
  const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  if (data.is_anew) log.textContent = "";
  log.append(data.text);
  document.getElementById("build").classList.remove("empty-log");
  if (follows) log.scrollTop = log.scrollHeight;
}

async function open(address) {
  if (opened) return;
  opened = true;
  const token = document.querySelector("meta[name=csrf-token]")?.content ?? "";
  try {
    const answer = await fetch(address, { method: "POST", headers: { "X-CSRF-Token": token, Accept: "application/json" } });
    if (answer.ok) location.assign((await answer.json()).url);
    else soon();
  } catch {
    soon(); // the page has an Open button
  }
}

function follow() {
  const cursor = source.dataset.cursor ? `?after=${encodeURIComponent(source.dataset.cursor)}` : "";
  const stream = new EventSource(source.dataset.stream + cursor);
  for (const kind of ["phase", "image", "build", "step", "queue", "warning", "failed", "gone"]) {
    stream.addEventListener(kind, soon);
  }
  stream.addEventListener("log", (event) => grow(JSON.parse(event.data)));
  stream.addEventListener("ready", () => {
    soon();
    if (source.dataset.opens) open(source.dataset.opens);
  });
  addEventListener("pagehide", () => stream.close());
}

tell(document);
setInterval(tick, 1000);
if (source) follow();
const log = document.getElementById("build-log");
if (log) log.scrollTop = log.scrollHeight;
