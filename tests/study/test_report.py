"""The report of the study on arrays whose numbers are known, and what it does with hypotheses."""

from __future__ import annotations

import numpy as np
import pytest

from dsjax.errors import InputError
from dsjax.evaluation.accounting import kept
from dsjax.evaluation.components import component_statistics, rates
from dsjax.evaluation.deciders import accuracy_at_rate
from dsjax.statistics import Bootstrap, Estimate, Resampled
from dsjax.study.chains import found_in, predicted
from dsjax.study.measures import TERMS, Evaluated, Measures
from dsjax.study.report import PARTS, SCALES, TRAINING, _curves, _gradients, _of_gradients, _of_split, judged, rounded
from dsjax.study.tables import tables
from dsjax.tasks import PrefixSums

MODELS = ("base", "sft-self", "rloo")
N, K, T = 60, 5, 3
EXACT = 1e-12


def evaluated(seed: int) -> Evaluated:
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
    return Measures([evaluated(0), evaluated(1)], request.param, 50)


def test_one_seed_is_what_the_evaluation_of_it_says(measures):
    one = measures.seeds[0]
    alone = Measures([one], measures.history, 50)
    for name in MODELS:
        statistics = component_statistics(one.right_of(name), one.stop(name, name), measures.history)
        for key, expected in Bootstrap(N, 50).estimates(statistics).items():
            found = alone.of_model(key, name).estimate()
            assert (found.value, found.low, found.high) == (expected.value, expected.low, expected.high)
            assert found.seeds == (found.value,)


def test_the_parts_of_a_difference_add_up_to_it(measures):
    def value(scale, sampler, decider):
        return measures.swapped(sampler, decider, scale).values

    for scale in ("accuracy", "log_odds"):
        sampler, decider, total = (measures.part(scale, part, "rloo", "sft-self").values for part in PARTS)
        np.testing.assert_allclose(sampler + decider, total, rtol=0, atol=EXACT)
        difference = (measures.of_model(scale, "rloo") - measures.of_model(scale, "sft-self")).values
        np.testing.assert_allclose(total, difference, rtol=0, atol=EXACT)
        assert np.abs(total).min() > 1e-3
        # The mean over both orders, written out; they differ.
        first = value(scale, "rloo", "sft-self") - value(scale, "sft-self", "sft-self")
        last = value(scale, "rloo", "rloo") - value(scale, "sft-self", "rloo")
        np.testing.assert_allclose(sampler, (first + last) / 2, rtol=0, atol=EXACT)
        assert np.abs(first - last).max() > 1e-3
    accuracy = measures.of_model("accuracy", "rloo").values
    np.testing.assert_allclose(measures.of_model("log_odds", "rloo").values, np.log(accuracy / (1 - accuracy)))


def models_of(right, stop):
    """One seed of the models `base` and `rloo`; verdicts by sampler, P(STOP) by (sampler, decider)."""
    with np.errstate(divide="ignore"):
        return Measures([Evaluated(("base", "rloo"), right, np.empty(0), np.empty(0), np.log(stop))], "none", 50)


def test_what_stays_has_no_part_for_sure():
    """Paired resamples: the interval of an unchanged component has no width."""
    rng = np.random.default_rng(2)
    right, stop = rng.random((2, 40, 3)) < 0.5, rng.random((2, 2, 40, 3))
    same = models_of(right, np.stack([stop[:, 0], stop[:, 0]], axis=1))
    for scale in ("accuracy", "log_odds", "three_terms"):
        found = same.part(scale, "decider", "rloo", "base").estimate()
        assert (found.value, found.low, found.high) == (0, 0, 0)
        assert abs(same.part(scale, "sampler", "rloo", "base").values[0]) > 1e-3


def test_the_limit_identity_at_hand_computed_values():
    """base: p = 1/2, a = 0.6, b = 0.3; rloo: p = 3/4, a = 0.9, b = 0.1."""
    right = np.array([[[True, False]] * 4, [[True, True]] * 3 + [[False, False]]])
    stops = ((0.6, 0.3), (0.9, 0.1))
    found = models_of(right, np.stack([[np.where(r, *stops[d]) for d in (0, 1)] for r in right]))
    parts = [found.part("limit", part, "rloo", "base").values[0] for part in PARTS]
    assert parts == pytest.approx([np.log(3), np.log(9 / 2), np.log(27 / 2)], abs=EXACT)


