"""Where the KL's length asymmetry is, and where it is not: at a given drift per token, and at the soft optimum."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from dsjax.attribution import component_gradients, energies
from dsjax.numerics import exact
from dsjax.objectives import own_token_kl, trajectory_kl
from dsjax.policies import Params, SaturatedPolicy, log_probs
from dsjax.process import DecisionSamplingProcess
from dsjax.trajectories import Trajectories
from proofs_check.boundary import run
from proofs_check.closed_forms import drifted, martingale_energies
from proofs_check.theorems.t07_kl_tax.numeric import tilted
from proofs_check.theorems.t11_soft_optimum.numeric import as_logits, soft_bellman

TITLE = "Length asymmetry of the KL: at a given drift per token, not at the soft optimum"

# One prompt, two rounds, two symbols. An answer is right iff all of its L tokens are 1; before the optimum each token
# is 1 with probability .4^(1/L) while all went well, so P(right) = .4 at every length, and 1/2 after a first 0.
RIGHT = 0.4
STOPS = (0.4, 0.6)  # P(STOP | wrong), P(STOP | right)
COST = 0.05
BETA = 0.5
LENGTHS = (1, 2, 4, 6)
ENERGY_LENGTHS = (1, 2, 4)  # a dense Fisher matrix of 542 parameters at L = 4
# The given drift, the same in every context of either component.
DRIFT = 0.05  # KL(pi(.|x) || pi_ref(.|x)), nats
SPREAD = 0.1  # Var(log pi/pi_ref | x), nats^2, where energies are compared


class Law(NamedTuple):
    """Probabilities that do not depend on L: P(right) in either round, P(STOP | wrong or right) in the first."""

    first: float
    last: float
    stops: tuple[float, float]

    @property
    def again(self) -> float:
        """P(a second round)."""
        return self.first * (1 - self.stops[1]) + (1 - self.first) * (1 - self.stops[0])


BASE = Law(RIGHT, RIGHT, STOPS)


def _mean(p: float, of: tuple[float, float]) -> float:
    return (1 - p) * of[0] + p * of[1]


def _kl(p: float, q: float) -> float:
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def soft_law() -> Law:
    """The soft-Bellman policy of `BASE` in closed form: answers are right or wrong, decisions stop or not."""

    def soft(p: float, of: tuple[float, float]) -> float:
        return BETA * math.log(_mean(p, (math.exp(of[0] / BETA), math.exp(of[1] / BETA))))

    again = soft(BASE.last, (0.0, 1.0)) - COST  # Q*(RESAMPLE)
    U = (soft(STOPS[0], (again, 0.0)), soft(STOPS[1], (again, 1.0)))
    V = soft(BASE.first, U)
    return Law(
        first=RIGHT * math.exp((U[1] - V) / BETA),
        last=RIGHT * math.exp((1.0 - again - COST) / BETA),
        stops=(STOPS[0] * math.exp((0.0 - U[0]) / BETA), STOPS[1] * math.exp((1.0 - U[1]) / BETA)),
    )


def optimum_kl() -> tuple[float, float]:
    """(KL per answer, KL per decision) of the soft optimum to its reference, nats."""
    law = soft_law()
    answers = _kl(law.first, RIGHT) + law.again * _kl(law.last, RIGHT)
    decisions = _mean(law.first, (_kl(law.stops[0], STOPS[0]), _kl(law.stops[1], STOPS[1])))
    return answers / (1 + law.again), decisions


def optimum_energies() -> tuple[float, float]:
    """(E_s, E_d) of the trajectory KL at the soft optimum: Lam = (R - V*)/beta, so T3's sums over beta^2."""
    law = soft_law()
    U = tuple(s * r + (1 - s) * (law.last - COST) for r, s in zip((0.0, 1.0), law.stops, strict=True))
    sample = law.first * (1 - law.first) * (U[1] - U[0]) ** 2 + law.again * law.last * (1 - law.last)
    pushes = tuple(s * (1 - s) * (r - law.last + COST) ** 2 for r, s in zip((0.0, 1.0), law.stops, strict=True))
    return sample / BETA**2, _mean(law.first, (pushes[0], pushes[1])) / BETA**2


