"""The report of the study on arrays whose numbers are known, and what it does with hypotheses."""

from __future__ import annotations

import numpy as np
import pytest

from dsjax.errors import InputError
from dsjax.evaluation.components import component_estimates
from dsjax.evaluation.deciders import accuracy_at_rate
from dsjax.statistics import Replicated
from dsjax.study.measures import Evaluated, Measures
from dsjax.study.report import TRAINING, _curves, _gradients, _of_gradients, _of_split, judged, rounded
from dsjax.study.tables import tables

MODELS = ("base", "sft-self", "rloo")
N, K, T = 60, 5, 3
EXACT = 1e-12


def training(seed: int) -> Evaluated:
    """Samplers of rising accuracy; deciders of rising skill; `rloo` alone decides well."""
    rng = np.random.default_rng(seed)
    right = np.stack([rng.random((N, K)) < p for p in (0.4, 0.5, 0.6)])
    answers = np.where(right, 0, rng.integers(1, 5, size=right.shape)).astype(np.int8)[..., None]
    own = np.stack([np.where(right[i], 0.6 + 0.1 * i, 0.5 - 0.15 * i) for i in range(3)])
    log_stop = np.stack(
        [[np.log(np.where(right[s, :, :T], 0.6 + 0.1 * d, 0.5 - 0.15 * d)) for d in range(3)] for s in range(3)]
    )
    return Evaluated(MODELS, right, answers, np.log(own), log_stop)


@pytest.fixture(scope="module", params=["none", "full"])
def measures(request):
    return Measures([training(0), training(1)], request.param, 50)


def test_one_training_is_what_the_evaluation_of_it_says(measures):
    one = measures.trainings[0]
    alone = Measures([one], measures.history, 50)
    for i, name in enumerate(MODELS):
        right, log_stop = one.right[i, :, :T], one.log_stop[i, i]
        expected = component_estimates(right, log_stop, 50, history=measures.history)
        for key in ("p", "a", "b", "youden", "auroc", "accuracy", "gain", "rounds"):
            assert alone.of_model(key, name).estimate()["value"] == pytest.approx(expected[key]["value"], abs=EXACT)


def test_the_parts_of_a_difference_add_up_to_it(measures):
    for scale, whole in (("accuracy", "accuracy"), ("log_odds", "log_odds")):
        parts = [measures.part(scale, part, "rloo", "sft-self").values for part in ("sampler", "decider")]
        total = measures.part(scale, "total", "rloo", "sft-self").values
        difference = (measures.of_model(whole, "rloo") - measures.of_model(whole, "sft-self")).values
        np.testing.assert_allclose(parts[0] + parts[1], total, rtol=0, atol=EXACT)
        np.testing.assert_allclose(total, difference, rtol=0, atol=EXACT)
    np.testing.assert_allclose(
        measures.swapped("rloo", "rloo").values, measures.of_model("accuracy", "rloo").values, rtol=0, atol=EXACT
    )


def test_a_decider_keeps_its_skill_on_the_answers_of_the_base(measures):
    # Whoever says STOP with two values, the higher for right answers, has AUROC 1 on any answers.
    assert measures.of_model("auroc_on_base", "rloo").values == pytest.approx([1.0, 1.0])
    for i, one in enumerate(measures.trainings):
        decided = one.stop("base", "base") if measures.history == "none" else one.stop("base", "base")[:, :1]
        expected = accuracy_at_rate(one.rights()["rloo"], one.stop("rloo", "rloo"), float(1 - decided.mean()))
        found = measures.of_model("accuracy_at_base_rate", "rloo").values[i]
        assert found == pytest.approx(expected(np.ones((1, N)))[0], abs=EXACT)


def hypothesis(**fields):
    return {
        "id": "H",
        "text": "",
        "history": "none",
        "split": "in",
        "measure": "accuracy",
        "arm": "rloo",
        "against": "base",
        "expect": "positive",
        **fields,
    }


def verdict(values, **fields):
    found = Replicated(np.array(values), np.repeat(np.array(values)[:, None], 20, axis=1))
    return judged([hypothesis(**fields)], {("none", "in"): lambda data: found}, {"none": set(MODELS)})[0]["verdict"]


def test_verdicts():
    assert verdict([0.1, 0.11, 0.12]) == "supported"
    assert verdict([-0.1, -0.11, -0.12]) == "contradicted"
    assert verdict([-0.1, -0.11, -0.12], expect="negative") == "supported"
    assert verdict([0.1, -0.11, 0.12]) == "open"
    assert verdict([0.1, np.nan, 0.12]) == "not defined"
    assert verdict([0.1]) == "not defined"
    assert verdict([0.001, 0.0, -0.001], expect="equivalent", margin=0.02) == "supported"
    assert verdict([0.1, 0.11, 0.12], expect="equivalent", margin=0.02) == "contradicted"
    assert verdict([0.03, 0.0, -0.03], expect="equivalent", margin=0.02) == "open"


