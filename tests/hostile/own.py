"""A user's own code that does what it should not: objectives, processes, tasks, policies, jobs and reports."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.policies import Policy
from dsjax.process import DecisionSamplingProcess
from dsjax.study.jobs import Job
from dsjax.tasks import Problems, Task

RAISES = 22  # the line that raises


def raises(*given, **named):
    raise ValueError("two\nlines")


def leaves(*given, **named):
    sys.exit(0)


def returns_none(*given, **named):
    return None


def returns_text(*given, **named):
    return "text"


def returns_one(*given, **named):
    return 1.0


def returns_three(*given, **named):
    return 1.0, 2.0, 3.0


def returns_nan(*given, **named):
    return float("nan")


def returns_numpy(*given, **named):
    return np.ones(3)


def yields(*given, **named):
    yield 1


number = 3


# Objectives.


def branches(logp, traj):
    return (logp.sum(), 1.0) if logp.sum() > 0 else (-logp.sum(), 1.0)


def to_numpy(logp, traj):
    return np.sum(np.asarray(logp)), 1.0


def shapes(logp, traj):
    return logp.sum(0), jnp.ones(logp.shape[1])


def texts(logp, traj):
    return "a", "b"


def imaginary(logp, traj):
    return logp.sum().astype(complex), 1.0


def indexes(logp, traj):
    return logp.sum() + traj.nothing, 1.0


def one_argument(logp):
    return logp.sum(), 1.0


def count_nan(logp, traj):
    return logp.sum(), jnp.nan


def count_negative(logp, traj):
    return logp.sum(), -1.0


def count_zero(logp, traj):
    return logp.sum(), 0.0


# Processes.


def made(**changes):
    given = {"prompt_law": jnp.array([0.5, 0.5]), "reward_table": jnp.ones((2, 2)), "vocabulary": 2, "length": 1}
    return DecisionSamplingProcess.create(**{**given, "rounds": 2, **changes})


def law():
    return made(prompt_law=jnp.array([0.5, 0.6]))


def law_nan():
    return made(prompt_law=jnp.array([0.5, jnp.nan]))


def rewards():
    return made(reward_table=jnp.full((2, 2), 2.0))


def rewards_nan():
    return made(reward_table=jnp.full((2, 2), jnp.nan))


def table():
    return made(reward_table=jnp.ones((2, 3)))


def cost_nan():
    return made(cost=float("nan"))


def rounds_many():
    return made(rounds=10**9)


def answers_many():
    return made(vocabulary=10**6, length=10**6)


def fractions():
    return made(vocabulary=2.0, rounds=2.5)


def unchecked():
    return DecisionSamplingProcess(jnp.array([0.5, 0.6]), jnp.ones((2, 2)), jnp.zeros(()), 2, 1, 2)


# Tasks: `wrong` says what is.


class Small(Task):
    prompt_vocabulary, prompt_length, vocabulary, length = 3, 1, 2, 1

    def draw(self, key, n, split):
        return jax.random.randint(key, (n, 1), 0, 3, jnp.int32)

    def problems(self, question):
        return Problems(question, question % 2)


class Score(Small):
    def score(self, answers, problems):
        return 2.0 * super().score(answers, problems)


class ScoreNan(Small):
    def score(self, answers, problems):
        return jnp.nan * super().score(answers, problems)


class ScoreWrong(Small):
    def score(self, answers, problems):
        return 0.0 * super().score(answers, problems)


class ScoreShape(Small):
    def score(self, answers, problems):
        return super().score(answers, problems)[0]


class Symbols(Small):
    vocabulary = 2

    def problems(self, question):
        return Problems(question, question + 5)


class Floats(Small):
    def problems(self, question):
        return Problems(question, question.astype(float))


class Lengths(Small):
    length = 2


class Branches(Small):
    def draw(self, key, n, split):
        question = super().draw(key, n, split)
        return question if question.sum() > 3 else 1 - question


class Escapes(Small):
    split_names: ClassVar[Mapping[str, str]] = {"in": "in distribution", "../out": "elsewhere"}


class Sizes(Small):
    vocabulary = 2.5


# Networks.


class Flat(Policy):
    length: int = 1
    history: str = "none"

    def init(self, key):
        return jnp.zeros(())

    def log_dists(self, params, prompt, answers):
        B, K, L = answers.shape
        return params + jnp.full((B, K, L, 2), -np.log(2)), params + jnp.full((B, K, 2), -np.log(2))


class Logits(Flat):
    def log_dists(self, params, prompt, answers):
        sample, decide = super().log_dists(params, prompt, answers)
        return sample + 1, decide


class Nans(Flat):
    def log_dists(self, params, prompt, answers):
        sample, decide = super().log_dists(params, prompt, answers)
        return sample, decide * jnp.nan


class Short(Flat):
    def log_dists(self, params, prompt, answers):
        sample, decide = super().log_dists(params, prompt, answers)
        return sample[..., :1], decide


def flat(task, rounds):
    return Flat()


def logits(task, rounds):
    return Logits()


def nans(task, rounds):
    return Nans()


def short(task, rounds):
    return Short()


# Studies.


def job(options, directory, needs, progress):
    return {"a": 1}


def jobs(settings):
    return [Job(**{"name": "j", "kind": f"{__name__}:job", **settings.get("job", {})})]


def strings(settings):
    return ["a", "b"]


def fine(merged, directory, definition):
    return {"tables": [{"title": "t", "columns": ["a"], "rows": [["1"]]}]}


def reports(value):
    return lambda merged, directory, definition: value


report_number, report_list, report_none, report_nan = map(reports, (3, [1], None, {"x": float("nan")}))
report_object, report_tables, report_columns = map(
    reports, ({"x": object()}, {"tables": 3}, {"tables": [{"title": 1}]})
)
report_cells = reports({"tables": [{"title": "t", "columns": ["a"], "rows": [[1]]}]})
report_ragged = reports({"tables": [{"title": "t", "columns": ["a"], "rows": [["1", "2"]]}]})
