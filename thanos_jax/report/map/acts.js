// What a reader does: point, choose, zoom, walk, search.

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
      const called = set.files.map((_, i) => fold(nameOf(set, i)));
      const part = set.named && !called.includes(query);
      set.files.forEach((file, i) => {
        if (part ? called[i].includes(query) : [fold(file), called[i]].includes(query)) marks[i] = 1;
      });
    }
    if (!found || (!found.some && marks.includes(1))) {
      found = { number, marks, some: marks.includes(1) };
    }
  }
  choose(found.number, found.marks, `found by “${text.trim()}”`);
};
