"""`dsjax attribute FILE.npz`: the attribution of rollouts from somewhere else; of several files, over training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text
from tyro.conf import Positional

from dsjax.cli.flags import Pairs, options
from dsjax.cli.terminal import (
    Bars,
    estimate,
    number,
    require_directory,
    require_files,
    table,
    terminal,
    waiting,
    writing,
)
from dsjax.errors import require

if TYPE_CHECKING:  # the command line shows its help without loading JAX
    from dsjax.rollouts.diagnosis import Diagnosis
    from dsjax.rollouts.frameworks import Run

CONVENTIONS = {"factor": "(i) per factor", "token": "(ii) per token", "block": "(iii) per trajectory"}
QUANTITIES = {
    "sample": "pi_sample",
    "decision": "pi_d",
    "share": "decision share",
    "signed_sample": "signed, pi_sample",
    "signed_decision": "signed, pi_d",
}
RIGHT = {"answer": "answers", "trajectory": "trajectories"}
GRADIENT_ROWS = {
    "signal_sample": "|E[g_s]|^2",
    "signal_decision": "|E[g_d]|^2",
    "signal_share": "decision share of both",
    "noise_sample": "noise of one estimate, sampler",
    "noise_decision": "noise of one estimate, decider",
    "signal_to_noise_sample": "signal to noise, sampler",
    "signal_to_noise_decision": "signal to noise, decider",
    "cosine_of_means": "cosine of the means (noise included)",
}


# Columns of estimates in the table over training, and how they are written.
COURSE = {
    "decision_share": ("decision\nshare", ".1%"),
    "p_stop_right": ("P(STOP |\nright)", ".0%"),
    "p_stop_wrong": ("P(STOP |\nwrong)", ".0%"),
    "signal_to_noise_decision": ("S/N, pi_d", ".2f"),
}
SHOWN = 24  # steps in that table


def attribute(
    files: Positional[tuple[Path, ...]],
    *,
    format: str | None = None,
    tokenizer: Path | None = None,
    step: int | None = None,
    objective: str = "grpo",
    option: Pairs = (),
    decision_choices: int | None = None,
    on_policy: bool = False,
    logp_tolerance: float | None = None,
    success: float | None = None,
    resamples: int | None = None,
    seed: int = 0,
    json: Path | None = None,
    out: Path | None = None,
    tensorboard: bool = False,
) -> int:
    """Attribution of rollouts in one file, or in one for each step of training.

    Args:
      files: The .npz file (docs/attribute.md), or one that a framework wrote (docs/frameworks); several, or a directory
        of .npz files, with the step in each name.
      format: npz, nemo-rl, open-instruct, tunix, trl or verl; told by name and fields without it.
      tokenizer: The model's tokenizer.json, for files that have text alone (TRL, verl).
      step: Of a file with several.
      objective: A name of the registry, or module:function.
      option: Option of the objective, e.g. clip=0.1.
      decision_choices: 2 if decisions are drawn from STOP and RESAMPLE alone, else the size of the vocabulary; where
        the file does not say.
      on_policy: The tokens were drawn under logp; where the file has no old_logp.
      logp_tolerance: Log-probs up to this are read as 0; 0.01 for bfloat16.
      success: Returns from here on count as success; midway between the smallest and the largest by default.
      resamples: Of the bootstrap; 2000 by default.
      seed: Of the bootstrap.
      json: Also write every number to this file; of one file.
      out: Directory for course.jsonl and the figure of several files; the same command goes on where it ended.
      tensorboard: Also write TensorBoard event files there.
    """
    from dsjax.statistics import RESAMPLES

    require(bool(files), "files", "none", "at least one .npz file, or a directory of them")
    require_files(*files, json=json)
    load = _loading(format, tokenizer, step)
    settings: dict[str, Any] = {
        "objective": objective,
        "options": options(objective, option),
        "success": success,
        "resamples": RESAMPLES if resamples is None else resamples,
        "seed": seed,
        "on_policy": on_policy,
        "logp_tolerance": logp_tolerance,
        "decision_choices": decision_choices,
    }
    if out is None and len(files) == 1 and not files[0].is_dir():
        require(not tensorboard, "tensorboard", True, "several files, with --out DIR")
        return _one(files[0], load, settings, json)
    require(json is None, "json", str(json), "one file of rollouts; several write DIR/course.jsonl with --out DIR")
    require(out is not None or not tensorboard, "tensorboard", True, "a directory for them: --out DIR")
    return _course(files, load, settings, out, tensorboard)


def _loading(format: str | None, tokenizer: Path | None, step: int | None) -> Callable[[Path], Run]:
    from dsjax.rollouts.frameworks import Reading, read
    from dsjax.rollouts.text import Tokens

    reading = Reading(None if tokenizer is None else Tokens(tokenizer))
    return lambda path: read(path, format, step, reading)


def _diagnosing(
    load: Callable[[Path], Run], settings: Mapping[str, Any], console: Console
) -> Callable[[Path], Diagnosis]:
    """Reads and attributes one file after the other, with the objective compiled once for each shape."""
    from dsjax.rollouts import attribute_rollouts
    from dsjax.rollouts.evaluation import Evaluator

    evaluator, said = Evaluator(settings["objective"], settings["options"]), set()
    rest = {name: x for name, x in settings.items() if name not in ("objective", "options", "decision_choices")}

    def diagnosed(path: Path) -> Diagnosis:
        run = load(path)
        arrays, words = run.arrays, list(run.said)
        if run.framework is not None:
            words.append("No framework writes which tokens decide: dsjax decisions marks them.")
        for line in words:
            if line not in said:
                said.add(line)
                console.print(Text(line))
        choices = settings["decision_choices"]
        if choices is not None:
            given = arrays.setdefault("decision_choices", choices)
            require(int(given) == choices, "decision_choices", choices, f"{given}, as in the file")
        return attribute_rollouts(evaluator, **rest, **arrays)

    return diagnosed


def _one(path: Path, load: Callable[[Path], Run], settings: Mapping[str, Any], json: Path | None) -> int:
    from dsjax.io import write_json

    console = terminal()
    diagnosed = _diagnosing(load, settings, console)
    with waiting(console, "Reading and resampling"):
        found = diagnosed(path)
    show(found, console)
    if json is not None:
        with writing("json", json):
            write_json(json, found.to_json())
    return 0


def _course(
    paths: tuple[Path, ...],
    load: Callable[[Path], Run],
    settings: Mapping[str, Any],
    out: Path | None,
    tensorboard: bool,
) -> int:
    from dsjax.figures.course import draw_course
    from dsjax.rollouts.arrays import FORMAT
    from dsjax.rollouts.course import by_step, follow, scalars, stored
    from dsjax.training.records import EventFiles, RowFile, require_tensorboard

    if tensorboard:
        require_tensorboard()
    console, steps = terminal(), by_step(paths)
    diagnosed = _diagnosing(load, settings, console)
    rows: dict[int, dict[str, Any]] = {}
    done, whole = ([], 0) if out is None else stored(out / "course.jsonl", settings)
    require_directory("out", out)
    file = events = None
    if out is not None:
        (out / "course.jsonl").touch()
        file = RowFile(out / "course.jsonl", whole)
        if not whole:
            file.record({"format": FORMAT, **settings})
        if tensorboard:
            events = EventFiles(out / "tensorboard", iter(()))
    rows.update({row["step"]: row for row in done})
    try:
        with Bars(console, "files") as bars:
            for i, (row, new) in enumerate(follow(steps, done, diagnosed), 1):
                rows[row["step"]] = row
                if file is not None and new:
                    file.record(row)
                bars("files", i, len(steps), row["file"])
        if events is not None:
            for step in sorted(rows):
                events.record(scalars(rows[step]))
    finally:
        for opened in (file, events):
            if opened is not None:
                opened.close()
    ordered = [rows[step] for step in sorted(rows)]
    show_course(ordered, console)
    if out is not None:
        for path in draw_course(ordered, out, f"Coefficients of {settings['objective']} over training"):
            console.print(str(path), soft_wrap=True)
    return 0


def show_course(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the table over training, evenly chosen steps of it where there are many, and what is odd in any file."""
    chosen = rows if len(rows) <= SHOWN else [rows[round(i * (len(rows) - 1) / (SHOWN - 1))] for i in range(SHOWN)]
    shown = table("Over training", "step", "STOP\nRESAMPLE", "sign\nagrees", *(head for head, _ in COURSE.values()))
    for row in chosen:
        counts, agrees = f"{row['stop']}\n{row['resample']}", _percent(row["sign_agrees"]["value"])
        estimates = (estimate(row[name], form) for name, (_, form) in COURSE.items())
        shown.add_row(str(row["step"]), counts, agrees, *estimates)
    console.print(shown)
    if len(chosen) < len(rows):
        console.print(f"{len(chosen)} of {len(rows)} steps; the files have all.")
    if any(row["right_is_known_of"] == "trajectory" for row in rows):
        console.print(Text("right, wrong: how the trajectory ends; give correct for the answer before the decision."))


