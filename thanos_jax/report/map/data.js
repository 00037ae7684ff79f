// The data of a map: images, layouts and columns, from the JSON of #map-data.
// All files of this folder stand in one function: see SCRIPTS of map_page.py for their order.

const section = document.getElementById("map");
const find = (name, root = section) => root.querySelector(`[data-${name}]`);
const data = JSON.parse(document.getElementById("map-data").textContent);
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const REACH = 14; // pixels from a dot within which it is pointed at
const LISTED = 120; // thumbnails of a selection
const RAMP = 64; // colours of a score
const NO_COLOUR = "#8a8f98";

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
