"""Speed of the training engine, measured in one process next to what the machine's matrix product reaches.

Every round times each measure once, with the matrix product before and after it; a fraction is the median over rounds
of one round's ratio, so that a machine that slows down for a while slows both. Floating-point operations are counted
as 2 (forward) or 6 (training) per token and weight of the blocks' matrix products: attention, heads and recomputation
are work, but not counted.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.config import require_int, require_range, require_types, to_dict
from dsjax.errors import require
from dsjax.io import require_memory
from dsjax.objectives import resolve
from dsjax.policies.base import History
from dsjax.policies.rollout import sample
from dsjax.policies.transformer import Dtype, TransformerPolicy
from dsjax.tasks import Problems
from dsjax.training.arms import Family
from dsjax.training.cost import block_weights, least_bytes, row_tokens, step_cost
from dsjax.training.run_directory import provenance
from dsjax.training.sharding import Layout, ParameterSharding, data_mesh
from dsjax.training.sources import SOURCES, Setting
from dsjax.training.step import TrainState, adam, computed, make_train_steps

FORMAT = 1
SIZES = {"nano": (2, 64, 4), "1M": (5, 128, 4), "4M": (5, 256, 4), "16M": (5, 512, 8)}  # layers, width, heads
SWEEPS: dict[str, tuple[int, ...]] = {
    "batch": (64, 128, 256, 512, 1024),
    "length": (5, 10, 21, 42),
    "rounds": (1, 2, 3, 4),
    "width": (32, 64, 128, 256),
    "devices": (1, 2, 4, 8),
}
PEAK_SIZE = {"cpu": 1024}
ACCELERATOR_PEAK_SIZE = 8192
MOST_REPEATS = 10_000
MEASURES = ("forward", "decode", "sft", "rl")


@dataclass(frozen=True)
class BenchConfig:
    """What is measured.

    Attributes:
      preset: size of the network, a key of `SIZES`.
      batch: sequences a step (for RL: episodes).
      prompt_length: P, tokens.
      length: L, tokens of an answer; a round is read as L + 1 tokens.
      rounds: T of the RL step; the other measures use one round.
      group: G, episodes a problem of the RL step.
      width: of the network; 0 is the preset's.
      history: of the network, `none` or `full`.
      devices: how many share a step; None is all.
      parameters: `replicated` or `fsdp`.
      microbatch: see `Layout`.
      dtype: of the network's products.
      repeats: rounds of measurement.
      steps: updates a dispatch.
    """

    preset: str = "1M"
    batch: int = 512
    prompt_length: int = 10
    length: int = 21
    rounds: int = 3
    group: int = 8
    width: int = 0
    history: History = "none"
    devices: int | None = None
    parameters: ParameterSharding = "replicated"
    microbatch: int | None = None
    dtype: Dtype = "float32"
    repeats: int = 5
    steps: int = 1

    def __post_init__(self) -> None:
        require_types(self)
        require(self.preset in SIZES, "preset", self.preset, SIZES)
        for name in ("batch", "prompt_length", "length", "rounds"):
            require_int(name, getattr(self, name), 1)
        for name in ("repeats", "steps"):
            require_range(name, getattr(self, name), 1, MOST_REPEATS, "which take hours")
        require_int("group", self.group, 2, "a leave-one-out baseline needs others")
        require_int("width", self.width, 0)
        require(self.width % SIZES[self.preset][2] == 0, "width", self.width, "a multiple of the preset's heads, or 0")
        require(self.batch % self.group == 0, "batch", self.batch, f"a multiple of group = {self.group}")
        asked: dict[str, tuple[str, object]] = {
            "network": ("preset and width", (self.preset, self.width)),
            "batch": ("batch, length and rounds", (self.batch, self.length, self.rounds)),
        }
        for what, needed in least_bytes(self.policy(self.rounds), self.rounds, self.batch).items():
            require_memory(*asked[what], needed)

    def policy(self, rounds: int) -> TransformerPolicy:
        """The network."""
        layers, width, heads = SIZES[self.preset]
        return TransformerPolicy(
            prompt_vocabulary=12,
            prompt_length=self.prompt_length,
            vocabulary=10,
            length=self.length,
            rounds=rounds,
            layers=layers,
            width=self.width or width,
            heads=heads,
            history=self.history,
            dtype=self.dtype,
        )

    @property
    def weights(self) -> int:
        """Entries of the blocks' matrices: those whose products are counted."""
        return block_weights(self.policy(1))

    def row_tokens(self, rounds: int) -> int:
        """Tokens of a sequence with its prompt."""
        return row_tokens(self.policy(rounds), rounds)


