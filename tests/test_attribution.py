"""Component gradients, Fisher energies and shares, against closed forms, finite differences and brute force."""

from __future__ import annotations

import functools
import re
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import dsjax
from dsjax.attribution import (
    Attribution,
    ComponentGradients,
    _by_context,
    attribute,
    coefficients,
    component_gradients,
    energy,
    euclidean,
    fisher,
    gains,
    inner,
    loss_of,
    natural_step,
    pull_back_through,
    ratio,
)
from dsjax.errors import InputError
from dsjax.objectives import OBJECTIVES, resolve
from dsjax.objectives.critic import exact_values
from dsjax.objectives.surrogate import Named
from dsjax.policies import SharedPolicy, log_probs
from dsjax.trajectories import Trajectories
from proofs_check import instances
from tests import oracle
from tests.cases import MIDDLE, SMALL, TIGHT, Case, Shape, enumerated, layout, make_case, random_params, toy_of


def mixed(logp_BxS: jax.Array, traj: Trajectories):
    """Nonlinear, and a product of both components: d/d(one) holds the other."""
    s = jnp.sum(jnp.where(traj.sample_mask, logp_BxS, 0.0), -1)
    d = jnp.sum(jnp.where(traj.decision_mask, logp_BxS, 0.0), -1)
    return jnp.sum(traj.weight * jnp.tanh(s) * (d + d**2)), jnp.sum(traj.weight)


OPTIONS = {
    "reinforce": ("reinforce", {"baseline": "batch_mean", "token_kl": 0.3, "kl_estimator": "k3"}),
    "rloo_clipped": ("rloo_clipped", {"clip": 0.9}),
    "grpo": ("grpo", {"group_size": 3, "clip": 0.1}),
    "gspo": ("gspo", {"group_size": 3, "clip": 0.1, "clip_high": 0.1}),
    "cispo": ("cispo", {"group_size": 3}),
    "ppo": ("ppo", {"gae_lambda": 0.9}),
    "reinforce_plus_plus": ("reinforce_plus_plus", {"reward_kl": 0.2}),
    "biased_per_turn": ("biased_per_turn", {}),
    "surrogate": ("surrogate", {"ratio": "sequence", "entropy": 0.1}),
    "sft": ("sft", {"decision_weight": 2.0}),
    "sft_sequence_sum": ("sft_sequence_sum", {}),
    "rft": ("rft", {}),
    "dft": ("dft", {}),
    "dpo": ("dpo", {}),
    "ipo": ("ipo", {}),
    "simpo": ("simpo", {}),
    "kto": ("kto", {}),
    "distillation": ("distillation", {"discount": 0.5}),
    "dppo_tv": ("dppo_tv", {"group_size": 3, "clip": 0.05}),
    "entropy_bonus": ("entropy_bonus", {}),
    "own_token_kl": ("own_token_kl", {"estimator": "k2", "aggregation": "token_mean"}),
    "trajectory_kl": ("trajectory_kl", {}),
    "own, nonlinear": (f"{__name__}:mixed", {}),
}


def test_every_registered_objective_is_covered():
    """A named setting of the surrogate is no other function: one for each of its clip rules that differs in form."""
    functions = {name for name, objective in OBJECTIVES.items() if not isinstance(objective, Named)}
    assert functions <= {name for name, _ in OPTIONS.values()}


class Setting:
    """A process with a saturated or a shared policy, and an off-policy exact law with all log-probs recorded."""

    def __init__(self, kind: str):
        case = make_case(MIDDLE, seed=6, binary=True)
        rng = np.random.default_rng(1)
        if kind == "shared":
            size = sum(int(np.prod(s)) for s in case.policy.shapes().values())
            self.policy = SharedPolicy(case.policy, jnp.asarray(rng.normal(size=(size, 5)) / 5**0.5))
            self.params, old, ref = (jnp.asarray(rng.normal(size=5)) for _ in range(3))
            old = self.params + 0.2 * old
        else:
            self.policy, self.params = case.policy, case.params
            old, ref = random_params(case.policy, rng), random_params(case.policy, rng)
            old = jax.tree.map(lambda x, y: x + 0.2 * y, self.params, old)

        @jax.jit
        def build(process, old, ref):
            traj = process.enumerate_trajectories(self.policy, old)
            return traj.replace(ref_logp=log_probs(self.policy, ref, traj), values=exact_values(traj))

        self.traj = build(case.process, old, ref)


