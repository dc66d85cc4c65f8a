// Behaviour of the report page: theme, sortable tables, enlarged figures, navigation, volume viewer.
"use strict";

// Theme: light or dark, stored by the browser
const root = document.documentElement;
const stored = { get: () => { try { return localStorage.getItem("theme"); } catch { return null; } },
  set: (name) => { try { localStorage.setItem("theme", name); } catch { /* pages opened from a file may have no storage */ } } };
const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
if (["dark", "light"].includes(stored.get())) root.dataset.theme = stored.get();
document.getElementById("theme").addEventListener("click", () => {
  root.dataset.theme = dark() ? "light" : "dark";
  stored.set(root.dataset.theme);
});

// Sortable tables
const number = (text) => (text !== "" && Number.isFinite(Number(text)) ? Number(text) : null);
function compare(a, b) {
  const [x, y] = [number(a), number(b)];
  return x !== null && y !== null ? x - y : a.localeCompare(b, "en", { numeric: true });
}
function sort(header) {
  const table = header.closest("table");
  const column = [...header.parentNode.children].indexOf(header);
  const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  table.querySelectorAll("th").forEach((each) => each.setAttribute("aria-sort", "none"));
  header.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
  const key = (row) => row.children[column].dataset.sort;
  const rows = [...table.tBodies[0].rows];
  const present = rows.filter((row) => key(row) !== "").sort((a, b) => sign * compare(key(a), key(b)));
  table.tBodies[0].append(...present, ...rows.filter((row) => key(row) === "")); // missing values stay last
}
document.querySelectorAll("table.sortable th button").forEach((button) =>
  button.addEventListener("click", () => sort(button.closest("th"))));

// Enlarged figures
const large = document.getElementById("large");
document.querySelectorAll(".enlarge").forEach((button) => button.addEventListener("click", () => {
  const [source, target] = [button.querySelector("img"), large.querySelector("img")];
  [target.src, target.alt] = [source.src, source.alt];
  large.showModal();
}));
large.addEventListener("click", (event) => { if (event.target === large) large.close(); });

// Navigation: mark the section in view
const links = new Map([...document.querySelectorAll(".bar nav a")].map((link) => [link.hash.slice(1), link]));
const watcher = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
  links.forEach((link) => link.removeAttribute("aria-current"));
  links.get(entry.target.id)?.setAttribute("aria-current", "true");
}), { rootMargin: "-20% 0px -70% 0px" });
document.querySelectorAll("main > section").forEach((section) => watcher.observe(section));

// Volume viewer: pictures of three planes, replaced by NiiVue panels where the browser can draw them
const box = document.getElementById("viewer");
if (box) startViewer(box, JSON.parse(document.getElementById("preview-index").textContent));

function startViewer(box, { volumes, choices }) {
  const input = (name) => box.querySelector(`[name="${name}"]`);
  const figures = [...box.querySelectorAll("[data-panel]")];
  const note = box.querySelector(".note");
  let panels = null;

  const currentNfe = () => choices.nfe[Number(input("nfe").value)];
  const find = (set, image, nfe) => volumes.find((line) => line.set === set && line.image === image
    && line.case === Number(input("case")?.value ?? 0) && line.nfe === nfe);
  function selection() { // of each panel: title, volume, mask
    if (input("image")?.value === "FLAIR" || (choices.images.length === 1 && choices.images[0] === "FLAIR")) {
      return [["generated FLAIR and mask", find("samples", "FLAIR"), find("samples", "mask")],
        ["FLAIR and mask of a test participant", find("test", "FLAIR"), find("test", "mask")]];
    }
    const nfe = currentNfe();
    return [[`generated, ${nfe} network evaluation${nfe === 1 ? "" : "s"}`, find("samples", "T1", nfe)],
      ["test participant", find("test", "T1")], ["reconstruction of the test participant", find("reconstruction", "T1")]];
  }
  const intensityWindow = () => ({ low: Math.min(Number(input("low").value), Number(input("high").value) - 5) * 2.55, high: Number(input("high").value) * 2.55 });
  const volume = (line, options) => ({ name: line.name, base64: () => document.getElementById(`volume-${line.name}`).textContent, ...options });

  function drawPictures(lines) {
    figures.forEach((figure, k) => {
      const [image, mask] = figure.querySelectorAll("img");
      const [title, line, overlay] = lines[k] ?? [];
      if (line) [image.src, image.alt] = [line.picture, `Three planes: ${title}`];
      mask.hidden = !overlay;
      if (overlay) mask.src = overlay.picture;
    });
  }
  async function drawPanels(lines) {
    const { low, high } = intensityWindow();
    await Promise.all(panels.map((panel, k) => {
      const [title, line, overlay] = lines[k] ?? [];
      if (!line) return null;
      figures[k].querySelector("canvas").setAttribute("aria-label", `Three planes: ${title}`);
      const layers = [volume(line, { colormap: "gray", opacity: 1, low, high })];
      if (overlay) layers.push(volume(overlay, { colormap: "red", opacity: Number(input("mask").value) / 100, low: 127, high: 255 }));
      return panel.show(layers, line.centre);
    }));
  }
  async function draw() {
    const lines = selection();
    const flair = lines.length === 2;
    box.querySelectorAll("[data-image]").forEach((label) => {
      label.hidden = (label.dataset.image === "FLAIR") !== flair || (label.hasAttribute("data-live") && !panels);
    });
    input("nfe").setAttribute("aria-valuetext", `${currentNfe()} network evaluations`);
    box.querySelector("output").textContent = currentNfe() ?? "";
    figures.forEach((figure, k) => {
      figure.hidden = !lines[k]?.[1];
      figure.querySelector("figcaption").textContent = lines[k]?.[0] ?? "";
    });
    if (panels) await drawPanels(lines); else drawPictures(lines);
  }
  function showCanvases(live) {
    box.classList.toggle("live", live);
    figures.forEach((figure) => {
      figure.querySelector("img").hidden = live;
      figure.querySelector("canvas").hidden = !live;
      if (live) [figure.hidden, figure.querySelector(".mask").hidden] = [false, true];
    });
  }
  async function start() {
    await draw();
    const viewer = globalThis.neuromfViewer;
    if (!viewer) return;
    if (!viewer.supported()) { note.textContent = "These are pictures of the middle planes: this browser cannot draw volumes (no WebGL2)."; return; }
    try {
      showCanvases(true);
      panels = await Promise.all(figures.map((figure) => viewer.panel(figure.querySelector("canvas"))));
      viewer.link(panels);
      note.textContent = "Click or drag to move the crosshair in all panels; scroll to change the slice. Left is on the left.";
    } catch (error) {
      panels = null;
      showCanvases(false);
      note.textContent = `These are pictures of the middle planes: the viewer could not start (${error.message}).`;
    }
    box.querySelectorAll("[data-live]").forEach((label) => { label.hidden = !panels; });
    await draw();
  }
  box.querySelectorAll("input, select").forEach((control) => control.addEventListener("input", draw));
  const watcher = new IntersectionObserver((entries) => { if (entries.some((entry) => entry.isIntersecting)) { watcher.disconnect(); start(); } }, { rootMargin: "600px" });
  draw();
  watcher.observe(box);
}
