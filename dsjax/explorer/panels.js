// The panels: read the sliders, ask `dsjax`, write numbers and drawings.
(() => {
  "use strict";
  const $ = (id) => document.getElementById(id);
  const SHARES = JSON.parse($("shares").textContent);
  const shown = (x) => (Number.isFinite(x) ? (x !== 0 && Math.abs(x) < 0.001 ? x.toExponential(1) : x.toPrecision(3)) : "-");
  const signed = (x) => (x > 0 ? "+" : "") + x.toFixed(3);
  const percent = (x) => (100 * x).toFixed(1) + " %";
  const span = (n, low, high) => Array.from({ length: n + 1 }, (_, i) => low + ((high - low) * i) / n);

  // One drawing: axes with ticks, then whatever is put on them, in the units of the axes.
  function plot(id, { x, y, xticks, yticks, xlabel, ylabel, log = "", form = String }) {
    const W = 340, H = 250, left = 54, right = 18, top = 10, bottom = 40, parts = [];
    const scale = (low, high, from, to, logarithmic) => {
      const f = logarithmic ? Math.log : (v) => v;
      return (v) => from + ((f(v) - f(low)) / (f(high) - f(low))) * (to - from);
    };
    const X = scale(...x, left, W - right, log.includes("x")), Y = scale(...y, H - bottom, top, log.includes("y"));
    const clip = (v, [low, high]) => Math.min(high, Math.max(low, v));
    const at = (points) => points.map(([u, v]) => `${X(clip(u, x)).toFixed(1)},${Y(clip(v, y)).toFixed(1)}`).join(" ");
    const add = (text) => parts.push(text);
    const text = (u, v, words, look = "", anchor = "middle") =>
      add(`<text x="${u}" y="${v}" class="${look}" text-anchor="${anchor}">${words}</text>`);
    for (const v of yticks) {
      add(`<line x1="${left}" x2="${W - right}" y1="${Y(v)}" y2="${Y(v)}"/>`);
      text(left - 5, Y(v) + 4, form(v), "soft", "end");
    }
    for (const [v, words] of xticks) text(X(v), H - bottom + 16, words, "soft");
    add(`<path class="axis" d="M${left} ${top}V${H - bottom}H${W - right}"/>`);
    text((left + W - right) / 2, H - 6, xlabel, "soft");
    if (ylabel) add(`<text transform="translate(12 ${(top + H - bottom) / 2}) rotate(-90)" text-anchor="middle" class="soft">${ylabel}</text>`);
    return {
      line: (points, look) => add(`<polyline class="${look}" points="${at(points)}"/>`),
      area: (points) => add(`<polygon class="area" points="${at(points)}"/>`),
      dot: (u, v, look = "", r = 5) => add(`<circle class="${look}" cx="${X(clip(u, x))}" cy="${Y(clip(v, y))}" r="${r}"/>`),
      note: (u, v, words, anchor = "start", look = "") => text(X(clip(u, x)), Y(clip(v, y)), words, look, anchor),
      bar: (u, from, to, look) => add(`<rect class="bar ${look}" x="${X(u) - 26}" width="52" y="${Math.min(Y(from), Y(to))}" height="${Math.abs(Y(from) - Y(to))}"/>`),
      arrow: (u, v, du, dv) => {
        const [hx, hy] = [X(u) + 6 * du, Y(v) - 6 * dv], barb = (s) => `${hx - 5 * du + 2.5 * s * dv} ${hy + 5 * dv + 2.5 * s * du}`;
        add(`<path class="faint" d="M${X(u) - 6 * du} ${Y(v) + 6 * dv}L${hx} ${hy}M${barb(1)}L${hx} ${hy}L${barb(-1)}"/>`);
      },
      done: () => {
        const svg = $(id);
        svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
        svg.innerHTML = parts.join("");
      },
      back: (px, py) => [x[0] + ((px * W - left) / (W - right - left)) * (x[1] - x[0]), y[0] + ((H - bottom - py * H) / (H - bottom - top)) * (y[1] - y[0])],
    };
  }

  const UNIT = [0, 0.25, 0.5, 0.75, 1];
  const TOKENS = [1, 4, 16, 64, 256, 1024].map((n) => [n, n]);
  const POWER = (v) => (Math.abs(v) >= 0.01 ? String(v) : v.toExponential(0));
  const ends = (values) => {
    const low = Math.min(0, ...values), high = Math.max(0, ...values), room = 0.12 * Math.max(0.2, high - low);
    return [low - room, high + room];
  };
  const round = ([low, high], n = 4) => {
    const rough = (high - low) / n, ten = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((k) => k * ten).find((k) => k >= rough), first = Math.ceil(low / step);
    return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(6)));
  };

  function change(v) {
    const a0 = [v.a0, v.a1], b0 = [v.b0, v.b1];
    const moved = (x, by) => dsjax.sigmoid(dsjax.logit(x) + by);
    const p = [v.p0, v.p1], a = [a0, a0.map((x) => moved(x, v.da))], b = [b0, b0.map((x) => moved(x, v.db))];
    const [sampler, decider, ofP, mix, limit] = dsjax.change(p, a, b, v.T);
    const start = dsjax.logOdds(p[0], a[0][0], b[0][0], v.T), end = dsjax.logOdds(p[1], a[1][1], b[1][1], v.T);
    const [before, after] = [[0, 0], [1, 1]].map(([s, d]) => dsjax.kept(p[s], a[s][d], b[s][d], v.T)[0]);
    const range = ends([start, end, start + sampler]);
    const steps = plot("change-steps", { x: [-0.5, 3.5], y: range, xticks: [[0, "before"], [1, "sampler"], [2, "decider"], [3, "after"]], yticks: round(range), xlabel: "", ylabel: "log-odds, nats" });
    steps.bar(0, 0, start, "");
    steps.bar(1, start, start + sampler, "bs");
    steps.bar(2, start + sampler, end, "bd");
    steps.bar(3, 0, end, "");
    steps.line([[-0.5, 0], [3.5, 0]], "ink");
    const room = 0.03 * (range[1] - range[0]);
    [[0, start], [0, start + sampler], [start + sampler, end], [0, end]].forEach(([from, to], i) =>
      steps.note(i, Math.max(i === 1 ? start : from, to) + room, signed(i === 1 ? sampler : to - from), "middle"));
    steps.done();
    const rounds = plot("change-rounds", { x: [1, 20], y: [0, 1], xticks: [1, 5, 10, 15, 20].map((n) => [n, n]), yticks: UNIT, xlabel: "rounds T", ylabel: "accuracy" });
    for (const [s, look] of [[0, "faint dash"], [1, "ink"]]) {
      rounds.line(span(19, 1, 20).map((T) => [T, dsjax.kept(p[s], a[s][s], b[s][s], T)[0]]), look);
    }
    rounds.dot(v.T, before, "small", 4);
    rounds.dot(v.T, after);
    rounds.done();
    return {
      before: percent(before), after: percent(after), sampler: signed(sampler), decider: signed(decider),
      limit: `As T grows: sampler ${signed(ofP)} nats, decider ${signed(limit)}, and ${signed(mix)} for what the new sampler does to the decider's a and b.`,
    };
  }

  function price(v) {
    const beta = 10 ** v.beta, kappa = 10 ** v.kappa, L = Math.round(2 ** v.L);
    const at = (length, weight) => dsjax.push(v.p, v.a, v.b, v.T, v.c, kappa, length, weight);
    const [worth, , wrong, right, turn] = at(L, beta), [cost, longest] = dsjax.price(v.c, kappa, L, beta);
    const box = { x: [1, 1024], y: [0.001, 10] };
    const map = plot("price-map", { ...box, xticks: TOKENS, yticks: [0.001, 0.01, 0.1, 1, 10], xlabel: "tokens of an answer L", ylabel: "beta", log: "xy", form: POWER });
    const edge = span(20, 0, 10).map((e) => [2 ** e, worth > 0 ? at(2 ** e, beta)[4] : 0.001]);
    map.area([...edge, [1024, 10], [1, 10]]);
    if (worth > 0) map.line(edge, "ink");
    map.dot(L, beta, wrong > 0 ? "" : "handle", 6);
    map.note(900, 4, "to STOP", "end");
    if (worth > 0) map.note(1.3, 0.0014, "to RESAMPLE");
    map.done();
    const times = span(40, 0, 4), drift = (t) => dsjax.threshold(v.p, v.c, kappa, L, beta, t);
    const all = times.map(drift), range = ends(all.flatMap(([r, w]) => [r, w]));
    const time = plot("price-time", { x: [0, 4], y: range, xticks: [0, 1, 2, 3, 4].map((n) => [n, n]), yticks: round(range), xlabel: "time", ylabel: "log-odds, nats" });
    time.line(times.map((t, i) => [t, all[i][0]]), "s");
    time.line(times.map((t, i) => [t, all[i][1]]), "d dash");
    time.line(times.map((t, i) => [t, all[i][3]]), "faint dots");
    time.done();
    const [, , gap, mean] = drift(4);
    return {
      wrong: signed(wrong) + (wrong > 0 ? " (to STOP)" : " (to RESAMPLE)"), right: signed(right) + " (to STOP)",
      turn: shown(turn), cost: shown(cost), gap: signed(gap), mean: signed(mean),
      none: worth > 0 ? `With this beta and drift nothing is pushed to RESAMPLE any more from L = ${shown(longest)} on, whatever the sampler.`
        : "Another attempt is not worth its cost: reward alone already says STOP.",
      "beta-out": shown(beta), "kappa-out": shown(kappa), "L-out": L,
    };
  }

  function share(v) {
    const of = SHARES[v.objective], asked = Math.round(2 ** v.L), known = 2 ** Math.round(v.L), L = of.form ? asked : known;
    const value = (entry, n) => (entry.form ? dsjax.share(entry.form, n) : entry.shares[n]);
    const lines = plot("share-lines", { x: [1, 1024], y: [1e-4, 1], xticks: TOKENS, yticks: [1e-4, 0.001, 0.01, 0.1, 1], xlabel: "tokens of an answer L", ylabel: "decision share", log: "xy", form: POWER });
    const exponents = span(40, 0, 10), powers = span(10, 0, 10).map((e) => 2 ** e);
    const curve = (entry) => (entry.form ? exponents.map((e) => [2 ** e, value(entry, 2 ** e)]) : powers.map((n) => [n, entry.shares[n]])).filter(([, s]) => s > 0);
    for (const [name, look] of [["REINFORCE", "faint"], ["SFT", "faint dash"], ["trajectory KL", "faint dots"]]) {
      lines.line(curve(SHARES[name]), look);
    }
    lines.line(curve(of), "d");
    for (const n of powers) if (of.shares[n] > 0) lines.dot(n, of.shares[n], "small", 3);
    const now = value(of, L);
    if (now > 0) lines.dot(L, now, "handle", 6);
    lines.done();
    return {
      now: now === null ? "no expected gradient" : `${shown(now)} at L = ${L}`, one: shown(value(of, 1) ?? NaN), "L-out": L,
      class: `${v.objective}: ${of.words}.` +
        (of.filler === "per token" && !of.form.filler ? " Not here, though: demonstrations draw their filler evenly." : ""),
      form: of.form ? "A closed form in L, from energies that the library measured; circles: measured shares."
        : "Known at 1, 2, 4, .., 1024 tokens only (circles): no closed form in L.",
    };
  }

  function regret(v) {
    const top = Math.ceil(10 * Math.max(0.2, 1.1 * Math.max(v.V * v.V / 4, (1 - v.V) ** 2 / 4, Math.abs(v.V - 0.5)))) / 10;
    const lines = plot("regret-lines", { x: [0, 1], y: [0, top], xticks: UNIT.map((u) => [u, u]), yticks: round([0, top]), xlabel: "q, P(right | what the decider sees)", ylabel: "regret" });
    const qs = span(400, 0, 1);
    lines.line([[v.V, 0], [v.V, top]], "ink dots");
    lines.line(qs.map((q) => [q, dsjax.regret(q, v.V)[1]]), "d dash");
    lines.line(qs.map((q) => [q, dsjax.regret(q, v.V)[0]]), "s");
    const [imitation, greedy] = dsjax.regret(v.q, v.V);
    lines.dot(v.q, greedy, "small");
    lines.dot(v.q, imitation);
    lines.done();
    return {
      imitation: shown(imitation), greedy: shown(greedy),
      best: v.q >= v.V ? "Reward says STOP here: the answer is worth at least what going on is."
        : "Reward says RESAMPLE here: going on is worth more than the answer.",
    };
  }

  let plane;
  function flow(v) {
    const unit = { x: [0, 1], xticks: UNIT.map((u) => [u, u]), yticks: UNIT, y: [0, 1] };
    plane = plot("flow-plane", { ...unit, xlabel: "b, P(STOP | wrong)", ylabel: "a, P(STOP | right)" });
    plane.line([[0, 0], [1, 1]], "axis");
    for (const b of span(8, 0.06, 0.94)) {
      for (const a of span(8, 0.06, 0.94)) {
        const [, va, vb] = dsjax.rates(v.p, a, b), du = vb * b * (1 - b), dv = va * a * (1 - a), n = Math.hypot(du, dv);
        plane.arrow(b, a, du / n, dv / n);
      }
    }
    const path = dsjax.flow(v.p, v.a, v.b, 4, 64).map((x) => x.map(dsjax.sigmoid));
    plane.line(path.map(([, a, b]) => [b, a]), "d");
    const [p, a, b] = path.at(-1);
    plane.dot(b, a, "", 4);
    plane.dot(v.b, v.a, "handle", 8);
    plane.done();
    const time = plot("flow-time", { ...unit, x: [0, 4], xticks: [0, 1, 2, 3, 4].map((n) => [n, n]), xlabel: "time", ylabel: "probability" });
    ["s", "ink", "d dash"].forEach((look, i) => time.line(path.map((x, n) => [n / 16, x[i]]), look));
    [["p", p], ["a", a], ["b", b]].forEach(([name, x]) => time.note(3.98, x + (x > 0.9 ? -0.06 : 0.03), name, "end"));
    time.done();
    const [vp, va, vb] = dsjax.rates(v.p, v.a, v.b);
    return { vp: signed(vp), va: signed(va), vb: signed(vb), start: percent(dsjax.kept(v.p, v.a, v.b, 2)[0]), end: percent(dsjax.kept(p, a, b, 2)[0]), apart: signed(a - b) };
  }

  for (const [name, draw] of Object.entries({ change, price, share, regret, flow })) {
    const inputs = [...$(name).querySelectorAll("input, select")];
    const update = () => {
      const values = {}, texts = {};
      for (const input of inputs) {
        const id = input.id.slice(name.length + 1), number = input.type === "range";
        values[id] = number ? Number(input.value) : input.value;
        if (number) texts[`${id}-out`] = input.value;
      }
      for (const [id, words] of Object.entries({ ...texts, ...draw(values) })) $(`${name}-${id}`).textContent = words;
    };
    $(name).addEventListener("input", update);
    $(name).querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    update();
  }

  const svg = $("flow-plane");
  const take = (event) => {
    const box = svg.getBoundingClientRect();
    const [b, a] = plane.back((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    $("flow-a").value = a;
    $("flow-b").value = b;
    $("flow-a").dispatchEvent(new Event("input", { bubbles: true }));
  };
  svg.addEventListener("pointerdown", (event) => {
    if (event.isTrusted) svg.setPointerCapture(event.pointerId);
    svg.dataset.held = "yes";
    take(event);
  });
  svg.addEventListener("pointermove", (event) => svg.dataset.held && take(event));
  for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, () => delete svg.dataset.held);
})();
