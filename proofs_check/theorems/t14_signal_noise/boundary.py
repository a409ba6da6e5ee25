"""From which length on the sampled reward gradient is louder on pi_d, and what undoes that."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from dsjax.attribution import SignalNoise, fisher, signal_to_noise
from dsjax.numerics import exact
from dsjax.objectives import Objective, SumCount, reinforce
from dsjax.objectives.aggregation import aggregate
from dsjax.policies import Params, PositionwisePolicy
from dsjax.process import DecisionSamplingProcess
from dsjax.trajectories import Trajectories
from proofs_check.boundary import line_and_markers, plain, run
from proofs_check.theorems.t14_signal_noise.numeric import group_moments

TITLE = "Length from which the sampled reward gradient is louder on pi_d, by baseline"

# One prompt, two rounds, two symbols; the first token alone makes an answer right and is all that the decider reads.
RIGHT = 0.4  # p
STOPS = (0.6, 0.4)  # a = P(STOP | right), b = P(STOP | wrong)
LENGTHS = (1, 2, 4, 5, 6)
READ_ALL = 4  # longest answer of which the decider reads all tokens: it has 2^L contexts
DECISIVENESS = tuple(float(x) for x in np.linspace(0.25, 5.5, 8))  # logit of a = 1 - b, nats
ACCURACIES = tuple(float(x) for x in np.linspace(0.05, 0.95, 10))
FINE = 91
LARGE_GROUP = 8

Point = tuple[float, float, float]  # (p, a, b)
Four = tuple[float, float, float, float]  # S_s, S_d, M_s at L = 1, M_d
ESTIMATORS = ("none", "mean", "pairs", "groups")


def closed_form(point: Point, estimator: str = "mean") -> tuple[Four, float]:
    """((S_s, S_d, noise_s at L = 1, noise_d), what each further token adds to noise_s), by hand for T = 2.

    An answer is right or wrong (r = 1, 0) with probability p, 1 - p. Trajectories: r STOP, or r RESAMPLE r'. A score of
    the token is (number of right answers - p tau), its Fisher matrix E[tau] p (1-p); a decision's is 1 - stop or -stop,
    with Fisher matrix P(r) stop (1 - stop). `pairs` and `groups`: leave-one-out with G = 2 and `LARGE_GROUP`.
    """
    p, a, b = point
    rows = []  # (probability, R, tau, score of the token, score at a right answer, score at a wrong one)
    for right, mass, stop in ((1, p, a), (0, 1 - p, b)):
        rows.append((mass * stop, right, 1, right - p, right * (1 - stop), (1 - right) * (1 - stop)))
        for last, q in ((1, p), (0, 1 - p)):
            score = right + last - 2 * p
            rows.append((mass * (1 - stop) * q, last, 2, score, -right * stop, -(1 - right) * stop))
    law, R, tau, *scores = (np.array(x, float) for x in zip(*rows, strict=True))
    mean_tau = float(law @ tau)
    fisher = (mean_tau * p * (1 - p), p * a * (1 - a), (1 - p) * b * (1 - b))
    J = float(law @ R)
    var = float(law @ (R - J) ** 2)
    w = R if estimator == "none" else R - J
    signal = [float(law @ (w * s)) ** 2 / F for s, F in zip(scores, fisher, strict=True)]
    moment = [float(law @ (w * s) ** 2) / F for s, F in zip(scores, fisher, strict=True)]
    S_s, S_d, M_s, M_d = signal[0], sum(signal[1:]), moment[0], sum(moment[1:])
    per_token = float(law @ (tau * w**2)) / mean_tau
    if estimator in ("none", "mean"):
        return (S_s, S_d, M_s - S_s, M_d - S_d), per_token
    G = 2 if estimator == "pairs" else LARGE_GROUP
    noise_s = (M_s - S_s + (var + S_s) / (G - 1)) / G  # rank 1 at L = 1
    noise_d = (M_d - S_d + (2 * var + S_d) / (G - 1)) / G  # two decision contexts
    return (S_s, S_d, noise_s, noise_d), (per_token + var / (G - 1)) / G


def crossing(point: Point, estimator: str = "mean") -> float:
    """L* in closed form; below 1 where pi_d is the louder one at every length."""
    (S_s, S_d, noise_s, noise_d), slope = closed_form(point, estimator)
    return 1 + (S_s * noise_d / S_d - noise_s) / slope


def setting(point: jax.Array, length: int, reads: int) -> tuple[PositionwisePolicy, Params, Trajectories]:
    """The library's policy and exact law at f[3] (p, a, b); filler tokens are fair."""
    p, a, b = point
    fair = jnp.full((length - 1, 2), 0.5, point.dtype)
    tokens = jnp.concatenate([jnp.stack([p, 1 - p])[None], fair])
    stops = jnp.repeat(jnp.stack([a, b]), 2 ** (reads - 1))
    params = {"sample": jnp.log(tokens)[None], "decision": jnp.log(jnp.stack([stops, 1 - stops], -1))[None]}
    process = DecisionSamplingProcess.create(
        prompt_law=jnp.ones(1),
        reward_table=jnp.asarray(np.arange(2**length) < 2 ** (length - 1), float)[None],
        vocabulary=2,
        length=length,
        rounds=2,
    )
    policy = PositionwisePolicy(1, 2, length, reads)
    return policy, params, process.enumerate_trajectories(policy, params, static=True)


