// The worklist: every study of the ledger, found, sorted, filtered, marked as read. Without this script the page is the
// list of its first studies, and its counts are links into it. Rows come as scripts, since a page that is read from a
// disk may fetch nothing; `now.js` says which scripts count, and is asked again and again for news.
"use strict";
(() => {
  const page = (id) => document.getElementById(id);
  const said = JSON.parse(page("worklist").dataset.said);
  const folder = new URL("./", location.href).href;
  let isServed = document.cookie.split("; ").includes("cxrbatch_served=1");
  const PAGE_ROWS = 50, PRINTED_ROWS = 1000, POLL_MS = 30000, NEVER = 2 ** 53, ORDER_KEPT = 2000;
  const CHIPS = 8, PRINTED_LETTERS = 110; // of many findings the first ones; on paper what three lines hold
  const [form, search, finding, status, sort, shown, trouble, nothing, body, pages, former, next, place] =
    "filters search finding status sort shown trouble nothing studies pages former next place".split(" ").map(page);
  const tiles = [...document.querySelectorAll(".count")];
  const marks = [...form.querySelectorAll(".mark input")];
  const fill = (name, values = {}) =>
    said.texts[name].replace(/\{(\w+)\}/g, (_, key) => (typeof values[key] === "number" ? grouped : String)(values[key]));
  const grouped = (number) => Number(number).toLocaleString(said.locale);

  // Dates, names and figures come as they are sorted and found, and are written as the language does.
  const isEnglish = said.locale === "en";
  const dayFormat = new Intl.DateTimeFormat(said.locale, { dateStyle: "medium", timeZone: "UTC" });
  const minuteFormat = new Intl.DateTimeFormat(said.locale, { dateStyle: "medium", timeStyle: "short" });
  const days = new Map();
  const dayOf = (date) => {
    if (isEnglish || !/^\d{4}-\d\d-\d\d$/.test(date)) return date;
    if (!days.has(date)) days.set(date, dayFormat.format(new Date(`${date}T00:00:00Z`)));
    return days.get(date);
  };
  const named = (name) => said.names[name] || name;
  const imagesOf = (study) => {
    const [scored, images] = study.images.split(" of ");
    return fill("images", { scored, images });
  };
  const figure = (probability) => probability.replace(".", said.decimal);

  let studies = [];       // every study, in the order of arrival
  let ordered = [];       // the same, in the order that is chosen
  let fit = [];           // those of them that fit the filters
  let priority = "";
  let pageAt = 0;
  let isPrinting = false;
  let opened = "";        // the study whose report was opened last
  const chosen = new Set();

  // ------------------------------------------------------------------ what is kept in the browser, or by the server

  const READ = `cxrbatch.read:${folder}`, VIEW = `cxrbatch.view:${folder}`, ORDER = `cxrbatch.order:${folder}`;
  let read = new Map();   // study key -> [revision, time]
  let notes = new Map();  // study key -> text; of a server only
  let mayNote = false;

  const keptLocally = () => {
    try {
      return new Map(Object.entries(JSON.parse(localStorage.getItem(READ) || "{}")));
    } catch {
      return new Map();
    }
  };
  const keepLocally = () => {
    try {
      localStorage.setItem(READ, JSON.stringify(Object.fromEntries(read)));
    } catch {
      complain("not_kept");
    }
  };
  const fromServer = async () => {
    const answer = await fetch("api/marks");
    if (!answer.ok) throw new Error(String(answer.status));
    const known = await answer.json();
    read = new Map(known.marks.map((mark) => [mark.study_key, [mark.revision, mark.read_at]]));
    notes = new Map(known.notes.map((note) => [note.study_key, note.text]));
    mayNote = known.may_note;
    show();
  };
  const tellServer = async (what, content) => {
    const answer = await fetch(`api/${what}`, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content),
    });
    if (!answer.ok) throw new Error(String(answer.status));
  };
  const isRead = (study) => (read.get(study.key) || [-1])[0] === study.revision;
  const markRead = (study, isNow) => {
    if (isNow) read.set(study.key, [study.revision, new Date().toISOString().slice(0, 19) + "Z"]);
    else read.delete(study.key);
    if (!isServed) keepLocally();
    else {
      tellServer("marks", { study_key: study.key, revision: study.revision, read: isNow })
        .catch(() => fromServer()).catch(() => complain("not_kept"));
    }
    show();
  };

  // ------------------------------------------------------------------ the rows

  const shards = new Map(); // name -> studies
  let stamp = { version: "", shards: [] };
  let awaited = null;

  const studyOf = (row, texts) => {
    const [key, revision, arrived, date, accession, strength, urgency, state, bits, badge, images, coverage, unlike,
      found, highest, cautions, remarks, thumbnail, html, pdf] = row;
    const names = [];
    for (let at = 0; at < found.length; at += 3) names.push(texts[found[at]]);
    const day = texts[date];
    return {
      key, revision, arrived, accession, strength, urgency, bits, texts, found, highest, cautions, remarks, names,
      date: day, priority: said.priorities[urgency], status: said.statuses[state],
      badge: texts[badge], images: texts[images], coverage: texts[coverage], unlike: texts[unlike],
      thumbnail, html: texts[html], pdf: texts[pdf],
      text: [accession, day, day.replaceAll("-", ""), key, ...names, ...(isEnglish ? [] : [dayOf(day), ...names.map(named)])]
        .join(" ").toLowerCase(),
    };
  };

  const load = (name, query = "") => new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = `${said.data}/${name}${query}`;
    script.onload = () => { script.remove(); resolve(); };
    script.onerror = () => { script.remove(); reject(new Error(name)); };
    document.head.append(script);
  });

  const poll = () => load("now.js", `?${Date.now()}`).catch(() => complain("no_data"));

  const adopt = async (found) => {
    if (stamp.version && stamp.page !== found.page) complain("newer_page");
    else trouble.hidden = true;
    if (found.version === stamp.version || found.version === awaited) return;
    awaited = found.version;
    let loaded = 0;
    const missing = found.shards.filter((name) => !shards.has(name));
    const tell = () => {
      if (!stamp.version && loaded) shown.textContent = fill("loading", { loaded: loaded * 1000, total: found.facts.total });
    };
    try {
      await Promise.all(missing.map((name) => load(`rows-${name}.js`).then(() => { loaded += 1; tell(); })));
      if (awaited !== found.version) return;
      const isFirst = !stamp.version;
      const known = new Map(studies.map((study) => [study.key, study]));
      studies = found.shards.flatMap((name) => shards.get(name));
      for (const name of [...shards.keys()]) if (!found.shards.includes(name)) shards.delete(name);
      const changed = isFirst ? 0 : studies.filter((study) => differs(study, known.get(study.key))).length;
      stamp = { ...found, page: stamp.page || found.page };
      tellFacts(found);
      sortAll();
      show({ changed, isFirst });
    } catch {
      complain("no_data");
    } finally {
      awaited = null;
    }
  };
  const differs = (study, former) => !former || former.revision !== study.revision || former.status !== study.status;

  window.cxrbatchWorklist = Object.freeze({
    now: (found) => { adopt(found); },
    rows: (name, { texts, rows }) => { shards.set(name, rows.map((row) => studyOf(row, texts))); },
  });

  const tellFacts = ({ facts, changed }) => {
    page("about").textContent = facts.about;
    page("changed").textContent = fill("changed", { time: changed });
    page("coverage").textContent = facts.coverage;
    page("coverage").hidden = !facts.coverage;
    page("notice").textContent = facts.notice;
    page("notice").parentElement.hidden = !facts.notice;
    const known = new Set([...finding.options].map((option) => option.value));
    for (const name of facts.findings) if (!known.has(name)) finding.add(new Option(named(name), name));
  };
  const complain = (what) => {
    trouble.textContent = fill(what, { folder: said.data, seconds: POLL_MS / 1000 });
    trouble.hidden = false;
  };

  // ------------------------------------------------------------------ order

  const byTime = (one, other) =>
    (one.arrived || NEVER) - (other.arrived || NEVER) || (one.key < other.key ? -1 : 1);
  const orders = {
    priority: (one, other) =>
      one.urgency - other.urgency || (one.status !== "failed") - (other.status !== "failed") ||
      other.strength - one.strength || byTime(one, other),
    arrived: (one, other) => other.arrived - one.arrived || orders.priority(one, other),
    date: (one, other) =>
      isDate(other) - isDate(one) || (one.date < other.date) - (one.date > other.date) || orders.arrived(one, other),
  };
  const isDate = (study) => /^\d{4}-\d\d-\d\d$/.test(study.date);
  const sortAll = () => { ordered = [...studies].sort(orders[sort.value] || orders.priority); };

  // ------------------------------------------------------------------ filters

  const startOfYesterday = () => {
    const day = new Date();
    day.setHours(0, 0, 0, 0);
    day.setDate(day.getDate() - 1);
    return day.getTime() / 1000;
  };
  const bitOf = Object.fromEntries(said.marks.map((mark, at) => [mark, 1 << at]));

  // One pass says what fits, and how many each tile and choice would show: all that fits everything else.
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const since = startOfYesterday();
    const has = (study, mark) =>
      mark === "unread" ? !isRead(study) : mark === "recent" ? study.arrived >= since : (study.bits & bitOf[mark]) !== 0;
    const counts = { priority: new Map(), finding: new Map(), status: new Map(), mark: new Map(), all: [0, 0, 0] };
    const add = (what, value) => counts[what].set(value, (counts[what].get(value) || 0) + 1);
    fit = [];
    for (const study of ordered) {
      if (!words.every((word) => study.text.includes(word))) continue;
      const lacks = [];
      if (priority && study.priority !== priority) lacks.push("priority");
      if (status.value && study.status !== status.value) lacks.push("status");
      if (finding.value && !study.names.includes(finding.value)) lacks.push("finding");
      for (const mark of chosen) if (!has(study, mark)) lacks.push(mark);
      if (lacks.length > 1) continue;
      const [lack] = lacks;
      if (!lack) fit.push(study);
      if (!lack || lack === "priority") add("priority", study.priority);
      if (!lack || lack === "status") { add("status", study.status); add("status", ""); }
      if (!lack || lack === "finding") { for (const name of study.names) add("finding", name); add("finding", ""); }
      for (const { value } of marks) if ((!lack || lack === value) && has(study, value)) add("mark", value);
    }
    return counts;
  };

  const tellCounts = (counts) => {
    for (const tile of tiles) {
      tile.querySelector("b").textContent = grouped(counts.priority.get(tile.dataset.priority) || 0);
      tile.setAttribute("aria-pressed", String(tile.dataset.priority === priority));
    }
    for (const [select, known] of [[finding, counts.finding], [status, counts.status]]) {
      for (const option of select.options) {
        option.dataset.name ||= option.textContent;
        option.textContent = `${option.dataset.name} (${grouped(known.get(option.value) || 0)})`;
      }
    }
    for (const mark of marks) {
      mark.parentElement.querySelector("b").textContent = grouped(counts.mark.get(mark.value) || 0);
    }
  };

  // ------------------------------------------------------------------ what is shown

  const made = (tag, name = "", text = "", ...inside) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text) element.textContent = text;
    element.append(...inside.filter(Boolean));
    return element;
  };
  const cell = (name, ...inside) => {
    const element = made("td", name, "", ...inside);
    element.setAttribute("role", "cell");
    return element;
  };
  const pathOf = (study, name) => `${said.reports}/${study.key}/${name}`;
  const localTime = (seconds) => {
    if (!seconds) return "";
    if (!isEnglish) return minuteFormat.format(new Date(seconds * 1000));
    const at = new Date(seconds * 1000), two = (number) => String(number).padStart(2, "0");
    return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())}`;
  };
  const thumbOf = (study) => {
    if (!study.thumbnail) return null;
    const image = new Image(72, 72);
    Object.assign(image, { loading: isPrinting ? "eager" : "lazy", decoding: "async", alt: "", src: pathOf(study, study.thumbnail) });
    return image;
  };
  const linkOf = (study, file, name) => {
    if (!file) return null;
    const link = made("a", "", name);
    link.href = pathOf(study, file);
    link.setAttribute("aria-label", `${name} ${study.accession || study.key}`);
    return link;
  };
  const buttonOf = (what, name, isPressed) => {
    const button = made("button", what, name);
    button.type = "button";
    if (isPressed !== undefined) button.setAttribute("aria-pressed", String(isPressed));
    return button;
  };
  const foundOf = ({ texts, found, highest, cautions, remarks }) => {
    const inside = [];
    let [letters, left] = [40 * (cautions.length + remarks.length), 0];
    for (let at = 0; at < found.length; at += 3) {
      const name = named(texts[found[at]]);
      letters += name.length + 8;
      const isAsked = texts[found[at]] === finding.value;
      if (at > 0 && (isPrinting ? letters > PRINTED_LETTERS : at >= 3 * CHIPS && !isAsked)) {
        left += 1;
        continue;
      }
      const chip = made("span", found[at + 2] ? "chip urgent" : "chip", `${name} `, made("b", "", figure(texts[found[at + 1]])));
      inside.push(chip, " ");
    }
    if (left) inside.push(made("span", "more", fill("more", { count: left })));
    if (highest.length) {
      const rank = texts[highest[3]];
      const words = fill("highest", { name: named(texts[highest[0]]), probability: figure(texts[highest[1]]) });
      inside.push(made("span", "highest", words + (rank ? fill("not_judged", { rank }) : "")));
    }
    for (const sentence of cautions) inside.push(made("span", "remark caution", texts[sentence]));
    for (const sentence of remarks) inside.push(made("span", "remark", texts[sentence]));
    return inside;
  };
  const prioritiesOf = (study) => [
    made("span", `badge ${study.priority}`, study.badge),
    study.status !== "reported" && made("span", "state", said.texts.statuses[study.status]),
    study.coverage && made("span", "state", study.coverage),
    study.cautions.length > 0 && made("span", "state caution", fill("caution")),
    study.unlike && made("span", "state unlike", study.unlike),
    (study.bits & bitOf.prior) !== 0 && made("span", "state prior", fill("prior")),
  ].flatMap((each) => (each ? [each, " "] : []));

  const rowOf = (study) => {
    const row = made("tr", isRead(study) ? "read" : "");
    row.setAttribute("role", "row");
    Object.assign(row.dataset, { key: study.key, priority: study.priority, status: study.status });
    const accession = study.accession ? made("span", "accession", study.accession) : null;
    if (accession) accession.dir = "auto";
    const head = made("th", "study", "",
      made("span", "date", dayOf(study.date) || fill("no_date")), " ", accession, " ", made("span", "key mono", study.key));
    head.setAttribute("role", "rowheader");
    head.scope = "row";
    const wasRead = read.has(study.key) && !isRead(study);
    row.append(
      cell("thumb", thumbOf(study)), head, cell("priority", ...prioritiesOf(study)),
      cell("found", ...foundOf(study), notes.has(study.key) && made("span", "remark note", notes.get(study.key))),
      cell("images", made("span", "", imagesOf(study)), " ", made("span", "state", localTime(study.arrived)),
        wasRead && made("span", "state unlike", fill("read_again"))),
      cell("links", linkOf(study, study.html, fill("open")), linkOf(study, study.pdf, fill("pdf")),
        buttonOf("mark-read", isRead(study) ? fill("unread") : fill("read"), isRead(study)),
        isServed && mayNote && buttonOf("note", fill("note"))),
    );
    return row;
  };

  const show = ({ changed = 0, isFirst = false } = {}) => {
    if (!stamp.version) return;
    const focused = document.activeElement?.closest?.("tr")?.dataset.key;
    const focusedClass = document.activeElement?.className;
    tellCounts(filter());
    const last = Math.max(0, Math.ceil(fit.length / PAGE_ROWS) - 1);
    pageAt = Math.min(pageAt, last);
    const from = isPrinting ? 0 : pageAt * PAGE_ROWS;
    const visible = fit.slice(from, from + (isPrinting ? PRINTED_ROWS : PAGE_ROWS));
    body.replaceChildren(...visible.map(rowOf));
    const figures = { first: from + 1, last: from + visible.length, fit: fit.length, total: studies.length };
    const words = !fit.length ? "nothing" : fit.length < studies.length ? "shown_of" : "shown";
    const news = changed ? `. ${fill("new", { count: changed })}` : "";
    if (studies.length) shown.textContent = fill(words, figures) + news;
    nothing.hidden = fit.length > 0;
    pages.hidden = last === 0;
    place.textContent = `${grouped(pageAt + 1)} / ${grouped(last + 1)}`;
    former.disabled = pageAt === 0;
    next.disabled = pageAt === last;
    if (isFirst && opened) focusRow(body.querySelector(`[data-key="${CSS.escape(opened)}"]`));
    else if (focused) {
      const row = body.querySelector(`[data-key="${CSS.escape(focused)}"]`);
      (row?.querySelector(focusedClass ? `.${focusedClass}` : "a") || row?.querySelector("a, button"))?.focus();
    }
    keepView();
  };

  // What was looked at last, for whoever comes back from a report.
  const keepView = () => {
    const view = {
      search: search.value, finding: finding.value, status: status.value, sort: sort.value,
      marks: [...chosen], priority, pageAt, opened,
    };
    try {
      sessionStorage.setItem(VIEW, JSON.stringify(view));
    } catch { /* then it begins anew */ }
  };
  const recallView = () => {
    try {
      const view = JSON.parse(sessionStorage.getItem(VIEW) || "null");
      if (!view) return;
      [search.value, finding.value, status.value, sort.value] = [view.search, view.finding, view.status, view.sort];
      for (const mark of marks) {
        mark.checked = view.marks.includes(mark.value);
        if (mark.checked) chosen.add(mark.value);
      }
      [priority, pageAt, opened] = [view.priority, view.pageAt, view.opened];
      if (!sort.value) sort.selectedIndex = 0;
    } catch { /* nothing was kept, or something else */ }
  };
  // The report page reads this for its "previous" and "next".
  const keepOrder = (key) => {
    opened = key;
    keepView();
    const at = Math.max(0, fit.findIndex((study) => study.key === key));
    const from = Math.max(0, Math.min(at - ORDER_KEPT / 2, fit.length - ORDER_KEPT));
    try {
      localStorage.setItem(ORDER, JSON.stringify(fit.slice(from, from + ORDER_KEPT).map((study) => study.key)));
    } catch { /* then it has neither */ }
  };

  // ------------------------------------------------------------------ what a reader does

  const apply = () => { pageAt = 0; show(); };
  const choose = (value) => { priority = priority === value ? "" : value; apply(); };
  for (const tile of tiles) {
    tile.setAttribute("role", "button");
    tile.addEventListener("click", (event) => { event.preventDefault(); choose(tile.dataset.priority); });
    tile.addEventListener("keydown", (event) => {
      if (event.key !== " ") return;
      event.preventDefault();
      choose(tile.dataset.priority);
    });
  }
  search.addEventListener("input", apply);
  form.addEventListener("change", (event) => {
    if (event.target === search) return;
    if (event.target.type === "checkbox") chosen[event.target.checked ? "add" : "delete"](event.target.value);
    if (event.target === sort) sortAll();
    apply();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => {
    priority = "";
    chosen.clear();
    setTimeout(() => { sortAll(); apply(); }); // after the fields are empty
  });

  const turn = (by) => {
    const before = pageAt;
    pageAt = Math.max(0, Math.min(pageAt + by, Math.ceil(fit.length / PAGE_ROWS) - 1));
    if (pageAt === before) return false;
    show();
    document.querySelector("table").scrollIntoView();
    return true;
  };
  former.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));

  const studyAt = (element) => {
    const key = element.closest("tr")?.dataset.key;
    return key && studies.find((study) => study.key === key);
  };
  body.addEventListener("click", (event) => {
    const study = studyAt(event.target);
    if (!study) return;
    if (event.target.closest("a")) keepOrder(study.key);
    if (event.target.closest(".mark-read")) markRead(study, !isRead(study));
    if (event.target.closest(".note")) openNote(study);
  });
  body.addEventListener("auxclick", (event) => {
    const study = studyAt(event.target);
    if (study && event.target.closest("a")) keepOrder(study.key);
  });

  const focusRow = (row) => (row?.querySelector(".links a") || row?.querySelector("button"))?.focus();
  const step = (by) => {
    const rows = [...body.rows];
    const at = rows.indexOf(document.activeElement?.closest?.("tr"));
    const to = at < 0 ? (by > 0 ? 0 : rows.length - 1) : at + by;
    if (to >= 0 && to < rows.length) focusRow(rows[to]);
    else if (turn(by)) focusRow(body.rows[by > 0 ? 0 : body.rows.length - 1]);
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || !stamp.version) return;
    const isTyping = event.target.closest("input, select, textarea, dialog");
    if (isTyping) {
      if (event.target !== search || (event.key !== "Enter" && (event.key !== "Escape" || search.value))) return;
      event.preventDefault();
      focusRow(body.rows[0]);
      return;
    }
    const arrows = { ArrowDown: 1, ArrowUp: -1 };
    // Letters do something only inside of the list (WCAG 2.1.4).
    const study = event.target.closest("tbody") && studyAt(event.target);
    const letters = {
      r: () => markRead(study, !isRead(study)), n: () => turn(1) && focusRow(body.rows[0]),
      p: () => turn(-1) && focusRow(body.rows[0]), "/": () => search.focus(),
    };
    const action = event.key in arrows ? () => step(arrows[event.key]) : study && letters[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    action();
  });

  // ------------------------------------------------------------------ notes, export, print

  const noting = page("noting");
  let noted = null;
  const openNote = (study) => {
    noted = study;
    page("noting-of").textContent = study.accession || study.key;
    page("note").value = notes.get(study.key) || "";
    noting.showModal();
  };
  page("note-leave").addEventListener("click", () => noting.close());
  page("note-keep").addEventListener("click", () => {
    tellServer("notes", { study_key: noted.key, text: page("note").value })
      .then(fromServer).catch(() => complain("not_kept"));
    noting.close();
  });

  // As in every CSV table of ours: no cell begins a formula.
  const inert = (text) => {
    const shielded = String(text).replace(/(^|[,;])('*(?:[\s"]*[=+\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212\ufb29]|[\t\r\n]))/g, "$1'$2");
    return /[",\n]/.test(shielded) ? `"${shielded.replaceAll('"', '""')}"` : shielded;
  };
  page("export").addEventListener("click", () => {
    const lines = ordered.filter((study) => read.has(study.key)).map((study) => {
      const [revision, time] = read.get(study.key);
      return [study.key, study.accession, study.date, study.priority, revision, time].map(inert).join(",");
    });
    const link = made("a");
    link.href = URL.createObjectURL(new Blob([[fill("export"), ...lines, ""].join("\n")], { type: "text/csv" }));
    link.download = "read-marks.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  const print = (isNow) => { isPrinting = isNow; show(); };
  window.addEventListener("beforeprint", () => print(true));
  window.addEventListener("afterprint", () => print(false));

  // ------------------------------------------------------------------ begin, and go on

  read = keptLocally();
  recallView();
  form.hidden = page("tools").hidden = false;
  window.addEventListener("storage", (event) => {
    if (event.key === READ && !isServed) { read = keptLocally(); show(); }
  });
  window.addEventListener("pageshow", (event) => { if (event.persisted) poll(); });
  poll();
  setInterval(poll, POLL_MS);
  if (isServed) {
    fromServer().then(() => {
      const events = new EventSource("api/events");
      events.addEventListener("worklist", poll);
      events.addEventListener("marks", () => fromServer().catch(() => {}));
    }).catch(() => { isServed = false; }); // it was another server of this machine that left the cookie
  }
})();