def test_a_sampler_that_moves_between_wrong_answers_is_mix_and_no_gain_of_the_decider():
    """T22's case: P(STOP) = .5 for right answers, .9 and .1 for wrong ones, whose frequencies change places."""
    right = np.array([[[True, True]] * 5 + [[False, False]] * 5] * 2)
    stops = np.array(
        [[[0.5] * 2] * 5 + [[often] * 2] * 4 + [[seldom] * 2] for often, seldom in ((0.9, 0.1), (0.1, 0.9))]
    )
    found = models_of(right, np.stack([stops, stops], axis=1))
    terms = {part: found.part("three_terms", part, "rloo", "base").values[0] for part in SCALES["three_terms"]}
    moved = np.log(0.74 / 0.26)
    assert terms == pytest.approx({"sampler": 0, "mix": moved, "decider": 0, "total": moved}, abs=EXACT)
    # The scale `limit` keeps its meaning: there the decider that nobody touched has it all.
    assert found.part("limit", "decider", "rloo", "base").values[0] == pytest.approx(moved, abs=EXACT)


def test_three_terms_are_those_of_the_limit_and_those_of_real_swaps(measures):
    def odds(sampler, decider, e):
        p, a, b = (f(np.ones((1, N)))[0] for f in rates(*measures._counted(e, sampler, decider)).values())
        return np.log(p / (1 - p)), np.log(a / b)

    old, new = "sft-self", "rloo"
    terms = {part: measures.part("three_terms", part, new, old).values for part in SCALES["three_terms"]}
    for i, e in enumerate(measures.seeds):
        gains = [odds(s, new, e)[1] - odds(s, old, e)[1] for s in (old, new)]
        assert terms["decider"][i] == pytest.approx(np.mean(gains), abs=EXACT)
        whole = sum(odds(new, new, e)) - sum(odds(old, old, e))
        assert terms["total"][i] == pytest.approx(whole, abs=EXACT)
        assert sum(terms[part][i] for part in TERMS) == pytest.approx(whole, abs=EXACT)


@pytest.mark.parametrize("correct", [False, True], ids=["nothing correct", "nothing wrong"])
def test_log_odds_that_do_not_exist_are_none(correct):
    """Stop probabilities that do not add up to 1 exactly: 1 - accuracy is then 1e-16 and no measure of anything."""
    stop = np.random.default_rng(4).random((50, 4)).astype(np.float32).astype(float)
    accuracy = kept(np.ones((50, 4)), stop).right
    dust = stop[accuracy < 1][:1]
    assert len(dust)
    found = models_of(np.full((2, 20, 4), correct), np.broadcast_to(dust, (2, 2, 20, 4)))
    assert not found.of_model("log_odds", "base").estimate()
    for part in ("sampler", "decider"):
        for scale in ("log_odds", "limit", "three_terms"):
            nothing = found.part(scale, part, "rloo", "base").estimate().to_json()
            # A decider has no b, or no a; logit(p) is infinite.
            assert [nothing[name] for name in ("value", "low", "high", "t_low", "p")] == [None] * 5
        assert found.part("accuracy", part, "rloo", "base").values[0] == pytest.approx(0, abs=EXACT)


def test_a_decider_that_never_keeps_a_wrong_answer_has_no_limit():
    """b = 0: log(a/b) is infinite, the measured accuracies are not."""
    rng = np.random.default_rng(5)
    right, stop = rng.random((2, 40, 3)) < 0.5, rng.random((2, 2, 40, 3))
    stop[1, 1] = right[1]
    found = models_of(right, stop)
    assert not found.part("limit", "decider", "rloo", "base").estimate()
    assert found.part("log_odds", "decider", "rloo", "base").values[0] > 0


