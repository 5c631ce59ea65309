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
    });
    if (answer.status === 401) { location.reload(); return; }
    if (answer.ok && number === asked) shown.innerHTML = await answer.text();
  };
  form.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(seek, 150);
  });
}
