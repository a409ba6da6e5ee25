"""Where an arm's trajectories come from: demonstrations, or rollouts of the current policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dsjax.errors import require
from dsjax.evaluation import regret
from dsjax.policies.base import Params, Policy, log_probs
from dsjax.policies.rollout import sample, to_trajectories
from dsjax.tasks import Problems, Task
from dsjax.tasks.base import hashed
from dsjax.training.critic import token_values
from dsjax.trajectories import STOP, Trajectories


class Setting(NamedTuple):
    """What all arms of a run share; hashable."""

    task: Task
    rounds: int  # T
    prompts: int  # problems per update
    group: int  # G episodes a problem
    temperature: float = 1.0
    cost: float = 0.0
    imitate_errors: bool = False  # whether demonstrations ask to copy the wrong answers they show
    mixed_share: float = 0.0  # of the problems, from the splits that the task mixes in
    chain_share: float = 0.25  # of the demonstrations of `chains-and-guesses`
    problem_set: int = 0  # problems that there are to train on, a split; 0: fresh ones for every update

    def problems(self, key: jax.Array, set_key: jax.Array) -> Problems:
        """The problems of one update; of a finite set, which `set_key` draws, uniformly and with repetition.

        Problems that are held out of training are in no set.
        """
        others, splits = round(self.mixed_share * self.prompts), self.task.mixed_splits
        parts = [self._drawn(key, set_key, self.prompts - others, "in")]
        for i, split in enumerate(splits):
            part = others // len(splits) + (i < others % len(splits))
            if part:
                keys = (jax.random.fold_in(key, i + 1), jax.random.fold_in(set_key, i + 1))
                parts.append(self._drawn(*keys, part, split))
        return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)

    def _drawn(self, key: jax.Array, set_key: jax.Array, n: int, split: str) -> Problems:
        if self.problem_set == 0:
            return self.task.training_problems(key, n, split)
        known = self.task.training_problems(set_key, self.problem_set, split)
        chosen = jax.random.randint(key, (n,), 0, self.problem_set)
        return jax.tree.map(lambda x: x[chosen], known)


class Given(NamedTuple):
    """What a source makes the trajectories of one update from."""

    setting: Setting
    policy: Policy
    params: Params
    base_params: Params  # of the frozen base
    problems: Problems
    key: jax.Array


FromGiven = Callable[[Given], Trajectories]
Draw = Callable[[Setting, Policy, Params, Params, Problems, jax.Array], Trajectories]  # of the fields of `Given`


@dataclass(frozen=True)
class Source:
    """Where trajectories come from; called with the fields of `Given`.

    Attributes:
      draw: what is given to trajectories.
      answers: how many answers are sampled per problem and update, of a setting: what its data costs.
    """

    draw: FromGiven
    answers: Callable[[Setting], int]

    def __call__(self, *given: Any) -> Trajectories:
        """The trajectories of one update."""
        return self.draw(Given(*given))


SOURCES: dict[str, Source] = {}


def source(name: str, answers: Callable[[Setting], int]) -> Callable[[FromGiven], FromGiven]:
    """Register the function that follows as a source of that name; see `Source`."""

    def register(draw: FromGiven) -> FromGiven:
        SOURCES[name] = Source(draw, answers)
        return draw

    return register


def _no_answers(setting: Setting) -> int:
    del setting
    return 0


def _an_answer_a_row(setting: Setting) -> int:
    return setting.group


def _episodes(setting: Setting) -> int:
    return setting.group * setting.rounds


def _groups(given: Given, size: int) -> tuple[Problems, jax.Array]:
    """`size` copies of each problem, and their groups."""
    problems, n = given.problems, given.problems.prompt.shape[0]
    group = jnp.repeat(jnp.arange(n, dtype=jnp.int32), size, total_repeat_length=n * size)
    return jax.tree.map(lambda x: jnp.repeat(x, size, axis=0, total_repeat_length=n * size), problems), group


def _demonstrations(
    setting: Setting,
    problems: Problems,
    group: jax.Array,
    first: jax.Array | None,
    first_right: jax.Array | None,
    keeps: jax.Array | None = None,
) -> Trajectories:
    """Either [gold, STOP], or [first, RESAMPLE, gold, STOP] where the first answer is wrong, or `keeps` says no."""
    n = problems.prompt.shape[0]
    if first is None or first_right is None:
        answers, stop = problems.answer[:, None, :], jnp.zeros((n,), jnp.int32)
        imitated, right = jnp.ones((n, 1), bool), jnp.ones((n,), bool)
    else:
        answers = jnp.stack([first, problems.answer], axis=1)
        stop = jnp.where(first_right if keeps is None else keeps, 0, 1).astype(jnp.int32)
        imitated = jnp.stack([first_right | setting.imitate_errors, jnp.ones((n,), bool)], axis=1)
        right = first_right | (stop > 0)
    reward = right.astype(jnp.float32) - setting.cost * stop.astype(jnp.float32)
    return Trajectories.from_rounds(
        prompt=problems.prompt,
        answers=answers,
        stop_round=stop,
        horizon=setting.rounds,
        reward=reward,
        weight=jnp.full((n,), 1.0 / n, jnp.float32),
        group=group,
        num_groups=setting.prompts,
        imitated=imitated,
    )


@source("success", _no_answers)
def success(given: Given) -> Trajectories:
    """Gold, one attempt, STOP. One row a problem: copies would not change the gradient."""
    _, group = _groups(given, 1)
    return _demonstrations(given.setting, given.problems, group, None, None)


@source("synthetic", _no_answers)
def synthetic(given: Given) -> Trajectories:
    """Gold with one digit changed, RESAMPLE, gold, STOP."""
    problems, group = _groups(given, given.setting.group)
    wrong = given.setting.task.corrupt(given.key, problems.answer)
    return _demonstrations(given.setting, problems, group, wrong, jnp.zeros(len(group), bool))


@source("synthetic-half", _no_answers)
def synthetic_half(given: Given) -> Trajectories:
    """As `synthetic` for half of the rows, drawn by lot; the others are gold, STOP.

    For policies that see the round: where every first answer is wrong they learn that, and not to judge it.
    """
    problems, group = _groups(given, given.setting.group)
    wrong = given.setting.task.corrupt(given.key, problems.answer)
    right = jax.random.bernoulli(jax.random.fold_in(given.key, 1), 0.5, group.shape)
    first = jnp.where(right[:, None], problems.answer, wrong)
    return _demonstrations(given.setting, problems, group, first, right)


@source("chains-and-guesses", _no_answers)
def chains_and_guesses(given: Given) -> Trajectories:
    """With probability `chain_share` the task's steps, RESAMPLE after each but the last; else a uniform guess, STOP.

    What T17 is about: a mixture that continued imitation leaves as it is.

    Raises:
      InputError: for a task without steps, or with more of them than there are rounds.
    """
    problems, group = _groups(given, given.setting.group)
    setting, task = given.setting, given.setting.task
    answers, last = task.steps(problems)
    require(answers.shape[1] <= setting.rounds, "rounds", setting.rounds, f"at least {answers.shape[1]}, as steps")
    chain_key, guess_key = jax.random.split(given.key)
    n = len(group)
    chain = jax.random.bernoulli(chain_key, setting.chain_share, (n,))
    guess = jax.random.randint(guess_key, (n, 1, task.length), 0, task.vocabulary, dtype=jnp.int32)
    answers = jnp.where(chain[:, None, None], answers, guess)
    stop = jnp.where(chain, last, 0)
    kept = jnp.take_along_axis(answers, stop[:, None, None], axis=1)
    return Trajectories.from_rounds(
        prompt=problems.prompt,
        answers=answers,
        stop_round=stop,
        horizon=setting.rounds,
        reward=task.score(kept, problems)[:, 0] - setting.cost * stop.astype(jnp.float32),
        weight=jnp.full((n,), 1.0 / n, jnp.float32),
        group=group,
        num_groups=setting.prompts,
    )


@source("own-answers", _an_answer_a_row)
def own_answers(given: Given) -> Trajectories:
    """An answer of the current model, labelled: STOP if right, else RESAMPLE, gold, STOP."""
    problems, group = _groups(given, given.setting.group)
    setting = given.setting
    drawn = sample(given.policy, given.params, problems.prompt, given.key, rounds=1, temperature=setting.temperature)
    first = drawn.answers[:, 0]
    return _demonstrations(setting, problems, group, first, setting.task.score(drawn.answers, problems)[:, 0] > 0.5)


@source("base-answers", _an_answer_a_row)
def base_answers(given: Given) -> Trajectories:
    """As `own_answers`, from the frozen base model: a static data set of its errors."""
    return own_answers(given._replace(params=given.base_params))


@source("base-answers-once", _an_answer_a_row)
def base_answers_once(given: Given) -> Trajectories:
    """As `base_answers`, but what the base answers to a problem is drawn once: G answers that never change.

    With a finite set of problems that is a finite data set; each answer's key is a hash of its problem and its number.
    """
    problems, group = _groups(given, given.setting.group)
    setting = given.setting
    number = jnp.tile(jnp.arange(setting.group, dtype=jnp.uint32), group.shape[0] // setting.group)
    of_problem = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), hashed(problems.prompt))
    keys = jax.vmap(jax.random.fold_in)(of_problem, number)

    def answer(prompt: jax.Array, key: jax.Array) -> jax.Array:
        options = {"rounds": 1, "temperature": setting.temperature}
        return sample(given.policy, given.base_params, prompt[None], key, **options).answers[0, 0]

    first = jax.vmap(answer)(problems.prompt, keys)
    return _demonstrations(setting, problems, group, first, setting.task.score(first[:, None], problems)[:, 0] > 0.5)


@source("value-labels", _an_answer_a_row)
def value_labels(given: Given) -> Trajectories:
    """As `own_answers`, but labelled by value: STOP iff `regret.keeps`, what the decider can see being worth it (T16).

    Raises:
      InputError: for a group of one, which has no other answers to tell the value of going on from.
    """
    problems, group = _groups(given, given.setting.group)
    setting = given.setting
    require(setting.group >= 2, "group", setting.group, "an integer >= 2 (other answers say what going on is worth)")
    drawn = sample(given.policy, given.params, problems.prompt, given.key, rounds=1, temperature=setting.temperature)
    right = setting.task.score(drawn.answers, problems)[:, 0]
    stop, correct = (x.reshape(-1, setting.group) for x in (jnp.exp(drawn.log_decision[:, 0, STOP]), right))
    keeps = regret.keeps(stop, correct, setting.rounds, setting.cost)
    return _demonstrations(setting, problems, group, drawn.answers[:, 0], right > 0.5, keeps.reshape(-1))


@source("on-policy", _episodes)
def on_policy(given: Given) -> Trajectories:
    """G episodes a problem from the current policy, with old and reference (base) log-probs, and its values if any."""
    setting, policy, params = given.setting, given.policy, given.params
    problems, group = _groups(given, setting.group)
    options = {"rounds": setting.rounds, "temperature": setting.temperature, "stop_early": True}
    drawn = sample(policy, params, problems.prompt, given.key, **options)
    score = setting.task.score(drawn.answers, problems)
    traj = to_trajectories(problems.prompt, drawn, score, cost=setting.cost, group=group, num_groups=setting.prompts)
    traj = traj.replace(ref_logp=jax.lax.stop_gradient(log_probs(policy, given.base_params, traj)))
    if policy.critic:
        traj = traj.replace(values=jax.lax.stop_gradient(token_values(policy, params, traj)))
    return traj


@source("base-episodes", _episodes)
def base_episodes(given: Given) -> Trajectories:
    """As `on_policy`, from the frozen base model: one round of learning from its own episodes."""
    return on_policy(given._replace(params=given.base_params))


@source("on-policy-shuffled", _episodes)
def on_policy_shuffled(given: Given) -> Trajectories:
    """As `on_policy`, with the rewards of the batch dealt out at random: a control that must teach nothing."""
    traj = on_policy(given)
    return traj.replace(reward=jax.random.permutation(jax.random.fold_in(given.key, 1), traj.reward))


@source("on-policy-coin", _episodes)
def on_policy_coin(given: Given) -> Trajectories:
    """As `on_policy`, each episode's reward +1 or -1 by a fair coin: without a baseline a gradient that is mere noise.

    It is as likely as its opposite.
    """
    traj = on_policy(given)
    heads = jax.random.bernoulli(jax.random.fold_in(given.key, 1), 0.5, traj.reward.shape)
    return traj.replace(reward=jnp.where(heads, 1.0, -1.0).astype(traj.reward.dtype))
