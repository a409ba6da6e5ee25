"""What the random instances of each theorem range over, read off its shapes; every gap has a reason."""

from collections import Counter
from dataclasses import replace

import pytest

from proofs_check.extremes import EXTREMES, plain
from proofs_check.registry import THEOREMS
from proofs_check.runner import DEFAULT_INSTANCES, QUICK_INSTANCES, _jobs
from proofs_check.theorems.t04_length_invariance.numeric import Recoding

DECIDES = "the statement needs a decision, and the stop of round T is forced"
BINARY = "the statement is about a binary verifier"
FREE = "the statement is about c = 0"
TABLES = "the statement is about saturated policies: what they have in common in two encodings is the law of answers"
LAWS = "laws of whole answers are all that enters: L and V set their number only, parameters do not matter"
CHAIN = "one process for each number of steps and modulus, with a policy of one parameter"
MEMORYLESS = "the statement is about attempts that do not depend on each other"
LOGPS = "coefficients are asked for at random log-probs of any size, and filler's energies at a softmax of its own"

RANGE = {
    "T": {1, 2, 3, 4},
    "L": {1, 2, 3, 4, 5, 6},
    "V": {2, 3, 4, 5},
    "several prompts": {False, True},
    "graded": {False, True},
    "cost": {False, True},
    "history": {"none", "full"},
    "policy": {"saturated", "shared", "transformer"},
}
# theorem -> field -> (what is left out, why)
EXEMPT = {
    "T4": {"policy": ({"shared", "transformer"}, TABLES)},
    **{name: {"T": ({1}, DECIDES)} for name in ("T5", "T6", "T7", "T8", "T13", "T14", "T15", "T21")},
    "T9": {"T": ({1}, DECIDES), "graded": ({True}, BINARY), "cost": ({True}, FREE)},
    "T10": {"graded": ({True}, BINARY), "cost": ({True}, FREE), "history": ({"full"}, MEMORYLESS)},
    "T16": {
        "T": ({1}, DECIDES),
        "L": ({1, 3}, LAWS),
        "V": ({5}, LAWS),
        "history": ({"full"}, MEMORYLESS),
        "policy": ({"transformer"}, LAWS),
    },
    "T17": {
        "T": ({1, 2}, DECIDES),
        "L": ({2, 3, 4, 5, 6}, CHAIN),
        "V": ({4}, CHAIN),
        "several prompts": ({False}, CHAIN),
        "graded": ({True}, CHAIN),
        "cost": ({True}, CHAIN),
        "history": ({"none"}, CHAIN),
        "policy": ({"shared", "transformer"}, CHAIN),
    },
    "T18": {
        "T": ({1}, DECIDES),
        "L": ({3, 5, 6}, LAWS),
        "V": ({5}, LAWS),
        "policy": ({"shared", "transformer"}, TABLES),
    },
    "T19": {
        "T": ({1}, DECIDES),
        "L": ({3, 6}, LAWS),
        "V": ({3, 4, 5}, LAWS),
        "history": ({"full"}, MEMORYLESS),
        "policy": ({"shared", "transformer"}, TABLES),
    },
    "T20": {
        "T": ({1}, DECIDES),
        "L": ({5, 6}, LOGPS),
        "V": ({4, 5}, LOGPS),
        "history": ({"full"}, LOGPS),
        "policy": ({"shared", "transformer"}, LOGPS),
    },
    "T22": {
        "T": ({1}, DECIDES),
        "L": ({3, 5}, LAWS),
        "V": ({4}, LAWS),
        "graded": ({True}, BINARY),
        "cost": ({True}, FREE),
        "history": ({"full"}, MEMORYLESS),
    },
    "T24": {"T": ({1}, DECIDES), "L": ({3, 6}, LAWS), "V": ({4}, LAWS)},
}
LEAST = 50  # instances on a transformer in a default run


def kind(shape):
    return "transformer" if shape.network else "shared" if shape.shared else "saturated"


def lengths(shape):
    """Answer lengths at which a shape is measured: T4 and T14 change them."""
    found = {plain(shape).length, plain(shape).length + getattr(shape, "filler", 0)}
    return found | ({shape.length} if isinstance(shape, Recoding) else set())


