"use strict";

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);

// --- The numbers: rows of F̃, as enl_detectron2/analysis/attention/maps.py does -----------------

function bytes(base64) {
  const text = atob(base64);
  const result = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) result[i] = text.charCodeAt(i);
  return result;
}

// A level's θ̂ and φ̂ as 16-bit integers (channels × positions) and one scale a channel; L_h and
// L_w likewise, with one scale a row.
function unpack(level) {
  if (level.unpacked) return level.unpacked;
  const read = ({ values, scales }) => ({ values: new Int16Array(bytes(values).buffer), scales });
  level.unpacked = {
    theta: read(level.theta),
    phi: read(level.phi),
    kernels: level.position && level.position.map(read),
  };
  level.theta = level.phi = null; // the text isn't needed any more
  return level.unpacked;
}

function appearanceRow(level, index) {
  const { theta, phi } = unpack(level);
  const count = level.height * level.width;
  const row = new Float64Array(count);
  for (let channel = 0; channel < level.channels; channel++) {
    const start = channel * count;
    const weight = theta.values[start + index] * theta.scales[channel] * phi.scales[channel];
    const values = phi.values.subarray(start, start + count);
    for (let j = 0; j < count; j++) row[j] += weight * values[j];
  }
  if (level.softmax) {
    const largest = row.reduce((a, b) => Math.max(a, b), -Infinity);
    let total = 0;
    for (let j = 0; j < count; j++) total += row[j] = Math.exp(row[j] - largest);
    for (let j = 0; j < count; j++) row[j] /= total;
  }
  return row;
}

// A row of L is the outer product of a row of L_h and one of L_w.
function positionRow(level, row, column) {
  const factor = ({ values, scales }, index) => {
    const length = scales.length;
    return Float64Array.from(
      values.subarray(index * length, (index + 1) * length),
      (value) => value * scales[index],
    );
  };
  const [kernelH, kernelW] = unpack(level).kernels;
  const vertical = factor(kernelH, row);
  const horizontal = factor(kernelW, column);
  const result = new Float64Array(level.height * level.width);
  for (let y = 0; y < level.height; y++) {
    for (let x = 0; x < level.width; x++) {
      result[y * level.width + x] = vertical[y] * horizontal[x];
    }
  }
  return result;
}

// The part of a map that lies on the image; the rest is padding.
function visible(level, map) {
  const [rows, columns] = level.visible;
  const result = new Float64Array(rows * columns);
  for (let y = 0; y < rows; y++) {
    result.set(map.subarray(y * level.width, y * level.width + columns), y * columns);
  }
  return result;
}

function attention(level, row, column) {
  const appearance = visible(level, appearanceRow(level, row * level.width + column));
  if (!level.position) return { appearance, total: appearance };
  const position = visible(level, positionRow(level, row, column));
  const total = appearance.map((value, j) =>
    level.multiply ? value * position[j] : value + position[j],
  );
  return { appearance, position, total };
}

const magnitude = (map) => map.reduce((sum, value) => sum + Math.abs(value), 0);

// --- What is asked, and from where ------------------------------------------------------------

const state = {
  level: data.levels[data.levels.length - 1], // the finest
  part: "total",
  x: 0.5, // the query, 0 … 1 over the image
  y: 0.5,
  held: false,
  detection: -1, // queried at its centre
  seen: null, // the maps of that point's cell
};

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function cellAt(level, x, y) {
  const [rows, columns] = level.visible;
  const row = clamp(Math.floor(y / level.cell[0]), 0, rows - 1);
  const column = clamp(Math.floor(x / level.cell[1]), 0, columns - 1);
  return [row, column];
}

function ask(x, y, { detection = -1, spoken = false } = {}) {
  state.x = clamp(x, 0, 1);
  state.y = clamp(y, 0, 1);
  state.detection = detection;
  answer(spoken);
}

function askDetection(index) {
  const [x0, y0, x1, y1] = data.detections[index].box;
  hold(true);
  ask((x0 + x1) / 2 / data.width, (y0 + y1) / 2 / data.height, {
    detection: index,
    spoken: true,
  });
}

