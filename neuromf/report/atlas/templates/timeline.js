const year = slider("year", data.years.length - 1, "year");
const shown = document.createElement("output");
year.parentElement.append(shown);
const play = Object.assign(document.createElement("button"), { type: "button", id: "play", textContent: "Play" });
form.append(play);
plate("map", "mean decoded map of the year");
plate("change", "change from the mean of all years");
const cloud = canvasPane("Studies on two axes of the latent space; the year's studies are red.", "cloud", 720, 520, "positions of studies");
const chart = (title, id) => pane(title, svg("svg", { viewBox: "0 0 720 300", role: "img", id, "aria-label": title.replace(/<[^>]*>/g, "") }));
const COLOURS = ["#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#8c6239"];
const xOf = (k) => 60 + (620 * k) / (data.years.length - 1);

// Lines of values by year; gaps where a value is null.
function lines(drawing, series) {
  const all = series.flatMap((one) => one.values).filter((v) => v !== null);
  const low = Math.min(0, ...all), high = Math.max(...all, 1e-9), yOf = (v) => 250 - (200 * (v - low)) / (high - low);
  [low, (low + high) / 2, high].forEach((v) => {
    svg("line", { x1: 60, x2: 680, y1: yOf(v), y2: yOf(v), stroke: "#ddd" }, drawing);
    svg("text", { x: 54, y: yOf(v) + 5, "text-anchor": "end", "font-size": 15, fill: "#444" }, drawing).textContent = v.toFixed(high < 0.2 ? 3 : 2);
  });
  data.years.forEach((one, k) => { if (k % 7 === 0) svg("text", { x: xOf(k), y: 280, "text-anchor": "middle", "font-size": 15, fill: "#444" }, drawing).textContent = one; });
  series.forEach((one, k) => {
    const points = one.values.map((v, at) => (v === null ? null : `${xOf(at)},${yOf(v)}`));
    svg("path", { d: points.map((p, at) => (p ? `${at && points[at - 1] ? "L" : "M"}${p}` : "")).join(""), fill: "none", stroke: COLOURS[k], "stroke-width": 2.5 }, drawing);
    const [column, row] = [k % 3, Math.floor(k / 3)];
    svg("text", { x: 60 + 215 * column, y: 18 + 18 * row, "font-size": 14, fill: COLOURS[k] }, drawing).textContent = one.name;
  });
  return svg("line", { y1: 40, y2: 255, stroke: "#b2182b", "stroke-width": 1.5 }, drawing);
}
const markers = [lines(chart("Mean weight of the topics that changed most", "topics"), data.topics),
  lines(chart("Frechet distance to the year before: raw, and without finite-sample bias", "drift"), data.drift)];

function drawCloud(now) {
  const context = cloud.getContext("2d"), [x0, x1, y0, y1] = data.box;
  context.clearRect(0, 0, 720, 520);
  const at = ([x, y]) => [20 + (680 * (x - x0)) / (x1 - x0), 500 - (480 * (y - y0)) / (y1 - y0)];
  data.positions.forEach((list, k) => list.forEach((p) => {
    const [x, y] = at(p), chosen = k === now;
    context.fillStyle = chosen ? "#b2182b" : "rgba(120,120,120,.25)";
    context.fillRect(x - (chosen ? 3 : 1.5), y - (chosen ? 3 : 1.5), chosen ? 6 : 3, chosen ? 6 : 3);
  }));
}

const limit = Math.max(...data.years.map((_, k) => peak(valuesOf(data, k))));
const limit_change = Math.max(...data.years.map((_, k) => peak(valuesOf(data.change, k))));
function update() {
  const k = Number(year.value), values = valuesOf(data, k), change = valuesOf(data.change, k);
  const text = data.n[k] ? `${data.n[k]} studies` : "no studies";
  shown.textContent = data.years[k];
  show("map", values, limit, `${data.years[k]}, ${text}`);
  show("change", change, limit_change, "red: more than in other years");
  document.getElementById("facts").textContent = `${data.years[k]}: ${text}.`;
  markers.forEach((line) => ["x1", "x2"].forEach((name) => line.setAttribute(name, xOf(k))));
  drawCloud(k);
}
let timer = null;
play.addEventListener("click", () => {
  if (timer) { clearInterval(timer); timer = null; play.textContent = "Play"; return; }
  play.textContent = "Pause";
  timer = setInterval(() => { year.value = (Number(year.value) + 1) % data.years.length; update(); }, 700);
});
update();
