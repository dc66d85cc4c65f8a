const names = Object.keys(data.options);

// Map of one combination of options, the last option fastest.
function mapOf(choice) {
  const index = names.reduce((sum, name) => sum * data.options[name].length + choice[name], 0);
  return valuesOf(data, index);
}

function control(group, name, id, start) {
  const label = document.createElement("label"), list = data.options[name];
  label.textContent = name;
  const field = document.createElement(name === "value" ? "input" : "select");
  if (name === "value") Object.assign(field, { type: "range", min: 0, max: list.length - 1, step: 1 });
  else list.forEach((text, n) => field.append(new Option(text, n)));
  field.id = id;
  field.value = start;
  label.append(field);
  group.append(label);
  field.addEventListener("input", update);
  return field;
}

const form = document.getElementById("controls");
form.addEventListener("submit", (event) => event.preventDefault());
const sets = data.kind === "slider" ? [""] : ["A", "B"];
const fields = sets.map((set, n) => {
  const group = document.createElement("fieldset");
  if (set) { const legend = document.createElement("legend"); legend.textContent = set; group.append(legend); }
  form.append(group);
  return Object.fromEntries(names.map((name) => {
    const middle = name === "value" ? data.options[name].length - 1 : set === "B" && name === "topic" ? Math.min(1, data.options.topic.length - 1) : 0;
    return [name, control(group, name, `${name}${set}`, middle)];
  }));
});
if (data.kind === "slider") { plate("map", "decoded map"); plate("change", "change from the prior mean"); }
else { plate("map", "A"); plate("other", "B"); plate("change", "B minus A"); }

function update() {
  const choices = fields.map((set) => Object.fromEntries(names.map((name) => [name, Number(set[name].value)])));
  const text = (c) => names.map((name) => `${name} ${data.options[name][c[name]]}`).join(", ");
  const first = mapOf(choices[0]);
  const second = data.kind === "slider" ? mapOf({ ...choices[0], value: (data.options.value.length - 1) / 2 }) : mapOf(choices[1]);
  const limit = Math.max(peak(first), peak(second));
  const change = data.kind === "slider" ? first.map((v, n) => v - second[n]) : second.map((v, n) => v - first[n]);
  show("map", first, limit, text(choices[0]));
  if (data.kind !== "slider") show("other", second, limit, text(choices[1]));
  show("change", change, peak(change), `r ${correlation(first, second).toFixed(3)}`);
}
update();
window.addEventListener("resize", update);