def covered(theorem):
    shapes = [plain(shape) for shape in theorem.shapes]
    return {
        "T": {s.rounds for s in shapes},
        "L": set().union(*map(lengths, theorem.shapes)),
        "V": {s.vocabulary for s in shapes},
        "several prompts": {s.prompts > 1 for s in shapes},
        "graded": {s.graded for s in shapes},
        "cost": {s.cost for s in shapes},
        "history": {s.history for s in shapes},
        "policy": {kind(s) for s in shapes},
    }


@pytest.mark.parametrize("name", THEOREMS)
def test_every_value_that_the_assumptions_allow(name):
    found, exempt = covered(THEOREMS[name]), EXEMPT.get(name, {})
    for field, values in RANGE.items():
        left_out, reason = exempt.get(field, (set(), "covered"))
        assert reason
        # Exemptions are exact: one that is no longer needed must go.
        assert values - found[field] == left_out, (name, field)


def test_exemptions_are_of_theorems_and_fields_that_exist():
    assert set(EXEMPT) <= set(THEOREMS)
    for fields in EXEMPT.values():
        assert all(left_out < RANGE[field] for field, (left_out, _) in fields.items())


@pytest.mark.parametrize("name", THEOREMS)
def test_a_default_run_reaches_every_shape(name):
    theorem = THEOREMS[name]
    jobs = _jobs(theorem, DEFAULT_INSTANCES, 0)
    assert DEFAULT_INSTANCES >= 1000
    assert sum(job.instances for job in jobs) == DEFAULT_INSTANCES
    assert [job.index for job in jobs] == list(range(len(theorem.shapes)))
    networks = [job.instances for job in jobs if plain(job.shape).network]
    assert sum(networks) >= (0 if "policy" in EXEMPT.get(name, {}) else LEAST)


def test_a_gap_is_seen():
    theorem = THEOREMS["T2"]
    without = replace(theorem, shapes=tuple(s for s in theorem.shapes if not plain(s).network and plain(s).length < 6))
    missing = {field: values - covered(without)[field] for field, values in RANGE.items()}
    assert missing["L"] >= {6}
    assert missing["policy"] == {"transformer"}


DECIDING = 0.8  # least part of the instances that have a decision
RUNS = {"default": (DEFAULT_INSTANCES, False), "quick": (QUICK_INSTANCES, True)}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", THEOREMS)
def test_most_instances_have_a_decision(name, run):
    instances, quick = RUNS[run]
    jobs = _jobs(THEOREMS[name], instances, 0, quick=quick)
    deciding = sum(job.instances for job in jobs if plain(job.shape).rounds >= 2)
    assert deciding >= DECIDING * instances


@pytest.mark.parametrize("name", THEOREMS)
def test_a_quick_run_has_a_decision_and_several_prompts(name):
    shape = plain(THEOREMS[name].shapes[0])
    assert shape.rounds >= 2
    assert shape.prompts >= 2


@pytest.mark.parametrize("name", THEOREMS)
def test_decisions_on_long_answers(name):
    deciding = [shape for shape in THEOREMS[name].shapes if plain(shape).rounds >= 2]
    left_out, _ = EXEMPT.get(name, {}).get("L", (set(), ""))
    assert {4, 5, 6} - left_out <= set().union(*map(lengths, deciding))


@pytest.mark.parametrize("name", ["T5", "T6", "T7"])
def test_a_softmax_for_each_context_of_long_answers(name):
    assert any(s.saturated and s.length >= 4 and s.rounds >= 2 for s in map(plain, THEOREMS[name].shapes))


@pytest.mark.parametrize("name", THEOREMS)
def test_every_extreme_occurs_or_is_left_out_for_a_reason(name):
    theorem = THEOREMS[name]
    jobs = _jobs(theorem, DEFAULT_INSTANCES, 0)
    found = Counter(job.kind(i) for job in jobs for i in range(job.instances))
    left_out = {s.extreme for s in theorem.spared if not s.claims}
    assert all(s.why for s in theorem.spared)
    assert set(EXTREMES) == {kind for kind in found if kind} | left_out
    assert not left_out & set(found)
    # Most are ordinary: it is those that controls must reject.
    assert found[None] >= 0.7 * DEFAULT_INSTANCES
    assert all(found[kind] >= 5 for kind in set(EXTREMES) - left_out), found
    assert all(job.kind(i) is None for job in jobs for i in range(min(3, job.instances)))
