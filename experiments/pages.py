"""The pages of results, docs/results.md and docs/results/*.md, from the stored files alone.

    python -m experiments.pages

writes them; a test writes them again and compares. No number on these pages is copied by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dsjax.statistics import DIFFERENCE, Estimate, Resampled
from dsjax.study import agreement
from dsjax.study.cells import equal_text
from dsjax.study.jobs import Definition, Job
from dsjax.study.results import read_results, stored_below
from dsjax.study.tables import Table, with_student
from dsjax.training.arms import arm_of
from dsjax.training.config import BASE

ROOT = Path(__file__).parents[1]
HERE = ROOT / "experiments"
DOCS = ROOT / "docs"
CAUSES = HERE / "causes"
INSIDE = "in"

EARLIER = {  # a page each; stored results, or how a second run agrees with the first
    "arithmetic-cpu": "The arithmetic study: first run, unsettled bases",
    "arithmetic-cpu-again": "The arithmetic study: first run again, other seeds",
    "arithmetic-cpu-settled": "The arithmetic study: settled bases",
    "arithmetic-cpu-settled-again": "The arithmetic study: settled bases again, other seeds",
    "noise-cpu": "Why imitation of successes ends in resampling",
    "noise-cpu-large-steps": "Why imitation of successes ends in resampling: larger steps",
}
REGIMES = {"finite": "Few problems", "countdown": "Countdown", "null": "Addition with fresh problems: the null"}
KNOWN = {"prefix_sums-cpu": "Prefix sums: closed forms against runs"}  # causes known beforehand; a page each
TEN = {  # lines of the summary: predeclared hypotheses, in few words
    "H1": "rloo less sft-self on carry chains, log-odds of accuracy: the gap of C6",
    "H2": "of that, the decider's part less the sampler's",
    "H3": "reward on the decider alone less on the sampler alone, accuracy on carry chains",
    "H4": "decision weighted by L in SFT: AUROC",
    "H5": "the same against rloo: accuracy",
    "H6": "rloo: AUROC on the base's answers",
    "H11": "rewards dealt out at random: accuracy",
    "H12": "resampling less majority vote at equal cost: accuracy",
    "H13": "rloo less imitation of own successes: accuracy",
    "H14": "rloo less own labelled answers on carry chains: accuracy",
}


def folder_of(page: str) -> Path:
    """Where a page's results are stored."""
    study, preset = page.split("-", 1)
    return next(parent for parent in (HERE, CAUSES) if (parent / study).exists()) / study / preset


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table."""
    return ["| {} |".format(" | ".join(row)) for row in (columns, ["---"] * len(columns), *rows)]


def tables(found: Sequence[Table]) -> Iterator[str]:
    """Lines of the tables of a report."""
    for one in found:
        yield from ("", f"{one['title']}:", "", *table(one["columns"], one["rows"]))


def where(results: Mapping[str, Any]) -> str:
    """How many jobs, how long, with what."""
    kinds = results["provenance"]
    commits = ", ".join(f"`{c}`" for c in dict.fromkeys(str(kind["commit"])[:12] for kind in kinds))
    first = kinds[0]
    python = f"Python {first['python']}, jax {first['packages']['jax']}"
    hours = f"{sum(results['seconds'].values()) / 3600:.1f} hours of work"
    return f"{len(results['jobs'])} jobs, {hours}, {first['device']['platform']}, {python}, commit {commits}."


# The six questions ---------------------------------------------------------------------------------------------------


def causes() -> dict[str, dict[str, Any]]:
    """{name: report} of the stored studies of causes that have cells."""
    out = {}
    for name, folder in stored_below(CAUSES).items():
        report = read_results("run", folder)[1].get("report") or {}
        if any(entry.get("cells") for entry in report.get("histories", {}).values()):
            out[name] = report
    return out


def cells(reports: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All cells, each with the name of its study and the gap between its deciders in AUROC on the base's answers."""
    return [
        {"regime": name, **cell, **({"auroc": _auroc(entry["splits"][cell["split"]], cell)} if "gap" in cell else {})}
        for name, report in reports.items()
        for entry in report["histories"].values()
        for cell in entry.get("cells", ())
    ]


