"""The symbolic proofs hold, can fail, and are about the library's objects: same numbers at a rational point."""

import json
import math
from dataclasses import replace
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy
from sympy.polys.rings import ring

from dsjax.attribution import component_gradients, energies
from dsjax.errors import InputError
from dsjax.evaluation.accounting import final_accuracy
from dsjax.objectives import own_token_kl, reinforce, sft, trajectory_kl
from dsjax.objectives.advantages import advantage
from dsjax.objectives.aggregation import aggregate
from dsjax.policies import SaturatedPolicy, log_probs
from dsjax.process import DecisionSamplingProcess
from proofs_check.symbolic import SYMBOLIC, run_symbolic
from proofs_check.symbolic.process import DECIDE, SAMPLE, Context, Draw, Model, Shape, generic, name
from proofs_check.symbolic.proof import Proofs, SymbolicProof, evaluate, is_refuted, is_zero
from proofs_check.symbolic.runner import decide
from proofs_check.theorems.t03_conservation import symbolic as t03
from proofs_check.theorems.t10_accounting import symbolic as t10
from proofs_check.theorems.t12_grpo import symbolic as t12
from proofs_check.theorems.t12_grpo.numeric import factor

# Sums of at most a few hundred terms of size <= 1 (1e-13); energies through an eigendecomposition (`numerics.ENERGY`).
SUM, ENERGY = 1e-12, 1e-9
WANTED = {"T1", "T3", "T4", "T5", "T6", "T8", "T10", "T12", "T16", "T17", "T19", "T20", "T21", "T22", "T23"}
X, Y = ring("x y", sympy.ZZ)[1:]
TOY = SymbolicProof(
    "X", "one number", "x, y", "[x + y]^2", lambda: [(X + Y) ** 2 - X**2 - 2 * X * Y - Y**2], lambda: [X - Y], "x = y"
)


def toy(**changes):
    return decide(replace(TOY, **changes))


@pytest.mark.parametrize("theorem", SYMBOLIC)
def test_every_proof_holds_and_every_control_is_refuted(theorem):
    report = run_symbolic([theorem])
    assert report.ok, report.failures()
    assert {p.theorem for p in report.rows} == {theorem}


def test_the_statements_that_need_a_symbolic_proof_have_one():
    assert SYMBOLIC.keys() >= WANTED


def test_wrong_identities_fail():
    assert toy().ok
    off = toy(residual=lambda: [X - X, X * Y - 1])
    assert not off.proved
    assert off.failed == 1
    assert not toy(residual=list).proved
    assert not toy(control=list).ok
    assert not toy(control=lambda: [X - X, 0]).control_rejected


def test_identities_are_declared_where_they_are_computed():
    proofs = Proofs("X")

    @proofs.identity("second", "x, y", shape="all", control="off", power=3)
    @proofs.identity("first", "x, y", *(2, 4), shape="to the {}", control="off", power=1)
    def residual(n=2, *, power=2):
        return [X**n - X ** (n if power == 2 else power)]

    assert [(p.theorem, p.claim, p.shape) for p in proofs] == [
        ("X", "first", "to the 2"),
        ("X", "first", "to the 4"),
        ("X", "second", "all"),
    ]
    assert all(decide(p).ok for p in proofs)


def test_only_normal_forms_are_decided():
    x = sympy.Symbol("x")
    for undecided in (sympy.sin(x) ** 2 + sympy.cos(x) ** 2 - 1, x - x, 0.0):
        with pytest.raises(TypeError, match="no normal form"):
            is_zero(undecided)


def test_evaluation_is_exact():
    point = {"x": Fraction(1, 3), "y": Fraction(-2, 7)}
    assert evaluate(X**2 * Y - 5 * X + 1, point) == Fraction(1, 9) * Fraction(-2, 7) - Fraction(5, 3) + 1
    assert evaluate(3, point) == 3
    _, z, w = sympy.polys.fields.field("z w", sympy.ZZ)
    assert evaluate(z / (z + w), {"z": Fraction(1, 3), "w": Fraction(1, 2)}) == Fraction(2, 5)
    assert not is_refuted(0)


@pytest.mark.parametrize("ids", [["T99"], [], ["T1", "T14"]])
def test_unknown_theorem(ids):
    with pytest.raises(InputError) as error:
        run_symbolic(ids)
    assert error.value.field == "theorem"
    assert error.value.allowed == ", ".join(SYMBOLIC)