@functools.lru_cache
def setting(kind: str) -> Setting:
    with jax.enable_x64(True):
        return Setting(kind)


def by_stop_gradient(policy, params, traj, objective) -> ComponentGradients:
    """The definition: log-probs split by mask, the other component's behind a stop-gradient, then jax.grad."""

    def loss(p, live):
        logp = log_probs(policy, p, traj)
        return loss_of(objective, jnp.where(live, logp, jax.lax.stop_gradient(logp)), traj)

    s, d = (jax.tree.map(jnp.negative, jax.grad(loss)(params, m)) for m in (traj.sample_mask, traj.decision_mask))
    return ComponentGradients(s, d, loss(params, traj.mask))


@pytest.mark.parametrize(
    ("kind", "name"),
    # On separate parameters there is less that can go wrong: one objective of each form.
    [("shared", name) for name in OPTIONS] + [("saturated", n) for n in ("reinforce", "grpo", "sft", "dpo", "gspo")],
)
def test_components_add_up_and_match_the_stop_gradient_definition(x64, name, kind):
    """G_s + G_d = G for every objective, linear or not, on separate and on shared parameters."""
    s, f = setting(kind), resolve(*OPTIONS[name])

    @jax.jit
    def compute(params, traj):
        split = component_gradients(s.policy, params, traj, f)
        whole = jax.grad(lambda p: loss_of(f, log_probs(s.policy, p, traj), traj))(params)
        return split, by_stop_gradient(s.policy, params, traj, f), jax.tree.map(jnp.negative, whole)

    split, defined, whole = (ravel(x) for x in jax.device_get(compute(s.params, s.traj)))
    # 40 trajectories of 6 tokens: some hundred terms of order 1, in two orders of adding up.
    np.testing.assert_allclose(split["sample"] + split["decision"], whole[""], rtol=0, atol=TIGHT)
    for part in ("sample", "decision"):
        np.testing.assert_allclose(split[part], defined[part], rtol=0, atol=TIGHT)
        assert np.abs(split[part]).max() > 1e-4
    assert split["loss"] == pytest.approx(defined["loss"], abs=TIGHT)


def ravel(x) -> dict:
    if not isinstance(x, ComponentGradients):
        return {"": np.asarray(ravel_pytree(x)[0])}
    parts = {"sample": x.sample, "decision": x.decision}
    return {**{k: np.asarray(ravel_pytree(v)[0]) for k, v in parts.items()}, "loss": float(x.loss)}


def test_saturated_components_live_on_their_own_table(x64):
    s = setting("saturated")
    g = jax.jit(lambda p, t: component_gradients(s.policy, p, t, resolve("rloo")))(s.params, s.traj)
    assert not np.asarray(g.sample["decision"]).any()
    assert not np.asarray(g.decision["sample"]).any()
    np.testing.assert_array_equal(g.total["sample"], g.sample["sample"])


@pytest.mark.parametrize("objective", ["reinforce", "rloo"])
def test_reward_gradient_three_ways(x64, objective):
    """Closed form, autodiff through the objective, central differences of the brute-force J."""
    case = make_case(MIDDLE, cost=0.1, seed=7)
    traj, f = enumerated(case.process, case.policy, case.params), resolve(objective)
    g = jax.jit(lambda p, t: component_gradients(case.policy, p, t, f))(case.params, traj)
    closed = oracle.return_gradient(case.toy, oracle.enumerate_toy(case.toy))
    measured = {"sample": layout(g.sample)["sample"], "decision": layout(g.decision)["decision"]}
    tables, h = layout(case.params), 1e-5
    for name in ("sample", "decision"):
        np.testing.assert_allclose(measured[name], closed[name], rtol=0, atol=TIGHT)
        for index in [(0, 0), (3, 1), (7, 0)]:
            J = []
            for step in (h, -h):
                moved = {k: v.copy() for k, v in tables.items()}
                moved[name][index] += step
                toy = oracle.with_logits(case.toy, moved["sample"], moved["decision"])
                J.append(oracle.expected_return(oracle.enumerate_toy(toy)))
            # Truncation h^2/6 ~ 2e-11, cancellation eps/h ~ 2e-11.
            assert (J[0] - J[1]) / (2 * h) == pytest.approx(measured[name][index], abs=1e-9)