function answer(spoken) {
  const start = performance.now();
  const [row, column] = cellAt(state.level, state.x, state.y);
  state.seen = attention(state.level, row, column);
  draw();
  const elapsed = performance.now() - start;
  $("time").textContent = `computed in this page in ${elapsed.toFixed(1)} ms`;
  if (spoken) announce();
}

function hold(held) {
  state.held = held;
  $("hold").setAttribute("aria-pressed", held);
  $("hold").textContent = held ? "Holding this pixel" : "Hold this pixel";
}

// --- Drawing ----------------------------------------------------------------------------------

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const above = rgb(data.above); // the hue of what is above zero
const below = rgb(data.below);

function format(value) {
  const size = Math.abs(value);
  const sign = value < 0 ? "−" : "";
  if (size === 0) return "0";
  if (size >= 0.001 && size < 10000) return sign + Number(size.toPrecision(3));
  const [mantissa, exponent] = size.toExponential(2).split("e");
  const superscript = (text) => [...text].map((c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] ?? "⁻").join("");
  return `${sign}${mantissa}×10${superscript(exponent.replace("+", ""))}`;
}

const percent = (part) => `${Math.round(part * 100)} %`;

function range(map) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of map) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

function shownPart() {
  return state.level.position ? state.part : "appearance";
}

// Zero is transparent, the largest size opaque.
function draw() {
  const { level, seen } = state;
  const map = seen[shownPart()];
  const [low, high] = range(map);
  const limit = Math.max(-low, high) || 1;
  const [rows, columns] = level.visible;

  const canvas = $("map");
  canvas.width = columns;
  canvas.height = rows;
  canvas.style.width = `${columns * level.cell[1] * 100}%`;
  canvas.style.height = `${rows * level.cell[0] * 100}%`;
  // Pixels are set one by one, which is no work for a graphics card.
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const pixels = context.createImageData(columns, rows);
  for (let j = 0; j < map.length; j++) {
    pixels.data.set(map[j] < 0 ? below : above, 4 * j);
    pixels.data[4 * j + 3] = Math.round((Math.abs(map[j]) / limit) * 255);
  }
  context.putImageData(pixels, 0, 0);

  drawMarker(level);
  drawLegend(limit, level.signed[shownPart()]);
  showValues(low, high);
  showDetection();
}

function drawMarker(level) {
  const [row, column] = cellAt(level, state.x, state.y);
  $("marker").style.left = `${state.x * 100}%`;
  $("marker").style.top = `${state.y * 100}%`;
  const cell = $("cell");
  cell.setAttribute("x", column * level.cell[1] * data.width);
  cell.setAttribute("y", row * level.cell[0] * data.height);
  cell.setAttribute("width", level.cell[1] * data.width);
  cell.setAttribute("height", level.cell[0] * data.height);
}

function drawLegend(limit, signed) {
  const colours = [...(signed ? [data.below] : []), "transparent", data.above];
  $("legend-bar").style.background = `linear-gradient(90deg, ${colours.join(", ")})`;
  const ticks = [
    { at: 0, value: signed ? -limit : 0, kind: "first" },
    { at: 0.5, value: signed ? 0 : limit / 2, kind: "" },
    { at: 1, value: limit, kind: "last" },
  ];
  $("ticks").replaceChildren(
    ...ticks.map(({ at, value, kind }) => {
      const tick = document.createElement("span");
      tick.className = kind;
      tick.style.left = `${at * 100}%`;
      tick.textContent = format(value);
      return tick;
    }),
  );
}

function showValues(low, high) {
  const { level, seen } = state;
  const [row, column] = cellAt(level, state.x, state.y);
  $("value-query").textContent = `row ${row}, column ${column}`;
  $("value-max").textContent = format(high);
  $("value-min").textContent = format(low);
  const share = appearanceShare();
  $("share").hidden = share === null;
  if (share !== null) {
    $("share-appearance").style.width = `${share * 100}%`;
    $("share-position").style.width = `${(1 - share) * 100}%`;
    $("share-appearance-text").textContent = percent(share);
    $("share-position-text").textContent = percent(1 - share);
  }
  $("block").textContent =
    `${level.name}: ${level.visible.join(" × ")} cells of ${level.stride} pixels, ` +
    `${level.channels} channels`;
  $("formula").textContent = formula(level);
  for (const input of document.querySelectorAll('input[name="part"]')) {
    input.disabled = !level.position && input.value !== "appearance";
    input.checked = input.value === shownPart();
  }
}