def test_report():
    seen = []
    report = run_symbolic(["T10", "T9", "T10"], progress=seen.append)
    assert [p.done for p in seen] == list(range(1, len(seen) + 1))
    assert seen[-1].done == seen[-1].total == len(report.rows)
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["ok"] is True
    assert [p["theorem"] for p in data["proofs"]] == ["T10"] * len(SYMBOLIC["T10"]) + ["T9"]
    for row in data["proofs"]:
        assert row["status"] == "proved"
        assert row["control_rejected"] is True
        assert row["seconds"] >= 0
        assert all(row[key] for key in ("claim", "shape", "free_symbols", "control", "identities"))


def test_a_failure_says_what_failed():
    wrong, passed = toy(residual=lambda: [X], control=lambda: [0]).failures()
    assert "1 of 1 identities do not hold: [x + y]^2" in wrong
    assert "control not rejected: x = y" in passed


# The same objects as the library's.


def simplex(rng, size):
    """Random probabilities with small denominators."""
    parts = [Fraction(int(n)) for n in rng.integers(1, 10, size)]
    return [p / sum(parts) for p in parts]


def draw_point(found, rng):
    """Rational values for all symbols of a `generic` process, by name."""
    process, point = found.process, {}
    for head in found.policies:
        for x in process.contexts:
            law = simplex(rng, process.choices(x))
            point |= {name(head, x, v): p for v, p in enumerate(law[:-1])}
    point |= {f"mu_{q}": p for q, p in enumerate(simplex(rng, process.shape.prompts)[:-1])}
    for symbol in found.symbol:
        if symbol not in point:
            point[symbol] = Fraction(int(rng.integers(1, 10)), 10)
    return point


def place(shape, logit):
    """(table, index) of a logit in the parameters of `SaturatedPolicy`."""
    x, u = logit
    V, A = shape.vocabulary, shape.vocabulary**shape.length

    def code(digits):
        return sum(d * V**i for i, d in enumerate(reversed(digits)))

    past = sum(A**t for t in range(len(x.history)))
    past += sum(code(y) * A**i for i, y in enumerate(reversed(x.history)))
    if x.component == DECIDE:
        return "decision", (x.prompt, past, code(x.prefix), u)
    return "sample", (x.prompt, past, sum(V**j for j in range(len(x.prefix))) + code(x.prefix), u)


def tables(shape, vector):
    """The library's layout of one number a logit."""
    policy = SaturatedPolicy(shape.prompts, shape.vocabulary, shape.length, shape.rounds, shape.history)
    out = {key: np.zeros(size) for key, size in policy.shapes().items()}
    for logit, value in vector.items():
        key, index = place(shape, logit)
        out[key][index] = float(value)
    return {key: jnp.asarray(table) for key, table in out.items()}


def logits(found, head, point):
    """log probabilities as the library's parameters."""
    policy = found.policies[head]
    law = {(x, u): evaluate(policy[x][u], point) for x, u in found.process.logits}
    return tables(found.process.shape, {z: math.log(p) for z, p in law.items()})


def library(found, point):
    """(process, policy) of the library at a point."""
    shape = found.process.shape
    table = [
        [float(evaluate(found.process.reward[q, y], point)) for y in found.process.answers]
        for q in range(shape.prompts)
    ]
    process = DecisionSamplingProcess.create(
        prompt_law=jnp.asarray([float(evaluate(mu, point)) for mu in found.process.prompt_law]),
        reward_table=jnp.asarray(table),
        vocabulary=shape.vocabulary,
        length=shape.length,
        rounds=shape.rounds,
        cost=float(evaluate(found.process.cost, point)),
        history=shape.history,
    )
    return process, SaturatedPolicy.for_process(process)


def at(point, x):
    return float(evaluate(x, point))


def assert_same(shape, measured, exact, point, factor=1.0):
    """A pytree of the library against a factor times a vector of elements."""
    stated = tables(shape, {z: factor * at(point, g) for z, g in exact.items()})
    for key in stated:
        np.testing.assert_allclose(measured[key], stated[key], rtol=0, atol=SUM)


def assert_energies(measured, proved, point):
    np.testing.assert_allclose(measured, (at(point, proved.sample), at(point, proved.decision)), atol=ENERGY)


