// What is said beside a map: an image, its nearest, what is selected, the legend.

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
  const copy = make("button", set.named ? "Copy names" : "Copy numbers");
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
    const counts = column && column.names !== null ? new Array(column.names.length).fill(0) : null;
    if (counts) column.values.forEach((value) => { counts[value] += 1; });
    const text = counts ? JSON.stringify([view.set, column.names, counts]) : "";
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