def _auroc(of_split: Mapping[str, Any], cell: Mapping[str, Any]) -> Estimate:
    """Paired by seed; both judge the same answers, the base's."""
    pair = (e(of_split["measures"][cell[name]]["auroc_on_base"]).seeds for name in ("arm", "against"))
    one, other = map(np.array, pair)
    return Resampled.of_seeds(one - other, DIFFERENCE).estimate()


def e(data: Any) -> Estimate:
    """A stored estimate."""
    return Estimate.from_json(data)


def named(cell: Mapping[str, Any]) -> str:
    """Which comparison, where."""
    return f"{cell['arm']} - {cell['against']} ({cell['regime']}, {cell['split']})"


NOT_RUN = "Not run yet."
OTHER_STEPS = ("-third", "-triple")  # presets that show whether an answer depends on the step size
MORE_ARMS = "-(kl|weight)$"  # presets that add arms to the comparisons of another
REWARD, IMITATION = "reward is better", "imitation is better"
GOLD = ("sft-success", "sft-canonical", "sft-self")  # what imitation copies, the first that a study has
CHU, SHENFELD = "arXiv 2501.17161", "arXiv 2509.04259"
PATTERNS = {
    "generalises": f"reward gains and imitation loses (SFT memorises, RL generalises: {CHU})",
    "keeps": f"reward keeps more (RL forgets less: {SHENFELD})",
    "reverse": "the reverse of the published gaps",
    "none": "no gap that can be told",
}


def gap_of(cell: Mapping[str, Any]) -> str:
    """A comparison and its gap in accuracy with Student's interval."""
    return f"{named(cell)} {with_student(e(cell['gap']))}"


