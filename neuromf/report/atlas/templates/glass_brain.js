"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const voxels = new Uint32Array(bytes(data.voxels).buffer);
const [I, J, K] = data.shape;
const size = voxels.length;
// Maps of one array of bytes: values of map k between low and high.
function valuesOf(stored, k) {
  const levels = stored.levels ??= bytes(stored.maps);
  return Float32Array.from(levels.subarray(k * size, (k + 1) * size), (v) => stored.low + (v / 255) * (stored.high - stored.low));
}
const SCALE = 10; // canvas pixels per voxel

// Extreme value along each axis: sagittal (front on the right), coronal and axial (left of the brain on the left).
function project(values) {
  const planes = [[J, K], [I, K], [I, J]].map(([w, h]) => ({ w, h, value: new Float32Array(w * h), inside: new Uint8Array(w * h) }));
  for (let n = 0; n < size; n++) {
    const v = voxels[n], k = v % K, j = ((v - k) / K) % J, i = (v - k - K * j) / (J * K);
    [[j, k], [i, k], [i, j]].forEach(([x, y], p) => {
      const plane = planes[p], at = (plane.h - 1 - y) * plane.w + x;
      plane.inside[at] = 1;
      if (Math.abs(values[n]) > Math.abs(plane.value[at])) plane.value[at] = values[n];
    });
  }
  return planes;
}

// Colour of a value in [-1, 1]: white to red, white to blue.
function colour(t) {
  const s = Math.min(1, Math.abs(t)) ** 0.7;
  return t >= 0 ? [255 - 77 * s, 255 - 231 * s, 255 - 212 * s] : [255 - 222 * s, 255 - 153 * s, 255 - 83 * s];
}

function draw(canvas, plane, limit) {
  const small = new OffscreenCanvas(plane.w, plane.h), pixels = new ImageData(plane.w, plane.h);
  plane.value.forEach((v, n) => pixels.data.set([...colour(v / limit), 255], 4 * n));
  small.getContext("2d").putImageData(pixels, 0, 0);
  canvas.width = plane.w * SCALE;
  canvas.height = plane.h * SCALE;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  context.strokeStyle = "#555";
  context.lineWidth = 2;
  context.beginPath();
  for (let y = 0; y < plane.h; y++) for (let x = 0; x < plane.w; x++) {
    const here = plane.inside[y * plane.w + x];
    if (x + 1 < plane.w && here !== plane.inside[y * plane.w + x + 1]) { context.moveTo((x + 1) * SCALE, y * SCALE); context.lineTo((x + 1) * SCALE, (y + 1) * SCALE); }
    if (y + 1 < plane.h && here !== plane.inside[(y + 1) * plane.w + x]) { context.moveTo(x * SCALE, (y + 1) * SCALE); context.lineTo((x + 1) * SCALE, (y + 1) * SCALE); }
  }
  context.stroke();
}

const PLANES = ["sagittal", "coronal", "axial"];
function plate(id, title) {
  const figure = document.createElement("figure");
  figure.className = "plate";
  figure.id = id;
  figure.innerHTML = `<figcaption><b></b><output></output></figcaption><div class="row"></div>`;
  figure.querySelector("b").textContent = title;
  for (const name of PLANES) {
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${title}, ${name} projection`);
    figure.querySelector(".row").append(canvas);
  }
  document.getElementById("plates").append(figure);
}

function show(id, values, limit, text) {
  const figure = document.getElementById(id), planes = project(values);
  figure.querySelectorAll("canvas").forEach((canvas, p) => {
    draw(canvas, planes[p], limit);
    if (p) { const c = canvas.getContext("2d"); c.fillStyle = "#333"; c.font = "bold 18px sans-serif"; c.fillText("L", 6, canvas.height - 8); }
  });
  figure.querySelector("output").textContent = text;
}

function correlation(a, b) {
  const mean = (x) => x.reduce((s, v) => s + v, 0) / x.length, ma = mean(a), mb = mean(b);
  let ab = 0, aa = 0, bb = 0;
  for (let n = 0; n < a.length; n++) { ab += (a[n] - ma) * (b[n] - mb); aa += (a[n] - ma) ** 2; bb += (b[n] - mb) ** 2; }
  return ab / Math.sqrt(aa * bb || 1);
}

const peak = (values) => values.reduce((m, v) => Math.max(m, Math.abs(v)), 1e-12);
