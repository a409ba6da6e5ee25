"""The main job: theorem checks, a base model, SFT and RL from it, evaluation of both components, figures.

Every stage is done once and kept, so a second call continues where the first stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dsjax.atlas.rows import share_against_length
from dsjax.config import require_int, require_positive, to_dict
from dsjax.errors import require
from dsjax.evaluation.components import measure
from dsjax.evaluation.samples import draw_samples, evaluation_sets, judge
from dsjax.io import write_atomically, write_json
from dsjax.objectives import resolve
from dsjax.policies.base import Params
from dsjax.policies.rollout import require_temperature
from dsjax.policies.transformer import TransformerPolicy
from dsjax.statistics import Resampled, roc_curve
from dsjax.study.measures import Evaluated, Measures
from dsjax.tasks import Addition
from dsjax.training.arms import Arm, arm_of
from dsjax.training.checkpoints import load_params, save_params
from dsjax.training.config import purpose_key
from dsjax.training.loop import adam, train
from dsjax.training.run_directory import RunDirectory, StageWriter, opened, provenance
from dsjax.training.sources import SOURCES, Setting

BASE = "base"
BASE_SOURCE = "synthetic"
CheckTheorems = Callable[[int, int, Callable[[float], None]], dict[str, Any]]
Advance = Callable[[str, float, float], None]


@dataclass(frozen=True)
class QuickstartConfig:
    """Settings of the main job.

    Attributes:
      seed: of everything random but the evaluation problems, which are fixed.
      instances: random instances per theorem.
      digits: D of the task.
      width: digits written per operand; 0 means D.
      rounds: T.
      temperature: of sampling in training; evaluation samples at 1.
      cost: of a resample, c.
      layers: of the transformer.
      model_width: of the transformer.
      heads: of the transformer.
      separate_trunks: one trunk per component instead of a shared one.
      base_updates: updates of the base model, on demonstrations with one-digit errors.
      base_batch: problems an update.
      base_learning_rate: Adam step size.
      base_decision_weight: weight of the decision token in the base's loss.
      arms: what to train from the base.
      updates: updates of every arm.
      points: measurements along each training, after the first.
      prompts: problems an update of every arm.
      group: episodes (or labelled answers) a problem.
      imitate_errors: whether SFT copies the wrong answers that its demonstrations show.
      sft_learning_rate: Adam step size of SFT arms.
      reward_learning_rate: Adam step size of reward arms.
      clip_norm: global gradient norm to clip to.
      evaluation_problems: fixed held-out problems a split.
      curve_problems: of these, how many are used along the training.
      resamples: of the bootstrap.
    """

    seed: int = 0
    instances: int = 256
    digits: int = 3
    width: int = 0
    rounds: int = 3
    temperature: float = 1.0
    cost: float = 0.0
    layers: int = 2
    model_width: int = 64
    heads: int = 4
    separate_trunks: bool = False
    base_updates: int = 800
    base_batch: int = 256
    base_learning_rate: float = 1e-3
    base_decision_weight: float = 3.0
    arms: tuple[str, ...] = ("sft-success", "sft-self", "rloo")
    updates: int = 250
    points: int = 10
    prompts: int = 32
    group: int = 8
    imitate_errors: bool = False
    sft_learning_rate: float = 1e-4
    reward_learning_rate: float = 1e-4
    clip_norm: float = 1.0
    evaluation_problems: int = 1000
    curve_problems: int = 256
    resamples: int = 1000

    def __post_init__(self) -> None:
        require_int("seed", self.seed, 0)
        require(self.seed < 2**32, "seed", self.seed, "0..2^32-1")
        require_int("rounds", self.rounds, 2, "with one round there is nothing to decide")
        for name in (
            *("instances", "layers", "model_width", "heads", "base_updates", "base_batch", "updates", "points"),
            *("prompts", "evaluation_problems", "curve_problems", "resamples"),
        ):
            require_int(name, getattr(self, name), 1)
        for name in ("base_learning_rate", "sft_learning_rate", "reward_learning_rate", "clip_norm"):
            require_positive(name, getattr(self, name))
        require_temperature(self.temperature)
        for name in ("cost", "base_decision_weight"):
            value = getattr(self, name)
            require(0 <= value < float("inf"), name, value, ">= 0 and finite")
        require(
            self.model_width % self.heads == 0, "model_width", self.model_width, f"a multiple of {self.heads} heads"
        )
        for name in ("base_updates", "updates"):
            value = getattr(self, name)
            require(value % self.points == 0, name, value, f"a multiple of points = {self.points}")
        require(
            self.curve_problems <= self.evaluation_problems,
            "curve_problems",
            self.curve_problems,
            f"at most evaluation_problems = {self.evaluation_problems}",
        )
        require(len(set(self.arms)) == len(self.arms), "arms", self.arms, "each arm once")
        for name in self.arms:
            require(arm_of(name).value_weight == 0, "arms", name, "arms without a critic; `dsjax train` has them")
        reward = any(arm_of(name).family == "reward" for name in self.arms)
        require_int("group", self.group, 2 if reward else 1, "a leave-one-out baseline needs others" if reward else "")
        self.task  # noqa: B018  the task checks digits and width

    @property
    def task(self) -> Addition:
        """The task."""
        return Addition(self.digits, self.width)

    @property
    def policy(self) -> TransformerPolicy:
        """The policy, memoryless."""
        return TransformerPolicy.for_task(
            self.task,
            self.rounds,
            layers=self.layers,
            width=self.model_width,
            heads=self.heads,
            separate_trunks=self.separate_trunks,
        )

    def setting(self, prompts: int, group: int) -> Setting:
        """What training shares."""
        return Setting(self.task, self.rounds, prompts, group, self.temperature, self.cost, self.imitate_errors)

    def key(self, purpose: str) -> jax.Array:
        """A key for each purpose; arms share `problems`."""
        return purpose_key(self.seed, purpose)


def stages(config: QuickstartConfig) -> dict[str, float]:
    """Names of the stages and their amount of work, for progress bars."""
    return {
        "theorems": 1.0,
        "lengths": 1.0,
        BASE: float(config.base_updates),
        **{arm: float(config.updates) for arm in config.arms},
        "evaluation": float((len(config.arms) + 1) * len(config.task.splits)),
        "figures": 1.0,
    }


def run(
    config: QuickstartConfig, directory: str | Path, check_theorems: CheckTheorems, advance: Advance
) -> dict[str, Any]:
    """Do what is not done yet, write `results.json`, `metrics.jsonl` and the figures, return the results.

    Args:
      config: settings.
      directory: of the run.
      check_theorems: (instances, seed, progress fraction hook) -> report as plain data.
      advance: called with (stage, done, total) as work goes on.

    Raises:
      InputError: see `RunDirectory.open`.
    """
    run_directory = RunDirectory(directory, "quickstart", to_dict(config))
    work = stages(config)
    # First, because a task may have too few problems: a directory belongs to the configuration that opened it.
    sets = evaluation_sets(config.task, config.task.splits, config.evaluation_problems)
    with opened(run_directory) as out:
        advance("theorems", 0.0, work["theorems"])

        def stage(name: str, do: Callable[[StageWriter], dict[str, Any]]) -> dict[str, Any]:
            result = out.run_stage(name, do)
            advance(name, work[name], work[name])
            return result

        theorems = stage(
            "theorems",
            lambda _: {"report": check_theorems(config.instances, config.seed, lambda x: advance("theorems", x, 1.0))},
        )
        lengths = stage(
            "lengths",
            lambda _: {"rows": share_against_length(lambda done, total: advance("lengths", done / total, 1.0))},
        )
        stage(BASE, partial(_train_base, config, sets, advance))
        for name in config.arms:
            stage(name, partial(_train_arm, config, sets, advance, out, name))
        evaluation = stage("evaluation", partial(_evaluate, config, sets, advance, out))
        models = (BASE, *config.arms)
        results = {
            "format": 1,
            "provenance": provenance(),
            "config": to_dict(config),
            "seconds": {name: out.result(name)["seconds"] for name in work if name != "figures"},
            "theorems": theorems["report"],
            "lengths": lengths["rows"],
            "curves": {name: _by_kind(out.rows(name)) for name in models},
            **{name: evaluation[name] for name in ("evaluation", "improvement", "swap", "accounting")},
        }
        write_json(out.path / "results.json", results)
        lines = b"".join((out.stage_path(name) / "metrics.jsonl").read_bytes() for name in models)
        write_atomically(out.path / "metrics.jsonl", lines)
        from dsjax.figures.style import draw_figures

        draw_figures(results, out.path)
        advance("figures", 1.0, 1.0)
    return results


def _by_kind(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    kinds: dict[str, list[dict[str, Any]]] = {"train": [], "gradient": [], "evaluation": []}
    for row in rows:
        kinds[row["kind"]].append({k: v for k, v in row.items() if k not in ("kind", "stage")})
    return kinds


def _curve(config: QuickstartConfig, sets: dict[str, Any], params: Params) -> list[dict[str, Any]]:
    rows = []
    for split, problems in sets.items():
        some = jax.tree.map(lambda x: x[: config.curve_problems], problems)
        found = measure(config.policy, params, config.task, some, config.key("curve"), config.rounds)
        rows.append({"split": split, **{name: e.to_json()["value"] for name, e in found.items()}})
    return rows


def _train(
    config: QuickstartConfig,
    sets: dict[str, Any],
    advance: Advance,
    name: str,
    arm: Arm,
    setting: Setting,
    params: Params,
    learning_rate: float,
    updates: int,
    writer: StageWriter,
) -> dict[str, Any]:
    done = 0
    trained = 0.0

    def progress(n: int) -> None:
        nonlocal done
        done += n
        advance(name, done, updates)

    def record(row: dict[str, Any]) -> None:
        nonlocal trained
        if row["kind"] == "train":
            trained += row["tokens_trained"] * (row["step"] - record_step[0])
            record_step[0] = row["step"]
        writer.record(row)

    record_step = [0]
    params = train(
        setting,
        config.policy,
        params,
        base_params=params,
        source=SOURCES[arm.source],
        objective=resolve(arm.objective, arm.options_at(config.task.length)),
        optimizer=adam(learning_rate, config.clip_norm),
        updates=updates,
        points=config.points,
        problem_key=config.key("base problems" if name == BASE else "problems"),
        draw_key=config.key(name),
        evaluate=partial(_curve, config, sets),
        record=record,
        advance=progress,
        component=arm.component,
    )
    save_params(writer.folder / "params.msgpack", jax.tree.map(np.asarray, params))
    return {"tokens_trained": round(trained)}


def _train_base(
    config: QuickstartConfig, sets: dict[str, Any], advance: Advance, writer: StageWriter
) -> dict[str, Any]:
    arm = Arm(BASE_SOURCE, "sft", "sft", {"decision_weight": config.base_decision_weight})
    params = config.policy.init(config.key("init"))
    setting = config.setting(config.base_batch, 1)
    return _train(
        config, sets, advance, BASE, arm, setting, params, config.base_learning_rate, config.base_updates, writer
    )


def _params(config: QuickstartConfig, out: RunDirectory, name: str) -> Params:
    like = jax.eval_shape(config.policy.init, jax.random.key(0))
    like = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
    return load_params(out.stage_path(name) / "params.msgpack", like)


def _train_arm(
    config: QuickstartConfig, sets: dict[str, Any], advance: Advance, out: RunDirectory, name: str, writer: StageWriter
) -> dict[str, Any]:
    arm = arm_of(name)
    rate = config.sft_learning_rate if arm.family == "sft" else config.reward_learning_rate
    setting = config.setting(config.prompts, config.group)
    params = _params(config, out, BASE)
    return _train(config, sets, advance, name, arm, setting, params, rate, config.updates, writer)


def _evaluate(
    config: QuickstartConfig, sets: dict[str, Any], advance: Advance, out: RunDirectory, writer: StageWriter
) -> dict[str, Any]:
    del writer
    models = (BASE, *config.arms)
    params = {name: _params(config, out, name) for name in models}
    result: dict[str, Any] = {"evaluation": {}, "improvement": {}, "swap": {}, "accounting": {}}
    done = 0
    total = float(len(models) * len(sets))
    for split, problems in sets.items():
        right, own, verdicts = [], [], []
        for sampler in models:
            samples, log_stop = draw_samples(
                config.policy, params[sampler], config.task, problems, config.key("evaluation"), config.rounds
            )
            right.append(np.asarray(samples.right))
            own.append(np.asarray(log_stop))
            judged = (
                log_stop if decider == sampler else judge(config.policy, params[decider], samples) for decider in models
            )
            verdicts.append(np.stack([np.asarray(x) for x in judged]))
            done += 1
            advance("evaluation", done, total)
        drawn = Evaluated(models, np.stack(right), np.empty(0), np.stack(own), np.stack(verdicts))
        for name, found in _measured(Measures([drawn], "none", config.resamples), config.arms).items():
            result[name][split] = found
    return result


def _measured(measures: Measures, arms: tuple[str, ...]) -> dict[str, Any]:
    """Estimates of every model, the swap of components, and what each brings to the change over the base."""

    def plain(found: Resampled) -> dict[str, Any]:
        return replace(found.estimate(), seeds=()).to_json()

    def accounting(arm: str) -> dict[str, Any]:
        parts = {
            scale: {part: plain(measures.part(scale, part, arm, BASE)) for part in ("sampler", "decider")}
            for scale in ("log_odds", "accuracy", "limit")
        }
        limit = {part: e["value"] for part, e in parts.pop("limit").items()}
        return {
            **{
                f"{k}_log_odds": plain(measures.of_model("log_odds", m))["value"]
                for k, m in (("base", BASE), ("arm", arm))
            },
            **parts,
            "total_accuracy": plain(measures.part("accuracy", "total", arm, BASE)),
            "limit_identity": None if None in limit.values() else limit,
        }

    found = {arm: accounting(arm) for arm in arms}
    names = ("p", "a", "b", "youden", "auroc", "accuracy", "gain", "rounds")
    return {
        "evaluation": {
            m: {**{k: plain(measures.of_model(k, m)) for k in names}, "roc": roc_curve(*measures.pooled(m))}
            for m in measures.models
        },
        "improvement": {arm: found[arm]["total_accuracy"] for arm in arms},
        "swap": {s: {d: plain(measures.swapped(s, d)) for d in measures.models} for s in measures.models},
        "accounting": found,
    }
