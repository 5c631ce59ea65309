"use strict";
// Search while typing. Without scripts the form works by Enter; nothing here ever submits a form.
for (const form of document.querySelectorAll("form[data-search]")) {
  const shown = document.getElementById(form.dataset.search);
  let waiting = 0, asked = 0;
  const seek = async () => {
    const number = ++asked;
    const answer = await fetch(form.action, {
      method: "POST",
      headers: { "X-Part": "results" },
      body: new URLSearchParams(new FormData(form)),
      credentials: "same-origin",
    }).catch(() => null);
    if (answer && answer.status === 401) { location.reload(); return; }
    const text = answer && answer.ok ? await answer.text() : null;
    if (number !== asked) return;
    // Nobody may take the list of an earlier word for the answer to this one.
    if (text === null) shown.textContent = form.dataset.away;
    else shown.innerHTML = text;
  };
  form.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(seek, 150);
  });
}
// How far a job is, anew every second; the page is shown again when the job has ended. Without
// scripts a link does that.
for (const shown of document.querySelectorAll("[data-poll]")) {
  const look = async () => {
    const answer = await fetch(shown.dataset.poll, { credentials: "same-origin" }).catch(() => null);
    if (answer && answer.status < 500) {
      const told = new DOMParser().parseFromString(await answer.text(), "text/html");
      const found = told.querySelector("[data-poll] p");
      if (!found) { location.reload(); return; }
      shown.querySelector("p").replaceWith(found);
    }
    setTimeout(look, 1000);
  };
  setTimeout(look, 1000);
}
// A second press while the first is on its way would do it twice, and its answer would hide the first.
const sent = new Set();
addEventListener("pageshow", () => sent.clear());
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (sent.has(form)) { event.preventDefault(); return; }
  sent.add(form);
  setTimeout(() => sent.delete(form), 5000);
});
