// Mouse, fingers, keys and controls, and the start.

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

section.hidden = false;
data.sets.forEach((set, number) => { set.number = number; });
setMode("lasso");
fit();
showLegends();
showImage();
showChosen();
performance.mark("map painted");
// The pictures come after this script: until they are decoded dots have no thumbnails.
document.addEventListener("DOMContentLoaded", () => {
  const pictures = [...document.querySelectorAll("[data-sprite]")];
  Promise.all(pictures.map((node) => node.decode().then(() => createImageBitmap(node))))
    .then((bitmaps) => {
      sprite = bitmaps;
      section.dataset.ready = "";
      performance.mark("map ready");
      if (state.pictures) repaint();
      repaintTops();
      showImage();
      showChosen();
    });
});