def test_many_hypotheses_are_corrected_together():
    found = Replicated(np.array([0.10, 0.12, 0.17]), np.ones((3, 20)))
    find, models = {("none", "in"): lambda data: found}, {"none": set(MODELS)}
    alone = judged([hypothesis()], find, models)[0]
    assert alone["verdict"] == "supported"
    many = judged([hypothesis(id=f"H{i}") for i in range(9)], find, models)
    assert {row["verdict"] for row in many} == {"open"}
    assert many[0]["p_holm"] == pytest.approx(9 * alone["p"])


def test_hypotheses_that_a_preset_does_not_have_are_left_out_and_bad_ones_refused():
    find, models = {("none", "in"): lambda data: {}[data["measure"]]}, {"none": set(MODELS)}
    assert judged([hypothesis(history="full"), hypothesis(arm="grpo")], find, models) == []
    for fields, words in (({"arm": "magic"}, "arm"), ({"expect": "much"}, "expect of H"), ({}, "hypothesis H")):
        with pytest.raises(InputError, match=words):
            judged([hypothesis(**fields)], find, models)
    with pytest.raises(InputError, match="text"):
        judged([{"id": "H"}], find, models)


def rows(scale: float):
    gradient = {"share": 0.2 * scale, "norm_sample": 1.0, "norm_decision": 0.5, "cosine": None}
    gradient |= {"signal_sample": 1.0, "noise_sample": 4.0, "signal_decision": scale, "noise_decision": 2.0}
    measured = {"p": 0.5, "a": 0.5, "b": 0.4, "auroc": None, "accuracy": 0.5 + 0.1 * scale}
    out = []
    for step in (0, 10):
        out.append({"kind": "gradient", "step": step, **gradient})
        out.append({"kind": "evaluation", "step": step, "split": "in", **measured})
    return out


def test_gradients_over_a_training():
    found = {"rloo": [_gradients(rows(s)) for s in (1.0, 2.0)], "base": [_gradients(rows(0.5))] * 2}
    assert found["rloo"][1] == pytest.approx(
        {
            "share": 0.4,
            "signal_to_noise_sample": 0.25,
            "signal_to_noise_decision": 1.0,
            "signal_to_noise_difference": 0.75,
        }
    )
    data = hypothesis(split=TRAINING, measure="share")
    np.testing.assert_allclose(_of_gradients(found, data).values, [0.1, 0.3])
    del data["against"]
    np.testing.assert_allclose(_of_gradients(found, data).values, [0.2, 0.4])


def test_curves_have_mean_least_and_greatest():
    found = _curves([rows(1.0), rows(2.0)])
    assert [row["step"] for row in found["gradient"]] == [0, 10]
    assert found["gradient"][0]["share"] == pytest.approx([0.3, 0.2, 0.4])
    assert found["evaluation"][0]["split"] == "in"
    assert found["evaluation"][0]["auroc"] is None


def test_numbers_are_rounded_wherever_they_stand():
    data = {"x": [1 / 3, (2, 1e-9 / 3)], "n": 123456789, "text": "0.3333333333", "none": None, "yes": True}
    expected = {"x": [0.333333, [2, 3.33333e-10]], "n": 123456789, "text": "0.3333333333", "none": None, "yes": True}
    assert rounded(data) == expected


def test_tables_say_what_the_numbers_say(measures):
    asked = [
        {"id": "A", "text": "better", "history": "none", "split": "in", "measure": "accuracy", "arm": "rloo"}
        | {"expect": "positive", "against": "base"},
        {"id": "B", "text": "undefined", "history": "none", "split": "training", "measure": "share", "arm": "rloo"}
        | {"expect": "positive"},
    ]
    nothing = Replicated(np.full(2, np.nan), np.full((2, 50), np.nan))
    find = {("none", "in"): measures.named, ("none", "training"): lambda data: nothing}
    split = _of_split(measures, MODELS, [])
    entry = {"splits": {"in": split}, "split_names": {"in": "inside"}, "seeds": [0, 1]}
    found, models = tables({"hypotheses": judged(asked, find, {"none": MODELS}), "histories": {"none": entry}})
    better = split["differences"]["rloo - base"]["accuracy"]
    assert found["rows"][0][:3] == [
        "A",
        "better",
        f"{better['value']:+.3f} [{better['low']:+.3f}, {better['high']:+.3f}]",
    ]
    assert found["rows"][0][3] == f"[{better['t_low']:+.3f}, {better['t_high']:+.3f}]"
    assert found["rows"][1] == ["B", "undefined", "-", "-", "-", "not defined"]
    assert models["title"] == "history none, inside; 2 trainings"
    row = dict(zip(models["columns"], models["rows"][2], strict=True))
    assert (row[""], row["p"]) == ("rloo", f"{split['measures']['rloo']['p']['value']:.3f}")
    assert row["accuracy"].startswith(f"{split['measures']['rloo']['accuracy']['value']:.3f} [")
