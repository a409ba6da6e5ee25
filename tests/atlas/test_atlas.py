"""The structured exact law against enumeration, and what the atlas says about well-known objectives."""

from __future__ import annotations

import csv
import io
import json
import re
from math import comb
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.atlas import rows as atlas
from dsjax.atlas.classes import FILLER
from dsjax.atlas.laws import ROUNDS, demonstrated, enumerate_at, gauss_binomial, on_policy, standard_scenario, structure
from dsjax.atlas.measure import measure
from dsjax.atlas.rows import ENTRIES, compute
from dsjax.atlas.table import reading, table, to_csv, to_json
from dsjax.attribution import attribute, signal_to_noise
from dsjax.cli.atlas import entries_with
from dsjax.cli.main import main
from dsjax.errors import InputError
from dsjax.figures import draw
from dsjax.objectives import OBJECTIVES, resolve
from dsjax.objectives.aggregation import aggregate
from tests.cli.plain import assert_plain

NAMES = (
    "REINFORCE",
    "GRPO",
    "SAPO",
    "SFT",
    "KL loss, k1",
    "KL loss, k2",
    "trajectory KL",
    "DPO",
    "per-turn baseline",
)
LENGTHS = (1, 8, 32)


def coupled(logp_BxS, traj):
    """Not affine in single filler tokens: (sum of squared log-probs) x log-prob, which the long-answer law blurs."""
    square = jax.lax.stop_gradient(jnp.sum(jnp.where(traj.mask, logp_BxS**2, 0.0), -1, keepdims=True))
    return aggregate(-square * logp_BxS, traj, "sequence_sum")


@pytest.fixture(scope="module")
def rows():
    entries = {name: ENTRIES[name] for name in NAMES} | {"mine": coupled}
    return {row.name: row for row in compute(entries, LENGTHS)}


@pytest.mark.parametrize("trials", [0, 2, 3, 4, 9, 1022])
def test_gauss_rule_has_the_moments_of_the_binomial(trials):
    p, nodes = 0.3, 4
    at, weight = gauss_binomial(trials, p, nodes)
    assert len(at) == len(weight) == nodes
    assert (weight >= 0).all()
    k = np.arange(trials + 1)
    law = np.array([comb(trials, int(i)) * p**i * (1 - p) ** (trials - i) for i in k]) if trials < 50 else None
    centre, scale = trials * p, max(np.sqrt(trials * p * (1 - p)), 1.0)
    for power in range(2 * nodes):
        found = float(weight @ ((at - centre) / scale) ** power)
        if law is not None:
            np.testing.assert_allclose(found, law @ ((k - centre) / scale) ** power, atol=1e-12 * 4**power)
        elif power < 4:  # standardised moments of a large binomial in closed form
            np.testing.assert_allclose(found, [1, 0, 1, (1 - 2 * p) / scale][power], atol=1e-9)


@pytest.mark.parametrize("demonstrations", [False, True])
def test_structure_is_a_law(demonstrations, x64):
    scenario = standard_scenario()
    for length in (1, 2, 3, 40, 1024):
        x = structure(scenario, scenario.demonstrator if demonstrations else on_policy(scenario), length)
        np.testing.assert_allclose(float(x.weight.sum()), 1.0, atol=1e-13)