def causal(length: int, point: jax.Array) -> Objective:
    """A coefficient for each token: the change in expected return that this token made. Filler gets exactly 0."""
    policy, params, support = setting(point, length, 1)
    del policy, params
    p, a, b = point
    right_S = jnp.where(support.tokens == 0, 1.0, 0.0)  # of an answer's first token: whether the answer is right
    stop_S = jnp.where(right_S > 0, a, b)
    keep = stop_S * right_S + (1 - stop_S) * p
    V_1 = p * (a + (1 - a) * p) + (1 - p) * (1 - b) * p
    first_round = support.round == 0
    from_token = jnp.where(first_round, keep - V_1, right_S - p)
    first_B = right_S[:, :1]
    from_decision = jnp.where(support.tokens == 0, first_B, p) - keep[:, :1]
    place = jnp.arange(support.tokens.shape[1]) % (length + 1)
    A_BxS = jnp.where((place == 0)[None], from_token, 0.0) + jnp.where((place == length)[None], from_decision, 0.0)

    def objective(logp_BxS: jax.Array, traj: Trajectories) -> SumCount:
        return aggregate(-jax.lax.stop_gradient(A_BxS) * logp_BxS, traj, "sequence_sum")

    return objective


def measured_ratios(point: Point, length: int) -> dict[str, float]:
    """S_c/M_c at one length: one weight per trajectory (decider reading the first token or all), and one per token."""

    def three(x: jax.Array) -> dict[str, jax.Array]:
        def found(objectives: list[Objective], reads: int) -> list[SignalNoise]:
            policy, params, traj = setting(x, length, reads)
            fishers = fisher(policy, params, traj)
            return [signal_to_noise(policy, params, traj, o, fishers=fishers) for o in objectives]

        mean = partial(reinforce, baseline="batch_mean")
        plain, token = found([mean, causal(length, x)], 1)
        rows = {
            "sample": plain.ratio_sample,
            "decision": plain.ratio_decision,
            "sample, causal": token.ratio_sample,
        }
        if length > READ_ALL:
            return rows
        return rows | {"decision, reads all": found([mean], length)[0].ratio_decision}

    return {name: float(x) for name, x in run(three, jnp.asarray(point)).items()}


def measured_noise(points: list[Point], length: int, estimator: str) -> list[Four]:
    """(S_s, S_d, noise_s, noise_d) by the library at each point."""

    def one(x: jax.Array) -> tuple[jax.Array, ...]:
        policy, params, traj = setting(x, length, 1)
        baseline = "none" if estimator == "none" else "batch_mean"
        m = signal_to_noise(policy, params, traj, partial(reinforce, baseline=baseline))
        if estimator != "pairs":
            return m.signal_sample, m.signal_decision, m.noise_sample, m.noise_decision
        left_out = partial(reinforce, baseline="leave_one_out")
        ((M_s, M_d),) = group_moments(policy, params, traj, [left_out], 2)
        return m.signal_sample, m.signal_decision, M_s - m.signal_sample, M_d - m.signal_decision

    columns = run(jax.vmap(one), jnp.asarray(points))
    return [(s, d, x, y) for s, d, x, y in np.stack(columns, axis=-1).tolist()]


