"""The jobs of the study: sweep, bases, arms, evaluations.

theory/NAME                   what theory says, or checks that it holds
sweep/base, sweep/FAMILY/..   the trainings that step size and problems an update are chosen by
sweep/choice                  what they chose, on fresh in-distribution problems; without a sweep neither is there
HISTORY/seed-S/base           a base
HISTORY/seed-S/arms/ARM       an arm from it
HISTORY/seed-S/evaluation     samples of all of these models, and what each decider thinks of each
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

from dsjax.config import from_dict, to_dict
from dsjax.evaluation.components import measure
from dsjax.evaluation.samples import draw_samples, evaluation_sets, judge
from dsjax.io import inside, read_json, read_rows, write_arrays
from dsjax.policies.base import Params
from dsjax.study.jobs import Done, Job, Progress
from dsjax.study.settings import Settings, Sweep, Theory
from dsjax.training.arms import Family, arm_of
from dsjax.training.config import BASE, TrainConfig, Which
from dsjax.training.run import run
from dsjax.training.run_directory import RunDirectory, StageWriter
from dsjax.training.start import read_params

HERE = "dsjax.study.trainings"
CHOICE = "sweep/choice"
SWEEP_HISTORY = "none"
PREDICTIONS = "predictions.json"  # of the study's directory; see `dsjax.study.predict`
RUN = "run"  # of a job that trains: the directory of `dsjax.training.run` in its own


def jobs(settings: Mapping[str, Any]) -> list[Job]:
    """The list of jobs of a preset.

    Raises:
      InputError: for settings that cannot be used.
    """
    asked = Settings.read(settings)
    read = {name: Theory.read(name, entry) for name, entry in asked.theory.items()}
    out = [Job(f"theory/{name}", job.kind, job.options, work=job.work) for name, job in read.items()]
    chosen: tuple[str, ...] = ()
    if asked.sweep is not None:
        out += _sweep(asked, asked.sweep)
        chosen = (CHOICE,)
    for history in asked.histories:
        for seed in asked.seeds_for(history):
            folder = f"{history}/seed-{seed}"
            base = _training(f"{folder}/{BASE}", asked.config(BASE, history, seed), ())
            early = {arm: asked.variant(arm).early for arm in asked.trained if asked.variant(arm).early}
            arms = []
            for arm in (arm for arm in asked.trained if arm not in early):
                own = "learning_rate" in asked.variant(arm).train  # then there is nothing to choose
                config = asked.config(arm, history, seed)
                arms.append(_training(arm_job(folder, arm), config, (base.name, *(() if own else chosen))))
            options: dict[str, Any] = {
                "problems": asked.evaluation_problems,
                "attempts": asked.attempts if history == "none" else None,
                "models": [BASE, *asked.trained],
                **({"early": early} if early else {}),
            }
            names = tuple(job.name for job in (base, *arms))
            out += [base, *arms, Job(f"{folder}/evaluation", f"{HERE}:evaluate", options, names, _work(base) / 8)]
    return out


def arm_job(folder: str, arm: str) -> str:
    """The name of an arm's job; a user's own is `module:name`, and a job is a folder."""
    return f"{folder}/arms/{arm.replace(':', '.')}"


def _work(job: Job) -> float:
    return float(job.options["config"]["updates"])


def _training(name: str, config: TrainConfig, needs: tuple[str, ...]) -> Job:
    return Job(name, f"{HERE}:train", {"config": to_dict(config)}, needs, float(config.updates))


def _sweep(asked: Settings, sweep: Sweep) -> list[Job]:
    base = _training(f"sweep/{BASE}", asked.config(BASE, SWEEP_HISTORY, sweep.seed), ())
    out = [base]
    for family in get_args(Family):
        for rate in sweep.learning_rates:
            for prompts in sweep.prompts:
                fields = {"learning_rate": rate, "prompts": prompts}
                config = asked.config(getattr(sweep, family), SWEEP_HISTORY, sweep.seed, **fields)
                out.append(_training(f"sweep/{family}/rate-{rate:g}-prompts-{prompts}", config, (base.name,)))
    names = tuple(job.name for job in out[1:])
    return [*out, Job(CHOICE, f"{HERE}:choose", {"problems": sweep.problems}, names, _work(base) / 20)]


def train(options: Mapping[str, Any], directory: RunDirectory, needs: Mapping[str, Done], progress: Progress) -> Any:
    """One training: without needs a base, else from the base needed, and as `sweep/choice` says if that is needed."""
    fields = dict(options["config"])
    arm, start = fields["arm"], None
    for name, need in needs.items():
        if name == CHOICE:
            chosen = need.result["chosen"]
            fields |= {"learning_rate": chosen[arm_of(arm).family], "prompts": chosen["prompts"]}
        else:
            fields |= {"init_from": str(need.folder / RUN), "init_checkpoint": "last"}
            start = f"jobs/{name}/{RUN}"  # results are read elsewhere: relative to the study's directory
    config = from_dict(TrainConfig, fields)
    found = {} if start is None else _predictions(directory, needs)
    result = run(config, directory.path / RUN, advance=lambda step, row: progress(step, config.updates))
    stored = {**to_dict(config), "init_from": start}
    return {"config": stored, "updates": result["updates"], **_tokens(config, directory.path / RUN), **found}


def _predictions(directory: RunDirectory, needs: Mapping[str, Done]) -> dict[str, str]:
    """{"predictions": `predicted_hash` of the study's file as it is when an arm begins}, or {} if there is none.

    A result that has the hash of a prediction cannot be older than it, whatever the clocks say.
    """
    name, need = next((name, need) for name, need in needs.items() if name != CHOICE)
    file = need.folder.parents[len(Path(name).parts)] / PREDICTIONS

    def begin(_: StageWriter) -> dict[str, Any]:
        return {"predictions": predicted_hash(file)} if file.exists() else {}

    return {k: v for k, v in directory.run_stage("begin", begin).items() if k == "predictions"}


def predicted_hash(file: Path) -> str:
    """SHA-256 of what a predictions.json says, whatever study it is of: its bases, and what they promise."""
    data = read_json(file, "predictions", "a predictions.json of `dsjax study predict`")
    said = json.dumps({name: data.get(name) for name in ("bases", "histories")}, sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of a training's metrics."""
    return read_rows(folder / "metrics.jsonl")


def _tokens(config: TrainConfig, folder: Path) -> dict[str, int]:
    """Tokens that the loss saw, and tokens sampled to make its data, in the whole training."""
    trained = sum(row["tokens_trained"] for row in rows_of(folder) if row["kind"] == "train") * config.chunk
    return {"tokens_trained": round(trained), "tokens_sampled": config.tokens_sampled}


def params_of(config: TrainConfig, need: Done, checkpoint: Which = "last") -> Params:
    """The parameters that a training has left."""
    fields = {**to_dict(config), "init_from": str(need.folder / RUN), "init_checkpoint": checkpoint}
    return read_params(from_dict(TrainConfig, fields))


def choose(options: Mapping[str, Any], directory: RunDirectory, needs: Mapping[str, Done], progress: Progress) -> Any:
    """Step size of each family and problems an update, by final accuracy on fresh in-distribution problems.

    First the problems an update, common to all arms: best mean over the families of the best over step sizes. Then the
    best step size of each family.
    """
    del directory
    table = []
    for done, need in enumerate(needs.values()):
        config = from_dict(TrainConfig, need.result["config"])
        problems = config.task_of.training_problems(config.key("validation"), options["problems"])
        key = config.key("validation attempts")
        found = measure(config.policy, params_of(config, need), config.task_of, problems, key, config.rounds)
        measures = {name: e.to_json()["value"] for name, e in found.items()}
        row = {"family": config.objective_of.family, "arm": config.arm, "learning_rate": config.learning_rate}
        table.append({**row, "prompts": config.prompts, **measures})
        progress(done + 1, len(needs))
    return {"table": table, "chosen": chosen_of(table)}


def chosen_of(table: list[dict[str, Any]]) -> dict[str, Any]:
    """{"prompts", "sft": step size, "reward": step size} of the rows of a sweep."""
    families = get_args(Family)

    def best(family: str, prompts: int) -> dict[str, Any]:
        rows = [row for row in table if row["family"] == family and row["prompts"] == prompts]
        return max(rows, key=lambda row: row["accuracy"])

    def quality(prompts: int) -> float:
        return sum(best(family, prompts)["accuracy"] for family in families)

    prompts = max(dict.fromkeys(row["prompts"] for row in table), key=quality)
    return {"prompts": prompts, **{family: best(family, prompts)["learning_rate"] for family in families}}


def evaluate(options: Mapping[str, Any], directory: RunDirectory, needs: Mapping[str, Done], progress: Progress) -> Any:
    """Samples of every model and the verdict of every decider on them, as one file SPLIT.npz a split.

    `right` bool[M, N, K] and `answers` i8[M, N, K, L] of the samplers; `own` f32[M, N, K] log pi_d(STOP) of each model
    on its own samples; `log_stop` f32[M, M, N, T] of (sampler, decider) on the first T. N problems, K samples each.
    """
    early = options.get("early", {})
    trained = dict(zip((name for name in options["models"] if name not in early), needs.values(), strict=True))
    models = options["models"]
    config = from_dict(TrainConfig, trained[BASE].result["config"])
    policy, task, key = config.policy, config.task_of, config.key("evaluation")
    attempts = options["attempts"] or config.rounds
    params = {
        name: params_of(config, trained[early.get(name, name)], "best" if name in early else "last") for name in models
    }
    sets = evaluation_sets(task, task.splits, options["problems"])
    done = 0
    for split, problems in sets.items():
        arrays: dict[str, list[Any]] = {"right": [], "answers": [], "own": [], "log_stop": []}
        for name in models:
            samples, own = draw_samples(policy, params[name], task, problems, key, attempts)
            first = samples.replace(**{k: getattr(samples, k)[:, : config.rounds] for k in ("answers", "right")})
            verdicts = [
                own[:, : config.rounds] if other == name else judge(policy, params[other], first) for other in models
            ]
            arrays["right"].append(np.asarray(samples.right))
            arrays["answers"].append(np.asarray(samples.answers, np.int8))
            arrays["own"].append(np.asarray(own))
            arrays["log_stop"].append(np.stack([np.asarray(v) for v in verdicts]))
            done += 1
            progress(done, len(sets) * len(models))
        write_arrays(inside(directory.path, f"{split}.npz"), {k: np.stack(v) for k, v in arrays.items()})
    return {
        "config": to_dict(config),
        "models": list(models),
        "splits": list(sets),
        **({"early": early} if early else {}),
    }
