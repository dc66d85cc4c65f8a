const LAYERS = { mean: "mean of the members", epistemic: "epistemic standard deviation", aleatoric: "aleatoric standard deviation" };
const keys = Object.keys(LAYERS);
const study = choice("test study", data.studies.map((one) => one.title), "study");
const layer = choice("map layer", Object.values(LAYERS), "layer");
plate("map", "map");
const cloud = canvasPane('<span class="original">&#9679;</span> reported foci, <span class="reconstructed">&#9670;</span> points decoded by the point model. Drag, or use the arrow keys, to rotate.',
  "points", 720, 720, "reported and reconstructed foci in 3D");
cloud.tabIndex = 0;
const view = { turn: 0.6, tilt: 0.25 };

// Screen position and depth of a point in mm; x right, y front, z up at first.
function placed([x, y, z]) {
  const [a, b] = [Math.cos(view.turn), Math.sin(view.turn)], [c, d] = [Math.cos(view.tilt), Math.sin(view.tilt)];
  const px = x * a - (y + 18) * b, depth = x * b + (y + 18) * a, pz = z - 10;
  return [360 + 3.7 * px, 360 - 3.7 * (pz * c + depth * d), depth * c - pz * d];
}

function drawPoints(one) {
  const context = cloud.getContext("2d");
  context.clearRect(0, 0, 720, 720);
  context.fillStyle = "rgba(120,120,120,.22)";
  data.surface.forEach((p) => { const [x, y] = placed(p); context.fillRect(x - 1.5, y - 1.5, 3, 3); });
  const all = [...one.original.map((p) => [placed(p), "#d55e00"]), ...one.reconstructed.map((p) => [placed(p), "#0173b2"])];
  all.sort((a, b) => b[0][2] - a[0][2]).forEach(([[x, y], colour]) => {
    context.fillStyle = colour;
    context.beginPath();
    if (colour === "#d55e00") context.arc(x, y, 8, 0, 7);
    else { context.moveTo(x, y - 9); context.lineTo(x + 9, y); context.lineTo(x, y + 9); context.lineTo(x - 9, y); context.closePath(); }
    context.fill();
    context.strokeStyle = "#fff";
    context.stroke();
  });
  context.fillStyle = "#333";
  context.font = "bold 22px sans-serif";
  [["L", [-85, -18, 10]], ["R", [85, -18, 10]], ["front", [0, 88, 10]]].forEach(([text, p]) => { const [x, y] = placed(p); context.fillText(text, x, y); });
}

function rotate(dx, dy) {
  view.turn += dx;
  view.tilt = Math.max(-1.5, Math.min(1.5, view.tilt + dy));
  drawPoints(data.studies[study.value]);
}
cloud.addEventListener("pointermove", (event) => { if (event.buttons) rotate(event.movementX / 150, event.movementY / 150); });
cloud.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[event.key];
  if (step) { event.preventDefault(); rotate(...step); }
});

function update() {
  const one = data.studies[study.value], stored = data.layers[keys[layer.value]];
  const values = valuesOf(stored, Number(study.value));
  document.querySelector("#map b").textContent = LAYERS[keys[layer.value]];
  show("map", values, stored.high, `largest ${peak(values).toFixed(3)}; white 0, red ${stored.high.toFixed(3)}`);
  document.getElementById("facts").textContent = `${one.year}, ${one.n_foci} foci. Points: ${one.chamfer_mm.toFixed(1)} mm to the nearest point. `
    + `Epistemic part of the variance: ${(100 * one.epistemic_fraction).toFixed(1)} %.`;
  drawPoints(one);
}
update();