def measured_crossings(points: list[Point], estimator: str) -> list[float]:
    """L at which the line of the library's noise_s through L = 1 and L = 2 meets the decider's signal over noise."""
    short, longer = (measured_noise(points, length, estimator) for length in (1, 2))
    found = []
    for (S_s, S_d, at_1, noise_d), (_, _, at_2, _) in zip(short, longer, strict=True):
        found.append(1 + (S_s * noise_d / S_d - at_1) / (at_2 - at_1))
    return found


def decisive(logit: float) -> Point:
    """A decider that is right with probability sigmoid(logit) on right and wrong answers alike."""
    a = 1 / (1 + math.exp(-logit))
    return RIGHT, a, 1 - a


def _ratios() -> tuple[list[dict[str, Any]], float]:
    """Rows {length, ratios by name} and the worst relative error against the closed form."""
    point = (RIGHT, *STOPS)
    (S_s, S_d, noise_s, noise_d), slope = closed_form(point)
    rows, errors = [], []
    for length in LENGTHS:
        row = measured_ratios(point, length)
        stated = {
            "sample": S_s / (S_s + noise_s + (length - 1) * slope),
            "decision": S_d / (S_d + noise_d),
            # 2^(L-1) contexts for each of before, whose scores differ by the same factor in their Fisher matrix.
            "decision, reads all": S_d / ((S_d + noise_d) * 2 ** (length - 1)),
        }
        errors += [abs(row[name] / value - 1) for name, value in stated.items() if name in row]
        rows.append({"length": length, **row})
    return rows, max(errors)


def measure() -> dict[str, Any]:
    """Ratios against length, and the crossing length against the decider's and the sampler's accuracy."""
    sweeps = {
        "decisiveness": (DECISIVENESS, decisive),
        "accuracy": (ACCURACIES, lambda p: (p, *STOPS)),
    }
    crossings, errors = [], []
    with exact():
        rows, ratio_error = _ratios()
        every = [(sweep, x, at(x)) for sweep, (values, at) in sweeps.items() for x in values]
        for estimator in ESTIMATORS[:3]:
            found = measured_crossings([point for _, _, point in every], estimator)
            for (sweep, x, point), value in zip(every, found, strict=True):
                stated = crossing(point, estimator)
                errors.append(abs(value - stated) / max(1.0, abs(stated)))
                crossings.append({"sweep": sweep, "x": x, "estimator": estimator, "measured": value, "closed": stated})
    lines = {}
    for sweep, (values, at) in sweeps.items():
        xs = np.linspace(values[0], values[-1], FINE).tolist()
        lines[sweep] = {"x": xs, **{name: [crossing(at(x), name) for x in xs] for name in ESTIMATORS}}
    point = (RIGHT, *STOPS)
    (S_s, S_d, noise_s, noise_d), slope = closed_form(point)
    return {
        "summary": (
            f"At p = {RIGHT}, a = {STOPS[0]}, b = {STOPS[1]} the ratios cross at L* = {crossing(point):.3g} "
            f"with w = R - J, {crossing(point, 'none'):.3g} with w = R, {crossing(point, 'pairs'):.3g} with "
            "leave-one-out, G = 2. "
            "Not so with a decider that reads all tokens (its ratio falls as 2^-L) or with one causal advantage "
            "a token (that of pi_sample does not fall)."
        ),
        "worst_error": max(ratio_error, *errors),
        "point": list(point),
        "ratios": rows,
        "closed": {"S_s": S_s, "S_d": S_d, "M_s": S_s + noise_s, "M_d": S_d + noise_d, "per_token": slope},
        "crossing": crossing(point),
        "crossings": crossings,
        "lines": lines,
    }


