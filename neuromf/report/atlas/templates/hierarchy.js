const n = data.words.length, last = 2 * n - 2;
const childrenOf = (node) => (node < n ? [] : data.children[node - n]);
const leaves = (node) => (node < n ? [node] : childrenOf(node).flatMap(leaves));
const named = (node) => (node < n ? data.words[node] : `${leaves(node).length} topics: ${leaves(node).slice(0, 2).map((k) => data.words[k].split(" ")[0]).join(", ")} ...`);
const order = [...Array(last + 1).keys()].reverse();
const node = choice("node", order.map(named), "node");
plate("map", "decoded map");
plate("change", "change from the root");
const holder = Object.assign(document.createElement("div"), { className: "tree", tabIndex: 0 });
const ROW = 17, WIDE = 220, top_height = data.heights[n - 2] || 1;
const drawing = svg("svg", { width: WIDE + 230, height: ROW * n + 10, role: "img", "aria-label": "tree of topics" }, holder);
const rowOf = new Map(leaves(last).map((leaf, k) => [leaf, k]));
const place = (k) => k < n ? [WIDE, ROW * (rowOf.get(k) + 0.7)]
  : [WIDE * (1 - data.heights[k - n] / top_height) * 0.97 + 8, childrenOf(k).map((c) => place(c)[1]).reduce((a, b) => a + b) / 2];
order.forEach((k) => childrenOf(k).forEach((child) => {
  const [x, y] = place(k), [a, b] = place(child);
  svg("path", { d: `M${x},${y}V${b}H${a}` }, drawing);
}));
const dots = new Map(order.map((k) => {
  const [x, y] = place(k), dot = svg("circle", { cx: x, cy: y, r: k < n ? 4 : 5, "data-node": k }, drawing);
  svg("title", {}, dot).textContent = named(k);
  if (k < n) svg("text", { x: x + 9, y: y + 4 }, drawing).textContent = data.words[k];
  dot.addEventListener("click", () => { node.value = order.indexOf(k); update(); });
  return [k, dot];
}));
pane(`Topics by their position in the top latents. Choose a node. Verdict of the stage gate: <b>${data.verdict}</b>`, holder);

function update() {
  const k = order[node.value], values = valuesOf(data, k), root = valuesOf(data, last);
  const change = values.map((v, at) => v - root[at]);
  dots.forEach((dot, at) => dot.setAttribute("class", at === k ? "chosen" : ""));
  show("map", values, Math.max(peak(values), peak(root)), `largest ${peak(values).toFixed(3)}`);
  show("change", change, peak(change), `r with the root ${correlation(values, root).toFixed(3)}`);
  const below = leaves(k).map((leaf) => data.words[leaf]), more = below.length > 12 ? `; and ${below.length - 12} more` : "";
  document.getElementById("facts").textContent = `Topics below this node: ${below.slice(0, 12).join("; ")}${more}`;
}
update();
