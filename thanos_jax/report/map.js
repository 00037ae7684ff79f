// The map of a report: images as dots on canvases, to be pointed at, searched and selected.
// It reads the JSON of #map-data and the picture of #map-sprite, and asks for nothing else.
"use strict";
(() => {
  const section = document.getElementById("map");
  const find = (name, root = section) => root.querySelector(`[data-${name}]`);
  const data = JSON.parse(document.getElementById("map-data").textContent);
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const REACH = 14; // pixels from a dot within which it is pointed at
  const LISTED = 120; // thumbnails of a selection
  const RAMP = 64; // colours of a score
  const NO_COLOUR = "#8a8f98";

  // ---- Data ------------------------------------------------------------------------------------

  const decode = (text, Type) => {
    const raw = atob(text);
    const bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i += 1) bytes[i] = raw.charCodeAt(i);
    return new Type(bytes.buffer);
  };
  const ramp = (share) => {
    // Black-body colours that show on white and on dark grey alike.
    const stops = [[47, 93, 200], [150, 80, 190], [225, 85, 95], [245, 170, 40]];
    const place = Math.min(0.9999, Math.max(0, share)) * (stops.length - 1);
    const k = Math.floor(place);
    return `rgb(${stops[k].map((a, c) => Math.round(a + (stops[k + 1][c] - a) * (place - k)))})`;
  };
  const rampColours = Array.from({ length: RAMP }, (_, k) => ramp(k / (RAMP - 1)));
  for (const map of data.maps) {
    map.neighbours = decode(map.neighbours, Int32Array);
    for (const layout of map.layouts) {
      const xy = decode(layout.xy, Float32Array);
      const low = [Infinity, Infinity];
      const high = [-Infinity, -Infinity];
      for (let i = 0; i < xy.length; i += 1) {
        low[i % 2] = Math.min(low[i % 2], xy[i]);
        high[i % 2] = Math.max(high[i % 2], xy[i]);
      }
      layout.xy = xy;
      layout.centre = [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2];
      layout.reach = [(high[0] - low[0]) / 2, (high[1] - low[1]) / 2];
    }
    for (const column of map.columns) {
      const isClass = column.names !== null;
      column.values = decode(column.values, isClass ? Int32Array : Float32Array);
      if (!isClass) {
        const known = column.values.filter(Number.isFinite);
        column.low = known.reduce((a, b) => Math.min(a, b), Infinity);
        column.high = known.reduce((a, b) => Math.max(a, b), -Infinity);
        column.colours = [...rampColours, NO_COLOUR];
      }
    }
  }
  const columnOf = (map, name) => map.columns.find((column) => column.name === name);
  const colourIndex = (column, i) => {
    if (column.names !== null) return column.values[i];
    const share = (column.values[i] - column.low) / (column.high - column.low || 1);
    return Number.isFinite(share) ? Math.round(share * (RAMP - 1)) : RAMP;
  };
  const shown = (column, i) =>
    column.names !== null
      ? column.names[column.values[i]]
      : Number.isFinite(column.values[i]) ? String(+column.values[i].toPrecision(4)) : "unknown";
  const nameOf = (set, i) =>
    set.named ? set.files[i] : `${set.split} image ${set.files[i]}`;

  // ---- State -----------------------------------------------------------------------------------

  const state = {
    colour: data.colour,
    layout: data.layout,
    pictures: false,
    mode: "lasso",
    zoom: 1,
    shift: [0, 0],
    current: null, // {set, index}
    pinned: false,
    chosen: null, // {set, marks: Uint8Array, count, words}
    drag: null,
  };
  let sprite = null;
  const views = data.maps.map((map, number) => {
    const figure = section.querySelectorAll("[data-view]")[number];
    const [base, top] = figure.querySelectorAll("canvas");
    return {
      map, set: map.set, number, figure, base, top, tip: find("tip", figure),
      legend: find("legend", figure), wide: 0, high: 0,
      x: new Float32Array(data.sets[map.set].count), y: new Float32Array(data.sets[map.set].count),
    };
  });

  // ---- Drawing ---------------------------------------------------------------------------------

  const layoutOf = (map) => map.layouts.find((one) => one.name === state.layout) || map.layouts[0];
  const ratio = () => window.devicePixelRatio || 1;
  const ink = (name) => getComputedStyle(section).getPropertyValue(name).trim();

  // All maps have one scale: pixels of a unit, the same in both directions.
  const scale = () => {
    const fits = views.map((view) => {
      const [across, up] = layoutOf(view.map).reach;
      return Math.min((view.wide / 2 - 12) / across, (view.high / 2 - 12) / up);
    });
    const least = Math.min(...fits);
    return (Number.isFinite(least) ? least : 1) * state.zoom;
  };
  const place = (view, xy = layoutOf(view.map).xy) => {
    const k = scale();
    const [cx, cy] = layoutOf(view.map).centre;
    for (let i = 0; i < view.x.length; i += 1) {
      view.x[i] = view.wide / 2 + (xy[2 * i] - cx - state.shift[0]) * k;
      view.y[i] = view.high / 2 - (xy[2 * i + 1] - cy - state.shift[1]) * k;
    }
  };
  const dotRadius = (view) => {
    const count = view.x.length;
    const least = count > 20000 ? 1.3 : count > 4000 ? 2 : 3;
    return Math.min(9, (least * Math.sqrt(state.zoom) * Math.max(view.wide, 300)) / 560 + 0.4);
  };
  const stamp = (colour, radius) => {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = Math.ceil(2 * radius * ratio()) + 2;
    const pen = canvas.getContext("2d");
    pen.fillStyle = colour;
    pen.beginPath();
    pen.arc(canvas.width / 2, canvas.height / 2, radius * ratio(), 0, 7);
    pen.fill();
    return canvas;
  };
  const cut = (pen, set, i, x, y, width, height) => {
    const { columns, cell, size } = set;
    if (!sprite || !sprite[set.number]) return;
    pen.drawImage(
      sprite[set.number], (i % columns) * cell[0], Math.floor(i / columns) * cell[1],
      size[0], size[1], x, y, width, height,
    );
  };
  const paint = (view) => {
    const pen = view.base.getContext("2d");
    const set = data.sets[view.set];
    const column = columnOf(view.map, state.colour);
    const radius = dotRadius(view);
    const colours = column ? column.colours : [NO_COLOUR];
    const stamps = state.pictures ? [] : colours.map((colour) => stamp(colour, radius));
    const marks = state.chosen && state.chosen.set === view.set ? state.chosen.marks : null;
    const dimmed = marks || (state.chosen && state.chosen.set !== view.set);
    const aspect = set.size[0] / set.size[1];
    const tall = radius * 5 / Math.max(1, aspect);
    const wide = tall * aspect;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, view.base.width, view.base.height);
    for (const bright of dimmed ? [0, 1] : [1]) {
      pen.globalAlpha = bright ? 0.88 : 0.13;
      for (let i = 0; i < view.x.length; i += 1) {
        const [x, y] = [view.x[i], view.y[i]];
        if (dimmed && (marks ? marks[i] : 0) !== bright) continue;
        if (x < -20 || y < -20 || x > view.wide + 20 || y > view.high + 20) continue;
        if (state.pictures) {
          const corner = [(x - wide / 2) * ratio(), (y - tall / 2) * ratio()];
          pen.fillStyle = colours[column ? colourIndex(column, i) : 0];
          pen.fillRect(corner[0] - 1.5, corner[1] - 1.5, wide * ratio() + 3, tall * ratio() + 3);
          cut(pen, set, i, ...corner, wide * ratio(), tall * ratio());
        } else {
          const one = stamps[column ? colourIndex(column, i) : 0];
          pen.drawImage(one, x * ratio() - one.width / 2, y * ratio() - one.height / 2);
        }
      }
    }
    pen.globalAlpha = 1;
  };
  const ring = (pen, x, y, radius, width) => {
    for (const [colour, extra] of [[ink("--page"), 3], [ink("--text"), 0]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = width + extra;
      pen.beginPath();
      pen.arc(x, y, radius, 0, 7);
      pen.stroke();
    }
  };
  const paintTop = (view) => {
    const pen = view.top.getContext("2d");
    pen.setTransform(ratio(), 0, 0, ratio(), 0, 0);
    pen.clearRect(0, 0, view.wide, view.high);
    view.tip.hidden = true;
    if (state.current && state.current.set === view.set) {
      const i = state.current.index;
      const radius = dotRadius(view) + 3;
      if (state.pinned) {
        pen.strokeStyle = ink("--text");
        pen.globalAlpha = 0.6;
        for (const other of near(view.map, i)) {
          pen.lineWidth = 1;
          pen.beginPath();
          pen.moveTo(view.x[i], view.y[i]);
          pen.lineTo(view.x[other], view.y[other]);
          pen.stroke();
        }
        pen.globalAlpha = 1;
      }
      ring(pen, view.x[i], view.y[i], radius, state.pinned ? 2.5 : 1.5);
      label(view, i, radius);
    }
    if (state.drag && state.drag.view === view && state.drag.path.length > 1) {
      pen.strokeStyle = ink("--text");
      pen.lineWidth = 1.5;
      pen.setLineDash([5, 4]);
      pen.beginPath();
      outline(state.drag).forEach(([x, y]) => pen.lineTo(x, y));
      pen.closePath();
      pen.stroke();
      pen.setLineDash([]);
    }
  };
  const near = (map, i) => map.neighbours.subarray(i * map.k, (i + 1) * map.k);
  const repaint = () => views.forEach((view) => { place(view); paint(view); paintTop(view); });
  const repaintTops = () => views.forEach(paintTop);

  const fit = () => {
    for (const view of views) {
      [view.wide, view.high] = [view.base.clientWidth, view.base.clientHeight];
      for (const canvas of [view.base, view.top]) {
        canvas.width = Math.round(view.wide * ratio());
        canvas.height = Math.round(view.high * ratio());
      }
    }
    repaint();
  };

  let moving = 0;
  const setLayout = (name) => {
    const before = views.map((view) => [view.x.slice(), view.y.slice()]);
    state.layout = name;
    state.zoom = 1;
    state.shift = [0, 0];
    cancelAnimationFrame(moving);
    if (calm.matches) { repaint(); return; }
    const started = performance.now();
    const step = (now) => {
      const share = Math.min(1, (now - started) / 450);
      const eased = share * share * (3 - 2 * share);
      views.forEach((view, v) => {
        place(view);
        for (let i = 0; i < view.x.length; i += 1) {
          view.x[i] = before[v][0][i] + (view.x[i] - before[v][0][i]) * eased;
          view.y[i] = before[v][1][i] + (view.y[i] - before[v][1][i]) * eased;
        }
        paint(view);
        paintTop(view);
      });
      if (share < 1) moving = requestAnimationFrame(step);
    };
    moving = requestAnimationFrame(step);
  };

  // ---- Panel -----------------------------------------------------------------------------------

  const make = (tag, text = "", className = "") => {
    const node = document.createElement(tag);
    node.textContent = text;
    if (className) node.className = className;
    return node;
  };
  const thumbnail = (set, i, longest) => {
    const canvas = make("canvas");
    const factor = longest / Math.max(...set.size);
    [canvas.width, canvas.height] = set.size;
    canvas.style.width = `${Math.round(set.size[0] * factor)}px`;
    canvas.style.height = `${Math.round(set.size[1] * factor)}px`;
    canvas.className = factor > 1.5 ? "pixels" : "";
    cut(canvas.getContext("2d"), set, i, 0, 0, ...set.size);
    return canvas;
  };
  const button = (view, i) => {
    const set = data.sets[view.set];
    const node = make("button", "", "map-thumb");
    const column = columnOf(view.map, state.colour);
    node.type = "button";
    node.title = describe(view.set, i);
    node.setAttribute("aria-label", node.title);
    node.style.borderColor = column ? column.colours[colourIndex(column, i)] : NO_COLOUR;
    node.append(thumbnail(set, i, 44));
    node.addEventListener("click", () => point(view.set, i, true));
    return node;
  };
  const viewsOf = (set) => views.filter((view) => view.set === set);
  // Facts on an image, a line each; those that differ between maps have the map's title.
  const facts = (number, i) => {
    const lines = [];
    for (const view of viewsOf(number)) {
      for (const column of view.map.columns) {
        const value = shown(column, i);
        const known = lines.find((line) => line.name === column.name);
        if (!known) lines.push({ name: column.name, values: [[view.map.title, value]] });
        else known.values.push([view.map.title, value]);
      }
    }
    return lines.map(({ name, values }) =>
      new Set(values.map(([, value]) => value)).size === 1
        ? [name, values[0][1]]
        : [name, values.map(([title, value]) => `${value} (${title})`).join(", ")]);
  };
  const describe = (number, i) => {
    const parts = facts(number, i).map(([name, value]) => `${name} ${value}`);
    return [nameOf(data.sets[number], i), ...parts].join("; ");
  };
  const label = (view, i, radius) => {
    const set = data.sets[view.set];
    const column = columnOf(view.map, state.colour);
    view.tip.replaceChildren(
      thumbnail(set, i, 56), make("bdi", nameOf(set, i)),
      ...(column ? [make("bdi", shown(column, i), "quiet")] : []),
    );
    view.tip.hidden = false;
    const right = view.x[i] < view.wide / 2;
    view.tip.style.left = right ? `${view.x[i] + radius + 6}px` : "auto";
    view.tip.style.right = right ? "auto" : `${view.wide - view.x[i] + radius + 6}px`;
    const height = view.tip.offsetHeight;
    view.tip.style.top =
      `${Math.max(0, Math.min(view.high - height, view.y[i] - height / 2))}px`;
  };
  const showImage = () => {
    const box = find("image");
    if (!state.current) {
      box.replaceChildren(make("p", find("hint").textContent, "quiet"));
      return;
    }
    const { set: number, index } = state.current;
    const set = data.sets[number];
    const head = make("div", "", "map-head");
    const words = make("div");
    words.append(make("bdi", nameOf(set, index), "map-name"));
    const list = make("dl");
    for (const [name, value] of facts(number, index)) {
      const term = make("dt", name);
      const detail = make("dd");
      detail.append(make("bdi", value));
      list.append(term, detail);
    }
    words.append(list);
    head.append(thumbnail(set, index, 112), words);
    const parts = [head];
    if (state.pinned) {
      for (const view of viewsOf(number)) {
        const others = near(view.map, index);
        const title = data.maps.length > 1 ? ` (${view.map.title})` : "";
        const row = make("div", "", "map-row");
        others.forEach((other) => row.append(button(view, other)));
        parts.push(make("h4", `Nearest images${title}`), row);
      }
    }
    box.replaceChildren(...parts);
  };
  const showChosen = () => {
    const box = find("chosen");
    box.hidden = !state.chosen;
    if (!state.chosen) { box.replaceChildren(); return; }
    const { set: number, marks, count, words } = state.chosen;
    const [view] = viewsOf(number);
    const set = data.sets[number];
    const rows = [...marks.keys()].filter((i) => marks[i]);
    const tools = make("div", "", "map-row");
    const copy = make("button", set.named ? "Copy file names" : "Copy numbers");
    const clear = make("button", "Clear");
    copy.type = clear.type = "button";
    copy.addEventListener("click", () => copyText(rows.map((i) => set.files[i]).join("\n"), count));
    clear.addEventListener("click", () => choose(null));
    tools.append(copy, clear);
    const parts = [make("h4", `${images(count)}: ${words}`), tools];
    const column = columnOf(view.map, state.colour);
    if (column && column.names !== null) {
      const counts = new Map();
      rows.forEach((i) => counts.set(shown(column, i), (counts.get(shown(column, i)) || 0) + 1));
      const ordered = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 12);
      const line = make("p", `By ${column.name}: `, "quiet");
      ordered.forEach(([name, many], k) => {
        line.append(k ? ", " : "", make("bdi", name), ` ${many}`);
      });
      if (counts.size > ordered.length) line.append(", …");
      parts.push(line);
    }
    const row = make("div", "", "map-row map-scroll");
    rows.slice(0, LISTED).forEach((i) => row.append(button(view, i)));
    parts.push(row);
    if (rows.length > LISTED) parts.push(make("p", `The first ${LISTED} are shown.`, "quiet"));
    box.replaceChildren(...parts);
  };
  const say = (words) => { find("status").textContent = words; };
  const copyText = async (text, count) => {
    let done = false;
    try {
      await navigator.clipboard.writeText(text);
      done = true;
    } catch {
      const area = make("textarea", text);
      section.append(area);
      area.select();
      done = document.execCommand("copy");
      area.remove();
    }
    say(done ? `${count} copied` : "The browser did not allow copying");
    find("note").textContent = find("status").textContent;
  };
  const showLegends = () => {
    let before = "";
    for (const view of views) {
      const column = columnOf(view.map, state.colour);
      const text = column ? JSON.stringify([view.set, column.names, column.low, column.high]) : "-";
      view.legend.replaceChildren();
      if (!column) {
        view.legend.append(make("span", `${state.colour}: not known here`, "quiet"));
      } else if (column.names === null) {
        const bar = make("span", "", "map-ramp");
        bar.style.background = `linear-gradient(90deg, ${rampColours.join(",")})`;
        view.legend.append(
          make("span", String(+column.low.toPrecision(3))), bar,
          make("span", String(+column.high.toPrecision(3))),
        );
      } else if (text !== before || views.length === 1) {
        const counts = new Int32Array(column.names.length);
        column.values.forEach((value) => { counts[value] += 1; });
        column.names.forEach((name, value) => {
          const node = make("button", "", "map-key");
          const dot = make("i");
          node.type = "button";
          dot.style.background = column.colours[value];
          node.append(dot, make("bdi", name), make("span", ` ${counts[value]}`, "quiet"));
          node.addEventListener("click", (event) => {
            const marks = Uint8Array.from(column.values, (one) => (one === value ? 1 : 0));
            choose(view.set, marks, `${column.name} ${name}`, event.shiftKey);
          });
          view.legend.append(node);
        });
      }
      before = text;
    }
  };

  // ---- Acts ------------------------------------------------------------------------------------

  const point = (set, index, pin = false) => {
    state.current = set === null ? null : { set, index };
    state.pinned = pin && set !== null;
    repaintTops();
    showImage();
    if (state.current) say(describe(set, index));
  };
  const images = (count) => `${count.toLocaleString("en")} image${count === 1 ? "" : "s"}`;
  const choose = (set, marks = null, words = "", more = false) => {
    if (set === null) {
      state.chosen = null;
    } else {
      let how = words;
      if (more && state.chosen && state.chosen.set === set) {
        marks = marks.map((mark, i) => mark | state.chosen.marks[i]);
        how = [...new Set([...state.chosen.words.split(", "), words])].join(", ");
      }
      const count = marks.reduce((sum, mark) => sum + mark, 0);
      state.chosen = { set, marks, count, words: how };
      say(`${images(count)} selected`);
    }
    find("note").textContent = "";
    views.forEach(paint);
    showChosen();
  };
  const outline = ({ path, box }) => {
    if (!box) return path;
    const [[ax, ay], [bx, by]] = [path[0], path[path.length - 1]];
    return [[ax, ay], [bx, ay], [bx, by], [ax, by]];
  };
  const inside = (polygon, x, y) => {
    let within = 0;
    for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i, i += 1) {
      const [ax, ay] = polygon[i];
      const [bx, by] = polygon[j];
      if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) within ^= 1;
    }
    return within;
  };
  const nearest = (view, x, y, reach) => {
    let best = -1;
    let least = reach * reach;
    for (let i = 0; i < view.x.length; i += 1) {
      const [dx, dy] = [view.x[i] - x, view.y[i] - y];
      const distance = dx * dx + dy * dy;
      if (distance <= least) [best, least] = [i, distance];
    }
    return best;
  };
  const zoomBy = (factor) => {
    state.zoom = Math.min(60, Math.max(0.5, state.zoom * factor));
    repaint();
  };
  const moveBy = (dx, dy) => {
    const k = scale();
    state.shift = [state.shift[0] - dx / k, state.shift[1] + dy / k];
    repaint();
  };
  const reset = () => {
    state.zoom = 1;
    state.shift = [0, 0];
    repaint();
  };
  const walk = (view, ux, uy) => {
    const from = state.current && state.current.set === view.set ? state.current.index : -1;
    const [x, y] = from < 0 ? [view.wide / 2, view.high / 2] : [view.x[from], view.y[from]];
    if (from < 0) { point(view.set, nearest(view, x, y, Infinity)); return; }
    let best = -1;
    let least = Infinity;
    for (let i = 0; i < view.x.length; i += 1) {
      const along = (view.x[i] - x) * ux + (view.y[i] - y) * uy;
      const across = Math.abs((view.x[i] - x) * uy - (view.y[i] - y) * ux);
      if (i === from || along < 0.01 || across > along || along + 2 * across >= least) continue;
      [best, least] = [i, along + 2 * across];
    }
    if (best >= 0) point(view.set, best);
    else say("no image further in this direction");
  };
  // Dots that lie on each other cannot be reached by direction: n and p go by number.
  const step = (view, by) => {
    const count = view.x.length;
    const here = state.current && state.current.set === view.set;
    const from = here ? state.current.index : by > 0 ? -1 : 0;
    point(view.set, (from + by + count) % count);
  };
  const search = (text) => {
    const fold = (word) => word.normalize("NFC").toLocaleLowerCase();
    const query = fold(text.trim());
    if (!query) { choose(null); return; }
    // Of several sets of images, the first that has some.
    let found = null;
    for (const [number, set] of data.sets.entries()) {
      const marks = new Uint8Array(set.count);
      const classes = viewsOf(number).flatMap((view) => view.map.columns)
        .filter((column) => column.names !== null)
        .map((column) => ({ column, names: column.names.map(fold) }));
      const exact = classes.some(({ names }) => names.includes(query));
      const matches = (name) => (exact ? name === query : name.includes(query));
      for (const { column, names } of classes) {
        const hit = names.map(matches);
        column.values.forEach((value, i) => { if (hit[value]) marks[i] = 1; });
      }
      if (!exact) {
        set.files.forEach((file, i) => {
          if (set.named ? fold(file).includes(query) : file === query) marks[i] = 1;
        });
      }
      if (!found || (!found.some && marks.includes(1))) {
        found = { number, marks, some: marks.includes(1) };
      }
    }
    choose(found.number, found.marks, `found by “${text.trim()}”`);
  };

  // ---- Events ----------------------------------------------------------------------------------

  const position = (view, event) => {
    const frame = view.top.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  };
  const setMode = (mode) => {
    state.mode = mode;
    section.querySelectorAll("[data-mode]").forEach((node) => {
      node.setAttribute("aria-pressed", String(node.dataset.mode === mode));
    });
  };
  for (const view of views) {
    view.top.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      const at = position(view, event);
      state.drag = { view, path: [at], box: state.mode === "box", more: event.shiftKey };
      view.top.setPointerCapture(event.pointerId);
    });
    view.top.addEventListener("pointermove", (event) => {
      const at = position(view, event);
      const drag = state.drag;
      if (drag && drag.view === view) {
        const [x, y] = drag.path[drag.path.length - 1];
        if (Math.hypot(at[0] - x, at[1] - y) < 3) return;
        if (state.mode === "move") {
          moveBy(at[0] - x, at[1] - y);
          drag.moved = true;
          drag.path = [at];
          return;
        }
        drag.path.push(at);
        paintTop(view);
        return;
      }
      if (state.pinned || event.pointerType === "touch") return;
      const i = nearest(view, ...at, REACH);
      const known = state.current;
      if (i < 0 ? known : !known || known.index !== i || known.set !== view.set) {
        point(i < 0 ? null : view.set, i);
      }
    });
    view.top.addEventListener("pointerup", (event) => {
      const drag = state.drag;
      state.drag = null;
      if (!drag) return;
      if (drag.path.length > 2 || (drag.box && drag.path.length > 1)) {
        const polygon = outline(drag);
        const marks = Uint8Array.from(view.x, (x, i) => inside(polygon, x, view.y[i]));
        paintTop(view);
        choose(view.set, marks, "inside the outline", drag.more);
      } else if (!drag.moved) {
        const i = nearest(view, ...position(view, event), REACH);
        point(i < 0 ? null : view.set, i, true);
      }
    });
    view.top.addEventListener("pointercancel", () => { state.drag = null; repaintTops(); });
    view.top.addEventListener("pointerleave", () => {
      if (!state.pinned && !state.drag) point(null, -1);
    });
    view.top.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
      event.preventDefault();
      zoomBy(Math.exp(-event.deltaY / 200));
    }, { passive: false });
    view.top.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const acts = {
        ArrowLeft: () => walk(view, -1, 0),
        ArrowRight: () => walk(view, 1, 0),
        ArrowUp: () => walk(view, 0, -1),
        ArrowDown: () => walk(view, 0, 1),
        n: () => step(view, 1),
        p: () => step(view, -1),
        Enter: () => state.current && point(state.current.set, state.current.index, true),
        " ": () => state.current && point(state.current.set, state.current.index, true),
        s: () => {
          if (!state.current || state.current.set !== view.set) return;
          const marks = new Uint8Array(view.x.length);
          marks[state.current.index] = 1;
          choose(view.set, marks, "picked by hand", true);
        },
        Escape: () => { if (state.current) point(null, -1); else choose(null); },
        "+": () => zoomBy(1.3),
        "=": () => zoomBy(1.3),
        "-": () => zoomBy(1 / 1.3),
        0: reset,
        "/": () => find("search").focus(),
      };
      if (!acts[event.key]) return;
      event.preventDefault();
      acts[event.key]();
    });
  }
  find("colour").addEventListener("change", (event) => {
    state.colour = event.target.value;
    views.forEach(paint);
    repaintTops();
    showLegends();
    showImage();
    showChosen();
  });
  find("layout").addEventListener("change", (event) => setLayout(event.target.value));
  find("pictures").addEventListener("change", (event) => {
    state.pictures = event.target.checked;
    views.forEach(paint);
  });
  let waiting = 0;
  find("search").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => search(event.target.value), 120);
  });
  section.querySelectorAll("[data-mode]").forEach((node) => {
    node.addEventListener("click", () => {
      setMode(node.dataset.mode);
      // Until then a finger scrolls the page.
      section.classList.add("map-touch");
    });
  });
  find("in").addEventListener("click", () => zoomBy(1.5));
  find("out").addEventListener("click", () => zoomBy(1 / 1.5));
  find("reset").addEventListener("click", reset);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  new ResizeObserver(() => {
    if (views[0].base.clientWidth !== views[0].wide) fit();
  }).observe(views[0].base);

  // ---- Start -----------------------------------------------------------------------------------

  section.hidden = false;
  data.sets.forEach((set, number) => { set.number = number; });
  setMode("lasso");
  fit();
  showLegends();
  showImage();
  showChosen();
  const pictures = [...section.querySelectorAll("[data-sprite]")];
  Promise.all(pictures.map((node) => node.decode().then(() => createImageBitmap(node))))
    .then((bitmaps) => {
      sprite = bitmaps;
      section.dataset.ready = "";
      if (state.pictures) repaint();
      showImage();
      showChosen();
    });
})();
