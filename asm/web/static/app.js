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
