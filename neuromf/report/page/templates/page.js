// The page's own behaviour: theme, sorting, enlarged figures, sections in view, and the brains.
"use strict";

// --- theme -------------------------------------------------------------------------------------------
const root = document.documentElement;
const stored = { get: () => { try { return localStorage.getItem("theme"); } catch { return null; } },
  set: (name) => { try { localStorage.setItem("theme", name); } catch { /* a page opened from a file may have no storage */ } } };
const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
if (["dark", "light"].includes(stored.get())) root.dataset.theme = stored.get();
document.getElementById("theme").addEventListener("click", () => {
  root.dataset.theme = dark() ? "light" : "dark";
  stored.set(root.dataset.theme);
});

// --- tables ------------------------------------------------------------------------------------------
const number = (text) => (text !== "" && Number.isFinite(Number(text)) ? Number(text) : null);
function compare(a, b) {
  const [x, y] = [number(a), number(b)];
  return x !== null && y !== null ? x - y : a.localeCompare(b, "en", { numeric: true });
}
function sort(head) {
  const table = head.closest("table");
  const column = [...head.parentNode.children].indexOf(head);
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  table.querySelectorAll("th").forEach((each) => each.setAttribute("aria-sort", "none"));
  head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
  const key = (row) => row.children[column].dataset.sort;
  const rows = [...table.tBodies[0].rows];
  const known = rows.filter((row) => key(row) !== "").sort((a, b) => sign * compare(key(a), key(b)));
  table.tBodies[0].append(...known, ...rows.filter((row) => key(row) === "")); // what is missing stays last
}
document.querySelectorAll("table.sortable th button").forEach((button) =>
  button.addEventListener("click", () => sort(button.closest("th"))));

// --- enlarged figures --------------------------------------------------------------------------------
const large = document.getElementById("large");
document.querySelectorAll(".enlarge").forEach((button) => button.addEventListener("click", () => {
  const [from, to] = [button.querySelector("img"), large.querySelector("img")];
  [to.src, to.alt] = [from.src, from.alt];
  large.showModal();
}));
large.addEventListener("click", (event) => { if (event.target === large) large.close(); });

// --- sections in view --------------------------------------------------------------------------------
const links = new Map([...document.querySelectorAll(".bar nav a")].map((link) => [link.hash.slice(1), link]));
const watcher = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
  links.forEach((link) => link.removeAttribute("aria-current"));
  links.get(entry.target.id)?.setAttribute("aria-current", "true");
}), { rootMargin: "-20% 0px -70% 0px" });
document.querySelectorAll("main > section").forEach((section) => watcher.observe(section));

// --- brains ------------------------------------------------------------------------------------------
const box = document.getElementById("viewer");
if (box) brains(box, JSON.parse(document.getElementById("looked").textContent));

function brains(box, { volumes, choices }) {
  const part = (name) => box.querySelector(`[name="${name}"]`);
  const figures = [...box.querySelectorAll("[data-panel]")];
  const note = box.querySelector(".note");
  let panels = null;

  const evaluations = () => choices.evaluations[Number(part("evaluations").value)];
  const find = (set, more = {}) => volumes.find((each) => each.set === set && each.case === Number(part("case")?.value ?? 0)
    && Object.entries(more).every(([key, value]) => each[key] === value));
  function wanted() {
    if (part("kind")?.value === "FLAIR" || (choices.kinds.length === 1 && choices.kinds[0] === "FLAIR")) {
      return [["generated FLAIR and mask", find("generated flair"), find("generated mask")],
        ["real FLAIR and mask, not in training", find("real flair"), find("real mask")]];
    }
    const n = evaluations();
    return [[`generated, ${n} evaluation${n === 1 ? "" : "s"}`, find("generated", { evaluations: n })],
      ["held-out person", find("real")], ["the same person after the autoencoder", find("vae")]];
  }
  const window = () => ({ low: Math.min(Number(part("low").value), Number(part("high").value) - 5) * 2.55, high: Number(part("high").value) * 2.55 });
  const volume = (line, more) => ({ name: line.name, base64: () => document.getElementById(`volume-${line.name}`).textContent, ...more });

  function pictures(lines) {
    figures.forEach((figure, k) => {
      const [image, mask] = figure.querySelectorAll("img");
      const [title, line, overlay] = lines[k] ?? [];
      if (line) [image.src, image.alt] = [line.picture, `Three planes: ${title}`];
      mask.hidden = !overlay;
      if (overlay) mask.src = overlay.picture;
    });
  }
  async function live(lines) {
    const { low, high } = window();
    await Promise.all(panels.map((panel, k) => {
      const [title, line, overlay] = lines[k] ?? [];
      if (!line) return null;
      figures[k].querySelector("canvas").setAttribute("aria-label", `Three planes: ${title}`);
      const shown = [volume(line, { colormap: "gray", opacity: 1, low, high })];
      if (overlay) shown.push(volume(overlay, { colormap: "red", opacity: Number(part("mask").value) / 100, low: 127, high: 255 }));
      return panel.show(shown, line.at);
    }));
  }
  async function draw() {
    const lines = wanted();
    const flair = lines.length === 2;
    box.querySelectorAll("[data-of]").forEach((label) => {
      label.hidden = (label.dataset.of === "FLAIR") !== flair || (label.hasAttribute("data-live") && !panels);
    });
    part("evaluations").setAttribute("aria-valuetext", `${evaluations()} evaluations`);
    box.querySelector("output").textContent = evaluations() ?? "";
    figures.forEach((figure, k) => {
      figure.hidden = !lines[k]?.[1];
      figure.querySelector("figcaption").textContent = lines[k]?.[0] ?? "";
    });
    if (panels) await live(lines); else pictures(lines);
  }
  async function start() {
    await draw();
    const viewer = globalThis.neuromfViewer;
    if (!viewer) return;
    if (!viewer.able()) { note.textContent = "These are pictures of the middle planes: this browser cannot draw volumes (no WebGL2)."; return; }
    try {
      figures.forEach((figure) => { figure.hidden = false; figure.querySelectorAll("img").forEach((image) => { image.hidden = true; }); figure.querySelector("canvas").hidden = false; });
      box.classList.add("live");
      panels = await Promise.all(figures.map((figure) => viewer.panel(figure.querySelector("canvas"))));
      viewer.link(panels);
      box.querySelectorAll("[data-live]").forEach((label) => { label.hidden = false; });
      await draw();
      note.textContent = "Click or drag to move the crosshair in all panels; scroll through slices. The left of a person is on the left.";
    } catch (error) {
      panels = null;
      box.classList.remove("live");
      figures.forEach((figure) => { figure.querySelector("img").hidden = false; figure.querySelector("canvas").hidden = true; });
      box.querySelectorAll("[data-live]").forEach((label) => { label.hidden = true; });
      await draw();
      note.textContent = `These are pictures of the middle planes: the viewer could not start (${error.message}).`;
    }
  }
  box.querySelectorAll("input, select").forEach((each) => each.addEventListener("input", draw));
  const seen = new IntersectionObserver((entries) => { if (entries.some((entry) => entry.isIntersecting)) { seen.disconnect(); start(); } }, { rootMargin: "600px" });
  draw();
  seen.observe(box);
}
