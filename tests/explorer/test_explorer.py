"""The explorer's numbers are the library's, in a real browser, and its page is fit for keyboard, phone and the dark."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax import explorer
from dsjax.atlas.laws import on_policy, standard_scenario, structure
from dsjax.atlas.measure import measure, objective_on
from dsjax.atlas.rows import ENTRIES
from dsjax.attribution import component_gradients, share
from dsjax.cli.main import main
from dsjax.evaluation import accounting, regret
from dsjax.explorer.shares import closed_form
from dsjax.io import read_json
from dsjax.numerics import compile_quickly, exact
from dsjax.objectives import reinforce
from dsjax.policies import PositionwisePolicy, log_probs
from dsjax.process import DecisionSamplingProcess
from proofs_check.theorems.t18_threshold_shift.boundary import STEPS, TIME, integrate, natural
from tests.browser import GOOD_MANNERS, MANNERS, ask, contrast, needs_browser

N = 1000
# Differences are absolute, or relative where a number exceeds 1. A push is a gradient over visits and Fisher
# information, at least .05^3 here, of sums of some hundred terms: eps x 100 x 8,000 = 2e-10. The others err by less.
TOLERANCE = 1e-9
LENGTHS = (1, 2, 3, 7, 8, 24)  # at which shares are measured anew
MEASURED = ("SFT", "GRPO", "trajectory KL")  # filler takes a part, re-weights, is a price
# A function of the page with an error planted in it: round T said to be kept by choice.
PLANTED = ("right += alive * p * (t < T ? a : 1);", "right += alive * p * a;")


def pushes(length: int, rounds: int):
    """f(settings) -> f[2] pushes per visit on STOP at a wrong and a right answer, from the library's gradient."""
    policy = PositionwisePolicy(1, 2, length, reads=1)
    right = (np.arange(2**length) >= 2 ** (length - 1)).astype(float)
    whole = DecisionSamplingProcess.create(
        prompt_law=jnp.ones(1), reward_table=jnp.asarray(right[None]), vocabulary=2, length=length, rounds=rounds
    )

    def of(p, a, b, c, token, beta, offset):
        process = whole.replace(cost=c)
        odds = jnp.log(jnp.stack([b / (1 - b), a / (1 - a)]))

        def parameters(token, odds):
            sample = jnp.broadcast_to(jnp.log(jnp.stack([1 - token, token])), (1, length, 2))
            return {"sample": sample, "decision": jnp.stack([odds, jnp.zeros_like(odds)], -1)[None]}

        params = parameters(p, odds)
        traj = process.enumerate_trajectories(policy, params)
        traj = traj.replace(ref_logp=log_probs(policy, parameters(token, odds - offset), traj))
        found = component_gradients(policy, params, traj, partial(reinforce, reward_kl=beta))
        again = p * (1 - a) + (1 - p) * (1 - b)
        visits = sum(again**t for t in range(rounds - 1)) * jnp.stack([1 - p, p])
        stop = jnp.stack([b, a])
        return found.decision["decision"][0, :, 0] / (visits * stop * (1 - stop))

    return jax.vmap(of)


def drift(p, token):
    return p * np.log(p / token) + (1 - p) * np.log((1 - p) / (1 - token))


class Cases(dict[str, tuple[list[Any], np.ndarray]]):
    """By function of the page: arguments of each call, and what the library says, f[N, K]."""