// Σ|F| / (Σ|F| + Σ|L|) where the two are added.
function appearanceShare() {
  const { level, seen } = state;
  if (!level.position || level.multiply) return null;
  const appearance = magnitude(seen.appearance);
  return appearance / (appearance + magnitude(seen.position));
}

function formula(level) {
  if (!level.position) return "This block has no position term.";
  const total = `F̃ = F ${level.multiply ? "⊙" : "+"} L, what the block sums with`;
  return {
    total,
    appearance: "F, from what the pixels look like",
    position: "L, from where the pixels are",
  }[state.part];
}

function showDetection() {
  document.querySelectorAll("#detections > div").forEach((chip, index) => {
    chip.setAttribute("aria-selected", index === state.detection);
  });
  document.querySelectorAll("#boxes g").forEach((group) => {
    group.classList.toggle("selected", Number(group.dataset.index) === state.detection);
  });
  const chip = $(`detection-${state.detection}`);
  if (chip) $("detections").setAttribute("aria-activedescendant", chip.id);
  else $("detections").removeAttribute("aria-activedescendant");
}

function announce() {
  const [low, high] = range(state.seen[shownPart()]);
  const share = appearanceShare();
  $("announcement").textContent =
    `${$("value-query").textContent}: from ${format(low)} to ${format(high)}` +
    (share === null ? "" : `, appearance ${percent(share)}`);
}

// --- Controls ---------------------------------------------------------------------------------

function segments(container, name, choices, onChange) {
  for (const { value, text, checked } of choices) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    Object.assign(input, { type: "radio", name, value, checked });
    input.addEventListener("change", () => onChange(value));
    const face = document.createElement("span");
    face.textContent = text;
    label.append(input, face);
    container.append(label);
  }
}

function svg(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function buildDetections() {
  const area = ({ box: [x0, y0, x1, y1] }) => (x1 - x0) * (y1 - y0);
  const boxes = data.detections.map((detection, index) => ({ ...detection, index }));
  boxes.sort((a, b) => area(b) - area(a)); // small ones in front
  for (const { box, label, score, index } of boxes) {
    const [x, y, x1, y1] = box;
    const place = { x, y, width: x1 - x, height: y1 - y };
    const group = svg("g", { "data-index": index });
    const title = svg("title", {});
    title.textContent = `${label} ${percent(score)}`;
    group.append(
      title,
      ...["halo", "box", "hit"].map((kind) => svg("rect", { ...place, class: kind })),
    );
    $("boxes").append(group);
  }
  $("boxes").append(svg("rect", { id: "cell", class: "cell" }));

  data.detections.forEach(({ label, score }, index) => {
    const chip = document.createElement("div");
    chip.id = `detection-${index}`;
    chip.setAttribute("role", "option");
    const value = document.createElement("small");
    value.textContent = percent(score);
    chip.append(label, value);
    chip.addEventListener("click", () => askDetection(index));
    $("detections").append(chip);
  });
  const count = data.detections.length;
  $("detections-title").textContent = count
    ? `${count} ${count === 1 ? "detection" : "detections"}: ask from the centre`
    : "No detections above the threshold";
  $("detections").hidden = !count;
}

// A small box is clicked anywhere, a large one at its edge, as its inside is of interest.
function fitHitAreas() {
  const scale = $("stage").clientWidth / data.width;
  for (const hit of document.querySelectorAll("#boxes .hit")) {
    const side = Math.min(hit.getAttribute("width"), hit.getAttribute("height")) * scale;
    hit.style.pointerEvents = side < 64 ? "all" : "stroke";
  }
}

function pointOf(event) {
  const area = $("stage").getBoundingClientRect();
  return [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height];
}

function listenToPointer() {
  const stage = $("stage");
  let dragging = false;
  let waiting = null; // at most one answer a frame

  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    const group = event.target.closest("#boxes g");
    if (group) return askDetection(Number(group.dataset.index));
    dragging = true;
    stage.setPointerCapture(event.pointerId);
    hold(true);
    ask(...pointOf(event), { spoken: true });
  });
  stage.addEventListener("pointermove", (event) => {
    const [x, y] = pointOf(event);
    if (dragging || (!state.held && event.pointerType === "mouse")) {
      if (!waiting) {
        requestAnimationFrame(() => {
          const [x, y] = waiting;
          waiting = null;
          ask(x, y);
          showPointer(x, y);
        });
      }
      waiting = [x, y];
    } else {
      showPointer(x, y);
    }
  });
  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, () => {
      dragging = false;
    });
  }
  stage.addEventListener("pointerleave", () => {
    $("value-pointer").textContent = "–";
  });
}

