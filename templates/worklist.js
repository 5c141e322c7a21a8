// Filters the worklist in place. Without this script the page is the whole list, and its counts are links into it.
"use strict";
(() => {
  const page = (id) => document.getElementById(id);
  const [form, search, finding, status, shown, nothing] =
    ["filters", "search", "finding", "status", "shown", "nothing"].map(page);
  const unlike = page("unlike"); // only where the engine tells
  const counts = [...document.querySelectorAll(".count")];
  const studies = [...page("studies").rows].map((row) => ({ row, ...row.dataset, visible: true }));
  const cutNote = shown.textContent;
  let priority = "";

  const fits = (study, words) =>
    (!priority || study.priority === priority) &&
    (!status.value || study.status === status.value) &&
    (!unlike || !unlike.value || study.unlike === unlike.value) &&
    (!finding.value || study.findings.includes(`|${finding.value}|`)) &&
    words.every((word) => study.text.includes(word));

  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let visible = 0;
    for (const study of studies) {
      const fit = fits(study, words);
      if (fit) visible += 1;
      if (fit !== study.visible) study.row.hidden = !(study.visible = fit);
    }
    for (const count of counts) count.setAttribute("aria-pressed", String(count.dataset.priority === priority));
    const filtered = visible < studies.length ? `${visible} of ${studies.length} studies shown. ` : "";
    shown.textContent = filtered + cutNote;
    nothing.hidden = visible > 0 || studies.length === 0;
  };

  const choose = (chosen) => {
    priority = priority === chosen ? "" : chosen;
    apply();
  };
  for (const count of counts) {
    count.setAttribute("role", "button");
    count.addEventListener("click", (event) => {
      event.preventDefault();
      choose(count.dataset.priority);
    });
    count.addEventListener("keydown", (event) => {
      if (event.key !== " ") return;
      event.preventDefault();
      choose(count.dataset.priority);
    });
  }
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => {
    priority = "";
    setTimeout(apply); // after the fields are empty
  });
  form.hidden = false;
  apply(); // a browser that comes back to this page fills in what was typed before
  window.addEventListener("pageshow", apply);
})();
