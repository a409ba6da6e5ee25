"""Processes that users bring: right answers, or reasons why a theorem does not apply, never a false alarm.

Each process stands with the theorems that once raised one on it, with one kind of policy (about a second each). With
`DSJAX_OWN=all` every theorem is run on every process with every kind of policy (an hour).
"""

from __future__ import annotations

import os
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import proofs_check
from dsjax.errors import InputError
from dsjax.numerics import exact
from dsjax.process import DecisionSamplingProcess
from proofs_check.report import Report
from proofs_check.requirements import occurring

ALL = os.environ.get("DSJAX_OWN") == "all"
MIXED, RIGHT, WRONG = [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]


def made(table, law=(0.5, 0.5), dtype: Any = float, **options):
    with exact():
        law, table = (jnp.asarray(x, dtype) for x in (law, table))
        given: dict[str, Any] = {"rounds": 2, "length": 1, "vocabulary": 2, **options}
        return DecisionSamplingProcess.create(prompt_law=law, reward_table=table, **given)


FAMILY = {
    "a prompt that never comes": (made([MIXED, RIGHT], (1.0, 0.0)), ["T2", "T8"]),
    "all answers right": (made([RIGHT, RIGHT]), []),
    "all answers wrong": (made([WRONG, WRONG]), ["T3", "T16"]),
    "one prompt right, one wrong": (made([RIGHT, WRONG]), ["T18"]),
    "one prompt without a wrong answer": (made([MIXED, RIGHT]), []),
    "a constant grade": (made([[0.7, 0.7], [0.7, 0.7]]), ["T7", "T11"]),
    "constant grades, with history": (made([[0.7, 0.7], [0.2, 0.2]], history="full"), []),
    "grades next to right and wrong": (made([[0.9, 0.2], MIXED]), []),
    "nothing is worth its cost": (made([[0.9, 0.2], [0.3, 0.6]], cost=50.0), ["T18"]),
    "right, and not worth its cost": (made([MIXED, MIXED], cost=1.0), []),
    "one round": (made([MIXED, RIGHT], rounds=1), []),
    "single precision": (made([[0.9, 0.2]] * 3, [1 / 3] * 3, np.float32), []),
}


@pytest.mark.parametrize("name", [name for name, (_, theorems) in FAMILY.items() if theorems or ALL])
def test_no_false_alarm(name):
    process, theorems = FAMILY[name]
    report = proofs_check.check(None if ALL else theorems, process=process, instances=3, quick=not ALL)
    assert report.failures() == []
    assert report.ok
    assert {*theorems} <= {t.id for t in report.rows}


def test_what_does_not_apply_is_no_failure():
    report = proofs_check.check(["T8", "T9"], process=FAMILY["one round"][0])
    assert report.ok
    assert not report.rows
    assert {*report.skipped} == {"T8", "T9"}
    assert not Report(report.kind, (), 0.0).ok


def test_a_cost_in_whose_rounding_rewards_are_lost_is_refused():
    with pytest.raises(InputError, match="at most 100 for all attempts together"):
        proofs_check.check("T3", process=made([MIXED], [1.0], rounds=3, cost=1e6))


def test_prompts_that_never_come_are_left_out_and_laws_sum_to_one():
    table = [MIXED, RIGHT, WRONG]
    left = occurring(made(table, (0.5, 1e-17, 0.5)))
    assert left.prompt_law.tolist() == [0.5, 0.5]
    assert left.reward_table.tolist() == [MIXED, WRONG]
    rare = occurring(made(table, (0.5, 1e-12, 0.5 - 1e-12)))
    assert rare.prompt_law.tolist() == [0.5, 1e-12, 0.5 - 1e-12]
    single = occurring(made(table, [1 / 3] * 3, np.float32))
    assert single.prompt_law.dtype == np.float64
    assert np.asarray(single.prompt_law).sum() == pytest.approx(1, abs=1e-15)