def brute_fisher(case: Case, brute: list[oracle.Trajectory]) -> dict[str, np.ndarray]:
    """E[(sum of a component's scores)(same)^T] over trajectories, score by score, on-policy."""
    tables = {"sample": case.toy.sample, "decision": case.toy.decision}
    out = {}
    for name in tables:
        position = {context: i for i, context in enumerate(case.toy.layout(name))}
        width = len(next(iter(tables[name].values())))
        F = np.zeros((len(position) * width,) * 2)
        for w in brute:
            score = np.zeros((len(position), width))
            for f in w.factors:
                if f.component == name:
                    score[position[f.context]] -= tables[name][f.context]
                    score[position[f.context], f.choice] += 1
            F += w.probability * np.outer(score, score)
        out[name] = F
    return out


FISHER_SHAPES = [SMALL, Shape(2, 2, 2, 1, "full"), Shape(3, 1, 2, 2, "none")]


@pytest.mark.parametrize("shape", FISHER_SHAPES)
def test_fisher_is_the_second_moment_of_the_scores(x64, shape):
    """Per token in closed form, and as E[score score^T] of whole trajectories (martingale: cross terms vanish)."""
    case = make_case(shape, seed=8)
    traj, brute = enumerated(case.process, case.policy, case.params), oracle.enumerate_toy(case.toy)
    F_s, F_d = jax.jit(functools.partial(fisher, case.policy))(case.params, traj)
    # ravel_pytree orders keys alphabetically: decide first.
    n = case.params["decision"].size
    closed, scores = oracle.fisher(case.toy, brute), brute_fisher(case, brute)
    for F, block, name in ((F_s, slice(n, None), "sample"), (F_d, slice(0, n), "decision")):
        np.testing.assert_allclose(F[block, block], closed[name], rtol=0, atol=TIGHT)
        np.testing.assert_allclose(F[block, block], scores[name], rtol=0, atol=TIGHT)
        assert np.abs(np.asarray(F)).sum() == pytest.approx(np.abs(np.asarray(F[block, block])).sum(), abs=TIGHT)