def under_kl(rng: np.random.Generator, cases: Cases, length: int, rounds: int, count: int) -> None:
    p, a, b, token = rng.uniform(0.05, 0.95, (4, count))
    c, beta, zero = rng.uniform(0, 0.5, count), rng.uniform(0.1, 2, count), np.zeros(count)
    settings = [(x, y) for x in (beta, zero) for y in (zero, zero + 1)]
    stacked = [np.concatenate(x) for x in zip(*[(p, a, b, c, token, x, y) for x, y in settings], strict=True)]
    found = np.asarray(compile_quickly(pushes(length, rounds), *stacked)(*stacked)).reshape(4, count, 2)
    taxed, offset, free = found[0], found[1], found[2]
    worth, tax = -free[:, 0], (taxed - free)[:, 0] / beta
    kappa = drift(p, token)
    turn = np.where(worth > 0, worth / tax, np.nan)
    arguments = np.stack([p, a, b, zero + rounds, c, kappa, zero + length, beta], -1).tolist()
    listed, stated = cases.setdefault("push", ([], np.zeros((0, 5))))
    both = np.concatenate([stated, np.stack([worth, tax, taxed[:, 0], taxed[:, 1], turn], -1)])
    cases["push"] = ([*listed, *arguments], both)
    if rounds > 2:
        return
    # The velocity of D is affine in D, so its path is an exponential of the measured rate.
    t, rate = rng.uniform(0, 4, count), taxed - offset
    D = taxed * -np.expm1(-rate * t[:, None]) / rate
    cases["threshold"] = (
        np.stack([p, c, kappa, zero + length, beta, t], -1).tolist(),
        np.stack([D[:, 1], D[:, 0], D[:, 1] - D[:, 0], D.mean(-1)], -1),
    )


def measured_shares(cases: Cases) -> None:
    """All that is stored, and some of it measured anew, also at lengths that are not."""
    stored = read_json(explorer.SHARES)
    calls = [([n, L], x) for n, of in stored.items() if of["form"] for L, x in of["shares"].items()]
    scenario = standard_scenario()
    laws = {True: scenario.demonstrator, False: on_policy(scenario)}
    shapes = {
        shown: jax.tree.map(lambda *x: jnp.stack(x), *(structure(scenario, law, n) for n in LENGTHS))
        for shown, law in laws.items()
    }
    for name in MEASURED:
        entry = ENTRIES[name]
        given = shapes[entry.demonstrations], shapes[False]
        program = jax.vmap(partial(measure, objective_on(entry, scenario), scenario, longest=LENGTHS[-1]))
        found = compile_quickly(lambda x, own, f=program: f(x=x, own=own), *given)(*given)
        shares = np.asarray(share(found.energy_decision, found.energy_sample))
        calls += [([name, n], x) for n, x in zip(LENGTHS, shares.tolist(), strict=True)]
        rows = [jax.tree.map(lambda x, i=i: x[i], jax.device_get(found)) for i in range(len(LENGTHS))]
        form, kept = closed_form(rows, LENGTHS, entry.demonstrations), stored[name]["form"]
        assert form is not None
        assert form["filler"] == kept["filler"]
        ratios = [np.asarray(form[part]) - kept[part] for part in ("sample", "decision")]
        assert np.abs(ratios).max() < 1e-8 * max(*kept["sample"], *kept["decision"])
        for n, x in zip(LENGTHS, shares, strict=True):
            assert stored[name]["shares"].get(str(n), x) == pytest.approx(x, rel=1e-9)
    cases["share"] = ([[n, int(L)] for (n, L), _ in calls], np.asarray([[x] for _, x in calls]))


