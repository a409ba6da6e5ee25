"""The tables of docs/performance.md from the results stored next to this file.

python -m experiments.bench.page        # writes them between the marks of the page
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsjax.io import read_json
from dsjax.training.bench import SIZES
from experiments.bench import scale

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- tables: experiments/bench/page.py -->", "<!-- end of the tables -->"
PRESETS = ("1M", "nano")
WIDTH = 120
RL_GOAL = 0.55  # of the matrix product
LABELS = {
    "forward": "forward, teacher-forced",
    "decode": "decode, new tokens",
    "sft": "SFT step",
    "rl": "RL step: 3 rounds sampled, then the update",
}
RIVAL = {"forward": "forward", "decode": "decode", "sft": "train"}
# tokens/s and GFLOP/s of the matrix product, measured elsewhere with the strongest loop found (Torch 2.13, two cores)
ELSEWHERE = {
    "1M": {"peak": 359, "train": 27_600, "forward": 77_400, "decode": 35_300},
    "nano": {"peak": 359, "train": 162_800, "forward": 559_900, "decode": 175_500},
}

Result = Mapping[str, Any]


def load(name: str) -> Any:
    """A stored result."""
    return read_json(HERE / name)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def rates(results: Mapping[str, Result]) -> list[str]:
    """Rates and fractions of the matrix product."""
    rows = [
        [label, *(c for r in results.values() for c in (f"{r[f'{m}_tokens_per_s']:,.0f}", f"{_fraction(r, m):.2f}"))]
        for m, label in LABELS.items()
    ]
    rows.append(
        ["decode over forward", *(c for r in results.values() for c in (f"{r['decode_over_forward']:.2f}", ""))]
    )
    return table(["", *(c for preset in results for c in (f"{preset}, tokens/s", "of peak"))], rows)


def _fraction(result: Result, measure: str) -> float:
    return result[f"{measure}_fraction_of_peak"]


def facts(results: Mapping[str, Result]) -> list[str]:
    """Where, when compiled, how much memory."""
    lines = []
    for preset, r in results.items():
        where = f"jax {r['versions']['jax']}, commit {r['provenance']['commit']}"
        lines.append(
            f"- `experiments/bench/cpu_{preset}.json`: {r['devices']} cores of {r['provenance']['machine']}, one "
            f"device each, {r['config']['dtype']}, batch {r['config']['batch']} x 32 tokens (decode: 10 prompt + 22 "
            f"new), {where}; matrix product {r['matmul_peak_flops'] / 1e9:,.0f} GFLOP/s. First SFT step, compiled: "
            f"{r['first_step_s']:.1f} s. The compiled SFT step holds {r['sft_program_bytes'] / 1e6:.0f} MB (by count "
            f"{r['sft_expected_bytes'] / 1e6:.0f}), the RL step {r['rl_program_bytes'] / 1e6:.0f} MB "
            f"({r['rl_expected_bytes'] / 1e6:.0f})."
        )
    return [*lines, ""]


def against(results: Mapping[str, Result], rivals: Mapping[str, Result]) -> list[str]:
    """Per FLOP/s of each run's own matrix product, ours over theirs."""
    rows = []
    for preset, r in results.items():
        here, there = rivals[preset], ELSEWHERE[preset]
        raw = [f"{r[f'{ours}_tokens_per_s'] / here[f'{theirs}_tokens_per_s']:.2f}" for ours, theirs in RIVAL.items()]
        rows.append([f"{preset}, this machine, same hour: tokens/s", *raw])
        for name, rate, peak in (
            (
                "this machine, per FLOP/s of each one's own product",
                {m: here[f"{m}_tokens_per_s"] for m in RIVAL.values()},
                here["matmul_peak_flops"],
            ),
            ("another machine, per FLOP/s of the product", there, 1e9 * there["peak"]),
        ):
            cells = []
            for ours, theirs in RIVAL.items():
                ratio = r[f"{ours}_tokens_per_s"] / rate[theirs]
                cells.append(f"{ratio / (r['matmul_peak_flops'] / peak):.2f}")
            rows.append([f"{preset}, {name}", *cells])
    products = ", ".join(
        f"{preset} {r['matmul_peak_flops'] / 1e9:,.0f} and {rivals[preset]['matmul_peak_flops'] / 1e9:,.0f}"
        for preset, r in results.items()
    )
    line = (
        f"The product of 1024 x 1024 reaches, in GFLOP/s, ours and theirs: {products}. Where the two libraries' own"
        " products differ as much, the ratio per FLOP/s says what each makes of its product, the first row what a user"
        " gets."
    )
    return [*table(["ours over theirs", "forward", "decode", "SFT step"], rows), textwrap.fill(line, WIDTH), ""]


