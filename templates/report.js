// Enlarges the pictures of a report and leads to the next study of the worklist. Without this script the page is
// complete: a picture is a link to its file. Nothing is drawn in here: a file that a page from a disk reads back from a
// canvas is refused, so pictures are moved, faded and windowed by style alone.
"use strict";
(() => {
  const by = (id) => document.getElementById(id);
  const [viewer, panes, keys, letters] = ["viewer", "viewer-panes", "keys", "keys-letters"].map(by);
  const within = (value, low, high) => Math.min(Math.max(value, low), high);
  const typing = (event) => event.target.closest("input, select, textarea");

  // ------------------------------------------------------------------ the pictures, by image: a radiograph, its heatmaps
  const images = [];
  for (const link of document.querySelectorAll("a[data-image]")) {
    const image = (images[link.dataset.image] ??= { name: link.dataset.imageName, maps: [] });
    const caption = link.parentElement.querySelector("figcaption");
    const picture = {
      link,
      image,
      thumb: link.querySelector("img"),
      title: caption.querySelector("b").textContent,
      detail: caption.querySelector("span")?.textContent ?? "",
    };
    if (link.dataset.heatmap === undefined) image.radiograph = picture;
    else image.maps.push(picture);
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return; // in a tab of its own, as any link
      event.preventDefault();
      open(picture);
    });
  }
  const shown = images.filter((image) => image?.radiograph);

  // ------------------------------------------------------------------ what is shown, and how
  const fields = Object.fromEntries(
    ["image", "map", "opacity", "width", "level", "invert"].map((name) => [name, by(`viewer-${name}`)]));
  const curves = document.querySelectorAll("#viewer-window feComponentTransfer > *");
  const FULL = { width: 256, level: 128 }; // the window that changes nothing
  const view = { zoom: 1, x: 0.5, y: 0.5, fit: 1, wide: 1, high: 1, paneWide: 1, paneHigh: 1 };
  const image = () => shown[fields.image.value] ?? shown[0];

  const option = (text, value) => new Option(text, value);
  const fill = () => {
    for (const old of [...fields.map.options].filter((each) => each.dataset.drawn)) old.remove();
    const maps = image().maps.map((map, number) => option(map.title, number));
    for (const each of maps) each.dataset.drawn = "1";
    fields.map.options[0].after(...maps);
    fields.map.querySelector("[value=all]").hidden = fields.map.querySelector("[value=all]").disabled = maps.length < 2;
    by("viewer-maps").hidden = maps.length === 0;
  };

  const pane = (picture) => {
    const figure = document.createElement("figure");
    figure.className = "pane";
    const plane = document.createElement("div");
    plane.className = "plane";
    const base = picture.image.radiograph;
    const layers = picture === base ? [base] : [base, picture];
    for (const kind of layers.length > 1 ? ["colours", "greys"] : ["greys"]) {
      const group = document.createElement("div");
      group.className = kind;
      for (const each of layers) {
        const copy = document.createElement("img");
        copy.src = each.thumb.src;
        copy.alt = each === picture && !plane.hasChildNodes() ? each.thumb.alt : "";
        copy.draggable = false;
        copy.decoding = "sync"; // no black moment between two heatmaps
        copy.className = each === base ? "base" : "overlay";
        group.append(copy);
      }
      plane.append(group);
    }
    const caption = document.createElement("figcaption");
    caption.textContent = picture.title;
    figure.append(plane, caption);
    return figure;
  };

  // The plain radiograph lies below the one that a heatmap was laid over. So fading the upper one is fading the heatmap:
  // (1 - f) p + f (p (1 - o) + c o) = p (1 - f o) + c f o, as if its opacity o had been f o.
  const show = () => {
    const { radiograph, maps } = image();
    const choice = fields.map.value;
    const pictures = choice === "all" ? [radiograph, ...maps] : [maps[choice] ?? radiograph];
    panes.replaceChildren(...pictures.map(pane));
    const [first] = pictures;
    const [name, detail] = choice === "all" ? [fields.map.selectedOptions[0].text, ""] : [first.title, first.detail];
    const small = document.createElement("small");
    small.textContent = [shown.length > 1 ? image().name : "", detail].filter(Boolean).join(" · ");
    by("viewer-name").replaceChildren(name, small);
    view.wide = radiograph.thumb.naturalWidth || 1024;
    view.high = radiograph.thumb.naturalHeight || 1024;
    fields.opacity.disabled = !panes.querySelector(".overlay");
    lay();
    tint();
  };

  // Panes of as many columns as leave each picture the most room.
  const lay = () => {
    const [count, gap] = [panes.children.length, 6];
    const sizes = Array.from({ length: count }, (_, index) => {
      const [columns, rows] = [index + 1, Math.ceil(count / (index + 1))];
      const [wide, high] = [(panes.clientWidth - gap * (columns - 1)) / columns, (panes.clientHeight - gap * (rows - 1)) / rows];
      return { columns, rows, wide, high, fit: Math.min(wide / view.wide, high / view.high) };
    });
    const best = sizes.reduce((one, other) => (other.fit > one.fit ? other : one));
    panes.style.gridTemplate = `repeat(${best.rows}, minmax(0, 1fr)) / repeat(${best.columns}, minmax(0, 1fr))`;
    Object.assign(view, { fit: best.fit, paneWide: best.wide, paneHigh: best.high });
    place();
  };

  // From the smaller of what fits and 1:1 up to 8 px of the page for one of the picture.
  const possible = (factor) => within(factor, Math.min(1, 1 / (view.fit * devicePixelRatio)), Math.max(2, 8 / view.fit));

  const place = () => {
    view.zoom = possible(view.zoom);
    const scale = view.fit * view.zoom;
    const axis = (centre, size, room) => {
      const half = room / 2 / (size * scale);
      return half >= 0.5 ? 0.5 : within(centre, half, 1 - half);
    };
    view.x = axis(view.x, view.wide, view.paneWide);
    view.y = axis(view.y, view.high, view.paneHigh);
    const [left, top] = [view.paneWide / 2 - view.x * view.wide * scale, view.paneHigh / 2 - view.y * view.high * scale];
    for (const plane of panes.querySelectorAll(".plane")) {
      plane.style.width = `${view.wide}px`;
      plane.style.height = `${view.high}px`;
      plane.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
    }
    by("viewer-scale").textContent = `${Math.round(scale * devicePixelRatio * 100)} %`;
  };

  // A window is a line through (level, middle grey), of slope 256 / width (PS3.3 C.11.2.1.2, of 8 bits). Over a heatmap
  // it acts on the greys alone, which are laid over the colours as their luminosity (Compositing and Blending 1, 10.2.4).
  const tint = () => {
    const [width, level] = [Number(fields.width.value), Number(fields.level.value)];
    const inverted = fields.invert.checked;
    const slope = (inverted ? -1 : 1) * (FULL.width / width);
    for (const curve of curves) {
      curve.setAttribute("slope", slope);
      curve.setAttribute("intercept", 0.5 - (slope * level) / 256);
    }
    const plain = width === FULL.width && level === FULL.level && !inverted;
    for (const greys of panes.querySelectorAll(".greys")) greys.style.filter = plain ? "none" : "url(#viewer-window)";
    for (const greys of panes.querySelectorAll(".colours + .greys")) greys.hidden = plain;
    for (const overlay of panes.querySelectorAll(".overlay")) overlay.style.opacity = fields.opacity.value / 100;
    for (const name of ["width", "level"]) by(`viewer-${name}-value`).textContent = fields[name].value;
    by("viewer-opacity-value").textContent = `${fields.opacity.value} %`;
  };

  const reset = () => {
    Object.assign(view, { zoom: 1, x: 0.5, y: 0.5 });
    Object.assign(fields.opacity, { value: 100 });
    fields.width.value = FULL.width;
    fields.level.value = FULL.level;
    fields.invert.checked = false;
  };

  const open = (picture) => {
    reset();
    fields.image.value = shown.indexOf(picture.image);
    fill();
    const number = picture.image.maps.indexOf(picture);
    fields.map.value = number < 0 ? "none" : number;
    viewer.showModal();
    show();
    panes.focus({ preventScroll: true });
  };

  // ------------------------------------------------------------------ moving, zooming, windowing
  const move = (right, down) => {
    view.x -= right / (view.wide * view.fit * view.zoom);
    view.y -= down / (view.high * view.fit * view.zoom);
    place();
  };

  // Keeps what lies under (x, y), in px from the middle of a pane, where it is.
  const zoom = (factor, x = 0, y = 0) => {
    const before = view.fit * view.zoom;
    view.zoom = possible(view.zoom * factor);
    const after = view.fit * view.zoom;
    view.x += (x / view.wide) * (1 / before - 1 / after);
    view.y += (y / view.high) * (1 / before - 1 / after);
    place();
  };

  const add = (field, step) => {
    field.value = Number(field.value) + step;
    tint();
  };

  // Inverted, a heatmap's colours would say the opposite: it is the radiograph alone that is inverted.
  const invert = () => {
    if (fields.invert.checked) fields.map.value = "none";
    show();
  };

  const chooseMap = (value) => {
    const chosen = [...fields.map.options].find((each) => each.value === String(value) && !each.disabled);
    if (!chosen) return;
    chosen.selected = true;
    if (chosen.value !== "none") fields.invert.checked = false;
    show();
  };

  const stepMap = (step) => {
    const choices = [...fields.map.options].filter((each) => !each.disabled);
    const now = choices.findIndex((each) => each.selected);
    chooseMap(choices[(now + step + choices.length) % choices.length].value);
  };

  const chooseImage = (number) => {
    if (!shown[number]) return;
    fields.image.value = number;
    const wanted = fields.map.selectedOptions[0]?.value;
    fill();
    fields.map.value = wanted === "all" && image().maps.length > 1 ? "all" : "none";
    show();
  };

  const acts = {
    in: () => zoom(1.25),
    out: () => zoom(0.8),
    fit: () => zoom(1 / view.zoom),
    actual: () => zoom(1 / (view.fit * view.zoom * devicePixelRatio)),
    reset: () => (reset(), show()),
    keys: () => keys.open || keys.showModal(),
    close: (button) => button.closest("dialog").close(),
  };
  const STEP = 60;
  const pressed = {
    "+": acts.in, "=": acts.in, "-": acts.out, "−": acts.out, f: acts.fit, 1: acts.actual, r: acts.reset, "?": acts.keys,
    i: () => ((fields.invert.checked = !fields.invert.checked), invert()),
    m: () => stepMap(1), M: () => stepMap(-1), n: () => chooseMap("none"), a: () => chooseMap("all"),
    "[": () => add(fields.opacity, -10), "]": () => add(fields.opacity, 10),
    ArrowLeft: (shift) => (shift ? add(fields.width, -8) : move(STEP, 0)),
    ArrowRight: (shift) => (shift ? add(fields.width, 8) : move(-STEP, 0)),
    ArrowUp: (shift) => (shift ? add(fields.level, -4) : move(0, STEP)),
    ArrowDown: (shift) => (shift ? add(fields.level, 4) : move(0, -STEP)),
    PageUp: () => chooseImage(Number(fields.image.value) - 1),
    PageDown: () => chooseImage(Number(fields.image.value) + 1),
  };

  // A name of one letter is a key only where nothing else takes it and the reader lets it be one (WCAG 2.1.4).
  const keyOf = (event, table) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return undefined;
    if (event.key.length === 1 && !letters.checked) return undefined;
    const takesAll = event.target.closest("select") || (event.key.length > 1 && typing(event));
    if (takesAll) return undefined;
    return table[event.key] ?? (event.shiftKey ? undefined : table[event.key.toLowerCase()]);
  };
  const listen = (element, table) => element.addEventListener("keydown", (event) => {
    const act = keyOf(event, table);
    if (!act) return;
    event.preventDefault();
    event.stopPropagation();
    act(event.shiftKey);
  });

  const pointers = new Map();
  const centre = () => {
    const [one, two = one] = [...pointers.values()];
    return { x: (one.x + two.x) / 2, y: (one.y + two.y) / 2, apart: Math.hypot(one.x - two.x, one.y - two.y) };
  };
  const fromMiddle = (at) => {
    const under = [...panes.children].map((each) => each.getBoundingClientRect())
      .find((box) => at.x >= box.left && at.x <= box.right && at.y >= box.top && at.y <= box.bottom);
    return under ? [at.x - under.left - under.width / 2, at.y - under.top - under.height / 2] : [0, 0];
  };
  const windowing = (event) =>
    event.buttons === 2 || event.shiftKey || document.querySelector("[name=viewer-drag]:checked").value === "window";
  const drag = (event) => {
    if (!pointers.has(event.pointerId)) return;
    const before = centre();
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    const after = centre();
    const [right, down] = [after.x - before.x, after.y - before.y];
    if (pointers.size === 1 && windowing(event)) {
      fields.width.value = Number(fields.width.value) + right;
      fields.level.value = Number(fields.level.value) + down / 2;
      return tint();
    }
    move(right, down);
    if (before.apart > 0 && after.apart > 0) zoom(after.apart / before.apart, ...fromMiddle(after));
  };
  const release = (event) => {
    pointers.delete(event.pointerId);
    panes.classList.remove("dragged", "windowing");
  };

  const prepareViewer = () => {
    fields.image.append(...shown.map((each, number) => option(each.name, number)));
    by("viewer-images").hidden = shown.length < 2;
    panes.addEventListener("pointerdown", (event) => {
      panes.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      panes.classList.add(windowing(event) ? "windowing" : "dragged");
    });
    panes.addEventListener("pointermove", drag);
    panes.addEventListener("pointerup", release);
    panes.addEventListener("pointercancel", release);
    panes.addEventListener("contextmenu", (event) => event.preventDefault());
    panes.addEventListener("dblclick", (event) =>
      view.zoom > 1.01 ? acts.fit() : zoom(2, ...fromMiddle({ x: event.clientX, y: event.clientY })));
    panes.addEventListener("wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaY * (event.deltaMode ? 33 : 1);
      zoom(Math.exp(-within(lines, -300, 300) * (event.ctrlKey ? 0.01 : 0.002)), ...fromMiddle({ x: event.clientX, y: event.clientY }));
    }, { passive: false });
    for (const name of ["opacity", "width", "level"]) fields[name].addEventListener("input", tint);
    fields.map.addEventListener("change", () => chooseMap(fields.map.value));
    fields.image.addEventListener("change", () => chooseImage(fields.image.value));
    fields.invert.addEventListener("change", invert);
    viewer.addEventListener("close", () => {
      panes.replaceChildren();
      pointers.clear();
    });
    listen(viewer, pressed);
    new ResizeObserver(() => viewer.open && lay()).observe(panes);
    by("enlarge-hint").hidden = false;
    document.documentElement.classList.add("js");
  };

  // ------------------------------------------------------------------ the worklist
  const kept = (name) => {
    try {
      return localStorage.getItem(name);
    } catch {
      return null; // a browser that keeps nothing for pages of a disk
    }
  };
  const orderOfWorklist = () => {
    try {
      const order = JSON.parse(kept(`cxrbatch.order:${new URL("../../", location).href}`));
      return Array.isArray(order) ? order.filter((each) => /^[0-9a-f]{16}$/.test(each)) : [];
    } catch {
      return [];
    }
  };
  const leadOn = () => {
    const order = orderOfWorklist();
    const own = order.indexOf(decodeURIComponent(location.pathname).split("/").at(-2));
    if (own < 0) return;
    for (const [name, key] of [["way-previous", order[own - 1]], ["way-next", order[own + 1]]]) {
      if (key) by(name).href = `../${key}/report.html`;
      else by(name).removeAttribute("href");
      by(name).toggleAttribute("aria-disabled", !key);
      if (!key) by(name).setAttribute("aria-disabled", "true");
    }
    const place = by("way-place");
    place.textContent = place.dataset.words.replace("{n}", own + 1).replace("{total}", order.length);
    by("way-order").hidden = false;
  };
  const follow = (id) => () => by(id).getAttribute("href") && by(id).click();
  const ways = {
    j: follow("way-next"), ArrowRight: follow("way-next"), k: follow("way-previous"), ArrowLeft: follow("way-previous"),
    u: follow("way-list"), "?": acts.keys,
  };

  if (shown.length) prepareViewer();
  for (const button of document.querySelectorAll("button[data-act]"))
    button.addEventListener("click", () => acts[button.dataset.act](button));
  letters.checked = kept("cxrbatch.letters") !== "off";
  letters.addEventListener("change", () => {
    try {
      localStorage.setItem("cxrbatch.letters", letters.checked ? "on" : "off");
    } catch {
      // it holds for this page
    }
  });
  leadOn();
  window.addEventListener("pageshow", leadOn);
  listen(document, new Proxy(ways, { get: (table, key) => (document.querySelector("dialog[open]") ? undefined : table[key]) }));
})();