def part(vector, component):
    return {z: g for z, g in vector.items() if z[0].component == component}


TIED = (Shape(2, 2, 2), Shape(2, 1, 3, prompts=2), Shape(3, 1, 2, history="none"))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", TIED, ids=str)
def test_return_values_gradient_and_energies_are_the_librarys(shape):
    found = generic(shape)
    point = draw_point(found, np.random.default_rng(1))
    process, policy = library(found, point)
    params = logits(found, "pi", point)
    model, returns = found.model, found.process.returns()

    def measure(params):
        traj = process.enumerate_trajectories(policy, params)
        gradients = component_gradients(policy, params, traj, reinforce)
        dense = process.tables(log_probs(policy, params, traj))
        exact = (process.expected_return(dense), process.values(dense), process.visitation(dense))
        return traj, gradients, energies(policy, params, traj, gradients), *exact

    traj, gradients, (E_s, E_d), J, values, visitation = jax.jit(measure)(params)
    G = model.reinforce(returns)
    assert_same(shape, gradients.sample, part(G, SAMPLE), point)
    assert_same(shape, gradients.decision, part(G, DECIDE), point)

    np.testing.assert_allclose(traj.weight, [at(point, p) for p in model.laws], atol=SUM)
    np.testing.assert_allclose(traj.reward, [at(point, f) for f in returns], atol=SUM)
    assert float(J) == pytest.approx(at(point, model.mean(returns)), abs=SUM)

    exact = model.values(returns)
    for x in found.process.visits:
        t, past = len(x.history), 0
        for y in x.history:
            past = past * len(found.process.answers) + found.process.answers.index(y)
        if x.component == SAMPLE and not x.prefix:
            assert float(values.V[t][x.prompt, past]) == pytest.approx(at(point, exact.at[x]), abs=SUM)
        if x.component == DECIDE:
            y = found.process.answers.index(x.prefix)
            assert float(values.U[t][x.prompt, past, y]) == pytest.approx(at(point, exact.at[x]), abs=SUM)
            assert float(visitation.answer[t][x.prompt, past, y]) == pytest.approx(at(point, model.reach[x]), abs=SUM)
            for d, library_side in enumerate((values.advantage_stop, values.advantage_resample)):
                A = at(point, exact.advantage(Draw(x, d)))
                assert float(library_side[t][x.prompt, past, y]) == pytest.approx(A, abs=SUM)
    if shape.history == "full":
        assert_energies((E_s, E_d), t03.energies(found, returns, exact), point)


@pytest.mark.usefixtures("x64")
def test_kl_gradients_and_energies_are_the_librarys():
    shape = Shape(2, 2, 2)
    found = generic(shape, policies=("pi", "ref"), log_ratios=True, rewards=lambda q, y: 0, cost=False)
    point = draw_point(found, np.random.default_rng(2))
    laws = found.policies
    for x, u in found.process.logits:
        ratio = evaluate(laws["pi"][x][u], point) / evaluate(laws["ref"][x][u], point)
        point[name("l", x, u)] = Fraction(math.log(ratio))
    process, policy = library(found, point)
    params, reference = logits(found, "pi", point), logits(found, "ref", point)

    def measure(params, reference):
        traj = process.enumerate_trajectories(policy, params)
        traj = traj.replace(ref_logp=log_probs(policy, reference, traj))
        gradients = component_gradients(policy, params, traj, trajectory_kl)
        own = component_gradients(policy, params, traj, own_token_kl)
        return gradients, energies(policy, params, traj, gradients), own

    gradients, measured, own_token = jax.jit(measure)(params, reference)
    model, lam = found.model, found.model.log_ratios()
    assert_same(shape, gradients.total, {z: -g for z, g in model.reinforce(lam).items()}, point)
    assert_energies(measured, t03.energies(found, lam, model.values(lam)), point)
    own = model.gradient(lambda i, d: -model.log_ratio[found.process.context(d.visit)][d.choice])
    assert_same(shape, own_token.total, own, point)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("weight", [1, 3])