def _percent(x: float | None) -> str:
    return "-" if x is None or isnan(x) else f"{100 * x:.0f} %"


def show(found: Diagnosis, console: Console) -> None:
    """Print the tables."""
    for note in found.notes:
        console.print(Text(f"- {note}"))
    counts = found.rollouts
    shown = table("Rollouts", "", "")
    groups = "-" if counts["groups"] is None else str(counts["groups"])
    for label, value in {
        "trajectories, groups": f"{counts['trajectories']}, {groups}",
        "sampling tokens, answers": f"{counts['sampling_tokens']}, {counts['answers']}",
        "tokens an answer: mean": number(counts["answer_length_mean"]),
        "  min, quartiles, max": " ".join(map(str, counts["answer_length_quantiles"])) or "-",
        "decisions, per trajectory": f"{counts['decisions']}, {counts['decisions_per_trajectory']:.4g}",
        "ended by STOP, RESAMPLE": f"{counts['ended_by_stop']}, {counts['ended_by_resample']}",
        "ended without a decision": str(counts["ended_without_decision"]),
        "cut off": "not given" if counts["truncated"] is None else str(counts["truncated"]),
        "STOP and RESAMPLE known": counts["decision_types"],
        "mean return, variance": f"{number(counts['mean_reward'])}, {number(counts['reward_variance'])}",
        **{
            f"P(STOP), {x} {RIGHT[found.stopping['known_of']]}": format(found.stopping[x], ".3g")
            for x in ("right", "wrong")
            if found.stopping["known_of"] is not None
        },
    }.items():
        shown.add_row(label, value)
    console.print(shown)

    settings = ", ".join(f"{k} = {v}" for k, v in found.options.items())
    title = f"Coefficients of {found.objective}" + (f" ({settings})" if settings else "")
    shown = table(title, "", *CONVENTIONS.values())
    for quantity, label in QUANTITIES.items():
        shown.add_row(label, *(estimate(found.conventions[unit][quantity]) for unit in CONVENTIONS))
    console.print(shown)

    shown = table("Decisions", "drawn", "count", "coefficient", "up", "down", "push on\nSTOP logit", "sign\nagrees")
    for name, d in found.decisions.items():
        agrees = _percent(found.outcome[name]["agrees"].value) if name in found.outcome else "-"
        pushes = (_percent(d["pushed_up"]), _percent(d["pushed_down"]), number(d["push_on_stop_logit"]))
        shown.add_row(name, str(d["count"]), number(d["mean_coefficient"]), *pushes, agrees)
    console.print(shown)

    shown = table("Second moment of one trajectory's gradient, in logit space", "", "from", "to", "")
    for quantity, label in (("sample", "pi_sample"), ("decision", "pi_d"), ("share", "decision share")):
        row = found.logit_space[quantity]
        shown.add_row(label, estimate(row["lower"]), estimate(row["upper"]), row["status"])
    console.print(shown)

    if found.gradients is not None:
        shown = table(f"Gradients of the file ({found.gradients['estimates']} estimates), Euclidean", "", "")
        for name, label in GRADIENT_ROWS.items():
            shown.add_row(Text(label), estimate(found.gradients[name]))
        console.print(shown)

    shown = table("What these arrays can tell", "quantity", "status", "why")
    for column, wraps in zip(shown.columns, (True, False, True), strict=True):
        column.justify, column.no_wrap = "left", not wraps
    for row in found.availability:
        shown.add_row(Text(row["quantity"]), row["status"], Text(row["why"]))
    console.print(shown)
    console.print(Text(found.reading))
