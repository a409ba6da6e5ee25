"""`dsjax bench`: measure, print, compare with a stored result, draw the sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from dsjax.cli.flags import List, chosen, fields_of
from dsjax.cli.terminal import Bars, number, require_directory, require_files, table, terminal, writing
from dsjax.errors import require

LABELS = {"forward": "forward", "decode": "decode", "sft": "SFT step", "rl": "RL step"}


def bench(
    *,
    sweep: List = (),
    json: Path | None = None,
    compare: Path | None = None,
    figures: Path | None = None,
    settings: fields_of("dsjax.training.bench:BenchConfig") = None,  # pyright: ignore[reportInvalidTypeForm]
) -> int:
    """Speed of training, sampling and reading next to the matrix product's.

    Args:
      sweep: Also measure along batch, length, rounds, width or devices.
      json: Write the numbers to this file (format: docs/performance.md).
      compare: A stored result to compare with.
      figures: Draw the sweeps into this directory.
      settings: Fields of `BenchConfig`, a flag each.
    """
    require_files(*([] if compare is None else [compare]), json=json)
    from dsjax.cli.devices import use_processor_cores
    from dsjax.config import from_dict
    from dsjax.io import write_json
    from dsjax.training import bench as engine

    config = from_dict(engine.BenchConfig, chosen(settings, engine.BenchConfig))
    for name in sweep:
        require(name in engine.SWEEPS, "sweep", name, engine.SWEEPS)
    stored = None if compare is None else read(compare)
    require_directory("figures", figures)
    use_processor_cores(config.devices)
    console = terminal()
    with Bars(console, config.preset, *sweep) as bars:
        row = engine.measure(config, lambda x: bars(config.preset, x))
        swept = {name: engine.sweep(config, name, lambda x, name=name: bars(name, x)) for name in sweep}
    result = engine.report(config, row, swept)
    show(result, console)
    if stored is not None:
        show_comparison(result, stored, console)
    if json is not None:
        with writing("json", json):
            write_json(json, result)
        console.print(f"Numbers: {json}", soft_wrap=True)
    if figures is not None:
        from dsjax.figures.bench import draw_scaling

        for name, rows in swept.items():
            draw_scaling(name, rows, result, figures)
        console.print(f"Figures: {figures}", soft_wrap=True)
    return 0


def read(path: Path) -> dict[str, Any]:
    """A stored result.

    Raises:
      InputError: if it cannot be read or is not one of this format.
    """
    from dsjax.config import is_finite
    from dsjax.io import interpreted, read_json
    from dsjax.training.bench import FORMAT

    data = read_json(path, "compare", "a result of `dsjax bench --json`")
    ok = isinstance(data, dict) and data.get("format") == FORMAT and "matmul_peak_flops" in data
    allowed = f"a result of `dsjax bench --json`, format {FORMAT}"
    require(ok, "compare", str(path), allowed)
    with interpreted("compare", path, allowed):  # all that the comparison reads, before the measurement
        numbers = [data["matmul_peak_flops"], *(data[f"{name}_tokens_per_s"] for name in LABELS)]
        require(all(is_finite(x) and x > 0 for x in numbers), "compare", str(path), f"{allowed}, with rates > 0")
        texts = data["preset"], data["device"]["kind"], data["provenance"]["commit"], data["config"].get("preset")
        require(isinstance(texts[0], str), "compare", str(path), allowed)
    return data


def show(result: dict[str, Any], console: Console) -> None:
    """The measures, then a table a sweep."""
    device = result["device"]
    where = f"{result['devices']} of {device['count']} x {device['kind']}"
    title = f"{result['preset']}, {result['config']['dtype']}, {where}"
    shown = table(title, "", "tokens/s", "of peak", "episodes/s", "first s", "MB", "counted MB")
    for name, label in LABELS.items():
        row = [label, f"{result[f'{name}_tokens_per_s']:,.0f}", f"{result[f'{name}_fraction_of_peak']:.2f}"]
        if f"{name}_episodes_per_s" in result:
            held = result[f"{name}_program_bytes"]
            row += [
                f"{result[f'{name}_episodes_per_s']:,.0f}",
                f"{result[f'{name}_first_step_s']:.1f}",
                number(held and held / 1e6, ".0f"),
                f"{result[f'{name}_expected_bytes'] / 1e6:.0f}",
            ]
        shown.add_row(*row)
    console.print(shown)
    console.print(
        f"Peak: a matrix product, {result['matmul_peak_flops'] / 1e9:,.0f} GFLOP/s. Decode (new tokens) over forward "
        f"(teacher-forced): {result['decode_over_forward']:.2f}. RL step: rollout and update. First: the first step, "
        f"compiled. Most memory of the process or device: {result['peak_bytes'] / 1e6:,.0f} MB."
    )
    for name, rows in result["sweeps"].items():
        show_sweep(name, rows, console)


def show_sweep(name: str, rows: list[dict[str, Any]], console: Console) -> None:
    """Rates and fractions along a sweep, and how the time of a step grows."""
    from dsjax.training.bench import slope

    measures = [m for m in LABELS if f"{m}_tokens_per_s" in rows[0]]
    shown = table(f"along {name}: tokens/s, and of peak", name, *(x for m in measures for x in (m, "")))
    for row in rows:
        cells = ((f"{row[f'{m}_tokens_per_s']:,.0f}", f"{row[f'{m}_fraction_of_peak']:.2f}") for m in measures)
        shown.add_row(str(row[name]), *(cell for pair in cells for cell in pair))
    console.print(shown)
    if len(rows) > 1:
        grown = ", ".join(f"{m} {slope(rows, name, m):.2f}" for m in measures)
        console.print(f"Time of a step grows as {name} to the power: {grown}.")


def show_comparison(result: dict[str, Any], stored: dict[str, Any], console: Console) -> None:
    """New over stored, as measured and per FLOP/s of the matrix product."""
    where = f"{stored['device']['kind']}, commit {stored['provenance']['commit']}"
    title = f"against {stored['preset']} on {where}"
    shown = table(title, "", "stored tokens/s", "now / stored", "per matmul FLOP/s")
    machine = result["matmul_peak_flops"] / stored["matmul_peak_flops"]
    for name, label in LABELS.items():
        before = stored[f"{name}_tokens_per_s"]
        ratio = result[f"{name}_tokens_per_s"] / before
        shown.add_row(label, f"{before:,.0f}", f"{ratio:.2f}", f"{ratio / machine:.2f}")
    console.print(shown)
    differing = [k for k, v in result["config"].items() if stored["config"].get(k) != v]
    if differing:
        console.print(f"Not the same measurement: {', '.join(differing)} differ.")