def profile(results: Mapping[str, Result]) -> list[str]:
    """Where the time of an RL step goes, by the rates of its two halves measured alone, and what it would take."""
    rows = []
    for preset, r in results.items():
        config = r["config"]
        new = config["rounds"] * (config["length"] + 1)  # tokens of an episode that are sampled
        row = config["prompt_length"] + new
        # Seconds of the matrix product at its peak are the unit: 2 operations a sampled token, 6 a trained one.
        sampling, update = 2 * new / _fraction(r, "decode"), 6 * row / _fraction(r, "sft")
        whole = 6 * row / _fraction(r, "rl")
        needed = (6 * row / RL_GOAL - update) / (2 * new)
        rows.append(
            [
                preset,
                f"{_fraction(r, 'rl'):.2f}",
                f"{sampling / whole:.0%}",
                f"{update / whole:.0%}",
                f"{1 - (sampling + update) / whole:.0%}",
                f"{1 / needed:.2f} of peak, now {_fraction(r, 'decode'):.2f}" if needed > 1 else "a faster update too",
            ]
        )
    head = ["RL step", "of peak", "sampling", "update", "rest", f"for {RL_GOAL} of peak sampling alone would need"]
    return table(head, rows)


def trainer(ours: Mapping[str, Result], theirs: Mapping[str, Result]) -> list[str]:
    """New tokens a second of whole RL steps: ours of one round, and those of TRL's GRPOTrainer."""
    rows = []
    for preset, r in ours.items():
        config, rival, weights = r["config"], theirs[preset], 12 * SIZES[preset][0] * SIZES[preset][1] ** 2
        answer = config["length"] + 1
        new = r["rl_episodes_per_s"] * answer
        # Operations that a new token asks for at the least: 2 to sample it, 6 a token of its row to learn from it.
        least = weights * (2 + 6 * (config["prompt_length"] + answer) / answer)
        bound = r["matmul_peak_flops"] / least
        rates = new, rival["new_tokens_per_s"]
        ratios = (f"{x / rates[1]:.1f}" for x in (new, bound))
        rows.append([preset, *(f"{x:,.0f}" for x in rates), *ratios, rival["variant"]])
    setting, versions = theirs[PRESETS[0]]["setting"], theirs[PRESETS[0]]["versions"]
    line = (
        "`experiments/bench/trl_grpo.py --tune`: GPT-2 of the same layers, width and heads,"
        f" {setting['prompts']} prompts of {setting['prompt_length']} tokens, groups of {setting['group']},"
        f" {setting['new_tokens']} new tokens, TRL {versions['trl']}, transformers {versions['transformers']}, torch"
        f" {versions['torch']}, same machine, same hour. `At the product's peak`: if every operation of ours ran at the"
        " speed of the matrix product, and nothing else took time."
    )
    head = [
        "RL step of one round, new tokens/s",
        "ours",
        "TRL's",
        "ours over theirs",
        "at the product's peak",
        "TRL's setting",
    ]
    return [textwrap.fill(line, WIDTH), "", *table(head, rows)]