def process_of(length: int) -> DecisionSamplingProcess:
    """Right iff the answer is 1 .. 1."""
    return DecisionSamplingProcess.create(
        prompt_law=jnp.ones(1),
        reward_table=(jnp.arange(2**length) == 2**length - 1).astype(float)[None],
        vocabulary=2,
        length=length,
        rounds=2,
        cost=COST,
        history="full",
    )


def base_params(length: int) -> Params:
    """Logits of `BASE`: prefix number 2^(j+1) - 2 is j ones."""
    A = 2**length
    sample = np.zeros((A - 1, 2))
    one = RIGHT ** (1 / length)
    for j in range(length):
        sample[2 ** (j + 1) - 2] = np.log([1 - one, one])
    stop = np.where(np.arange(A) == A - 1, STOPS[1], STOPS[0])
    return {
        "sample": np.broadcast_to(sample, (1, 1 + A, A - 1, 2)),
        "decision": np.log(np.stack([stop, 1 - stop], -1))[None, None],
    }


def _per_factor(traj: Trajectories, length: int) -> tuple[jax.Array, jax.Array]:
    """(KL per answer, KL per decision), nats: log-ratio of the component's tokens over the number of its factors."""
    assert traj.old_logp is not None
    assert traj.ref_logp is not None
    log_ratio, weight = traj.old_logp - traj.ref_logp, traj.weight[:, None]

    def mean(mask: jax.Array, tokens: int) -> jax.Array:
        return tokens * jnp.sum(jnp.where(mask, weight * log_ratio, 0.0)) / jnp.sum(jnp.where(mask, weight, 0.0))

    return mean(traj.sample_mask, length), mean(traj.decision_mask, 1)


def measured(length: int, with_energies: bool) -> dict[str, list[float]]:
    """[sampling, decision] numbers of one length, by quantity and case, from the library."""
    policy = SaturatedPolicy(1, 2, length, 2, "full")

    def program(base: Params, direction: Params) -> dict[str, tuple[jax.Array, jax.Array]]:
        process = process_of(length)
        traj = process.enumerate_trajectories(policy, base, static=True)
        assert traj.old_logp is not None
        tables = process.tables(traj.old_logp)
        optimum = as_logits(process, soft_bellman(process, tables, jnp.asarray(BETA))[1])

        def against(params: Params, reference: Params) -> Trajectories:
            law = process.enumerate_trajectories(policy, params, static=True)
            return law.replace(ref_logp=log_probs(policy, reference, law))

        moved = against(base, jax.tree.map(lambda x, z: tilted(z, x, DRIFT), base, direction))
        best = against(optimum, base)
        found = {"kl, given drift": _per_factor(moved, length), "kl, optimum": _per_factor(best, length)}
        if not with_energies:
            return found

        spread = against(base, jax.tree.map(lambda x, z: drifted(z, x, SPREAD**0.5), base, direction))
        for case, params, law in (("given drift", base, spread), ("optimum", optimum, best)):
            for kind, objective in (("own-token", own_token_kl), ("trajectory", trajectory_kl)):
                gradients = component_gradients(policy, params, law, objective)
                found[f"{kind}, {case}"] = energies(policy, params, law, gradients)
        assert spread.ref_logp is not None
        lam = jnp.sum(jnp.where(spread.mask, traj.old_logp - spread.ref_logp, 0.0), -1)
        sums = martingale_energies(process, tables, process.values(tables, lam), process.visitation(tables))
        return {**found, "closed trajectory, given drift": sums}

    base = base_params(length)
    # Any direction will do: what is given is the size of the drift.
    direction = {name: np.broadcast_to([-1.0, 1.0], x.shape) for name, x in base.items()}
    out = jax.device_get(run(program, base, direction))
    return {name: [float(x) for x in pair] for name, pair in out.items()}


def closed_forms(length: int) -> dict[str, tuple[float, float]]:
    """[sampling, decision] numbers of one length by formula; `trajectory, given drift` comes from T3's sums."""
    rounds = 1 + BASE.again
    return {
        "kl, given drift": (length * DRIFT, DRIFT),
        "kl, optimum": optimum_kl(),
        "own-token, given drift": (length * rounds * SPREAD, SPREAD),
        "trajectory, optimum": optimum_energies(),
    }