def test_sft_gradient_and_energies_are_the_librarys(weight):
    shape = Shape(3, 1, 2, prompts=2, history="none")
    found = generic(shape, policies=("pi", "demonstrator"))
    point = draw_point(found, np.random.default_rng(3))
    process, policy = library(found, point)
    nu = Model(found.process, found.policies["demonstrator"])
    counts = nu.counts()
    N = sum((weight if x.component == DECIDE else 1) * at(point, sum(row)) for x, row in counts.items())
    g = found.model.gradient(lambda i, d: weight if d.visit.component == DECIDE else 1, nu.laws)

    def measure(params, demonstrator):
        demos = process.enumerate_trajectories(policy, demonstrator)
        gradients = component_gradients(policy, params, demos, partial(sft, decision_weight=float(weight)))
        return gradients, energies(policy, params, demos, gradients)

    gradients, measured_energies = jax.jit(measure)(logits(found, "pi", point), logits(found, "demonstrator", point))
    assert_same(shape, gradients.total, g, point, 1 / N)
    if weight == 1:
        E: dict[str, float] = {SAMPLE: 0.0, DECIDE: 0.0}
        for x, row in counts.items():
            n = at(point, sum(row))
            for k, p in zip(row, found.model.policy[x], strict=True):
                E[x.component] += (at(point, k) - n * at(point, p)) ** 2 / (n * at(point, p)) / N**2
        np.testing.assert_allclose(measured_energies, list(E.values()), atol=ENERGY)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size", [2, 5])
def test_group_normalised_gradient_is_the_librarys(size):
    """c_G(p) grad p with the library's exact law of the advantage, and square roots put in for the symbols."""
    shape = t12.SHAPE
    found = generic(shape, rewards=lambda q, y: int(y == (0,)), cost=False, extra=t12.roots(size))
    point = draw_point(found, np.random.default_rng(4))
    process, policy = library(found, point)
    params = logits(found, "pi", point)

    def grpo(logp, traj):
        A = advantage("group_normalised", traj.reward, traj, group_size=size, epsilon=0.0)
        return aggregate(-A[:, None] * logp, traj, "sequence_sum")

    p = found.model.mean(found.process.returns())
    c = float(factor(jnp.asarray([at(point, p)]), size)[0])

    def measure(params):
        return component_gradients(policy, params, process.enumerate_trajectories(policy, params), grpo)

    gradients = jax.jit(measure)(params)
    gradient = {z: found.model.logit_derivative(p, z) for z in found.process.logits}
    assert_same(shape, gradients.total, gradient, point, c)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_accounting_is_the_librarys(rounds):
    p, a, b = Fraction(3, 10), Fraction(7, 10), Fraction(2, 10)
    rho = 1 - p * a - (1 - p) * b
    stated = t10.accuracy(p, a, b, rho ** (rounds - 1))
    assert float(final_accuracy(float(p), float(a), float(b), rounds)) == pytest.approx(float(stated), abs=SUM)


def test_the_derivation_is_the_derivative_along_weights():
    """`logit_derivative` on a polynomial of probabilities against w d/dw on the same function of weights."""
    found = generic(Shape(2, 1, 3, history="none"))
    x = found.process.contexts[0]
    assert x == Context(SAMPLE, 0, (), ())
    J = found.model.mean(found.process.returns())
    point = draw_point(found, np.random.default_rng(5))
    constant = {s: value for s, value in point.items() if not s.startswith("pi_s")}
    _, *w = sympy.polys.fields.field([f"w_{v}" for v in range(3)], sympy.QQ)
    weights = {f"w_{v}": Fraction(2, v + 3) for v in range(3)}
    law = [v / sum(w) for v in w]
    inside = 0 * w[0]
    for powers, coefficient in J.terms():
        term = w[0] ** 0 * int(coefficient)
        for symbol, power in zip(map(str, J.ring.symbols), powers, strict=True):
            if symbol in constant:
                value = constant[symbol] ** power
                term = term * sympy.QQ(value.numerator, value.denominator)
            else:
                term = term * law[int(symbol[-1])] ** power
        inside = inside + term
    here = {**constant, **{name("pi", x, v): weights[f"w_{v}"] / sum(weights.values()) for v in range(2)}}
    for u in range(3):
        along = w[u] * inside.diff(w[u])
        top, bottom = (sum(_term(t, weights) for t in part.terms()) for part in (along.numer, along.denom))
        assert top / bottom == evaluate(found.model.logit_derivative(J, (x, u)), here)


def _term(term, weights):
    powers, coefficient = term
    value = Fraction(int(coefficient.numerator), int(coefficient.denominator))
    for v, power in enumerate(powers):
        value *= weights[f"w_{v}"] ** power
    return value