def test_headroom_of_judgement_is_what_an_oracle_gets_more(measures):
    for i, e in enumerate(measures.seeds):
        right, stop = e.right_of("rloo"), e.stop("rloo", "rloo")
        more = right.any(axis=1).mean() - kept(right, stop).right.mean()
        assert measures.of_model("headroom", "rloo").values[i] == pytest.approx(more, abs=EXACT)
        assert more > 0.01


def test_a_decider_keeps_its_skill_on_the_answers_of_the_base(measures):
    # Whoever says STOP with two values, the higher for right answers, has AUROC 1 on any answers.
    assert measures.of_model("auroc_on_base", "rloo").values == pytest.approx([1.0, 1.0])
    for i, one in enumerate(measures.seeds):
        decided = one.stop("base", "base") if measures.history == "none" else one.stop("base", "base")[:, :1]
        expected = accuracy_at_rate(one.right_of("rloo"), one.stop("rloo", "rloo"), float(1 - decided.mean()))
        found = measures.of_model("accuracy_at_base_rate", "rloo").values[i]
        assert found == pytest.approx(expected(np.ones((1, N)))[0], abs=EXACT)


def test_chains_are_counted_by_their_first_answer_and_predicted_from_the_demonstrations():
    task = PrefixSums(4, 0, 3)
    problems = task.evaluation_problems("in", 4)
    first = np.asarray(problems.prompt)[:, :1]
    off = np.array([[0], [0], [0], [1]])
    answers = np.stack([first, (first + off) % 3])[..., None]  # the base, and one that is off the chain once
    right = answers[..., 0] == np.asarray(problems.answer)
    own = np.log(np.array([[[0.5], [0.5], [0.5], [0.5]], [[0.1], [0.2], [0.3], [0.9]]]))
    found = found_in(task, "in", [Evaluated(("base", "rloo"), right, answers, own, own[None])], 10)
    assert {m: round(of["stop_on_chain"].value, 12) for m, of in found.items()} == {"base": 0.5, "rloo": 0.2}
    assert [found[m]["first_on_chain"].value for m in found] == [1.0, 0.75]
    assert not found["base"]["right_off_chain"]  # no first answer is off the chain
    assert found["rloo"]["right_off_chain"].value == float(right[1, 3, 0])
    known = predicted(0.25, task)
    assert known["imitation"] == pytest.approx(0.5)
    assert known["rft_round"] == pytest.approx(2 / 3)  # odds 1/3 times 3: half of it chains
    assert (known["stop"], known["sampler"], known["decider"]) == pytest.approx((0.5, 0.25, 0.25))


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
    found = Resampled.of_seeds(values)
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
    found = Resampled.of_seeds([0.10, 0.12, 0.17])
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
    assert rounded(Estimate(1 / 3)) == {"value": 0.333333, "low": None, "high": None}
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
    nothing = Resampled.of_seeds([np.nan, np.nan])
    find = {("none", "in"): measures.named, ("none", "training"): lambda data: nothing}
    split = _of_split(measures, MODELS, [])
    entry = {"splits": {"in": split}, "split_names": {"in": "inside"}, "seeds": [0, 1]}
    data = {"hypotheses": judged(asked, find, {"none": MODELS}), "histories": {"none": entry}}
    found, models, terms, deciding = tables(rounded(data))
    better = split["differences"]["rloo - base"]["accuracy"]
    student = f"[{better.t_low:+.3f}, {better.t_high:+.3f}]"
    assert found["rows"][0][:4] == ["A", "better", f"{better:+.3f}", student]
    assert found["rows"][1] == ["B", "undefined", "-", "-", "-", "not defined"]
    assert models["title"] == "history none, inside; 2 trainings"
    row = dict(zip(models["columns"], models["rows"][2], strict=True))
    of = split["measures"]["rloo"]
    assert (row[""], row["p"], row["accuracy"]) == ("rloo", f"{of['p'].value:.3f}", f"{of['accuracy']:.3f}")
    three = split["accounting"]["rloo - base"]["three_terms"]
    assert terms["rows"][-1] == ["rloo - base", *(f"{three[part]:+.2f}" for part in ("sampler", "mix", "decider"))]
    assert deciding["rows"][2] == ["rloo", f"{of['regret']:.3f}", f"{of['headroom']:.3f}"]