function showPointer(x, y) {
  if (x < 0 || x > 1 || y < 0 || y > 1) return;
  const [row, column] = cellAt(state.level, x, y);
  const value = state.seen[shownPart()][row * state.level.visible[1] + column];
  $("value-pointer").textContent = format(value);
}

function listenToKeys() {
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  $("stage").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === " " || event.key === "Enter") {
      hold(!state.held);
    } else if (event.key === "Escape") {
      hold(false);
    } else if (event.key in steps) {
      const { level } = state;
      const [row, column] = cellAt(level, state.x, state.y);
      const [down, right] = steps[event.key].map((step) => step * (event.shiftKey ? 5 : 1));
      const [rows, columns] = level.visible;
      hold(true);
      ask(
        (clamp(column + right, 0, columns - 1) + 0.5) * level.cell[1],
        (clamp(row + down, 0, rows - 1) + 0.5) * level.cell[0],
        { spoken: true },
      );
    } else {
      return;
    }
    event.preventDefault();
  });

  $("detections").addEventListener("keydown", (event) => {
    const last = data.detections.length - 1;
    const next = {
      ArrowRight: Math.min(state.detection + 1, last),
      ArrowDown: Math.min(state.detection + 1, last),
      ArrowLeft: Math.max(state.detection - 1, 0),
      ArrowUp: Math.max(state.detection - 1, 0),
      Home: 0,
      End: last,
      " ": Math.max(state.detection, 0),
      Enter: Math.max(state.detection, 0),
    }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    askDetection(next);
    $(`detection-${next}`).scrollIntoView({ block: "nearest" });
  });
}

function listenToSettings() {
  const setStrength = () => {
    $("stage").style.setProperty("--strength", $("strength").value / 100);
  };
  $("strength").addEventListener("input", setStrength);
  setStrength();
  $("show-boxes").addEventListener("change", () => {
    for (const group of document.querySelectorAll("#boxes g")) {
      group.style.display = $("show-boxes").checked ? "" : "none";
    }
  });
  $("hold").addEventListener("click", () => hold(!state.held));
}

function start() {
  document.documentElement.style.setProperty("--ratio", data.width / data.height);
  $("image").src = data.image;
  $("image").alt = data.title;
  $("caption").textContent = data.caption ? `${data.title} · ${data.caption}` : data.title;
  $("boxes").setAttribute("viewBox", `0 0 ${data.width} ${data.height}`);
  segments(
    $("levels"),
    "level",
    data.levels.map((level, index) => ({
      value: String(index),
      text: level.label,
      checked: level === state.level,
    })),
    (value) => {
      state.level = data.levels[Number(value)];
      answer(true);
    },
  );
  segments(
    $("parts"),
    "part",
    [
      { value: "total", text: "Both", checked: true },
      { value: "appearance", text: "Appearance", checked: false },
      { value: "position", text: "Position", checked: false },
    ],
    (value) => {
      state.part = value;
      draw();
      announce();
    },
  );
  buildDetections();
  listenToPointer();
  listenToKeys();
  listenToSettings();
  new ResizeObserver(fitHitAreas).observe($("stage"));
  if (data.detections.length) {
    askDetection(0);
    hold(false);
  } else {
    answer(false);
  }
}

start();
