"""Where the KL tax turns the push on STOP at a wrong answer: phase diagram in (beta, L)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dsjax.attribution import component_gradients
from dsjax.numerics import compile_quickly, exact
from dsjax.objectives import Objective
from dsjax.policies import Params, PositionwisePolicy, log_probs
from dsjax.process import DecisionSamplingProcess
from dsjax.trajectories import STOP, Trajectories
from proofs_check.boundary import plain, turning_point
from proofs_check.theorems.t07_kl_tax.numeric import with_own_token_kl, with_trajectory_kl

TITLE = "Sign of the push on STOP at a wrong answer, by beta and answer length"

# One prompt, two symbols, tokens drawn alike and independently; the first token alone makes an answer right.
RIGHT = 0.6  # P(token = 1), so p = P(right) = .6 at every length
REFERENCES = (0.4, 0.5)  # P_ref(token = 1): the drift per token is KL(.6 || .4) = .081 or KL(.6 || .5) = .020 nats
STOPS = (0.3, 0.8)  # P(STOP | wrong), P(STOP | right): the decider is at its reference
COST = 0.05
ROUNDS = 2
LENGTHS = (1, 2, 4, 8, 16, 32, 64)
ENUMERATED = (1, 2, 4, 6)  # lengths at which all V^L answers are listed
BETAS = tuple(0.0375 * 2.0**i for i in range(11))


def drift(reference: float) -> float:
    """KL of one token to its reference, nats."""
    p, q = RIGHT, reference
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def closed_form(length: int, reference: float, rounds: int = ROUNDS) -> float:
    """beta* of the wrong answer's STOP logit: visit-weighted V_(t+1) - c over visit-weighted K_(t+1), t < T.

    Memoryless: `V_t = p a + p (1-a) W + (1-p) (1-b) W` with `W = V_(t+1) - c`, and `K_t = L k + rho K_(t+1)`, where
    rho is the chance of another round; the decider is at its reference and adds nothing to K.
    """
    b, a = STOPS
    again = RIGHT * (1 - a) + (1 - RIGHT) * (1 - b)
    V, K = [RIGHT], [length * drift(reference)]
    for _ in range(rounds - 2):
        W = V[0] - COST
        V.insert(0, RIGHT * (a + (1 - a) * W) + (1 - RIGHT) * (1 - b) * W)
        K.insert(0, length * drift(reference) + again * K[0])
    visits = [again**t for t in range(rounds - 1)]
    gain = sum(v * (x - COST) for v, x in zip(visits, V, strict=True))
    return gain / sum(v * x for v, x in zip(visits, K, strict=True))


def parameters(length: int, token: float) -> Params:
    """A sampler with P(token = 1) = `token` at every position; a decider that reads the first token."""
    stop = np.asarray(STOPS)
    return {
        "sample": np.broadcast_to(np.log([1 - token, token]), (1, length, 2)),
        "decision": np.log(np.stack([stop, 1 - stop], -1))[None],
    }


class Support(NamedTuple):
    """Trajectories before any policy: NumPy arrays, and what makes them `Trajectories` with `weight` = multiplicity."""

    arrays: dict[str, np.ndarray]
    build: Callable[[dict[str, jax.Array]], Trajectories]
    length: int


def every_answer(length: int, rounds: int = ROUNDS) -> Support:
    """All trajectories, V^L answers a round."""
    right = np.arange(2**length) >= 2 ** (length - 1)

    def build(arrays: dict[str, jax.Array]) -> Trajectories:
        process = DecisionSamplingProcess.create(
            prompt_law=jnp.ones(1),
            reward_table=arrays["reward_table"],
            vocabulary=2,
            length=length,
            rounds=rounds,
            cost=COST,
        )
        return process.support(static=True)

    return Support({"reward_table": right.astype(float)[None]}, build, length)


def answer_classes(length: int, rounds: int = ROUNDS) -> Support:
    """One trajectory for all that differ only in the order of tokens 2..L.

    These tokens are drawn alike and nothing reads them, so all members of a class have the same probability, return,
    log-ratio and decision contexts. A class of answers is (first token, number of ones among the others): 2 L classes.
    """
    first, ones = (x.ravel() for x in np.meshgrid([0, 1], np.arange(length), indexing="ij"))
    tokens_CxL = np.concatenate([first[:, None], np.arange(length - 1)[None] < ones[:, None]], axis=1)
    size_C = np.array([float(math.comb(length - 1, int(k))) for k in ones])
    C = len(first)
    blocks = []
    for tau in range(1, rounds + 1):
        code = np.array(np.unravel_index(np.arange(C**tau), (C,) * tau)).T
        answers = np.zeros((C**tau, rounds, length), np.int32)
        answers[:, :tau] = tokens_CxL[code]
        reward = first[code[:, -1]] - COST * (tau - 1)
        blocks.append((answers, np.full(C**tau, tau - 1, np.int32), reward, size_C[code].prod(-1)))
    names = ("answers", "stop_round", "reward", "weight")
    arrays = {name: np.concatenate(x) for name, x in zip(names, zip(*blocks, strict=True), strict=True)}

    def build(arrays: dict[str, jax.Array]) -> Trajectories:
        zero = jnp.zeros_like(arrays["stop_round"])
        return Trajectories.from_rounds(
            prompt=zero[:, None], group=zero, num_groups=1, horizon=rounds, exact=True, **arrays
        )

    return Support(arrays, build, length)


Push = Callable[[float, float], tuple[float, float]]


def push_on_stop(support: Support) -> Push:
    """(beta, P_ref(token = 1)) -> gradient on the wrong answer's STOP logit, with (trajectory KL, own-token KL)."""
    policy = PositionwisePolicy(1, 2, support.length, reads=1)
    params = parameters(support.length, RIGHT)

    def gradients(
        arrays: dict[str, jax.Array], params: Params, reference: Params, beta: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        traj = support.build(arrays)
        traj = traj.under(log_probs(policy, params, traj), prompt_weight=traj.weight)
        traj = traj.replace(ref_logp=log_probs(policy, reference, traj))

        def wrong(objective: Objective) -> jax.Array:
            return component_gradients(policy, params, traj, objective).decision["decision"][0, 0, STOP]

        return wrong(with_trajectory_kl(beta)), wrong(with_own_token_kl(beta))

    program = compile_quickly(gradients, support.arrays, params, params, np.asarray(1.0))

    def push(beta: float, reference: float) -> tuple[float, float]:
        taxed, own = program(support.arrays, params, parameters(support.length, reference), np.asarray(beta))
        return float(taxed), float(own)

    return push


def measured_flip(push: Push, reference: float) -> float | None:
    """beta at which the measured push turns from RESAMPLE to STOP; None unless both signs are seen next to it."""
    return turning_point(lambda beta: push(beta, reference)[0], BETAS[0], BETAS[-1])


def _flip(push: Push, length: int, reference: float, method: str) -> dict[str, Any]:
    return {
        "length": length,
        "drift": drift(reference),
        "method": method,
        "closed": closed_form(length, reference),
        "measured": measured_flip(push, reference),
    }


def _difference(push: Push, other: Push) -> float:
    """Largest gap between two ways to the same gradients, relative where these exceed 1."""
    pairs = [
        pair
        for reference in REFERENCES
        for beta in (BETAS[0], BETAS[-1])
        for pair in zip(push(beta, reference), other(beta, reference), strict=True)
    ]
    return max(abs(x - y) / max(1.0, abs(y)) for x, y in pairs)


def measure() -> dict[str, Any]:
    """Signs on a lattice, and the flip for each length and drift, all from the library's gradient."""
    with exact():
        lattice, flips, pushes = [], [], {}
        for length in LENGTHS:
            push = pushes[length] = push_on_stop(answer_classes(length))
            for beta in BETAS:
                taxed, own = push(beta, REFERENCES[0])
                lattice.append({"length": length, "beta": beta, "trajectory_kl": taxed, "own_token_kl": own})
            flips += [_flip(push, length, reference, "answer classes") for reference in REFERENCES]
        differences = []
        for length in ENUMERATED:
            push = push_on_stop(every_answer(length))
            flips += [_flip(push, length, reference, "every answer") for reference in REFERENCES]
            if length in pushes:
                differences.append(_difference(push, pushes[length]))
    errors = [abs(f["measured"] / f["closed"] - 1) for f in flips if f["measured"] is not None]
    complete = len(errors) == len(flips)
    turned = sum(row["own_token_kl"] >= 0 for row in lattice)
    taxed = [row["beta"] > closed_form(row["length"], REFERENCES[0]) for row in lattice]
    wrong_side = sum((row["trajectory_kl"] > 0) != above for row, above in zip(lattice, taxed, strict=True))
    return {
        "summary": (
            "Trajectory KL turns the push on STOP at a wrong answer from RESAMPLE to STOP at beta = (V - c)/K = "
            f"{closed_form(1, REFERENCES[0]):.3g}/L, at a drift of {drift(REFERENCES[0]):.3g} nats a token: "
            f"{len(errors)} of {len(flips)} flips measured, {wrong_side} of {len(lattice)} points on the wrong side. "
            f"Own-token KL turns it at {turned} of {len(lattice)} points."
        ),
        "worst_error": max(errors) if complete else None,
        "classes_against_every_answer": max(differences),
        "value_less_cost": RIGHT - COST,
        "drifts": [drift(r) for r in REFERENCES],
        "lattice": lattice,
        "flips": flips,
    }


STOP_LOOK: dict[str, Any] = {"marker": "^", "color": "#0072B2", "markersize": 5.5}
RESAMPLE_LOOK: dict[str, Any] = {"marker": "v", "color": "#D55E00", "markersize": 5.5, "markerfacecolor": "white"}
DASHES = ("-", (0, (5, 2)))
FLIP_MARKERS = {"answer classes": "o", "every answer": "+"}


def draw(data: dict[str, Any], fig: Figure) -> None:
    """Left: trajectory KL, where the push turns. Right: own-token KL on the same lattice, where it does not."""
    panels = fig.subplots(1, 2, sharex=True, sharey=True)
    lengths = sorted({row["length"] for row in data["lattice"]})
    betas = [row["beta"] for row in data["lattice"]]
    edge = [lengths[0] / 1.6, lengths[-1] * 1.6]
    bottom, top = min(betas) / 1.5, max(betas) * 1.5

    def boundary(kl: float) -> list[float]:
        return [data["value_less_cost"] / (kl * x) for x in edge]

    titles = ("trajectory KL in the reward", "own-token KL in the loss")
    for ax, key, title in zip(panels, ("trajectory_kl", "own_token_kl"), titles, strict=True):
        for look, stop in ((STOP_LOOK, True), (RESAMPLE_LOOK, False)):
            points = [(row["length"], row["beta"]) for row in data["lattice"] if (row[key] > 0) == stop]
            if points:
                ax.plot(*zip(*points, strict=True), linestyle="none", zorder=3, **look)
        ax.set(xscale="log", yscale="log", xlabel="answer length L (tokens)", title=title)
        ax.set(xlim=edge, ylim=(bottom, top))
        plain(ax.xaxis, lengths)
        plain(ax.yaxis)
    left = panels[0]
    left.set_ylabel("beta (reward per nat)")
    left.fill_between(edge, boundary(data["drifts"][0]), [top, top], color="0.88", zorder=0)
    shown = f"k = {data['drifts'][0]:.3f}"
    handles: list[Any] = [
        Line2D([], [], linestyle="none", label=f"push to STOP, {shown}", **STOP_LOOK),
        Line2D([], [], linestyle="none", label=f"push to RESAMPLE, {shown}", **RESAMPLE_LOOK),
        Patch(facecolor="0.88", label=f"beta K > V - c, {shown}"),
    ]
    for kl, dashes in zip(data["drifts"], DASHES, strict=True):
        left.plot(edge, boundary(kl), color="black", linestyle=dashes, linewidth=1.3, zorder=2)
        label = f"beta = (V - c)/(L k), k = {kl:.3f} nats/token"
        handles.append(Line2D([], [], color="black", linestyle=dashes, linewidth=1.3, label=label))
    for method, marker in FLIP_MARKERS.items():
        look: dict[str, Any] = {"marker": marker, "color": "black", "markerfacecolor": "none", "markersize": 8}
        points = [(f["length"], f["measured"]) for f in data["flips"] if f["method"] == method and f["measured"]]
        left.plot(*zip(*points, strict=True), linestyle="none", zorder=4, **look)
        handles.append(Line2D([], [], linestyle="none", label=f"measured flip, {method}", **look))
    fig.legend(handles=handles, loc="outside lower center", ncols=3)
