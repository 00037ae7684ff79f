// The state of the page, and dots, pictures and outlines drawn of it on canvases.

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
const near = (map, i) => {
  // Not before they are asked for: they are most of what a page holds.
  if (typeof map.neighbours === "string") map.neighbours = decode(map.neighbours, Int32Array);
  return map.neighbours.subarray(i * map.k, (i + 1) * map.k);
};
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