def largest_of(found: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The comparison with the largest gap, either way."""
    return max(found, key=lambda c: abs(e(c["gap"]).value))


def counted(found: Sequence[Mapping[str, Any]]) -> str:
    """How many comparisons say what, with the largest gap of each side, or what could have been seen."""
    sides = {v: [c for c in found if c["verdict"] == v] for v in (REWARD, IMITATION)}
    parts = []
    for verdict, few in sides.items():
        parts.append(f"{verdict} in {len(few)}" + (f" (largest: {gap_of(largest_of(few))})" if few else ""))
    seen = sorted(e(c["smallest"]).value for c in found if c["verdict"].startswith("cannot") and e(c.get("smallest")))
    could = f"; {len(seen)} cannot tell, and could have seen {seen[0]:.3f} to {seen[-1]:.3f}" if seen else ""
    return f"of {len(found)} comparisons {', '.join(parts)}{could}"


def carried(found: Sequence[Mapping[str, Any]]) -> str:
    """By which term how many of the gaps are carried, and the three terms of the largest."""
    by = [c["carrier"] for c in found]
    counts = ", ".join(f"{name} {by.count(name)}" for name in dict.fromkeys(sorted(by, key=by.count, reverse=True)))
    largest = largest_of(found)
    terms = ", ".join(f"{t} {with_student(e(largest['terms'][t]))}" for t in ("decider", "mix", "sampler"))
    return f"carried by {counts}.** Of the largest, {named(largest)}, in nats: {terms}"


def told_apart(found: Sequence[Mapping[str, Any]]) -> str:
    """Of each term, gap or not, in how many comparisons it is on which side."""

    def sides(estimates: Iterable[Estimate]) -> str:
        ends = [(x.t_low, x.t_high) for x in estimates]
        return f"{sum(low > 0 for low, _ in ends)} and {sum(high < 0 for _, high in ends)}"

    terms = ", ".join(f"{t} {sides(e(c['terms'][t]) for c in found)}" for t in ("decider", "mix", "sampler"))
    return (
        f"Gap or not, of {len(found)} comparisons each term favours reward and imitation in: {terms}. A decider's term"
        " grows too if it keeps fewer answers of both kinds; it tells right answers of the base from wrong ones better"
        f" (AUROC) in {sides(c['auroc'] for c in found)}."
    )


def resembles(reports: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> str:
    """Which pattern each regime shows: by the signs of reward less demonstrations, and of each less the base."""
    shown: dict[str, list[str]] = {}
    for regime, report in reports.items():
        for cell in gold_of(regime, found):
            (entry,) = report["histories"].values()
            changes = entry["splits"][cell["split"]]["accounting"]
            gain, loss = (e(changes[f"{arm} - {BASE}"]["accuracy"]["total"]) for arm in ("rloo", cell["against"]))
            pattern = {REWARD: "keeps", IMITATION: "reverse"}.get(cell["verdict"], "none")
            if pattern == "keeps" and gain.t_low > 0 and loss.t_high < 0:
                pattern = "generalises"
            shown.setdefault(pattern, []).append(f"{regime} ({cell['split']})")
    return "; ".join(f"{words}: {', '.join(shown[key])}" for key, words in PATTERNS.items() if key in shown) or NOT_RUN


def place_of(cell: Mapping[str, Any]) -> str:
    """Regime and split of a comparison."""
    return f"{cell['regime']} {cell['split']}"


def places(found: Sequence[Mapping[str, Any]]) -> str:
    """In how many regimes and splits which side is better in some comparison, and where."""
    every, said = len({place_of(c) for c in found}), []
    for verdict in (REWARD, IMITATION):
        some = dict.fromkeys(place_of(c) for c in found if c["verdict"] == verdict)
        said.append(f"{verdict} than some in {len(some)} of {every} places" + (f" ({', '.join(some)})" if some else ""))
    return f"**Out of distribution {'; '.join(said)}.**"


def gold_of(regime: str, found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The comparisons of a regime between reward and its demonstrations."""
    of = [c for c in found if c["regime"] == regime and c["arm"] == "rloo"]
    gold = next((name for name in GOLD if any(c["against"] == name for c in of)), None)
    return [c for c in of if c["against"] == gold]


def closing(found: Sequence[Mapping[str, Any]], name: str) -> str:
    """Whether an arm closes reward's gap to demonstrations, wherever there is one.

    It does if reward is not better than the arm and Student's interval ends below the gap; it does not if reward is.
    """
    said = []
    golds = [c for regime in dict.fromkeys(c["regime"] for c in found) for c in gold_of(regime, found)]
    for gold in (c for c in golds if c["verdict"] == REWARD):
        for cell in (c for c in found if place_of(c) == place_of(gold) and c["against"] == name):
            gap, left = e(gold["gap"]), e(cell["gap"])
            word = "no" if cell["verdict"] == REWARD else "yes" if left.t_high < gap.value else "cannot tell"
            said.append(f"{word} ({place_of(cell)}: of {gap.value:+.3f} there is left {with_student(left)})")
    return f"**{name}: {'; '.join(said) or 'no gap to close where it was run'}.**"


def answers(reports: Mapping[str, Any]) -> list[list[str]]:
    """[question, answer] of the six questions, by fixed rules, of the comparisons out of distribution."""
    once: dict[str, dict[str, Any]] = {}  # a comparison that two studies share, arms and all, counts once
    for c in cells(reports):
        if "gap" in c:
            key = json.dumps([c["arm"], c["against"], c["split"], c["gap"]])
            once.setdefault(key, {**c, "regime": re.sub(MORE_ARMS, "", c["regime"])})
    every = [c for c in once.values() if not c["regime"].endswith(OTHER_STEPS)]
    inside, out = ([c for c in every if (c["split"] == INSIDE) == where] for where in (True, False))
    better, worse = ([c for c in out if c["verdict"] == v] for v in (REWARD, IMITATION))
    parts = [f"**Where {v}: {carried(few)}." for v, few in ((REWARD, better), (IMITATION, worse)) if few]
    how = " ".join([*parts, told_apart(out)]) if parts else "There is no gap to split."

    def against(what: str, *names: str) -> str:
        some = {name: few for name in names if (few := [c for c in out if c["against"] == name])}
        found = "; ".join(f"{name}: {counted(few)}" for name, few in some.items())
        lead = " ".join(closing(out, name) for name in some)
        return f"{lead} Reward less imitation of {what}: {found}." if found else NOT_RUN

    settled = read_results("run", folder_of("arithmetic-cpu-settled"))[1]["report"]["histories"]["none"]["splits"]
    weighted = e(settled["carry"]["accounting"]["rloo - sft-self-l"]["accuracy"]["total"])
    plain = e(settled["carry"]["accounting"]["rloo - sft-self"]["accuracy"]["total"])
    weights = (
        f"{against('answers with the decision weighted by L', 'sft-online-l', 'sft-self-l')} In the earlier study, on"
        f" carry chains, settled bases, rloo less sft-self is {with_student(plain)} in accuracy, and with the decision"
        f" weighted by L {with_student(weighted)}."
    )
    sentence = f"{places(out)} There, {counted(out)}. In distribution, {counted(inside)}."
    said = {
        "Where does reward beat imitation out of distribution at matched data and budget?": sentence,
        "How much of it is decider, mix, sampler?": how,
        "Do value labels close it?": against("value labels", "sft-value"),
        "Does weighting the decision token?": weights,
        "Does on-policy imitation?": against("own answers", "sft-online", "rft"),
        "Which published gap does each regime resemble?": f"By signs alone, {resembles(reports, out)}.",
    }
    return [[question, answer if out or answer is weights else NOT_RUN] for question, answer in said.items()]


def hypotheses(reports: Mapping[str, Any]) -> list[str]:
    """The hypotheses of each study, each judged by the preset that it is about: the first that has its arms."""
    lines: list[str] = []
    for file in sorted(CAUSES.glob("*/study.json")):
        shown: set[str] = set()
        for name in (f"{file.parent.name}-{preset}" for preset in Definition.read(file.parent).presets):
            if new := {h["id"] for h in reports.get(name, {}).get("hypotheses", ())} - shown:
                lines += [f"### {name}", *predeclared(folder_of(name), new), ""]
                shown |= new
    return lines


def comparisons(found: Sequence[dict[str, Any]]) -> list[str]:
    """Every cell: gap, at equal accuracy, predicted, carried by, verdict."""
    rows = []
    for cell in found:
        gap, ceiling = e(cell.get("gap")), e(cell["predicted"].get(cell["ceiling"]))
        terms = cell.get("terms", {})
        rows.append(
            [
                cell["regime"],
                f"{cell['arm']} - {cell['against']}",
                cell["split"],
                with_student(gap),
                equal_text(cell),
                f"{ceiling:.3f} ({cell['ceiling']})" if ceiling else "-",
                *(f"{e(terms.get(t)):+.2f}".split(" ")[0] for t in ("sampler", "mix", "decider")),
                cell["verdict"],
            ]
        )
    columns = ["study", "gap", "split", "in accuracy [Student]", "at equal accuracy inside", "predicted at most"]
    return table([*columns, "sampler", "mix", "decider", "verdict"], rows)


# What is planned -----------------------------------------------------------------------------------------------------


def seconds_measured() -> dict[str, float]:
    """Seconds an update of each kind of training, and of an evaluation, in the first run of the arithmetic study."""
    results = read_results("run", folder_of("arithmetic-cpu"))[1]

    def of(name: str) -> float:
        values = sorted(v for k, v in results["seconds"].items() if k.startswith("none/") and k.endswith(f"/{name}"))
        return values[len(values) // 2]

    updates = {m: results["jobs"][f"none/seed-0/{m}"]["options"]["config"]["updates"] for m in (BASE, "arms/rloo")}
    arms = {arm: of(arm) / updates["arms/rloo"] for arm in ("rloo", "sft-online", "sft-success")}
    models = len(results["jobs"]["none/seed-0/evaluation"]["options"]["models"])
    return {**arms, BASE: of(BASE) / updates[BASE], "evaluation": of("evaluation") / (models**2 * 1000 * 3)}


def hours_of(jobs: Mapping[str, Job], measured: Mapping[str, float]) -> float:
    """Core hours of a part: measured seconds an update, by kind of training and length of its rows."""
    total = 0.0
    for name, job in jobs.items():
        if name.endswith("/evaluation"):
            models, problems = len(job.options["models"]), job.options["problems"]
            total += measured["evaluation"] * models**2 * problems * 3
            continue
        config = job.options["config"]
        numbers = max(config["numbers"], config["width"])
        prompt, answer = (numbers + 3, 2 * numbers - 1) if config["task"] == "countdown" else (10, 5)
        longer = (prompt + config["rounds"] * (answer + 1)) / 28  # tokens of a row, against those that were measured
        if config["arm"] == BASE:
            total += measured[BASE] * longer * config["updates"] * config["prompts"] / 256
        else:
            arm = arm_of(config["arm"])
            kind = {"success": "sft-success", "on-policy": "rloo"}.get(arm.source, "sft-online")
            total += measured[kind] * longer * config["updates"] * config["prompts"] * config["group"] / 256
    return total / 3600


def parts() -> list[list[str]]:
    """[study, preset, seeds, trainings, core hours, whether it has been run] of every part for CPUs."""
    measured, rows = seconds_measured(), []
    for file in sorted(CAUSES.glob("*/study.json")):
        definition = Definition.read(file.parent)
        if definition.jobs != "dsjax.study.trainings:jobs":
            continue
        for preset in (p for p in definition.presets if p.startswith("cpu")):
            one = definition.changed(preset, {"seeds": 1}).study(preset).jobs  # all seeds have the same jobs
            seeds = definition.settings_of(preset)["seeds"]
            trained = seeds * sum("/arms/" in name for name in one)
            stored = (file.parent / preset / "results.json.gz").exists()
            hours = f"{seeds * hours_of(one, measured):.1f}"
            rows.append([file.parent.name, preset, str(seeds), str(trained), hours, "yes" if stored else "not yet"])
    return rows


# Causes that are known beforehand ------------------------------------------------------------------------------------


def known() -> list[str]:
    """What was planted and found again, and the closed forms next to runs."""
    lines = [
        "An instrument must find what it was given. Forty planted causes, each of exactly known size, and a process"
        " whose every number has a closed form (T17):",
        "",
        "![Planted against found](../experiments/causes/calibration/C1_calibration.png)",
        *predeclared(CAUSES / "calibration"),
    ]
    for name in KNOWN:
        folder = folder_of(name)
        (figure,) = folder.glob("C5_*.png")
        lines += [
            "",
            f"![Closed forms against runs](../{figure.relative_to(ROOT)})",
            *predeclared(folder),
            "",
            f"[All numbers of this run](results/{name}.md).",
        ]
    return lines


def predeclared(folder: Path, only: Collection[str] | None = None) -> Iterator[str]:
    """The table of a study's hypotheses, or of some."""
    found = read_results("run", folder)[1]["report"]["tables"][0]
    return tables([{**found, "rows": [row for row in found["rows"] if only is None or row[0] in only]}])


# The earlier runs ----------------------------------------------------------------------------------------------------


def summary() -> list[str]:
    """The four runs of the arithmetic study in ten lines."""
    columns: dict[str, dict[str, Any]] = {}
    for page in ("arithmetic-cpu", "arithmetic-cpu-settled"):
        report = read_results("run", folder_of(page))[1]["report"]
        columns[page] = {h["id"]: h for h in report["hypotheses"]}
        found = json.loads((folder_of(f"{page}-again") / "agreement.json").read_text())
        columns[f"{page}-again"] = {h["id"]: h["other"] for h in found["hypotheses"]}
    rows = [
        [f"{key}: {words}", *(f"{e(of[key]['estimate']):+.3f} {of[key]['verdict']}" for of in columns.values())]
        for key, words in TEN.items()
    ]
    heads = [f"[{name.removeprefix('arithmetic-')}](results/{name}.md)" for name in columns]
    return table(["estimate [bootstrap], verdict", *heads], rows)


def page(name: str) -> str:
    """One run."""
    study, preset = name.split("-", 1)
    folder, title = folder_of(name), {**EARLIER, **KNOWN}.get(name) or f"{REGIMES[study]}: {preset}"
    about = "causes" if study in REGIMES or name in KNOWN else "experiments"
    back = f"You get: the numbers of this run. [Results](../results.md), [the study](../{about}.md)."
    if (folder / "agreement.json").exists():
        found = json.loads((folder / "agreement.json").read_text())
        seconds = found["runs"][1]["seconds"] / 3600
        missing = len(found["runs"][1]["missing"])
        text = f"{seconds:.1f} hours of work; {missing} jobs missing. Which intervals of the two runs overlap:"
        lines = [f"# {title}", "", back, "", text, *tables(agreement.tables(found))]
    else:
        results = read_results("run", folder)[1]
        lines = [f"# {title}", "", back, "", where(results), *tables(results["report"]["tables"])]
    return "\n".join(lines) + "\n"


def comparisons_page() -> str:
    """docs/results/comparisons.md: every cell."""
    reports = causes()
    lines = [
        "# Every comparison of the study of causes",
        "",
        "You get: every gap between reward and imitation, in and out of distribution. [Results](../results.md).",
        "",
    ]
    for name, report in reports.items():
        data = report.get("predictions", {})
        if data:
            age = f"predictions written before {data['older_than']} of {data['arms']} arms began"
            lines.append(f"- [`{name}`]({name}.md): {age} (by their hash, `{data['sha256'][:12]}`).")
    lines += [
        "",
        "sampler, mix, decider: the terms of T22, in nats of the log-odds after many rounds. At equal accuracy inside:"
        " at the highest accuracy in distribution that both arms of a seed reach along their curves, of the seeds where"
        " both get above their base (how many, where not all).",
        "",
    ]
    return "\n".join([*lines, *(comparisons(cells(reports)) if reports else [NOT_RUN])]) + "\n"


def results_page() -> str:
    """docs/results.md."""
    reports = causes()
    lines = [
        "# Results",
        "",
        "You get: what is known so far, in three minutes. Written by `python -m experiments.pages` from the stored"
        " files, whose format is in [files.md](files.md): no number is copied by hand.",
        "",
        "## Six questions",
        "",
        "Intervals are Student's, 95 %, over seeds, uncorrected: of a hundred comparisons without a gap about five seem"
        " to have one. The hypotheses below are corrected. What cannot be told comes with the gap in accuracy that the"
        " run would have found four times in five.",
        "",
        *table(["question", "answer"], answers(reports)),
        "",
    ]
    frontiers = {f"{study}/C4_frontier": f"{title}: the frontier" for study, title in REGIMES.items()}
    captions = {"C3_regime_map": "The regime map", **frontiers, "C2_predicted_regret": "Predicted regret and gaps"}
    for figure, words in captions.items():
        if reports and (CAUSES / f"{figure}.png").exists():
            lines += [f"![{words}](../experiments/causes/{figure}.png)", ""]
    judged = hypotheses(reports) if reports else [NOT_RUN]
    link = "[Every comparison, in and out of distribution](results/comparisons.md)."
    how = "[How the study was made, and what surprised us](causes.md)."
    lines += ["## Hypotheses", "", *judged, "", link, how, ""]
    lines += [
        "## Causes known beforehand",
        "",
        *known(),
        "",
        "## Parts of the study of causes",
        "",
        "Hours of one core, from the seconds an update that the first run below took, by kind of training and length of"
        " its rows.",
        "",
        *table(["study", "preset", "seeds", "arms trained", "core hours", "run"], parts()),
        "",
        "## Earlier runs",
        "",
        "The arithmetic study, four times ([what it asked and what it says](experiments.md)); details a page each, and"
        " of the study of noise, at [the smaller](results/noise-cpu.md) and"
        " [the larger](results/noise-cpu-large-steps.md) step.",
        "",
        *summary(),
    ]
    return "\n".join(lines) + "\n"


def pages() -> dict[Path, str]:
    """{file: text} of all pages."""
    more = {DOCS / "results" / f"{n}.md": page(n) for n in (*EARLIER, *KNOWN, *causes())}
    return {DOCS / "results.md": results_page(), DOCS / "results" / "comparisons.md": comparisons_page(), **more}


if __name__ == "__main__":
    for file, text in pages().items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        print(file.relative_to(ROOT))
