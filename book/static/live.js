// The two interactive figures: their elements stand in the page (book/live.py), and these lines move them.
"use strict";

const all = (root, what) => [...root.querySelectorAll(what)];

// Three digits, as book/live.py writes them.
function shown(number) {
  if (number === null || !Number.isFinite(number)) return "no number";
  const size = Math.abs(number), short = Number(number.toPrecision(3));
  if (size > 0 && (size < 1e-3 || size >= 1e6)) return number.toExponential(2).replace(/e([+-])(\d)$/, "e$10$2");
  return size >= 100 ? short.toLocaleString("en") : String(short);
}

function oneEditAfterAnother(figure, runs) {
  const one = (what) => figure.querySelector(what);
  const slider = one("input"), play = one(".play"), layer = one(".layer");
  let here = [], timer = null;

  function show() {
    const n = Number(slider.value), state = here[0].states[Math.min(n, here[0].states.length - 1)];
    one(".n").textContent = n;
    one(".fact").textContent = state.fact ?? "the unedited model";
    slider.setAttribute("aria-valuetext", `edit ${n} of ${slider.max}: ${state.subject ?? "unedited"}`);
    one(".cursor").setAttribute("x1", n);
    one(".cursor").setAttribute("x2", n);
    for (const run of here) {
      const card = one(`.model[data-rule="${run.rule}"]`), now = run.states[n];
      const whole = !now || (now.perplexity !== null && now.perplexity <= 2 * run.states[0].perplexity);
      card.classList.toggle("broken", !whole);
      card.querySelector(".text").textContent = now ? now.text : " (not run so far)";
      card.querySelector(".perplexity").textContent = now ? shown(now.perplexity) : "";
      card.querySelector(".delta").textContent = now ? shown(now.delta) : "";
      card.querySelector(".large").textContent = now ? (now.large ? "disabling" : "ordinary") : "";
    }
  }

  function draw() { // the lines of one layer: perplexity after every edit on a logarithmic axis
    here = runs.filter((run) => run.layer === Number(layer.value) && one(`.model[data-rule="${run.rule}"]`));
    slider.max = Math.max(...here.map((run) => run.states.length)) - 1;
    one(".most").textContent = slider.max;
    const seen = here.flatMap((run) => run.states.map((state) => state.perplexity).filter(Boolean));
    const low = Math.min(...seen), high = Math.max(...seen, 2 * low);
    const height = (state) => 90 - 85 * Math.log((state.perplexity ?? high) / low) / Math.log(high / low);
    one("svg").setAttribute("viewBox", `0 0 ${slider.max} 100`);
    const name = (run) => one(`.model[data-rule="${run.rule}"] h3`).textContent;
    const ends = here.map((run) => `${name(run)} ends at ${shown(run.states.at(-1).perplexity)}`).join(", ");
    one("svg").setAttribute("aria-label", `Perplexity after every edit, from ${shown(low)} to ${shown(high)}: ${ends}.`);
    one(".high").textContent = `perplexity ${shown(high)}`;
    one(".low").textContent = shown(low);
    for (const group of all(figure, "svg g, .model")) {
      group.style.display = here.some((run) => group.classList.contains(`rule-${run.rule}`)) ? "" : "none";
    }
    for (const run of here) {
      const group = one(`svg .rule-${run.rule}`), points = run.states.map((state, n) => `${n},${height(state)}`);
      group.querySelector("polyline").setAttribute("points", points.join(" "));
      const marks = run.states.map((state, n) => state.large ? `M${n} 100V${height(state)}` : "");
      group.querySelector(".mark").setAttribute("d", marks.join(""));
    }
    show();
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  }

  play.addEventListener("click", () => {
    if (timer) return stop();
    if (slider.value === slider.max) slider.value = 0;
    play.textContent = "Pause";
    timer = setInterval(() => {
      slider.stepUp();
      show();
      if (slider.value === slider.max) stop();
    }, 900);
  });
  one(".next").addEventListener("click", () => {
    const large = [...new Set(here.flatMap((run) => run.states.flatMap((state, n) => state.large ? [n] : [])))];
    large.sort((a, b) => a - b);
    stop();
    slider.value = large.find((n) => n > Number(slider.value)) ?? large[0] ?? slider.max;
    show();
  });
  slider.addEventListener("input", () => { stop(); show(); });
  layer.addEventListener("change", () => { stop(); draw(); });
  all(figure, "[hidden]").forEach((element) => { element.hidden = false; });
  draw();
}

function twoMismatches(figure, { facts, sliders, choices }) {
  const one = (what) => figure.querySelector(what);
  const straight = (name) => name === "cos" || name === "tau";
  const now = {};
  let stored = null;

  function show() {
    const key = { a: now.average, o: now.original }, scale = { a: now.size_average, o: now.size_original };
    const found = {};
    for (const [rule, [u, d, r]] of Object.entries(choices)) {
      const row = one(`tr[data-rule="${rule}"]`), residual = r === "a" ? now.swell : 1;
      const denominator = key[u] * key[d] * (u === d ? 1 : now.cos) + now.tau;
      const size = found[rule] = residual * scale[u] * key[u] / Math.max(Math.abs(denominator), 1e-9);
      row.querySelector(".denominator").textContent = shown(denominator);
      row.querySelector(".residual").textContent = shown(residual);
      row.querySelector(".size").textContent = shown(size);
      row.querySelector(".bar i").style.width = `${100 * Math.min(Math.max(Math.log10(size) / 5, 0), 1)}%`;
      row.querySelector(".stored").textContent = stored?.[rule] ? shown(stored[rule].size) : "";
      row.querySelector(".times").textContent = stored?.[rule] ? shown(stored[rule].times) : "";
    }
    for (const name of Object.keys(sliders)) {
      one(`#${name}-is`).textContent = shown(now[name]);
      one(`#${name}`).setAttribute("aria-valuetext", shown(now[name]));
    }
    one("b.fact").textContent = stored ? facts[one("select").value].fact : "keys of your own";
    const times = (rule) => shown(found[rule] / found.aao);
    one(".verdict").textContent = `Beside aao's update, ROME's is ${times("rome")} times as large (its denominator) and ` +
      `r-ROME's ${times("r-rome")} times (its residual).`;
  }

  function take(fact) {
    Object.assign(now, fact, { tau: 0 });
    stored = fact.stored;
    for (const [name, [low, high]] of Object.entries(sliders)) {
      const share = straight(name) ? (now[name] - low) / (high - low) : Math.log(now[name] / low) / Math.log(high / low);
      one(`#${name}`).value = 1000 * share;
    }
    show();
  }

  for (const [name, [low, high]] of Object.entries(sliders)) {
    one(`#${name}`).addEventListener("input", (event) => {
      const share = event.target.value / 1000;
      now[name] = straight(name) ? low + share * (high - low) : low * (high / low) ** share;
      stored = null;
      show();
    });
  }
  one("select").addEventListener("change", (event) => take(facts[event.target.value]));
  all(figure, "[hidden]").forEach((element) => { element.hidden = false; });
  take(facts[0]);
}

for (const [kind, start] of [[".edits", oneEditAfterAnother], [".mismatches", twoMismatches]]) {
  for (const figure of document.querySelectorAll(`.live${kind}`)) {
    start(figure, JSON.parse(figure.nextElementSibling.textContent));
  }
}

// What scrolls sideways can be reached with the keyboard.
addEventListener("load", () => {
  for (const box of all(document, "div.math, div.cell_output, article p")) {
    if (box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).overflowX === "auto") box.tabIndex = 0;
  }
});
