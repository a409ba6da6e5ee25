"""`dsjax decisions FILE -o OUT.npz`: a rule marks where the model decides, for `dsjax attribute`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.text import Text
from tyro.conf import Positional

from dsjax.cli.flags import List, Pairs, pairs
from dsjax.cli.terminal import require_files, table, terminal, writing
from dsjax.errors import InputError, require

if TYPE_CHECKING:  # the command line shows its help without loading JAX
    from dsjax.rollouts.decisions import Found
    from dsjax.rollouts.text import Tokens

AROUND = 26  # columns of the text before and behind a decision


def decisions(
    file: Positional[Path],
    *,
    out: Annotated[Path, tyro.conf.arg(aliases=("-o",))],
    format: str | None = None,
    tokenizer: Path | None = None,
    resample: str | None = None,
    resample_ids: List = (),
    stop: str | None = None,
    stop_ids: List = (),
    end: str | None = None,
    max_tokens: int | None = None,
    step: int | None = None,
    reward: Pairs = (),
    decision_choices: int | None = None,
    preview: int = 10,
) -> int:
    r"""Mark where a model decides in a file of rollouts, by words or token ids.

    Args:
      file: An .npz file, or one of NeMo-RL, open-instruct, tunix, TRL, verl (docs/frameworks).
      out: The .npz file to write, for dsjax attribute.
      format: npz, nemo-rl, open-instruct, tunix, trl or verl; told by name and fields without it.
      tokenizer: The model's tokenizer.json, or its folder. Needs dsjax[readers].
      resample: Regular expression of the text in which it decides to try again, case aside; "wait", "hmm", "let me
        check", "alternatively" by default.
      resample_ids: Or token ids; several in a row with commas: 14524,11.
      stop: Regular expression of the end of an answer, e.g. "</answer>"; a special token by default.
      stop_ids: Or ids of the token that ends it.
      end: The end token that text alone leaves out (TRL, verl); that of tokenizer_config.json by default.
      max_tokens: The run's limit of tokens an answer, for files that do not say what was cut off (TRL, verl).
      step: Of a file with several.
      reward: Reward columns of TRL and their weights; all with 1 by default.
      decision_choices: Size of the model's vocabulary; that of the tokenizer by default.
      preview: So many of the decisions found are shown in their context.
    """
    require_files(file, out=out)
    weights = {name: _number("reward", text) for name, text in pairs("reward", reward).items()}
    sequences = [[_id("resample-ids", part) for part in text.split(",")] for text in resample_ids]
    last = [_id("stop-ids", text) for text in stop_ids]
    require(not (stop is not None and last), "stop and stop-ids", (stop, last), "one of them")
    require(preview >= 0, "preview", preview, ">= 0")
    from dsjax.io import write_arrays
    from dsjax.rollouts.decisions import Rule, mark
    from dsjax.rollouts.frameworks import Reading, read
    from dsjax.rollouts.text import Tokens

    console = terminal()
    tokens = None if tokenizer is None else Tokens(tokenizer)
    # A rule for the end of the text needs no end token behind it.
    ends = end if end is not None or tokens is None or stop is not None else tokens.end
    run = read(file, format, step, Reading(tokens, ends, max_tokens, weights))
    for words in run.said:
        console.print(Text(words), soft_wrap=True)
    if decision_choices is not None:
        run.arrays["decision_choices"] = decision_choices
    found = mark(run.arrays, Rule(resample, sequences, stop, last), tokens)
    show(found, tokens, preview, console)
    with writing("out", out):
        write_arrays(out, found.arrays)
    ratio = "" if "logp" in found.arrays else " --on-policy"
    console.print(Text(f"Written: {out}. Next: dsjax attribute {out}{ratio}"), soft_wrap=True)
    if "decision_choices" not in found.arrays:
        console.print(Text("decision_choices is not known without a tokenizer: --decision-choices"), soft_wrap=True)
    return 0


def _number(field: str, text: str) -> float:
    try:
        found = float(text)
    except ValueError as error:
        raise InputError(field, text, "a finite number") from error
    require(abs(found) < float("inf"), field, text, "a finite number")
    return found


def _id(field: str, text: str) -> int:
    require(text.strip().isdecimal(), field, text, "token ids, several in a row with commas")
    return int(text)


def show(found: Found, tokens: Tokens | None, number: int, console: Console) -> None:
    """Counts, and some of the decisions in their context."""
    n = found.counts
    for words in found.said:
        console.print(Text(words), soft_wrap=True)
    lines = [
        f"RESAMPLE: {n['resamples']} in {n['with_resample']} of {n['trajectories']} trajectories. STOP: {n['stops']}. "
        f"Cut off: {n['cut_off']}."
    ]
    if not n["resamples"]:
        lines.append("No RESAMPLE was found: is it this rule's words that the model says?")
    if not n["stops"]:
        lines.append("No STOP was found: do answers end in another token (--stop-ids, --stop)?")
    if n["left_out"]:
        lines.append(f"Left out, at the start of an answer or directly before its end: {n['left_out']}.")
    for line in lines:
        console.print(Text(line), soft_wrap=True)
    if not number:
        return
    from dsjax.rollouts.decisions import contexts

    shown = table(f"{min(number, len(found.spans))} of {len(found.spans)} in context", "row, token", "", "")
    for row in contexts(found, tokens, number):
        text = Text(row["before"][-AROUND:], style="dim")
        text.append(f"[{row['decision']}]", style="bold not dim").append(row["after"][:AROUND])
        text.truncate(2 * AROUND, overflow="ellipsis")
        shown.add_row(f"{row['row']}, {row['token']}", row["kind"], text)
    shown.columns[1].justify = shown.columns[2].justify = "left"
    console.print(shown)