@pytest.fixture(scope="module")
def cases() -> Cases:
    rng, out = np.random.default_rng(0), Cases()
    with exact():
        p, a, b = rng.uniform(0.02, 0.98, (3, N))
        rounds = rng.integers(1, 21, N)
        found = [accounting.kept(*x[:3], rounds=int(x[3])) for x in zip(p, a, b, rounds, strict=True)]
        out["kept"] = (np.stack([p, a, b, rounds], -1).tolist(), np.asarray(found))

        p, a, b = (
            rng.uniform(0.02, 0.98, (N, 2)),
            rng.uniform(0.02, 0.98, (N, 2, 2)),
            rng.uniform(0.02, 0.98, (N, 2, 2)),
        )
        terms = np.stack(accounting.three_terms(p.T, np.moveaxis(a, 0, -1), np.moveaxis(b, 0, -1)), -1)
        parts = []
        for i, T in enumerate(rounds.tolist()):

            def odds(s: int, d: int, i: int = i, T: int = T) -> Any:
                kept = accounting.kept(p[i, s], a[i, s, d], b[i, s, d], rounds=T)
                return accounting.log_odds(kept.right, kept.wrong)

            parts.append(accounting.shapley(odds, (0, 0), (1, 1)))
        calls = [[p[i].tolist(), a[i].tolist(), b[i].tolist(), int(rounds[i])] for i in range(N)]
        out["change"] = (calls, np.concatenate([np.asarray(parts), terms], -1))

        under_kl(rng, out, 2, 2, N // 2)
        under_kl(rng, out, 1, 4, N // 2)
        measured_shares(out)

        q, V = rng.uniform(0, 1, (2, N))
        out["regret"] = (
            np.stack([q, V], -1).tolist(),
            np.stack([regret.of_imitation(q, V), regret.of_greedy(q, V)], -1),
        )

        x = rng.uniform(0.05, 0.95, (N, 3))
        logits = np.log(x) - np.log1p(-x)
        paths = compile_quickly(jax.vmap(partial(integrate, natural)), logits)(logits)
        out["flow"] = ([[*row, TIME, STEPS] for row in x.tolist()], np.asarray(paths[:, -1]))
        velocity = compile_quickly(jax.vmap(natural), logits)(logits)
        out["rates"] = (x.tolist(), np.asarray(velocity))
    return out


SCRIPT = """(frames, cases) => {
  const run = (window) => {
    const { dsjax } = window, shares = JSON.parse(window.document.getElementById("shares").textContent);
    const share = (name, L) => [dsjax.share(shares[name].form, L)], flow = (...x) => dsjax.flow(...x).at(-1);
    const call = { ...dsjax, share, flow };
    return Object.fromEntries(Object.entries(cases).map(([name, calls]) => [name, calls.map((x) => call[name](...x))]));
  };
  const $ = (id) => frames.wide.document.getElementById(id), read = (id) => $(id).textContent;
  const set = (id, value) => { $(id).value = value; $(id).dispatchEvent(new Event("input", { bubbles: true })); };
  const drag = (kind, x, y) => {
    const box = $("flow-plane").getBoundingClientRect();
    const at = { clientX: box.left + x * box.width, clientY: box.top + y * box.height, bubbles: true };
    $("flow-plane").dispatchEvent(new PointerEvent(kind, at));
  };
  const manners = MANNERS, seen = {};
  const all = Object.fromEntries(["wide", "phone"].map((name) => [name, manners(frames[name])]));
  set("change-a1", 0.6); set("change-b1", 0.2); seen.after = read("change-after");
  set("price-L", 5); seen.wrong = read("price-wrong"); seen.gap = read("price-gap");
  set("price-L", 0); seen.same = read("price-gap");
  set("share-objective", "SFT"); set("share-L", 10); seen.share = read("share-now");
  set("regret-q", 0.5); set("regret-V", 0.75); seen.regret = read("regret-imitation");
  for (const name of Object.keys(JSON.parse(read("shares")))) { set("share-objective", name); set("share-L", 3.25); }
  drag("pointermove", 0.5, 0.5); seen.idle = [$("flow-b").value, $("flow-a").value];
  drag("pointerdown", 0.5, 0.5); drag("pointermove", 205 / 340, 60 / 250); drag("pointerup", 0, 0);
  seen.dragged = [$("flow-b").value, $("flow-a").value];
  const after = manners(frames.wide).broken;
  return { numbers: run(frames.wide), planted: run(frames.planted).kept, manners: all, seen, after };
}""".replace("MANNERS", f"({MANNERS})")


@pytest.fixture(scope="module")
def found(cases: Cases, tmp_path_factory: pytest.TempPathFactory) -> Any:
    functions = str(explorer.text("functions.js"))
    assert functions.count(PLANTED[0]) == 1
    page = explorer.html()
    pages = {"wide": (page, 1200), "phone": (page, 390), "planted": (explorer.html(functions.replace(*PLANTED)), 400)}
    return ask(tmp_path_factory.mktemp("browser"), pages, SCRIPT, {name: calls for name, (calls, _) in cases.items()})


def gap(found: Any, stated: np.ndarray) -> float:
    """Largest difference, relative where the library's number exceeds 1; infinite where one of them is no number."""
    read = np.asarray(found, float)
    assert read.shape == stated.shape
    both = np.isnan(read) & np.isnan(stated)
    difference = np.where(both, 0.0, np.abs(read - stated) / np.maximum(1.0, np.abs(stated)))
    return float(np.where(np.isnan(difference), np.inf, difference).max())


@needs_browser
def test_numbers_of_the_page_are_the_librarys(cases, found):
    gaps = {name: gap(found["numbers"][name], stated) for name, (_, stated) in cases.items()}
    assert set(gaps) == {"kept", "change", "push", "threshold", "share", "regret", "flow", "rates"}
    assert max(gaps.values()) < TOLERANCE, gaps
    assert gap(found["planted"], cases["kept"][1]) > 1e-3  # the control: an error is seen


@needs_browser
def test_page_fits_a_phone_and_needs_no_mouse(found):
    assert found["manners"] == {"wide": GOOD_MANNERS, "phone": GOOD_MANNERS}
    assert found["after"] == []


@needs_browser
def test_sliders_and_dragging_move_what_is_shown(found):
    seen = found["seen"]
    accuracy = accounting.final_accuracy(0.5, 0.6, 0.2, 3)
    assert seen["after"] == f"{100 * float(accuracy):.1f} %"
    beta, kappa = 0.1, 10**-1.1
    assert seen["wrong"] == f"{beta * 32 * kappa - 0.55:+.3f} (to {'STOP' if beta * 32 * kappa > 0.55 else 'RESAMPLE'})"
    assert seen["gap"] == seen["same"]  # length moves the threshold alone
    assert seen["share"].endswith(" at L = 1024")
    assert seen["regret"] == f"{regret.of_imitation(np.asarray(0.5), np.asarray(0.75)):.3g}"
    assert seen["idle"] == ["0.6", "0.3"]
    assert [float(x) for x in seen["dragged"]] == pytest.approx([(205 - 54) / 268, (210 - 60) / 200], abs=0.006)


def test_page_asks_no_network_and_survives_no_script_in_its_data():
    page = explorer.html()
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|//\w+\.\w+/|@import|url\(", page)
    assert page.count("</script>") == page.count("<script") == 2
    for section in ("change", "price", "share", "regret", "flow"):
        assert page.count(f"<section id={section}>") == 1
    assert page.count("<b>You see</b>") == page.count("<b>Try</b>") == 5


def test_colours_can_be_read_by_day_and_by_night():
    light, dark = re.findall(r":root \{(.*?)\}", explorer.text("look.css"), re.DOTALL)
    for scheme in (light, dark):
        colours = dict(re.findall(r"--(\w+): (#\w+)", scheme))
        for name in ("ink", "soft", "link", "bad", "good"):
            assert contrast(colours[name], colours["paper"]) >= 4.5, name
            assert contrast(colours[name], colours["card"]) >= 4.5, name
        for name in ("sampler", "decider", "third"):  # lines
            assert contrast(colours[name], colours["paper"]) >= 3, name
    assert contrast("#000", "#ffffff") == pytest.approx(21)


def test_every_objective_of_the_atlas_is_stored():
    stored = read_json(explorer.SHARES)
    assert list(stored) == list(ENTRIES)
    without = {name for name, of in stored.items() if of["form"] is None}
    assert without == {name for name, of in stored.items() if of["filler"] in ("coupled", "undefined")}


def test_the_command_writes_the_page(tmp_path, capsys):
    assert main(["explore", "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == explorer.html()
    assert main(["explore", "--out", str(tmp_path)]) == 2
    assert "out: received" in capsys.readouterr().err