LOOKS: dict[str, dict[str, Any]] = {
    "sample": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    "decision": {"color": "#D55E00", "marker": "s", "linestyle": (0, (5, 2))},
    "decision, reads all": {"color": "#E69F00", "marker": "v", "linestyle": (0, (1, 1.3))},
    "sample, causal": {"color": "#009E73", "marker": "^", "linestyle": (0, (6, 1.5, 1.2, 1.5))},
}
NAMES = {
    "sample": "pi_sample",
    "decision": "pi_d",
    "decision, reads all": "pi_d that reads all L tokens",
    "sample, causal": "pi_sample, one causal advantage a token",
}
ESTIMATOR_LOOKS: dict[str, dict[str, Any]] = {
    "none": {"color": "#D55E00", "marker": "s", "linestyle": (0, (5, 2))},
    "mean": {"color": "#000000", "marker": "o", "linestyle": "-"},
    "pairs": {"color": "#0072B2", "marker": "^", "linestyle": (0, (1, 1.3))},
    "groups": {"color": "#009E73", "marker": "none", "linestyle": (0, (6, 1.5, 1.2, 1.5))},
}
ESTIMATOR_NAMES = {
    "none": "w = R (no baseline)",
    "mean": "w = R - J (batch mean)",
    "pairs": "leave-one-out, G = 2",
    "groups": f"leave-one-out, G = {LARGE_GROUP} (not enumerated)",
}


def draw(data: dict[str, Any], fig: Figure) -> None:
    """Left: ratios against length. Middle and right: crossing length. Lines: closed form; markers: measured."""
    left, *panels = fig.subplots(1, 3)
    c = data["closed"]
    lengths = np.geomspace(1, 300, 60)
    lines = {
        "sample": c["S_s"] / (c["M_s"] + (lengths - 1) * c["per_token"]),
        "decision": np.full_like(lengths, c["S_d"] / c["M_d"]),
        "decision, reads all": c["S_d"] / c["M_d"] * 2.0 ** (1 - lengths),
        "sample, causal": np.full_like(lengths, data["ratios"][0]["sample, causal"]),
    }
    handles: list[Any] = []
    for name, look in LOOKS.items():
        shown = [(row["length"], row[name]) for row in data["ratios"] if name in row]
        line_and_markers(left, look, (lengths, lines[name]), tuple(zip(*shown, strict=True)), look["color"])
        handles.append(Line2D([], [], label=NAMES[name], markersize=5, **look))
    left.axvline(data["crossing"], color="0.6", linewidth=0.8)
    floor = min(row["sample"] for row in data["ratios"]) / 60
    left.set(xscale="log", yscale="log", ylim=(floor, 2 * lines["sample, causal"][0]))
    left.set(xlabel="answer length L (tokens)", ylabel="signal over second moment S/M (one trajectory)")
    p, a, b = data["point"]
    left.set_title(f"p = {p}, a = {a}, b = {b}", fontsize="medium")
    left.annotate(f"L* = {data['crossing']:.2g}", (data["crossing"], 0.3), (4, 0), textcoords="offset points")
    plain(left.xaxis)
    labels = {
        "decisiveness": ("logit of a = 1 - b (nats)", f"sharper decider, p = {p}"),
        "accuracy": ("p = P(right)", f"better sampler, a = {a}, b = {b}"),
    }
    for ax, (sweep, (label, title)) in zip(panels, labels.items(), strict=True):
        for name, look in ESTIMATOR_LOOKS.items():
            # Below L = 1 pi_d is the louder one at every length: such points are drawn at the edge.
            line = data["lines"][sweep]["x"], np.maximum(data["lines"][sweep][name], 1)
            points = [r for r in data["crossings"] if r["sweep"] == sweep and r["estimator"] == name]
            xs, ys = [r["x"] for r in points], [max(r["measured"], 1.0) for r in points]
            line_and_markers(ax, look, line, (xs, ys))
        ax.set(yscale="log", xlabel=label, ylabel="crossing length L* (tokens)")
        ax.set_title(title, fontsize="medium")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        plain(ax.yaxis)
    handles += [
        Line2D([], [], label=f"L*: {ESTIMATOR_NAMES[name]}", markersize=5, markerfacecolor="none", **look)
        for name, look in ESTIMATOR_LOOKS.items()
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
