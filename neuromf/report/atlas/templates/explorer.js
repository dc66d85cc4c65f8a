// Controls and panes that the explorers share.
const form = document.getElementById("controls");
form.addEventListener("submit", (event) => event.preventDefault());
const SVG = "http://www.w3.org/2000/svg";

function field(name, element, id) {
  const label = document.createElement("label");
  label.textContent = name;
  element.id = id;
  label.append(element);
  form.append(label);
  element.addEventListener("input", () => update());
  return element;
}

function choice(name, list, id) {
  const select = document.createElement("select");
  list.forEach((text, n) => select.append(new Option(text, n)));
  return field(name, select, id);
}

function slider(name, most, id) {
  return field(name, Object.assign(document.createElement("input"), { type: "range", min: 0, max: most, step: 1, value: 0 }), id);
}

function pane(title, content) {
  const figure = document.createElement("figure"), caption = document.createElement("figcaption");
  caption.innerHTML = title;
  figure.append(caption, content);
  document.getElementById("side").append(figure);
  return content;
}

function canvasPane(title, id, width, height, label) {
  const canvas = Object.assign(document.createElement("canvas"), { id, width, height });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  return pane(title, canvas);
}

function svg(name, attributes, parent) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent?.append(element);
  return element;
}