def ratios(ablations: Result) -> list[str]:
    """Each optimisation, after over before."""
    rows = [
        [pair["name"], f"{pair['ratio']:.2f}", f"{min(pair['rounds']):.2f}..{max(pair['rounds']):.2f}"]
        for pair in ablations["pairs"]
    ]
    return table(["", "tokens/s, after over before", "single rounds"], rows)


def low_precision(run: Result) -> list[str]:
    """bfloat16 on another machine than the table of optimisations."""
    units = {True: "with matrix units (amx_bf16)", False: "without matrix units", None: "of unknown kind"}
    where = f"{run['provenance']['cpu_count']} cores, commit {run['provenance']['commit']}"
    line = f"`experiments/bench/bfloat16.json`: 1M, a processor {units[run['matrix_units']]}, {where}."
    return [line, "", *ratios(run)]


def growth(result: Result) -> list[str]:
    """The exponent e of the seconds of a step ~ value^e along each sweep."""
    from dsjax.training.bench import slope

    measures = ("decode", "sft", "rl")
    rows = []
    for name, swept in result["sweeps"].items():
        ends = f"{swept[0][name]}..{swept[-1][name]}"
        rows.append([f"{name} {ends}", *(f"{slope(swept, name, m):.2f}" for m in measures)])
    return table(["seconds of a step ~ value^e: e", "decode", "SFT step", "RL step"], rows)


def commands(result: Result) -> list[str]:
    """How the seconds and the memory of each command grow."""
    rows = []
    for name, series in scale.SERIES.items():
        points, its = scale.points_of(result, name), scale.fit_of(result, name)
        ends = points[0], points[-1]
        rows.append(
            [
                f"{series.command}: {ends[0]['size']:,}..{ends[1]['size']:,} {series.unit}",
                *(f"{p['cpu_s']:.1f}" for p in ends),
                f"{its.fixed:.1f}",
                f"{its.slope:.2f} ({its.low:.2f}..{its.high:.2f})",
                "..".join(f"{p['peak_bytes'] / 1e6:,.0f}" for p in ends),
            ]
        )
    where = f"{result['provenance']['cpu_count']} cores, commit {result['provenance']['commit']}"
    line = (
        f"`experiments/bench/scale.json` (`python -m experiments.bench.scale`): {where}. Every point is a fresh"
        " process that compiles what it needs; seconds are the processor's, `fixed + rest x size^slope`. In brackets:"
        " the slopes that an F test at 5 % does not reject."
    )
    head = ["", "smallest, s", "largest, s", "fixed, s", "slope", "peak, MB"]
    return [line, "", *table(head, rows), "![Growth of the commands](../experiments/bench/scale.png)", ""]


def text() -> str:
    """All tables."""
    results = {preset: load(f"cpu_{preset}.json") for preset in PRESETS}
    rivals = {preset: load(f"cpu_torch_{preset}.json") for preset in PRESETS}
    rounds, trainers = (
        {preset: load(f"cpu_{name}_{preset}.json") for preset in PRESETS} for name in ("one_round", "trl")
    )
    parts = [
        ["## Measured", "", *facts(results), *rates(results)],
        ["## Where an RL step spends its time", "", *profile(results)],
        ["## Against PyTorch", "", *against(results, rivals)],
        ["## Against TRL", "", *trainer(rounds, trainers)],
        ["## What each optimisation brings", "", *ratios(load("ablations.json"))],
        ["## bfloat16 on processors", "", *low_precision(load("bfloat16.json"))],
        ["## Growth", "", *growth(results["nano"])],
        ["## Growth of the commands", "", *commands(load("scale.json"))],
    ]
    return "\n".join(line for part in parts for line in part).rstrip() + "\n"


def between(page: str) -> str:
    """What stands between the marks of a page."""
    return page.split(BEGIN + "\n\n")[1].split("\n" + END)[0]


def main() -> None:
    """Write the page."""
    page = PAGE.read_text()
    PAGE.write_text(page.replace(between(page), text()))


if __name__ == "__main__":
    main()