@pytest.mark.parametrize("history", ["none", "full"])
@pytest.mark.parametrize("network", [False, True])
def test_fisher_of_known_tokens_is_that_of_all_trajectories(x64, history, network):
    """Contexts that several trajectories share are taken once where the tokens are known in a trace."""
    shape = instances.Shape(rounds=3, length=2, vocabulary=2, history=history, network=network)

    @jax.jit
    def both(key):
        instance = instances.draw(key, shape)
        known, _ = instances.enumerated(instance)
        traced = jax.tree.map(jnp.asarray, known)
        counted = _by_context(known, shape.length, past=history == "full")[2]
        assert isinstance(known.tokens, np.ndarray)
        assert counted.shape[0] < traced.weight.shape[0]
        return [fisher(instance.policy, instance.params, traj) for traj in (known, traced)]

    for a, b in zip(*both(jax.random.key(0)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-14)


def test_fisher_of_shared_parameters_is_the_pulled_back_one(x64):
    case = make_case(Shape(2, 2, 2, 1, "full"), seed=8)
    size = sum(x.size for x in case.params.values())
    features = np.random.default_rng(0).normal(size=(size, 3))
    shared, theta = SharedPolicy(case.policy, jnp.asarray(features)), np.array([0.3, -0.5, 1.0])
    decide, sample = np.split(features @ theta, [case.params["decision"].size])
    toy = oracle.with_logits(case.toy, sample, decide)
    traj = enumerated(case.process, shared, jnp.asarray(theta))
    F_s, F_d = jax.jit(functools.partial(fisher, shared))(jnp.asarray(theta), traj)
    closed = oracle.fisher(toy, oracle.enumerate_toy(toy))
    Phi_d, Phi_s = np.split(features, [case.params["decision"].size])
    np.testing.assert_allclose(F_s, Phi_s.T @ closed["sample"] @ Phi_s, rtol=0, atol=20 * TIGHT)  # |Phi|^2 ~ 10
    np.testing.assert_allclose(F_d, Phi_d.T @ closed["decision"] @ Phi_d, rtol=0, atol=20 * TIGHT)


def saturated_energy(toy: oracle.Toy, brute, gradient: dict[str, np.ndarray]) -> dict[str, float]:
    """sum over contexts and choices of g^2 / (rho pi): the pseudo-inverse of a softmax Fisher matrix, closed form."""
    mass = oracle.context_mass(toy, brute)
    return {n: float((g**2 / (mass[n][:, None] * toy.arrange(n, getattr(toy, n)))).sum()) for n, g in gradient.items()}


def attributed(case: Case, traj: Trajectories, name: str) -> Attribution:
    return jax.jit(lambda p, t: attribute(case.policy, p, t, resolve(name)))(case.params, traj)


@pytest.mark.parametrize("shape", [SMALL, MIDDLE, Shape(3, 1, 3, 1, "none")])
def test_reward_energies(x64, shape):
    """Against the closed form, NumPy's pinv, and the sum of squared advantages with its budget Var(R)."""
    case = make_case(shape, seed=9)
    traj, brute = enumerated(case.process, case.policy, case.params), oracle.enumerate_toy(case.toy)
    out = attributed(case, traj, "reinforce")
    gradient = oracle.return_gradient(case.toy, brute)
    closed, F = saturated_energy(case.toy, brute, gradient), oracle.fisher(case.toy, brute)
    # Gradients to 1e-15 over masses times probabilities of 1e-3 and more: relative error 1e-12 or better.
    for name, E in (("sample", out.energy_sample), ("decision", out.energy_decision)):
        g = gradient[name].reshape(-1)
        assert float(E) == pytest.approx(closed[name], rel=1e-10, abs=1e-15)
        assert float(E) == pytest.approx(g @ np.linalg.pinv(F[name], rcond=1e-12, hermitian=True) @ g, rel=1e-9, abs=0)
    assert float(out.share) == pytest.approx(closed["decision"] / (closed["sample"] + closed["decision"]), rel=1e-10)
    assert float(out.energy_sample + out.energy_decision) <= oracle.variance(brute) + TIGHT
    if shape.history == "full":  # every context is visited once at most: the energies are squared advantages
        nodes = oracle.conditional(brute)
        squared = {"sample": 0.0, "decision": 0.0}
        for w in brute:
            for f in w.factors:
                after = nodes.mean[oracle.child(f, f.choice)]
                squared[f.component] += w.probability * (after - nodes.mean[f.node]) ** 2
        assert float(out.energy_sample) == pytest.approx(squared["sample"], rel=1e-10)
        assert float(out.energy_decision) == pytest.approx(squared["decision"], rel=1e-10)


def test_sft_energy_is_the_chi_square_distance(x64):
    """Demonstrations with their own law nu: E_c = sum over contexts of nu(x) chi2(nu(.|x) || pi(.|x)) / N^2."""
    case = make_case(MIDDLE, seed=10)
    demo = random_params(case.policy, np.random.default_rng(3))
    demo_toy = toy_of(case.toy, demo)
    brute = oracle.enumerate_toy(demo_toy)
    traj = enumerated(case.process, case.policy, demo)
    out = attributed(case, traj, "sft")
    N = sum(w.probability * len(w.factors) for w in brute)
    mass = oracle.context_mass(demo_toy, brute)
    for name, E in (("sample", out.energy_sample), ("decision", out.energy_decision)):
        nu, pi = (toy.arrange(name, getattr(toy, name)) for toy in (demo_toy, case.toy))
        chi2 = ((nu - pi) ** 2 / pi).sum(-1)
        assert float(E) == pytest.approx((mass[name] * chi2).sum() / N**2, rel=1e-10)
    # Coefficients: 1/N on every token; the block share is the decisions' part of the expected tokens.
    for name in ("factor_sample", "factor_decision", "token_sample", "token_decision"):
        assert float(getattr(out, name)) == pytest.approx(1 / N, rel=1e-12), name
    decisions = sum(w.probability * sum(f.component == "decision" for f in w.factors) for w in brute)
    assert float(out.block_share) == pytest.approx(decisions / N, rel=1e-12)


def test_energy_does_not_depend_on_a_linear_parametrisation(x64):
    """theta -> M theta leaves both energies as they are; the Euclidean share moves."""
    case = make_case(Shape(2, 1, 2, 1, "none"), seed=11)
    flat, _ = ravel_pytree(case.params)
    M = np.random.default_rng(5).normal(size=(flat.size, flat.size)) + 2 * np.eye(flat.size)
    traj = enumerated(case.process, case.policy, case.params)
    run = jax.jit(lambda policy, p, t: attribute(policy, p, t, resolve("rloo")))
    plain = run(case.policy, case.params, traj)
    moved = run(SharedPolicy(case.policy, jnp.asarray(M)), jnp.linalg.solve(jnp.asarray(M), flat), traj)
    # Condition number ~ 10 to 100, squared in the Fisher matrix, times eps and a safety factor of 100.
    tolerance = 100 * np.linalg.cond(M) ** 2 * np.finfo(float).eps
    assert tolerance < 1e-8
    for name in ("energy_sample", "energy_decision", "share"):
        assert float(getattr(moved, name)) == pytest.approx(float(getattr(plain, name)), rel=tolerance, abs=0)
    assert abs(float(moved.euclidean_share) - float(plain.euclidean_share)) > 1e-3


def test_energy_of_nearly_collinear_features(x64):
    """Two pairs of features, each but for an angle of `near` the same direction: against rational arithmetic.

    Of the two parts of g, that along the difference of the features makes up half of the energy.
    """

    def solved(g, F):
        (a, b, d), (x, y) = (map(Fraction, (F[0, 0], F[0, 1], F[1, 1])), map(Fraction, g))
        return (x * x * d - 2 * x * y * b + y * y * a) / (a * d - b * b)

    run = jax.jit(energy)
    for near in (1e-2, 1e-4, 1e-6):
        features = np.array([[1.0, 0.0], [1.0, near]])
        parts = [scale * features @ np.diag([0.21, 0.09]) @ features.T for scale in (1.0, 1e-9)]
        gradients = [scale * features @ np.array([0.3, 0.2]) for scale in (1.0, 1e-9)]
        F, g = np.zeros((4, 4)), np.concatenate(gradients)
        F[:2, :2], F[2:, 2:] = parts
        expected = float(sum(map(solved, gradients, parts)))
        # Condition 4/near^2; a factor 16 for P = 4 and a few roundings.
        tolerance = 64 * np.finfo(float).eps / near**2
        assert float(run(jnp.asarray(g), jnp.asarray(F))) == pytest.approx(expected, rel=tolerance, abs=0)
        strong = sum(x[0] ** 2 / f[0, 0] for x, f in zip(gradients, parts, strict=True))
        assert strong < (1 - 10 * tolerance) * expected


def test_rarely_visited_contexts_still_count(x64):
    """A context of probability 1e-18 keeps its energy: a rank cut relative to the largest eigenvalue would lose it."""
    rho, pi = np.array([1.0, 1e-18]), np.array([0.3, 0.7])
    F, g = np.zeros((4, 4)), np.zeros(4)
    for i, mass in enumerate(rho):
        F[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = mass * (np.diag(pi) - np.outer(pi, pi))
        g[2 * i : 2 * i + 2] = mass * pi * (np.array([1.0, 0.0]) - pi[0]) * 1e9**i
    expected = float((g**2 / np.repeat(rho, 2) / np.tile(pi, 2)).sum())
    assert float(energy(jnp.asarray(g), jnp.asarray(F))) == pytest.approx(expected, rel=1e-10)
    first_only = float((g[:2] ** 2 / pi).sum())
    assert first_only < 0.6 * expected


def test_nothing_to_learn_gives_no_energy_and_a_share_of_nan(x64):
    """Reward 0 everywhere: energies 0, and shares and cosine NaN, because there is nothing to share out."""
    case = make_case(MIDDLE, seed=12)
    traj = enumerated(case.process, case.policy, case.params)
    out = attributed(case, traj.replace(reward=0 * traj.reward), "reinforce")
    for name in ("energy_sample", "energy_decision", "norm_sample", "norm_decision", "token_sample", "factor_sample"):
        assert float(getattr(out, name)) == 0
    for name in ("share", "euclidean_share", "cosine", "block_share"):
        assert np.isnan(float(getattr(out, name)))


def test_a_single_round_has_no_decisions(x64):
    case = make_case(Shape(2, 2, 1, 2, "none"), seed=13)
    traj = enumerated(case.process, case.policy, case.params)
    out = attributed(case, traj, "rloo")
    assert float(out.share) == float(out.euclidean_share) == float(out.energy_decision) == 0
    assert float(out.energy_sample) > 0
    assert np.isnan(float(out.token_decision))


def test_euclidean_columns(x64):
    g = ComponentGradients({"a": jnp.asarray([3.0, 0.0])}, {"a": jnp.asarray([2.0, 2.0])}, jnp.asarray(0.0))
    out = {k: float(v) for k, v in euclidean(g).items()}
    assert out["norm_sample"] == 3
    assert out["norm_decision"] == pytest.approx(8**0.5)
    assert out["euclidean_share"] == pytest.approx(8 / 17)
    assert out["cosine"] == pytest.approx(6 / (3 * 8**0.5))
    assert float(inner(g.sample, g.decision)) == 6
    assert np.isnan(float(ratio(jnp.asarray(1.0), jnp.asarray(0.0))))
    assert float(jax.grad(lambda x: ratio(x, jnp.asarray(0.0)))(jnp.asarray(1.0))) == 0


def test_pull_back_takes_any_map_and_any_component(x64):
    """From log-probs themselves: the coefficients, split by mask; `both` is their sum."""
    s = setting("shared")
    logp, f = jnp.asarray(s.traj.old_logp), resolve("rloo")
    run = jax.jit(
        lambda x, t: (coefficients(f, x, t), pull_back_through(lambda y: y, x, t, f, ("decision", "both", "sample")))
    )
    c, (loss, (d, both, sample)) = run(logp, s.traj)
    np.testing.assert_array_equal(both, c)
    np.testing.assert_array_equal(d, np.where(s.traj.decision_mask, c, 0.0))
    np.testing.assert_array_equal(sample, np.where(s.traj.sample_mask, c, 0.0))
    assert float(loss) == pytest.approx(float(loss_of(f, logp, s.traj)), abs=TIGHT)
    with pytest.raises(InputError, match="component: received 'decider'; allowed: both, sample, decision"):
        pull_back_through(lambda y: y, logp, s.traj, f, ("decider",))


def test_nothing_above_is_imported():
    """Objectives and attribution know nothing of what is built on them, not even late."""
    library = Path(dsjax.__file__).parent
    above = r"^\s*(?:from|import) dsjax\.(?:rollouts|atlas|evaluation|training|study|figures|cli)\b"
    for path in (library / "attribution.py", *(library / "objectives").glob("*.py")):
        assert not re.findall(above, path.read_text(), re.MULTILINE), path.name


def test_natural_step_solves_and_brings_the_energy(x64):
    """F x = G on a Fisher matrix of rank 3 whose rows differ in size by 1e4, and a parameter that nothing moves."""
    rng = np.random.default_rng(0)
    A = rng.normal(size=(6, 3)) * np.array([1.0, 1e-4, 1.0, 1e-2, 1.0, 0.0])[:, None]
    F, u = A @ A.T, rng.normal(size=(2, 6))
    G_s, G_d = ({"a": jnp.asarray(g[:4]), "b": jnp.asarray(g[4:])} for g in u @ F)
    G = ComponentGradients(G_s, G_d, jnp.zeros(()))
    x = natural_step(G.total, jnp.asarray(F))
    flat = np.concatenate([x["a"], x["b"]])
    np.testing.assert_allclose(F @ flat, (u @ F).sum(0), rtol=0, atol=1e-12)  # condition 1e3 after scaling
    parts = [float(part) for part in gains(G, x)]
    stated = [float(g @ F @ u.sum(0)) for g in u]
    assert parts == pytest.approx(stated, rel=1e-10)
    assert sum(parts) == pytest.approx(float(energy(G.total, jnp.asarray(F))), rel=1e-10)