@pytest.mark.parametrize(("name", "options", "shown"), [("reinforce", {}, False), ("sft", {}, True), ("dft", {}, True)])
def test_energies_norms_and_noise_agree_with_enumeration(name, options, shown, x64):
    scenario, length = standard_scenario(), 3
    laws = {False: on_policy(scenario), True: scenario.demonstrator}
    objective = resolve(name, options)
    x, own = (structure(scenario, laws[d], length) for d in (shown, False))
    found = jax.jit(lambda x, own: measure(objective, scenario, x, own, 4))(x, own)
    e = enumerate_at(scenario, length)
    traj = demonstrated(scenario, e.traj, length) if shown else e.traj
    true = jax.jit(attribute, static_argnums=(0, 3))(e.policy, e.params, traj, objective)
    noise = jax.jit(signal_to_noise, static_argnums=(0, 3))(e.policy, e.params, traj, objective)
    pairs = [
        (found.energy_sample, true.energy_sample),
        (found.energy_decision, true.energy_decision),
        (found.square_sample, true.norm_sample**2),
        (found.square_decision, true.norm_decision**2),
        (found.block_share, true.block_share),
        (found.noise.moment_sample, noise.moment_sample),
        (found.noise.moment_decision, noise.moment_decision),
    ]
    # Energies pass through an eigendecomposition on the enumerated side: condition times eps, far below 1e-9.
    for a, b in pairs:
        np.testing.assert_allclose(float(a), float(b), rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_long_answer_law_agrees_with_enumeration(rows, name):
    # DPO is smooth in the count, not polynomial: three nodes leave an error, which shrinks with their number.
    assert rows[name].gap < (1e-8 if name == "DPO" else 1e-10)


def test_an_objective_that_the_law_blurs_is_found_out(rows):
    assert rows["mine"].gap > 1e-3
    assert "differ from enumeration" in reading(rows["mine"], 8)


def test_reward_share_does_not_depend_on_length(rows):
    shares = list(rows["REINFORCE"].shares.values())
    np.testing.assert_allclose(shares, shares[0], rtol=1e-12)
    assert rows["REINFORCE"].unbiased
    assert set(rows["REINFORCE"].verdicts.values()) == {"balanced", "unbalanced"}  # block share falls by counting
    assert rows["REINFORCE"].verdicts["block"] == "unbalanced"


def test_verdicts_and_measured_slopes_agree_with_the_classes(rows):
    for row in rows.values():
        assert row.verdicts["token"] == ("unbalanced" if row.classes.coefficients == "never" else "balanced"), row.name
        tail = atlas.slope(row.shares)["tail"]
        assert (tail is None) == (row.classes.filler == "undefined"), row.name
        if tail is not None and row.classes.filler != "coupled":
            assert (tail < -0.5) == (row.classes.filler == "per token"), row.name
            assert row.verdicts["energy"] == ("unbalanced" if tail < -0.5 else "balanced"), row.name
    assert {row.classes.filler for row in rows.values()} == set(FILLER)
    assert rows["mine"].classes == ("always", "coupled")


def test_sft_and_own_token_kl_starve_the_decision(rows):
    for name in ("SFT", "KL loss, k2"):
        tail = atlas.slope(rows[name].shares)["tail"]
        assert tail is not None
        assert -1.0 <= tail < -0.6
        assert rows[name].verdicts["energy"] == "unbalanced"
    assert rows["SFT"].verdicts["token"] == "balanced"  # as even per token as reward: the conventions differ


def test_k1_in_the_loss_has_no_expected_gradient(rows):
    row = rows["KL loss, k1"]
    assert set(row.shares.values()) == {None}
    assert row.verdicts["energy"] == "undefined"
    assert row.signs["binary"] == {"states": 6, "wrong": 0, "zero": 6}
    assert "zero or undefined" in reading(row, 8)


def test_group_normalisation_and_per_turn_baselines_are_not_along_the_reward_gradient(rows):
    assert not rows["GRPO"].unbiased
    assert rows["GRPO"].signs["graded"] is not None  # the returns of the graded verifier are known to it
    assert not rows["per-turn baseline"].unbiased


def test_a_row_that_is_equal_on_policy_is_read_off_the_other(rows):
    assert rows["SAPO"].measured is rows["GRPO"].measured
    assert rows["SAPO"].to_json()["objective"] == "sapo"


def test_signs_of_the_decision_gradient(rows):
    assert rows["REINFORCE"].signs["binary"] == {"states": 6, "wrong": 0, "zero": 0}
    assert rows["KL loss, k2"].signs["binary"]["wrong"] > 0


def test_sign_errors_see_a_flipped_gradient(rows):
    m = rows["REINFORCE"].measured[0]
    flipped = m.replace(gradient=jax.tree.map(lambda g: -g, m.gradient))
    assert atlas.sign_errors(flipped, standard_scenario())["wrong"] == 6


def test_stored_forms(rows, tmp_path):
    data = json.loads(json.dumps(to_json(list(rows.values())), allow_nan=False))
    assert [row["name"] for row in data["objectives"]] == [*NAMES, "mine"]
    assert data["objectives"][-1]["objective"] == "coupled"
    assert set(data["objectives"][0]["shares"]) == {str(n) for n in LENGTHS}
    lines = list(csv.DictReader(io.StringIO(to_csv(list(rows.values())))))
    assert len(lines) == len(rows) * len(LENGTHS)
    for line, column in ((lines[0], "shares"), (lines[0], "factor_ratio"), (lines[0], "snr_decision")):
        by_length = data["objectives"][0].get(column) or data["objectives"][0]["snr"]["decision"]
        assert float(line[column]) == by_length[line["length"]]
    assert data["objectives"][1]["classes"] == {"coefficients": "on-policy", "filler": "tilted"}
    shown = table(list(rows.values()))
    assert shown.row_count == len(rows)
    assert list(shown.columns[-1].cells) == [
        "even",
        "tilted",
        "tilted",
        "1/L",
        "-",
        "1/L",
        "price",
        "coupled",
        "even",
        "coupled",
    ]
    assert list(shown.columns[-2].cells)[:4] == ["even", "on-policy", "on-policy", "even"]
    files = draw({"theory": {"atlas": data}, "histories": {}}, tmp_path)
    assert {f.name for f in files} >= {"F2_atlas.png", "F2_atlas.svg"}
    assert all(f.stat().st_size > 5000 for f in files if f.suffix != ".csv")


def test_readings_are_plain(rows):
    assert "does not vanish" in reading(rows["REINFORCE"], 32)
    assert "starve the decision" in reading(rows["SFT"], 32)
    assert "wrong way at 3 of 6 states" in reading(rows["KL loss, k2"], 32)


@pytest.mark.parametrize("lengths", [(), (0, 1), (4, 2), (1, 2048)])
def test_lengths_must_make_sense(lengths):
    with pytest.raises(InputError, match="lengths"):
        compute({"REINFORCE": ENTRIES["REINFORCE"]}, lengths)


def test_the_atlas_has_every_objective_of_the_registry():
    assert {entry.objective for entry in ENTRIES.values()} == set(OBJECTIVES) - {"surrogate"}
    for entry in ENTRIES.values():
        resolve(entry.objective, entry.options)
    assert ENTRIES["Dr.GRPO"].options["max_tokens"] == ROUNDS * (atlas.LENGTHS[-1] + 1)


def test_unknown_objectives_and_options_are_refused():
    with pytest.raises(InputError, match="objective"):
        entries_with("no_such", {}, False)
    with pytest.raises(InputError, match="beta"):
        entries_with("sft", {"beta": 1.0}, True)
    assert list(entries_with("tests.atlas.test_atlas:coupled", {}, False))[-1] == "tests.atlas.test_atlas:coupled"


def test_the_documented_example_works(tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "my_losses.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(atlas, "LENGTHS", (1, 4))
    monkeypatch.setattr("dsjax.cli.atlas.COMPARISON", ("REINFORCE",))
    command = re.search(r"^    dsjax (atlas .*)$", text, re.MULTILINE)
    assert command is not None
    arguments = command[1].replace("--length 200", "--length 3").split()
    assert main([*arguments, "--json", "atlas.json"]) == 0
    text = capsys.readouterr().out
    assert_plain(text)
    assert "with answers of 3 tokens the decision gets" in text
    rows = json.loads((tmp_path / "atlas.json").read_text())["objectives"]
    own = next(row for row in rows if row["name"] == "my_losses:shy")
    other = next(row for row in rows if row["name"] == "REINFORCE")
    assert own["factor_ratio"]["3"] == pytest.approx(0.1, rel=0.2)
    # Energy is quadratic: a tenth of the coefficient is a hundredth of the energy.
    odds = [r["shares"]["3"] / (1 - r["shares"]["3"]) for r in (own, other)]
    assert odds[0] == pytest.approx(odds[1] / 100, rel=1e-6)
