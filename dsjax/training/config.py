"""What a long training run is asked to do: fields, their limits, and which of them may change when it resumes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dsjax.config import require_int, require_positive, require_range, require_seed, require_types
from dsjax.errors import InputError, require
from dsjax.io import require_memory
from dsjax.objectives import SumCount, resolve
from dsjax.objectives.returns import is_own, sum_and_count
from dsjax.own import call, guarded, import_function
from dsjax.policies import History, Policy, TransformerPolicy, log_probs
from dsjax.policies.rollout import require_temperature
from dsjax.policies.transformer import Dtype
from dsjax.tasks import Task, make_task
from dsjax.training.arms import ARMS, Arm, arm_of
from dsjax.training.sharding import Layout, ParameterSharding, data_mesh
from dsjax.training.sources import SOURCES, Setting

BASE = "base"
TRANSFORMER = "transformer"
Which = Literal["best", "last"]
ABSURD = 2.0**46  # bytes of memory: no machine has them
LAW_TOLERANCE = 0.05  # of a sum of probabilities whose logs were rounded to bfloat16

# Everything else changes the numbers: the samples, the loss, the order of updates, or what is measured and chosen.
SAME_NUMBERS = {
    "updates": "problems and samples of an update do not depend on where the run ends",
    "checkpoint_every": "a checkpoint reads the state and changes nothing",
    "keep": "only the number of checkpoints on disk",
    "tensorboard": "another copy of metrics.jsonl",
}
SAME_UP_TO_ROUNDING = {
    "devices": "the same sums in another order, so that a run can move to another machine",
    "parameter_sharding": "where parameters lie, not what they are",
    "microbatch": "the same sums in another order, so that a run can move to smaller devices",
}
MAY_CHANGE = (*SAME_NUMBERS, *SAME_UP_TO_ROUNDING)


def purpose_key(seed: int, purpose: str) -> jax.Array:
    """An independent stream of keys for each purpose of a run with this seed."""
    return jax.random.fold_in(jax.random.key(seed), int.from_bytes(purpose.encode(), "big") % (2**31 - 1))


@functools.cache  # one policy is one program; a function of a module makes new functions at every call
def own_policy(name: str, task: Task, rounds: int, history: History, critic: bool) -> Policy:
    """The policy that a user's own `module:function` of (task, rounds) returns.

    Raises:
      InputError: if it takes other arguments, or returns none that fits the task and what else is asked for.
    """
    require(":" in name, "network", name, (TRANSFORMER, "module:function"))
    function = import_function("network", name)
    try:
        inspect.signature(function).bind(task, rounds)
    except (TypeError, ValueError) as error:
        raise InputError("network", name, f"a function of (task, rounds) ({error})") from error
    policy = call("network", name, function, task, rounds)
    allowed = f"a function of (task, rounds) that returns a Policy, not {type(policy).__name__}"
    require(isinstance(policy, Policy), "network", name, allowed)
    for attribute, received, wanted in (
        ("length", policy.length, task.length),
        ("history", policy.history, history),
        ("critic", policy.critic, policy.critic or critic),
    ):
        require(received == wanted, f"{attribute} of the policy {name}", received, str(wanted))
    _require_laws(name, policy, task, rounds)
    return policy


def _require_laws(name: str, policy: Policy, task: Task, rounds: int) -> None:
    """Ask a user's own policy about two prompts, before any work.

    Raises:
      InputError: if it raises, or its distributions have another shape or do not sum to 1.
    """
    B, T, L = 2, rounds, task.length

    def laws() -> tuple[jax.Array, jax.Array]:
        prompt, answers = jnp.zeros((B, task.prompt_length), jnp.int32), jnp.zeros((B, T, L), jnp.int32)
        return policy.log_dists(policy.init(jax.random.key(0)), prompt, answers)

    with guarded("network", name, "a policy whose init and log_dists run, traced by JAX"):
        found = jax.jit(laws)()
        log_sample, log_decision = (np.asarray(x, np.float32) for x in found)
    for what, x, shape in (
        ("log pi_sample", log_sample, (B, T, L, task.vocabulary)),
        ("log pi_d", log_decision, (B, T, 2)),
    ):
        require(x.shape == shape, f"{what} of the policy {name}", x.shape, f"{shape}, [B, T, L, V] or [B, T, 2]")
        total = np.exp(x).sum(-1)
        off = ~(abs(total - 1) <= LAW_TOLERANCE)
        require(not off.any(), f"{what} of the policy {name}", f"a law that sums to {total[off][:1]}", "laws, in nats")


@functools.cache
def require_runs(setting: Setting, policy: Policy, source: str, objective: str, options: tuple) -> None:
    """Ask a user's own loss about the shapes of an update, before any work.

    Raises:
      InputError: naming the loss, if it raises or returns something else than two numbers.
    """
    function = resolve(objective, dict(options))

    def update() -> SumCount:
        key = jax.random.key(0)
        params = policy.init(key)
        traj = SOURCES[source](setting, policy, params, params, setting.problems(key, key), key)
        return sum_and_count(function, log_probs(policy, params, traj), traj)

    jax.eval_shape(update)


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `dsjax train`.

    Attributes:
      seed: of everything random but the evaluation problems, which are fixed.
      task: a name of `dsjax.tasks.TASKS`, such as `addition`, or `module:function` of a user's own (see `make_task`).
      digits: D of the task, if it has digits.
      width: digits written per operand, if it has operands; 0 means D.
      modulus: of the task, if it has one.
      numbers: given in a problem of the task, if it says so.
      canonical: whether demonstrations of a task with several right answers show the first of them, or any one.
      target: largest target in distribution, if the task has targets.
      network: `transformer`, or `module:function` of a user's own: (task, rounds) to a policy.
      rounds: T.
      layers: of the transformer.
      model_width: of the transformer.
      heads: of the transformer.
      history: what a later round sees of earlier ones, `none` or `full`.
      separate_trunks: one trunk per component instead of a shared one.
      arm: what to train: a name of `dsjax.training.arms.ARMS`; `module:name` of a user's own arm or objective (see
        `arm_of`); or `base`: demonstrations of `base_source`.
      objective_options: options of the arm's objective, in place of its own, such as another strength of KL.
      base_source: a key of `training.sources.SOURCES`; None: `synthetic`, whose demonstrations have an error in one
        token, or `synthetic-half` with history `full`.
      chain_share: part of the rows of `chains-and-guesses` that are chains, p of T17.
      init_from: directory of another run: its parameters are the start and the frozen base; None: random parameters.
      init_checkpoint: which checkpoint of that run: `best` in distribution, or `last`.
      decision_weight: weight of the decision token in the loss of `base`.
      updates: number of updates, a multiple of evaluate_every.
      chunk: updates per compiled call. Ctrl-C waits for the call that is running.
      evaluate_every: updates between measurements, a multiple of chunk.
      checkpoint_every: updates between checkpoints; saved at the next end of a chunk.
      keep: newest checkpoints to keep, besides the best.
      learning_rate: Adam step size.
      decay_updates: over how many updates the step size falls to 0, as (1 + cos(pi update/decay_updates))/2; at least
        `updates`, or 0: it stays.
      clip_norm: global gradient norm to clip to.
      prompts: problems per update.
      group: episodes (or labelled answers) a problem.
      temperature: of sampling in training; evaluation samples at 1.
      cost: of a resample, c.
      imitate_errors: whether SFT copies the wrong answers that its demonstrations show.
      mixed_share: part of the problems of each update from the split that the task mixes in, as of longer operands.
      problem_set: problems that there are to train on, a split (drawn once a seed, the same for all arms); 0: fresh
        ones for every update.
      evaluation_problems: fixed held-out problems a split.
      tensorboard: also write TensorBoard event files (needs the extra `tensorboard`).
      devices: that share an update; None is all there are.
      parameter_sharding: `replicated`, or `fsdp`: parameters and optimiser state are split over the devices.
      microbatch: sequences a device runs at a time, computed again for their gradient; 0 for all at once, without that;
        None lets the backend decide (see `Layout`).
      dtype: that the trunk computes in; parameters and heads stay in float32.
    """

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {"operation": "task", "longer_share": "mixed_share"}

    seed: int = 0
    task: str = "addition"
    digits: int = 3
    width: int = 0
    modulus: int = 2
    numbers: int = 3
    canonical: bool = True
    target: int = 99
    network: str = TRANSFORMER
    rounds: int = 3
    layers: int = 2
    model_width: int = 64
    heads: int = 4
    history: History = "none"
    separate_trunks: bool = False
    arm: str = "rloo"
    objective_options: dict[str, Any] = field(default_factory=dict, hash=False)
    base_source: str | None = None
    chain_share: float = 0.25
    init_from: str | None = None
    init_checkpoint: Which = "best"
    decision_weight: float = 3.0
    updates: int = 1000
    chunk: int = 10
    evaluate_every: int = 100
    checkpoint_every: int = 100
    keep: int = 3
    learning_rate: float = 1e-4
    decay_updates: int = 0
    clip_norm: float = 1.0
    prompts: int = 32
    group: int = 8
    temperature: float = 1.0
    cost: float = 0.0
    imitate_errors: bool = False
    mixed_share: float = 0.0
    problem_set: int = 0
    evaluation_problems: int = 256
    tensorboard: bool = False
    devices: int | None = 1
    parameter_sharding: ParameterSharding = "replicated"
    microbatch: int | None = None
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        require_types(self)
        require_seed("seed", self.seed)
        require_int("rounds", self.rounds, 2, "with one round there is nothing to decide")
        for name in (
            *("layers", "model_width", "heads", "updates", "chunk", "evaluate_every", "checkpoint_every"),
            *("prompts", "evaluation_problems"),
        ):
            require_int(name, getattr(self, name), 1)
        require_range("updates", self.updates, 1, 2**31 - 1, "which a counter of 32 bits holds")
        require_int("keep", self.keep, 2, "the newest may turn out to be damaged")
        for name in ("learning_rate", "clip_norm"):
            require_positive(name, getattr(self, name))
        require_temperature(self.temperature)
        for name in ("cost", "decision_weight"):
            value = getattr(self, name)
            require(value >= 0, name, value, ">= 0 and finite")
        for name, factor in (("model_width", "heads"), ("evaluate_every", "chunk"), ("updates", "evaluate_every")):
            value, of = getattr(self, name), getattr(self, factor)
            require(value % of == 0, name, value, f"a multiple of {factor} = {of}")
        for name in ("modulus", "numbers"):
            require_int(name, getattr(self, name), 2)
        require_int("target", self.target, 0)
        require_int("problem_set", self.problem_set, 0, "0: fresh problems for every update")
        require(0 <= self.chain_share <= 1, "chain_share", self.chain_share, "0..1")
        require_int("decay_updates", self.decay_updates, 0)
        decays = self.decay_updates == 0 or self.decay_updates >= self.updates
        require(decays, "decay_updates", self.decay_updates, f"0, or at least updates = {self.updates}")
        if ":" not in self.arm:
            require(self.arm in (BASE, *ARMS), "arm", self.arm, (BASE, *ARMS, "module:name"))
        reward = self.objective_of.family == "reward"
        require_int("group", self.group, 2 if reward else 1, "a leave-one-out baseline needs others" if reward else "")
        if self.devices is not None:
            require_int("devices", self.devices, 1)
        if self.microbatch is not None:
            require_int("microbatch", self.microbatch, 0, "0 is the whole batch")
        mixed, splits = self.task_of.mixed_splits, self.task_of.splits
        possible = self.mixed_share == 0 or (bool(mixed) and {*mixed} <= {*splits})
        allowed = "0 <= mixed_share < 1" + ("" if possible else f"; 0 without the splits {mixed} (there are {splits})")
        require(0 <= self.mixed_share < 1 and possible, "mixed_share", self.mixed_share, allowed)
        for name, (value, needed) in self.least_bytes().items():
            require_memory(name, value, needed, ABSURD)
        policy, arm = self.policy, self.objective_of  # a user's own is checked
        if arm.frozen:
            policy.decider_parts({})  # or it is refused
        if is_own(resolve(arm.objective)):
            options = tuple(sorted(arm.options_at(self.task_of.length).items()))
            require_runs(self.setting, policy, arm.source, arm.objective, options)

    @property
    def objective_of(self) -> Arm:
        """Source, objective and component that train."""
        if self.arm == BASE:
            usual = "synthetic" if self.history == "none" else "synthetic-half"
            return Arm(self.base_source or usual, "sft", "sft", {"decision_weight": self.decision_weight})
        arm = arm_of(self.arm)
        return replace(arm, options={**arm.options, **self.objective_options}) if self.objective_options else arm

    @property
    def step_size(self) -> optax.ScalarOrSchedule:
        """Of Adam: a number, or a function of the number of updates made."""
        if self.decay_updates == 0:
            return self.learning_rate
        return optax.cosine_decay_schedule(self.learning_rate, self.decay_updates)

    @property
    def task_of(self) -> Task:
        """The task."""
        sizes = (self.digits, self.width, self.modulus, self.numbers, self.canonical, self.target)
        return make_task(self.task, *sizes)

    @property
    def tokens_sampled(self) -> int:
        """Answer tokens that are sampled to make the data of the whole run."""
        answers = SOURCES[self.objective_of.source].answers(self.setting)
        return self.updates * self.prompts * answers * self.task_of.length

    def least_bytes(self) -> dict[str, tuple[tuple[int, ...], int]]:
        """{fields: (their values, bytes that they take at least)}, on all devices together."""
        task, rows = self.task_of, self.prompts * self.group
        row = task.prompt_length + self.rounds * (task.length + 1)
        out = {
            "prompts, group and rounds": ((self.prompts, self.group, self.rounds), 8 * rows * row),
            "evaluation_problems and rounds": (
                (self.evaluation_problems, self.rounds),
                4 * self.evaluation_problems * self.rounds * task.length,
            ),
            "problem_set": ((self.problem_set,), 4 * self.problem_set * (task.prompt_length + task.length)),
        }
        if self.network == TRANSFORMER:
            sizes = self.layers, self.model_width
            out["layers and model_width"] = sizes, 16 * 12 * self.layers * self.model_width**2
        return out

    @property
    def policy(self) -> Policy:
        """The policy; with a critic if the arm trains one."""
        critic = self.objective_of.value_weight > 0
        if self.network != TRANSFORMER:
            return own_policy(self.network, self.task_of, self.rounds, self.history, critic)
        return TransformerPolicy.for_task(
            self.task_of,
            self.rounds,
            layers=self.layers,
            width=self.model_width,
            heads=self.heads,
            history=self.history,
            separate_trunks=self.separate_trunks,
            dtype=self.dtype,
            critic=critic,
        )

    @property
    def setting(self) -> Setting:
        """What training shares."""
        return Setting(
            self.task_of,
            self.rounds,
            self.prompts,
            self.group,
            self.temperature,
            self.cost,
            self.imitate_errors,
            self.mixed_share,
            self.chain_share,
            self.problem_set,
        )

    def layout(self) -> Layout:
        """Where an update runs.

        Raises:
          InputError: for more devices than there are.
        """
        alone = self.devices == 1 and jax.process_count() == 1
        mesh = None if alone else data_mesh(self.devices)
        return Layout(mesh, self.parameter_sharding, self.microbatch)

    def key(self, purpose: str) -> jax.Array:
        """A key for each purpose; runs with the same seed share `problems`."""
        return purpose_key(self.seed, purpose)
