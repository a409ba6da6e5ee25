"""What the random instances of each theorem range over, read off its shapes; every gap has a reason."""

from dataclasses import replace

import pytest

from proofs_check.registry import THEOREMS
from proofs_check.runner import DEFAULT_INSTANCES, _jobs
from proofs_check.theorems.t04_length_invariance.numeric import Recoding

DECIDES = "the statement needs a decision, and the stop of round T is forced"
BINARY = "the statement is about a binary verifier"
FREE = "the statement is about c = 0"
TABLES = "the statement is about saturated policies: what they have in common in two encodings is the law of answers"
LAWS = "laws of whole answers are all that enters: L and V set their number only, parameters do not matter"
CHAIN = "one process for each number of steps and modulus, with a policy of one parameter"
MEMORYLESS = "the statement is about attempts that do not depend on each other"

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
    **{name: {"T": ({1}, DECIDES)} for name in ("T5", "T6", "T7", "T8", "T13", "T14", "T15")},
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


def plain(shape):
    """The process and policy that a shape is made from."""
    return getattr(shape, "base", shape)


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
