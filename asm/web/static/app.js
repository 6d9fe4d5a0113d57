"use strict";
// Everything works without this file. It keeps an open page up to date.

const LIST_EVERY_MS = 5000;

// The list of sessions: a session that moves rises, with its new figures.
async function refreshList() {
  const table = document.querySelector("table[data-live]");
  const answer = await fetch(location.href);
  if (!table || !answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const rows = page.querySelector("table[data-live] tbody");
  if (!rows || table.contains(document.activeElement)) return;
  const before = new Map([...table.tBodies[0].rows].map((row) => [row.dataset.key, row.textContent.replace(/\s+\S+ ago\s*$/, "")]));
  for (const row of rows.rows) {
    if (before.get(row.dataset.key) !== row.textContent.replace(/\s+\S+ ago\s*$/, "")) row.classList.add("moved");
  }
  table.tBodies[0].replaceWith(document.adoptNode(rows));
}

if (document.querySelector("table[data-live]")) {
  let busy = false;
  setInterval(async () => {
    if (busy || document.hidden) return;
    busy = true;
    try { await refreshList(); } catch { /* The server is down: ask again later. */ } finally { busy = false; }
  }, LIST_EVERY_MS);
}

// On a narrow page what is known of a session is folded at first.
const rail = document.querySelector(".rail-fold");
if (rail && matchMedia("(max-width: 860px)").matches) rail.open = false;

// A link to an event opens what it is folded in.
function unfoldTarget() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return turnTo(/^#event-(\d{1,15})$/.exec(location.hash)?.[1]);
  for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  const own = target.querySelector(":scope > .content > details.call");
  if (own) own.open = true;
  const shown = target.closest(".item, .result") ?? target;
  if (!shown.matches("main")) shown.tabIndex = -1;
  shown.focus({ preventScroll: true });
  target.scrollIntoView({ block: "start" });
}

// An event on another page of the session. One that this page should have was pruned.
function turnTo(number) {
  const { start, end, jump } = document.getElementById("items")?.dataset ?? {};
  if (number && jump && (number - start < 0 || number - (end ?? Infinity) > 0)) location.replace(`${jump}?to=${number}`);
}
addEventListener("hashchange", unfoldTarget);
unfoldTarget();

// The newest page of a session: new events are added as they are appended.
const LIVE_ITEMS_MAX = 500;

function follow(items, status) {
  const source = new EventSource(items.dataset.live);
  let streamed = null;
  let count = 0;
  const show = (text, lost) => { status.hidden = false; status.textContent = text; status.classList.toggle("lost", lost); };
  source.onopen = () => show("Live: new events appear here", false);
  source.onerror = () => show("Not connected: trying again", true);
  source.addEventListener("delta", (message) => {
    if (!streamed) {
      streamed = document.createElement("article");
      streamed.className = "item message agent";
      const who = streamed.appendChild(document.createElement("h3"));
      who.className = "who";
      who.textContent = "assistant";
      const text = streamed.appendChild(document.createElement("div"));
      text.className = "content";
      const pre = text.appendChild(document.createElement("div")).appendChild(document.createElement("pre"));
      pre.parentElement.className = "prose";
      pre.className = "plain";
      items.append(streamed);
    }
    const pre = streamed.querySelector("pre");
    if (pre.textContent.length < 100000) pre.append(JSON.parse(message.data).text);
  });
  source.addEventListener("items", (message) => {
    const { html, number, result_of: call } = JSON.parse(message.data);
    if (document.getElementById(`event-${number}`)) return;
    if (++count > LIVE_ITEMS_MAX) {
      source.close();
      show("Many events have been added: load the page again to go on", true);
      return;
    }
    const atEnd = innerHeight + scrollY >= document.body.scrollHeight - 120;
    const added = new DOMParser().parseFromString(html, "text/html");
    const asked = call && [...items.querySelectorAll("details[data-call]")].findLast((each) => each.dataset.call === call);
    if (asked && !asked.querySelector(".result")) {
      const result = added.querySelector(".result");
      result.id = `event-${number}`;
      asked.querySelector(".pending")?.remove();
      if (result.classList.contains("failed")) {
        asked.classList.add("failed");
        asked.open = true;
        const flag = document.createElement("span");
        flag.className = "flag";
        flag.textContent = "failed";
        asked.querySelector(".took")?.append(flag);
      }
      asked.append(document.adoptNode(result));
    } else {
      streamed?.remove();
      streamed = null;
      items.append(...[...added.body.children].map((each) => document.adoptNode(each)));
    }
    if (atEnd) scrollTo(0, document.body.scrollHeight);
  });
  addEventListener("pagehide", () => source.close());
}

const live = document.querySelector("#items[data-live]");
if (live) follow(live, document.getElementById("live"));
