"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const TYPES = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i2: Int16Array };
const arrays = {};
for (const [name, { columns, dtype, data: text }] of Object.entries(data.arrays)) {
  const values = new TYPES[dtype](Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  arrays[name] = (row) => Array.from(values.subarray(row * columns, (row + 1) * columns));
}
const [I, J, K] = data.shape;
const [density, voxels] = ["density", "voxels"].map((name) => new TYPES[data.arrays[name].dtype](Uint8Array.from(atob(data.arrays[name].data), (c) => c.charCodeAt(0)).buffer));
const rowOf = new Int32Array(I * J * K).fill(-1);
voxels.forEach((voxel, row) => { rowOf[voxel] = row; });
const at = ([i, j, k]) => (i < 0 || j < 0 || k < 0 || i >= I || j >= J || k >= K ? -1 : rowOf[(i * J + j) * K + k]);
const toMm = (voxel) => voxel.map((n, axis) => data.origin[axis] + n * data.spacing[axis]);
const toVoxel = (mm) => mm.map((x, axis) => Math.round((x - data.origin[axis]) / data.spacing[axis]));
const placeOf = (row) => { const v = voxels[row], k = v % K, j = ((v - k) / K) % J; return [(v - k - K * j) / (J * K), j, k]; };

const SCALE = 10;
const PLANES = [{ name: "sagittal", axes: [1, 2] }, { name: "coronal", axes: [0, 2] }, { name: "axial", axes: [0, 1] }];
const holder = document.getElementById("slices");
const canvases = PLANES.map(({ name, axes: [a, b] }, plane) => {
  const canvas = document.createElement("canvas");
  canvas.width = data.shape[a] * SCALE;
  canvas.height = data.shape[b] * SCALE;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${name} slice of the density of reported foci`);
  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect(), voxel = [...current];
    voxel[a] = Math.floor(((event.clientX - box.left) / box.width) * data.shape[a]);
    voxel[b] = data.shape[b] - 1 - Math.floor(((event.clientY - box.top) / box.height) * data.shape[b]);
    choose(voxel, true);
  });
  holder.append(canvas);
  return canvas;
});
const inputs = ["x", "y", "z"].map((name) => document.getElementById(name));
inputs.forEach((input) => input.addEventListener("change", () => {
  const mm = inputs.map((one) => Number(one.value));
  if (mm.every(Number.isFinite)) choose(toVoxel(mm), false);
}));
document.getElementById("point").addEventListener("submit", (event) => event.preventDefault());

function draw(canvas, plane) {
  const [a, b] = PLANES[plane].axes, context = canvas.getContext("2d"), voxel = [...current];
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  for (let p = 0; p < data.shape[a]; p++) for (let q = 0; q < data.shape[b]; q++) {
    voxel[a] = p; voxel[b] = q;
    const row = at(voxel);
    if (row < 0) continue;
    const s = density[row] / 255;
    context.fillStyle = `rgb(${238 - 200 * s}, ${240 - 150 * s}, ${242 - 110 * s})`;
    context.fillRect(p * SCALE, (data.shape[b] - 1 - q) * SCALE, SCALE, SCALE);
  }
  context.strokeStyle = "#c2410c";
  context.lineWidth = 2;
  context.beginPath();
  const x = (current[a] + 0.5) * SCALE, y = (data.shape[b] - 0.5 - current[b]) * SCALE;
  context.moveTo(x, 0); context.lineTo(x, canvas.height);
  context.moveTo(0, y); context.lineTo(canvas.width, y);
  context.stroke();
  if (a === 0) {
    context.fillStyle = "#555";
    context.font = "600 24px system-ui, sans-serif";
    context.fillText("L", 6, canvas.height - 8);
  }
}

function block(title, lines) {
  const section = document.createElement("div"), head = document.createElement("h3");
  head.textContent = title;
  section.append(head);
  for (const line of lines.length ? lines : ["none"]) {
    const paragraph = document.createElement("p");
    paragraph.textContent = line;
    section.append(paragraph);
  }
  return section;
}

function insight(row) {
  const mm = toMm(placeOf(row)), [n] = arrays.n_studies(row), [region] = arrays.region(row);
  const z = arrays.topic_z(row), [slope, error] = arrays.trend(row).map((value) => value / 100);
  const topics = arrays.topics(row).map((k, rank) => [data.topic_words[k], z[rank] / 100]).filter(([, value]) => value > -327);
  const others = arrays.coactivation(row).filter((k) => k >= 0).map((k) => `(${toMm(placeOf(k)).join(", ")}) ${data.regions[arrays.region(k)[0]]}`);
  const nearest = arrays.nearest(row).map((k) => data.studies[k]).map(([id, year, title]) => `${title} (${year}, PMID ${id})`);
  return [
    block("Point", [`(${mm.join(", ")}) mm`, data.regions[region] || "outside the cortical regions", `${n} studies report a focus within 10 mm`]),
    block("Topics, z against all other studies", topics.map(([words, value]) => `${words}: ${value.toFixed(1)}`)),
    block("Steepest latent axes", arrays.latents(row).map((k) => `z${k + 1}`)),
    block("Reported together with", others),
    block("Trend", [`${slope >= 0 ? "+" : ""}${slope.toFixed(1)} (s.e. ${error.toFixed(1)}) studies in 10,000 per year`]),
    block("Density rank", [`${((100 * arrays.novelty(row)[0]) / 255).toFixed(0)} % of the brain is reported more often`]),
    block("Nearest foci", [...new Set(nearest)]),
  ];
}

let current = [0, 0, 0];
function choose(voxel, write) {
  const row = at(voxel), output = document.getElementById("insight");
  if (row < 0) { output.replaceChildren(block("Point", ["outside the brain mask"])); return; }
  current = voxel;
  if (write) toMm(voxel).forEach((value, axis) => { inputs[axis].value = value; });
  canvases.forEach(draw);
  output.replaceChildren(...insight(row));
}
choose(toVoxel([-42, -24, 54]), true);
