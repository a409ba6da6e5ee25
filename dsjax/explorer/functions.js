// The numbers of the page, pure: each function takes numbers and returns numbers. What they are called in the library
// stands beside each; tests/explorer compares them at random settings.
var dsjax = (() => {
  "use strict";
  const sum = (xs) => xs.reduce((x, y) => x + y, 0);
  const sigmoid = (x) => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x)));
  const logit = (p) => Math.log(p) - Math.log1p(-p);

  // evaluation.accounting.kept: [P(kept answer right), P(it is wrong), E[tau]] (T10)
  function kept(p, a, b, T) {
    const zeta = p * (1 - a) + (1 - p) * (1 - b);
    let alive = 1, right = 0, wrong = 0, rounds = 0;
    for (let t = 1; t <= T; t++) {
      right += alive * p * (t < T ? a : 1);
      wrong += alive * (1 - p) * (t < T ? b : 1);
      rounds += alive;
      alive *= zeta;
    }
    return [right, wrong, rounds];
  }

  function logOdds(p, a, b, T) {
    const [right, wrong] = kept(p, a, b, T);
    return Math.log(right) - Math.log(wrong);
  }

  // evaluation.accounting.shapley of the log-odds at T, and three_terms: what they tend to (T10, T22).
  // p by sampler; a and b by sampler, then decider. [sampler, decider, sampler, mix, decider]
  function change(p, a, b, T) {
    const halves = (v) => [(v[1][0] - v[0][0] + v[1][1] - v[0][1]) / 2, (v[0][1] - v[0][0] + v[1][1] - v[1][0]) / 2];
    const table = (f) => [0, 1].map((s) => [0, 1].map((d) => f(s, d)));
    const [sampler, decider] = halves(table((s, d) => logOdds(p[s], a[s][d], b[s][d], T)));
    const [mix, limit] = halves(table((s, d) => Math.log(a[s][d] / b[s][d])));
    return [sampler, decider, logit(p[1]) - logit(p[0]), mix, limit];
  }

  // Under J - beta KL, the decision at its reference (T7, T19); kappa: drift of a token, nats; memoryless attempts.
  // [V - c, K, push per visit on STOP at a wrong answer, at a right one, beta at which the wrong one's turns]: means
  // over the visits of rounds 1..T-1. A push is r - (V - c) + beta K.
  function push(p, a, b, T, c, kappa, L, beta) {
    const again = p * (1 - a) + (1 - p) * (1 - b);
    let V = p, K = L * kappa;
    const gain = [V - c], left = [K];
    for (let t = 2; t < T; t++) {
      V = p * a + again * (V - c);
      K = L * kappa + again * K;
      gain.unshift(V - c);
      left.unshift(K);
    }
    const visits = gain.map((_, t) => again ** t);
    const mean = (xs) => sum(xs.map((x, t) => x * visits[t])) / sum(visits);
    const [worth, tax] = [mean(gain), mean(left)];
    return [worth, tax, beta * tax - worth, 1 - worth + beta * tax, worth > 0 ? worth / tax : NaN];
  }

  // [cost of an attempt with the tax in it, answer length from which nothing is pushed to RESAMPLE] (T19)
  const price = (c, kappa, L, beta) => [c + beta * L * kappa, (1 - c) / (beta * kappa)];

  // T = 2, the decider at its reference at time 0, natural gradient flow of pi_d, the sampler fixed (T18):
  // [D at a right answer, D at a wrong one, their difference, their mean], D: log-odds of STOP over the reference's.
  function threshold(p, c, kappa, L, beta, t) {
    const grown = beta === 0 ? t : -Math.expm1(-beta * t) / beta;
    const wrong = grown * (c + beta * L * kappa - p);
    return [wrong + grown, wrong, grown, wrong + grown / 2];
  }

  // explorer.shares.share: the decision share of a closed form (T4, T20)
  function share(form, L) {
    const m = L - 1;
    const at = ([x, y, z]) => x + m * (y + m * z);
    const decision = at(form.decision);
    return decision / (at(form.sample) + decision + form.filler * m);
  }

  // evaluation.regret: of_imitation and of_greedy, per visit (T16)
  const regret = (q, V) => [
    q < V ? q * (V - q) : (1 - q) * (q - V),
    q > 0.5 === q >= V ? 0 : Math.abs(q - V),
  ];

  // T = 2, one right and one wrong answer: d/dt of the log-odds of p, a, b under the natural gradient of J (T18)
  function rates(p, a, b) {
    const tau = 1 + p * (1 - a) + (1 - p) * (1 - b);
    return [(1 + (a - b) * (1 - 2 * p)) / tau, 1 - p, -p];
  }

  // That flow from (p, a, b) by Runge and Kutta's steps of order 4: log-odds after each of them, the start first
  function flow(p, a, b, time, steps) {
    const velocity = (x) => rates(...x.map(sigmoid)), h = time / steps;
    const moved = (x, k, s) => x.map((v, i) => v + s * k[i]);
    const path = [[p, a, b].map(logit)];
    for (let n = 0; n < steps; n++) {
      const x = path[n], k1 = velocity(x), k2 = velocity(moved(x, k1, h / 2));
      const k3 = velocity(moved(x, k2, h / 2)), k4 = velocity(moved(x, k3, h));
      path.push(x.map((v, i) => v + (h / 6) * (k1[i] + 2 * k2[i] + 2 * k3[i] + k4[i])));
    }
    return path;
  }

  return { sigmoid, logit, kept, logOdds, change, push, price, threshold, share, regret, rates, flow };
})();
