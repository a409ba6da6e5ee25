"""Where the flow of reward takes p, a and b, and what a KL penalty changes of it: the threshold."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from dsjax.attribution import component_gradients
from dsjax.numerics import exact
from dsjax.objectives import reinforce
from dsjax.policies import SaturatedPolicy, log_probs
from dsjax.process import DecisionSamplingProcess
from proofs_check.boundary import line_and_markers, run
from proofs_check.theorems.t18_threshold_shift.numeric import rates, unlikely

TITLE = "Phase portrait of sampler and decider, and what KL changes of it"

# One prompt, a right and a wrong answer, T = 2, no memory.
STARTS = ((0.2, 0.3, 0.3), (0.2, 0.7, 0.7), (0.2, 0.5, 0.5), (0.7, 0.3, 0.3), (0.7, 0.7, 0.7), (0.5, 0.2, 0.8))
TIME, STEPS, SHOWN = 4.0, 128, 16
# With KL: answers of L tokens, each 0 with probability DRIFTED under the policy and 1/2 under the reference; right iff
# the first token is 0; the decider starts at its reference.
LENGTHS, DRIFTED, BETA = (1, 2, 3, 4), 0.9, 0.2


def logit(x: Any) -> Any:
    """Log-odds, nats."""
    return jnp.log(x) - jnp.log1p(-x)


def integrate(velocity: Any, start: jax.Array) -> jax.Array:
    """f[STEPS + 1, ..]: RK4 from t = 0 to `TIME`."""
    h = TIME / STEPS

    def step(x: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        k1 = velocity(x)
        k2 = velocity(x + h / 2 * k1)
        k3 = velocity(x + h / 2 * k2)
        k4 = velocity(x + h * k3)
        new = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return new, new

    return jnp.concatenate([start[None], jax.lax.scan(step, start, None, length=STEPS)[1]])


def gradient(x: jax.Array) -> jax.Array:
    """The library's dJ/d(logit p, logit a, logit b) at these log-odds f[3]."""
    policy = SaturatedPolicy(1, 2, 1, 2, "none")
    process = DecisionSamplingProcess.create(
        prompt_law=jnp.ones(1), reward_table=jnp.asarray([[1.0, 0.0]]), vocabulary=2, length=1, rounds=2, history="none"
    )
    zero, shapes = jnp.zeros_like(x[0]), policy.shapes()
    params = {
        "sample": jnp.stack([x[0], zero]).reshape(shapes["sample"]),
        "decision": jnp.stack([x[1], zero, x[2], zero]).reshape(shapes["decision"]),
    }
    traj = process.enumerate_trajectories(policy, params, static=True)
    found = component_gradients(policy, params, traj, reinforce)
    return jnp.concatenate([found.sample["sample"].ravel()[:1], found.decision["decision"][..., 0].ravel()])


def natural(x: jax.Array) -> jax.Array:
    """That gradient over the Fisher information of each logit: visits times p (1 - p)."""
    p, a, b = jax.nn.sigmoid(x)
    visits = jnp.stack([2 - p * a - (1 - p) * b, p, 1 - p])
    return gradient(x) / (visits * jax.nn.sigmoid(x) * jax.nn.sigmoid(-x))


def penalised(length: int) -> jax.Array:
    """f[STEPS + 1, 2]: log-odds of STOP at a right and a wrong answer, natural gradient flow of J - beta KL on pi_d."""
    A, policy = 2**length, SaturatedPolicy(1, 2, length, 2, "none")
    right = jnp.arange(A) < A // 2
    process = DecisionSamplingProcess.create(
        prompt_law=jnp.ones(1),
        reward_table=right.astype(float)[None],
        vocabulary=2,
        length=length,
        rounds=2,
        history="none",
    )
    shapes = policy.shapes()
    sample = jnp.broadcast_to(jnp.log(jnp.asarray([DRIFTED, 1 - DRIFTED])), shapes["sample"])
    reference = {"sample": jnp.zeros(shapes["sample"]), "decision": jnp.zeros(shapes["decision"])}

    def velocity(D_A: jax.Array) -> jax.Array:
        decision = jnp.stack([D_A, jnp.zeros_like(D_A)], -1).reshape(shapes["decision"])
        params = {"sample": sample, "decision": decision}
        traj = process.enumerate_trajectories(policy, params, static=True)
        traj = traj.replace(ref_logp=log_probs(policy, reference, traj))
        found = component_gradients(policy, params, traj, lambda logp, t: reinforce(logp, t, reward_kl=BETA))
        law = jnp.exp(process.tables(log_probs(policy, params, traj)).log_sample[0][0, 0])
        return found.decision["decision"][..., 0].ravel() / (law * jax.nn.sigmoid(D_A) * jax.nn.sigmoid(-D_A))

    return integrate(velocity, jnp.zeros(A))[:, jnp.asarray([0, A - 1])]


def separation(t: np.ndarray, beta: float) -> np.ndarray:
    """C(t) in closed form from C(0) = C_ref = 0 and dr = 1: (1 - exp(-beta t))/beta, or t."""
    return t if beta == 0 else -np.expm1(-beta * t) / beta