def measure() -> dict[str, Any]:
    """Tilt per factor and energy of the KL gradient, given drift and at the soft optimum, by length."""
    rows = []
    with exact():
        for length in LENGTHS:
            found = measured(length, length in ENERGY_LENGTHS)
            closed = {name: list(pair) for name, pair in closed_forms(length).items() if name in found}
            if length in ENERGY_LENGTHS:
                closed["trajectory, given drift"] = found.pop("closed trajectory, given drift")
            rows.append({"length": length, "measured": found, "closed": closed})
    errors = [
        abs(x / y - 1)
        for row in rows
        for name, pair in row["closed"].items()
        for x, y in zip(row["measured"][name], pair, strict=True)
    ]
    answers = [row["measured"]["kl, optimum"][0] for row in rows]
    own = [_share(rows, "own-token, given drift")[i] for i in (0, -1)]
    best = _share(rows, "trajectory, optimum")
    return {
        "summary": (
            f"At the soft optimum an answer moves by {answers[0]:.3g} nats at every length (largest difference "
            f"{max(answers) - min(answers):.1g}) and the decision share of the trajectory KL's gradient stays at "
            f"{best[0]:.3g}; at a given drift per token the answer's KL grows as L, and the share under own-token KL "
            f"falls from {own[0]:.3g} to {own[1]:.3g} between L = {ENERGY_LENGTHS[0]} and {ENERGY_LENGTHS[-1]}."
        ),
        "worst_error": max(errors),
        "beta": BETA,
        "rows": rows,
    }


def _share(rows: list[dict[str, Any]], name: str, side: str = "measured") -> list[float]:
    """Decision share by length."""
    pairs = [row[side][name] for row in rows if name in row[side]]
    return [d / (s + d) for s, d in pairs]


LINES: dict[str, dict[str, Any]] = {
    "given drift": {"color": "#D55E00", "linestyle": (0, (5, 2)), "linewidth": 1.2},
    "optimum": {"color": "#0072B2", "linestyle": "-", "linewidth": 1.2},
}
CASES = {"given drift": "given drift per token", "optimum": "soft optimum"}
FACTORS = {("answer", "given drift"): "s", ("decision", "given drift"): "o"}
FACTORS |= {("answer", "optimum"): "D", ("decision", "optimum"): "^"}
KINDS = {("own-token", "given drift"): "v", ("trajectory", "given drift"): "s"}
KINDS |= {("own-token", "optimum"): "o", ("trajectory", "optimum"): "D"}


def draw(data: dict[str, Any], fig: Figure) -> None:
    """Left: KL per answer and per decision. Right: decision share of the KL gradient's energy."""
    left, right = fig.subplots(1, 2)
    rows = data["rows"]
    lengths = [row["length"] for row in rows]
    energy_lengths = [row["length"] for row in rows if "trajectory, optimum" in row["measured"]]

    def series(ax: Any, x: list[int], case: str, marker: str, label: str, values: list[list[float]]) -> None:
        closed, shown = values
        filled = LINES[case]["color"] if label.startswith(("per answer", "own-token")) else "white"
        look = {"marker": marker, "markerfacecolor": filled, "color": LINES[case]["color"], "zorder": 3}
        if closed:
            ax.plot(x, closed, **LINES[case])
        ax.plot(x, shown, linestyle="none", **look)
        ax.plot([], [], **{**look, **(LINES[case] if closed else {"linestyle": "none"})}, label=label)

    for (factor, case), marker in FACTORS.items():
        part = 0 if factor == "answer" else 1
        values = [[row[side][f"kl, {case}"][part] for row in rows] for side in ("closed", "measured")]
        series(left, lengths, case, marker, f"per {factor}, {CASES[case]}", values)
    for (kind, case), marker in KINDS.items():
        values = [_share(rows, f"{kind}, {case}", side) for side in ("closed", "measured")]
        series(right, energy_lengths, case, marker, f"{kind} KL, {CASES[case]}", values)
    left.set(ylabel="KL to the reference (nats)", title="tilt per factor", ylim=(0, 0.34))
    right.set(ylabel="decision share (fraction)", title="energy of the KL gradient", ylim=(0, 0.6))
    for ax, x in ((left, lengths), (right, energy_lengths)):
        ax.set(xlabel="answer length L (tokens)", xlim=(0.6, x[-1] + 0.4))
        ax.xaxis.set_major_locator(FixedLocator(x))
        title = "markers: measured; lines join closed forms"
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), handlelength=3, title=title)
