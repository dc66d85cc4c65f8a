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
const LEAST = 4; // canvas pixels per voxel, at least

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

// The canvas has the pixels of the screen, so that contours keep their width at any page width.
function draw(canvas, plane, limit) {
  const small = new OffscreenCanvas(plane.w, plane.h), pixels = new ImageData(plane.w, plane.h);
  plane.value.forEach((v, n) => pixels.data.set([...colour(v / limit), 255], 4 * n));
  small.getContext("2d").putImageData(pixels, 0, 0);
  const ratio = window.devicePixelRatio || 1, scale = Math.max(LEAST, Math.round((canvas.clientWidth * ratio) / plane.w));
  canvas.width = plane.w * scale;
  canvas.height = plane.h * scale;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  contour(context, plane, scale, canvas.clientWidth ? canvas.width / canvas.clientWidth : 1);
}

// Border of the brain, 1.25 pixels of the page wide; square ends close the corners between segments.
function contour(context, plane, scale, perPixel) {
  context.strokeStyle = "#555";
  context.lineWidth = 1.25 * perPixel;
  context.lineCap = "square";
  context.beginPath();
  const last = plane.h * scale - context.lineWidth / 2; // a border at the lower edge is drawn inside the canvas
  const inside = (x, y) => x < plane.w && y < plane.h && plane.inside[y * plane.w + x];
  for (let y = 0; y < plane.h; y++) for (let x = 0; x < plane.w; x++) {
    if (!inside(x, y) !== !inside(x + 1, y)) { context.moveTo((x + 1) * scale, y * scale); context.lineTo((x + 1) * scale, (y + 1) * scale); }
    if (!inside(x, y) !== !inside(x, y + 1)) { const at = Math.min((y + 1) * scale, last); context.moveTo(x * scale, at); context.lineTo((x + 1) * scale, at); }
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
    if (p) { const c = canvas.getContext("2d"), unit = canvas.width / (canvas.clientWidth || canvas.width); c.fillStyle = "#333"; c.font = `bold ${12 * unit}px sans-serif`; c.fillText("L", 3 * unit, canvas.height - 4 * unit); }
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