def measure() -> dict[str, Any]:
    """Paths of the library's natural and plain gradients, velocities in closed form, and flows under a KL penalty."""
    with exact():
        start = np.asarray(logit(jnp.asarray(STARTS)))
        paths = np.asarray(run(jax.vmap(lambda x: integrate(natural, x)), start))
        plain = np.asarray(run(jax.vmap(lambda x: integrate(lambda y: 8 * gradient(y), x)), start))
        points = jnp.asarray(paths[:, :: STEPS // SHOWN].reshape(-1, 3))
        found = np.asarray(run(jax.vmap(natural), points))
        stated = np.asarray(jnp.stack(rates(*jax.nn.sigmoid(points).T), -1))
        kept = np.asarray(unlikely(jax.nn.sigmoid(plain[..., 1])) + unlikely(jax.nn.sigmoid(plain[..., 2])))
        flows = {L: np.asarray(run(lambda L=L: penalised(L))) for L in LENGTHS}
    times = np.linspace(0.0, TIME, STEPS + 1)
    apart = {L: flow[:, 0] - flow[:, 1] for L, flow in flows.items()}
    velocity_error = float(np.abs(found - stated).max())
    separation_error = max(float(np.abs(x - separation(times, BETA)).max()) for x in apart.values())
    unit = float(np.abs(paths[:, :, 1] - paths[:, :, 2] - (start[:, 1] - start[:, 2])[:, None] - times).max())
    threshold = {L: float(flow[-1].mean()) for L, flow in flows.items()}
    shown = slice(None, None, STEPS // SHOWN)

    def listed(x: np.ndarray) -> list[Any]:
        return np.asarray(jax.nn.sigmoid(x[:, shown])).tolist()

    return {
        "summary": (
            f"Natural gradient flow of reward from {len(STARTS)} starts to t = {TIME:g}: logit a - logit b grows at "
            f"unit rate everywhere (largest deviation {unit:.1g}) and p rises from every start. Under beta = {BETA:g} "
            f"of trajectory KL right and wrong come {apart[LENGTHS[0]][-1]:.3f} nats apart whatever the length "
            f"(largest difference from the closed form {separation_error:.1g}), while their mean log-odds of STOP go "
            f"from {threshold[LENGTHS[0]]:+.2f} at L = {LENGTHS[0]} to {threshold[LENGTHS[-1]]:+.2f} at L = "
            f"{LENGTHS[-1]}: length moves the threshold."
        ),
        # RK4 with these steps errs by some 1e-9 in the paths; velocities are compared without it.
        "worst_error": velocity_error,
        "separation_error": separation_error,
        "unit_rate_error": unit,
        "first_integral_drift": float(np.abs(kept - kept[:, :1]).max() / np.abs(kept).max()),
        "paths": listed(paths),
        "plain": listed(plain),
        "times": times[shown].tolist(),
        "with_kl": [
            {"length": L, "apart": apart[L][shown].tolist(), "mean": flow[shown].mean(axis=1).tolist()}
            for L, flow in flows.items()
        ],
    }


COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "black")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (3, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D")


def _arrow(ax: Any, path: np.ndarray, colour: str) -> None:
    """On the path, half way."""
    ends = {"xy": path[len(path) // 2 + 1], "xytext": path[len(path) // 2]}
    ax.annotate("", **ends, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.2})


def draw(data: dict[str, Any], fig: Figure) -> None:
    """Left and middle: projections of the flow. Right: what length does to it under a KL penalty."""
    left, middle, right = fig.subplots(1, 3)
    for path, plain, colour in zip(data["paths"], data["plain"], COLOURS, strict=False):
        p, a, b = np.asarray(path).T
        for ax, xy in ((left, np.stack([b, a], -1)), (middle, np.stack([p, a - b], -1))):
            ax.plot(*xy.T, color=colour, linewidth=1.3)
            ax.plot(*xy[0], color=colour, marker="o", markersize=5, markerfacecolor="white")
            _arrow(ax, xy, colour)
        left.plot(np.asarray(plain)[:, 2], np.asarray(plain)[:, 1], color=colour, linestyle=DASHES[2], linewidth=1.3)
    left.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    left.plot([], [], color="black", label="natural gradient")
    left.plot([], [], color="black", linestyle=DASHES[2], label="gradient in logits")
    left.set(xlim=(0, 1), ylim=(0, 1), xlabel="b, P(STOP | wrong)", ylabel="a, P(STOP | right)", title="reward, T = 2")
    left.legend(loc="lower right")
    middle.set(xlim=(0, 1), ylim=(-0.8, 1), xlabel="p, P(right)", ylabel="a - b", title="the same flow")
    times = np.asarray(data["times"])
    fine = np.linspace(0, times[-1], 100)
    for i, row in enumerate(data["with_kl"]):
        look: dict[str, Any] = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": DASHES[0]}
        line_and_markers(right, look, (fine, separation(fine, BETA)), (times[i::4], row["apart"][i::4]))
        right.plot(times, row["mean"], color=COLOURS[i], linestyle=DASHES[1], linewidth=1.3)
        right.plot([], [], linewidth=1.3, label=f"L = {row['length']}", **look)
    right.set(xlabel="time t", ylabel="log-odds of STOP (nats)", title=f"KL in the reward, beta = {BETA:g}")
    right.legend(loc=(0.36, 0.33), fontsize=7, title="markers: right less wrong\ndashed: their mean", title_fontsize=7)