@dataclass(frozen=True)
class RandomDigits:
    """A task of the right shapes: prompts and answers are random digits; hashable."""

    prompt_length: int
    length: int

    mixed_splits: ClassVar[tuple[str, ...]] = ()

    def training_problems(self, key: jax.Array, n: int, split: str = "in") -> Problems:
        """n problems; there is one split."""
        del split
        digits = jax.random.randint(key, (n, self.prompt_length + self.length), 0, 10, jnp.int32)
        return Problems(digits[:, : self.prompt_length], digits[:, self.prompt_length :])

    def score(self, answers: jax.Array, problems: Problems) -> jax.Array:
        """The fraction of right digits, so that rewards differ."""
        return jnp.mean((answers == problems.answer[:, None, :]).astype(jnp.float32), axis=-1)


@dataclass
class Timed:
    """One measure: a call that is timed, and what it processes."""

    call: Callable[[], Any]
    tokens: int
    flops_per_token: int
    episodes: int
    program_bytes: int | None = None  # what the compiled program holds at its peak
    first_s: float = 0.0  # building, tracing, compiling and running it once


def matmul_flops(size: int, dtype: str, repeats: int = 20) -> Callable[[], float]:
    """A function that measures the FLOP/s of a square product of that size."""
    x = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a, b: a @ b)
    jax.block_until_ready(product(x, x))

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            out = product(x, x)
        jax.block_until_ready(out)
        return 2 * size**3 * repeats / (time.perf_counter() - start)

    return measure


def _program_bytes(compiled: Any) -> int | None:
    """Arguments, outputs and temporaries of a compiled program, what is donated counted once."""
    try:
        m = compiled.memory_analysis()
        parts = (m.argument_size_in_bytes, m.output_size_in_bytes, m.temp_size_in_bytes, -m.alias_size_in_bytes)
    except (AttributeError, NotImplementedError, jax.errors.JaxRuntimeError):
        return None
    return int(sum(parts))


