// Reader test: one volume at a time, answered generated or real; the score with its interval at the end.
"use strict";

startReader(document.getElementById("reader-test"), JSON.parse(document.getElementById("reader-volumes").textContent));

// Wilson interval (95 %) of a fraction of k in n
function wilson(k, n) {
  const z = 1.959963984540054, p = k / n, d = 1 + z * z / n;
  const centre = (p + z * z / (2 * n)) / d, half = z / d * Math.sqrt(p * (1 - p) / n + z * z / (4 * n * n));
  return [Math.max(0, centre - half), Math.min(1, centre + half)];
}

function startReader(box, { volumes, key }) {
  const part = (name) => box.querySelector(`[data-part="${name}"]`);
  const parts = ["start", "question", "result"];
  const names = ["real", "generated"];
  const truth = [...atob(key)].map(Number);
  const images = [...part("question").querySelectorAll("img")];
  const show = (name) => parts.forEach((each) => { part(each).hidden = each !== name; });
  let answers = [];

  function ask() {
    const k = answers.length;
    images.forEach((image, plane) => { [image.src, image.alt] = [volumes[k][plane], `Volume ${k + 1}, ${image.parentNode.className} slice`]; });
    part("question").querySelector("[role=status]").textContent = `Volume ${k + 1} of ${volumes.length}`;
    part("question").querySelector("progress").value = k;
  }
  function begin() {
    answers = [];
    show("question");
    ask();
    part("question").querySelector("[data-answer]").focus({ preventScroll: true });
    part("question").scrollIntoView({ block: "nearest" });
  }
  function answer(value) {
    answers.push(value);
    if (answers.length < volumes.length) ask(); else finish();
  }
  function item(k) {
    const line = document.createElement("li"), image = document.createElement("img"), text = document.createElement("p");
    [image.src, image.alt] = [volumes[k][0], `Volume ${k + 1}, axial slice`];
    text.textContent = `Volume ${k + 1}: ${names[truth[k]]}, answered ${names[answers[k]]}`;
    line.append(image, text);
    return line;
  }
  function finish() {
    const n = truth.length, all = [...truth.keys()];
    const right = all.filter((k) => answers[k] === truth[k]), wrong = all.filter((k) => answers[k] !== truth[k]);
    const [low, high] = wilson(right.length, n), percent = (x) => Math.round(100 * x);
    const recognised = (value) => right.filter((k) => truth[k] === value).length;
    const chance = low <= 0.5 && high >= 0.5 ? "The interval contains 50 %, the score of a guess." : "The interval does not contain 50 %, the score of a guess.";
    part("result").querySelector("h3").textContent = `${right.length} of ${n} right`;
    part("result").querySelector(".score").textContent = `${percent(right.length / n)} % (95 % interval ${percent(low)} to ${percent(high)} %, Wilson). ${chance} `
      + `Recognised: ${recognised(1)} of ${n / 2} generated and ${recognised(0)} of ${n / 2} real volumes.`;
    part("result").querySelector(".wrong").replaceChildren(...wrong.map(item));
    part("result").querySelector("h4").textContent = wrong.length ? `Wrong: ${wrong.length}` : "Wrong: none";
    part("result").querySelector(".right").replaceChildren(...right.map(item));
    part("result").querySelector("summary").textContent = `Right: ${right.length}`;
    show("result");
    part("result").querySelector("h3").focus();
  }

  box.querySelectorAll("[data-start]").forEach((button) => button.addEventListener("click", begin));
  box.querySelectorAll("[data-answer]").forEach((button) => button.addEventListener("click", (event) => {
    if (event.detail < 2) answer(Number(button.dataset.answer)); // the second click of a double click is for no volume
  }));
  part("question").addEventListener("keydown", (event) => {
    if (event.repeat && event.key !== "Tab") event.preventDefault(); // a key that is held answers once
    const value = { g: 1, r: 0 }[event.key.toLowerCase()];
    if (value !== undefined && !event.repeat && !event.ctrlKey && !event.metaKey && !event.altKey) answer(value);
  });
  box.querySelector("[data-start]").hidden = false;
}
