"""The calibration of the accounting: whether it finds causes of known size that were planted from one base.

none/seed-S/base, none/seed-S/arms/ARM   the base and what components are taken from
calibration                              planted sizes, exact, and what the accounting finds from drawn samples
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dsjax.config import from_dict, require_int
from dsjax.errors import require
from dsjax.statistics import Estimate
from dsjax.study import trainings
from dsjax.study.calibration_cases import SCALES, World, cases, evaluated, found_sizes, holds, planted_sizes, tabulated
from dsjax.study.jobs import Definition, Done, Job, Progress
from dsjax.study.tables import Table
from dsjax.tasks.base import TwoNumbers
from dsjax.training.config import BASE, TrainConfig
from dsjax.training.run_directory import RunDirectory

NAME = "calibration"


def jobs(settings: Mapping[str, Any]) -> list[Job]:
    """The trainings, and the job that plants and finds.

    Raises:
      InputError: for settings that cannot be used.
    """
    others = {"histories": ["none"], "seeds": 1, "sweep": None}
    asked = {**{k: v for k, v in settings.items() if k != NAME}, **others}
    trained = [job for job in trainings.jobs(asked) if not job.name.endswith("/evaluation")]
    options = dict(settings[NAME])
    for name in ("problems", "resamples", "repeats"):
        require_int(f"{NAME}.{name}", options[name], 1)
    for role in ("donor", "noise"):
        require(options[role] in asked["arms"], f"{NAME}.{role}", options[role], asked["arms"])
    config = from_dict(TrainConfig, trained[0].options["config"])
    small = isinstance(config.task_of, TwoNumbers) and config.task_of.width == 1
    require(small, "task", config.task, "a task of two numbers of one digit: all answers are written down")
    require(config.separate_trunks, "separate_trunks", config.separate_trunks, "true: components that can be swapped")
    work = 10.0 * options["repeats"] * sum(map(len, options["dials"].values()))
    return [
        *trained,
        Job(NAME, f"{trainings.HERE.rsplit('.', 1)[0]}.{NAME}:plant", options, tuple(j.name for j in trained), work),
    ]


def plant(options: Mapping[str, Any], directory: RunDirectory, needs: Mapping[str, Done], progress: Progress) -> Any:
    """Every case with its planted sizes and what one evaluation finds, and how many of many evaluations cover them.

    Returns:
      {"problems", "rounds", "repeats", "cases": [{"kind", "size", "parts": {scale: {part: {"planted", "value", "low",
      "high", "covered": of `repeats` further evaluations}}}}]}.
    """
    del directory
    named = {name.rsplit("/", 1)[-1]: need for name, need in needs.items()}
    config = from_dict(TrainConfig, named[BASE].result["config"])
    roles = {BASE: BASE, "donor": options["donor"], "noise": options["noise"]}
    models = {role: trainings.params_of(config, named[name]) for role, name in roles.items()}
    task = config.task_of
    assert isinstance(task, TwoNumbers)
    world = World.of(task)
    base = tabulated(config.policy, models[BASE], world)
    planted = cases(world, config.policy, models, options["dials"])
    rows = []
    for i, case in enumerate(planted):
        sizes = planted_sizes(world, base, case.policy, config.rounds)
        parts = {s: {part: {"planted": sizes[s][part], "covered": 0} for part in names} for s, names in SCALES.items()}
        for repeat in range(1 + options["repeats"]):
            rng = np.random.default_rng([options["seed"], i, repeat])
            found = found_sizes(
                evaluated(world, base, case, config.rounds, options["problems"], rng), options["resamples"]
            )
            for scale, of in found.items():
                for part, estimate in of.items():
                    if repeat == 0:
                        parts[scale][part] |= {k: getattr(estimate, k) for k in ("value", "low", "high")}
                    else:
                        parts[scale][part]["covered"] += holds(estimate, sizes[scale][part])
            progress(i + (1 + repeat) / (1 + options["repeats"]), len(planted))
        rows.append({"kind": case.kind, "size": case.size, "parts": parts})
    return {**{k: options[k] for k in ("problems", "repeats")}, "rounds": config.rounds, "cases": rows}


def report(merged: Mapping[str, Any], directory: Path, definition: Definition) -> dict[str, Any]:
    """Coverage of every part, as `theory.calibration` of a report, and a verdict on each hypothesis.

    A hypothesis {"id", "text", "scale", "part", "of", "at_least"} is supported if at least so many of `of` planted
    sizes lie within their intervals.

    Raises:
      InputError: for a hypothesis about another number of cases than there are.
    """
    del directory
    done = merged["jobs"]
    if NAME not in done:
        return {"theory": {}, "histories": {}, "hypotheses": [], "tables": []}
    result = done[NAME]["result"]
    counted = coverage(result)
    judged = []
    for h in definition.hypotheses:
        found = counted[h["scale"]][h["part"]]
        if found["of"] == h["of"]:  # another preset has other cases
            verdict = "supported" if found["covered"] >= h["at_least"] else "contradicted"
            judged.append({**h, "covered": found["covered"], "verdict": verdict})
    calibration = {**result, "coverage": counted}
    return {
        "theory": {NAME: calibration},
        "histories": {},
        "hypotheses": judged,
        "tables": [_hypotheses(judged), *_tables(calibration)],
    }


def coverage(result: Mapping[str, Any]) -> dict[str, dict[str, dict[str, int]]]:
    """How many of the planted sizes the first evaluations cover, and how many of all further ones, by scale and part.

    `moving` counts the cases in which the part is not held still by the planting, `covered_moving` those of them that
    are covered: of a component that nobody touched every sample says 0.
    """
    out: dict[str, dict[str, dict[str, int]]] = {}
    for scale, names in SCALES.items():
        for part in names:
            found = [case["parts"][scale][part] for case in result["cases"]]
            inside = [holds(Estimate(x["value"], x["low"], x["high"]), x["planted"]) for x in found]
            moving = [x["high"] > x["low"] for x in found]
            out.setdefault(scale, {})[part] = {
                "covered": sum(inside),
                "of": len(found),
                "covered_moving": sum(i and m for i, m in zip(inside, moving, strict=True)),
                "moving": sum(moving),
                "repeated_moving": sum(x["covered"] for x, m in zip(found, moving, strict=True) if m),
                "repeats_moving": result["repeats"] * sum(moving),
            }
    return out


def _hypotheses(judged: list[dict[str, Any]]) -> Table:
    rows = [[h["id"], h["text"], f"{h['covered']} of {h['of']}", h["verdict"]] for h in judged]
    title = "Hypotheses, written down before the runs"
    return {"title": title, "columns": ["", "hypothesis", "covered", "verdict"], "rows": rows}


def _tables(calibration: Mapping[str, Any]) -> list[Table]:
    """Coverage by part; planted and found of every case in nats."""
    rows = []
    for scale, of in calibration["coverage"].items():
        for part, n in of.items():
            share = f"{100 * n['repeated_moving'] / n['repeats_moving']:.1f} %" if n["repeats_moving"] else "-"
            counts = f"{n['covered']} of {n['of']}", f"{n['covered_moving']} of {n['moving']}"
            rows.append([scale, part, *counts, share])
    columns = ["scale", "part", "intervals with the planted size", "of parts that can move", "the same, repeated"]
    out = [
        {"title": f"Coverage of 95 % intervals, {calibration['problems']} problems", "columns": columns, "rows": rows}
    ]
    parts = SCALES["three_terms"]
    rows = []
    for case in calibration["cases"]:
        found = (case["parts"]["three_terms"][part] for part in parts)
        cells = [f"{x['planted']:+.2f}: {Estimate(x['value'], x['low'], x['high']):+.2f}" for x in found]
        rows.append([case["kind"], f"{case['size']:g}", *cells])
    title = "Planted: found, in nats of the log-odds after many rounds"
    return [*out, {"title": title, "columns": ["cause", "dial", *parts], "rows": rows}]