def _training(config: BenchConfig, layout: Layout, kind: Literal["sft", "rl"]) -> Timed:
    """The SFT step on gold answers, or the RL step: rollouts of T rounds, leave-one-out."""
    rounds, group = (1, 1) if kind == "sft" else (config.rounds, config.group)
    policy = config.policy(rounds)
    task: Any = RandomDigits(config.prompt_length, config.length)
    setting = Setting(task, rounds, config.batch // group, group)
    source, objective = ("success", "sft") if kind == "sft" else ("on-policy", "rloo")
    optimizer = adam(1e-4, 1.0)
    keys = jax.random.split(jax.random.key(0), 3)
    state = TrainState.create(policy.init(keys[0]), optimizer, keys[1], keys[2])
    state, base = layout.place(state), layout.place(jax.tree.map(jnp.copy, state.params))
    steps: Any = make_train_steps(
        setting, policy, SOURCES[source], resolve(objective), optimizer, config.steps, layout=layout
    )
    steps = steps.lower(state, base).compile()
    held = [state]

    def call() -> Any:
        held[0], metrics = steps(held[0], base)
        return metrics

    episodes = config.batch * config.steps
    return Timed(call, episodes * config.row_tokens(rounds), 6 * config.weights, episodes, _program_bytes(steps))


def _inference(config: BenchConfig, layout: Layout, kind: Literal["forward", "decode"]) -> Timed:
    """Teacher-forced log-probs of whole rows, or sampling: of new tokens, the time to read the prompt included."""
    policy = config.policy(1)
    task: Any = RandomDigits(config.prompt_length, config.length)
    problems = task.training_problems(jax.random.key(1), config.batch)
    params, problems = layout.place(policy.init(jax.random.key(0))), layout.place(problems)
    in_parts = computed(Setting(task, 1, config.batch, 1), policy, layout)

    @jax.jit
    def forward(params: Any, problems: Problems) -> Any:
        problems = layout.split_batch(problems)
        return in_parts.log_dists(params, problems.prompt, problems.answer[:, None])

    @jax.jit
    def decode(params: Any, problems: Problems) -> Any:
        problems = layout.split_batch(problems)
        return sample(policy, params, problems.prompt, jax.random.key(2), rounds=1)

    run = forward if kind == "forward" else decode
    tokens = config.batch * (config.row_tokens(1) if kind == "forward" else config.length + 1)
    return Timed(lambda: run(params, problems), tokens, 2 * config.weights, config.batch)


def prepare(config: BenchConfig, layout: Layout, measure: str) -> Timed:
    """Build and run one measure once."""
    require(measure in MEASURES, "measure", measure, MEASURES)
    begun = time.perf_counter()
    make: Any = _inference if measure in ("forward", "decode") else _training
    timed = make(config, layout, measure)
    jax.block_until_ready(timed.call())
    timed.first_s = time.perf_counter() - begun
    return timed


def layout_of(config: BenchConfig) -> Layout:
    """Devices of the measurement: a mesh where there are several."""
    mesh = data_mesh(config.devices)
    return Layout(mesh if mesh.size > 1 or config.devices is not None else None, config.parameters, config.microbatch)


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of a call and all it set off."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def expected_bytes(config: BenchConfig, kind: Literal["sft", "rl"], layout: Layout) -> int:
    """Bytes by count (`cost.step_cost`): parameters, gradient, optimiser state, activations in flight."""
    family: Family = "sft" if kind == "sft" else "reward"
    rounds = 1 if kind == "sft" else config.rounds
    cost = step_cost(config.policy(rounds), layout, family, config.batch, rounds)
    return cost.state_bytes + cost.activation_bytes


def measure(
    config: BenchConfig, advance: Callable[[float], None] = lambda _: None, measures: tuple[str, ...] = MEASURES
) -> dict[str, Any]:
    """One row of results; see docs/performance.md for the fields.

    Args:
      config: what is measured.
      advance: called with the fraction done.
      measures: which of `MEASURES`.
    """
    layout = layout_of(config)
    work = len(measures) + config.repeats
    timed: dict[str, Timed] = {}
    for name in measures:
        timed[name] = prepare(config, layout, name)
        advance(len(timed) / work)
    platform = jax.devices()[0].platform
    peak = matmul_flops(PEAK_SIZE.get(platform, ACCELERATOR_PEAK_SIZE), config.dtype)
    rates: dict[str, list[float]] = {name: [] for name in measures}
    fractions: dict[str, list[float]] = {name: [] for name in measures}
    peaks: list[float] = []
    for i in range(config.repeats):
        for name, t in timed.items():
            before = peak()
            rate = t.tokens / seconds(t.call)
            here = 0.5 * (before + peak())
            peaks.append(here)
            rates[name].append(rate)
            # Devices of one processor share its cores, accelerators do not share theirs.
            machine = here * (1 if platform == "cpu" else layout.devices)
            fractions[name].append(rate * t.flops_per_token / machine)
        advance((len(measures) + i + 1) / work)
    row: dict[str, Any] = {"preset": config.preset, "matmul_peak_flops": statistics.median(peaks)}
    for name, t in timed.items():
        row[f"{name}_tokens_per_s"] = statistics.median(rates[name])
        row[f"{name}_fraction_of_peak"] = statistics.median(fractions[name])
        row[f"{name}_seconds"] = t.tokens / statistics.median(rates[name])
        row[f"{name}_rounds"] = rates[name]
        if name in ("sft", "rl"):
            row[f"{name}_episodes_per_s"] = statistics.median(rates[name]) * t.episodes / t.tokens
            row[f"{name}_first_step_s"] = t.first_s
            row[f"{name}_program_bytes"] = t.program_bytes
            row[f"{name}_expected_bytes"] = expected_bytes(config, name, layout)
    if {"forward", "decode"} <= timed.keys():
        pairs = zip(rates["decode"], rates["forward"], strict=True)
        row["decode_over_forward"] = statistics.median([d / f for d, f in pairs])
    if "sft" in timed:
        row["first_step_s"] = timed["sft"].first_s
    row["peak_bytes"] = peak_bytes()
    row["devices"] = layout.devices
    row["microbatch"] = layout.rows(config.row_tokens(1))
    return row


def peak_bytes() -> int:
    """The most memory so far: of the first device where it counts it, else of the process."""
    stats = jax.devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def sweep(
    config: BenchConfig,
    name: str,
    advance: Callable[[float], None] = lambda _: None,
    measures: tuple[str, ...] = ("decode", "sft", "rl"),
) -> list[dict[str, Any]]:
    """`measure` along one field: the values of `SWEEPS` that the machine has devices for.

    Raises:
      InputError: for an unknown sweep.
    """
    require(name in SWEEPS, "sweep", name, SWEEPS)
    values = [v for v in SWEEPS[name] if name != "devices" or v <= len(jax.devices())]
    rows = []
    for i, value in enumerate(values):
        row = measure(replace(config, **{name: value}), lambda x, i=i: advance((i + x) / len(values)), measures)
        kept = ("_tokens_per_s", "_fraction_of_peak", "_seconds", "_first_step_s", "_program_bytes")
        rows.append({name: value, **{k: v for k, v in row.items() if k.endswith(kept)}})
    return rows


def report(config: BenchConfig, row: dict[str, Any], sweeps: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """What `--json` writes; see docs/performance.md."""
    where = provenance()
    return {
        "format": FORMAT,
        **row,
        "device": where["device"],
        "versions": {"dsjax": where["dsjax"], "python": where["python"], **where["packages"]},
        "provenance": where,
        "config": to_dict(config),
        "sweeps": sweeps,
    }


def slope(rows: list[dict[str, Any]], name: str, measure: str) -> float:
    """Exponent e of seconds ~ value^e, by least squares on logarithms: 1 is linear."""
    x = np.log([r[name] for r in rows])
    y = np.log([r[f"{measure}_seconds"] for r in rows])
    return float(np.polyfit(x, y, 1)[0])
