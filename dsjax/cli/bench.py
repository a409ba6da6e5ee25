"""`dsjax bench`: measure, print, compare with a stored result, draw the sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dsjax.cli.terminal import bars, require_directory, require_writable
from dsjax.errors import require
from dsjax.io import read_json, write_json
from dsjax.training.bench import FORMAT, MEASURES, SWEEPS, BenchConfig, measure, report, slope, sweep

LABELS = {
    "forward": "forward",
    "decode": "decode",
    "sft": "SFT step",
    "rl": "RL step",
}


def bench(
    config: BenchConfig,
    sweeps: tuple[str, ...],
    json_file: Path | None,
    compare: Path | None,
    figures: Path | None,
    console: Console,
) -> int:
    """Run and report; exit status 0.

    Raises:
      InputError: for an unknown sweep, a file that cannot be written or read, or a result of another format.
    """
    for name in sweeps:
        require(name in SWEEPS, "sweep", name, SWEEPS)
    require_writable("json", json_file)
    require_directory("figures", figures)
    stored = None if compare is None else read(compare)
    with bars(console, {config.preset: 1.0, **{name: 1.0 for name in sweeps}}) as advance:
        row = measure(config, lambda x: advance(config.preset, x, 1.0))
        swept = {name: sweep(config, name, lambda x, name=name: advance(name, x, 1.0)) for name in sweeps}
    result = report(config, row, swept)
    show(result, console)
    if stored is not None:
        show_comparison(result, stored, console)
    if json_file is not None:
        write_json(json_file, result)
        console.print(f"Numbers: {json_file}")
    if figures is not None:
        from dsjax.figures.bench import draw_scaling

        for name, rows in swept.items():
            draw_scaling(name, rows, result, figures)
        console.print(f"Figures: {figures}")
    return 0


def read(path: Path) -> dict[str, Any]:
    """A stored result.

    Raises:
      InputError: if it cannot be read or is not one of this format.
    """
    data = read_json(path, "compare", "a result of `dsjax bench --json`")
    ok = isinstance(data, dict) and data.get("format") == FORMAT and "matmul_peak_flops" in data
    require(ok, "compare", str(path), f"a result of `dsjax bench --json`, format {FORMAT}")
    return data


def _rate(value: float) -> str:
    return f"{value:,.0f}"


def show(result: dict[str, Any], console: Console) -> None:
    """The measures, then a table a sweep."""
    device = result["device"]
    where = f"{result['devices']} of {device['count']} x {device['kind']}"
    table = Table(title=f"{result['preset']}, {result['config']['dtype']}, {where}")
    for column in ("", "tokens/s", "of peak", "episodes/s", "first s", "MB", "counted MB"):
        table.add_column(column, justify="left" if not column else "right")
    for name in MEASURES:
        row = [LABELS[name], _rate(result[f"{name}_tokens_per_s"]), f"{result[f'{name}_fraction_of_peak']:.2f}"]
        if f"{name}_episodes_per_s" in result:
            held = result[f"{name}_program_bytes"]
            row += [
                _rate(result[f"{name}_episodes_per_s"]),
                f"{result[f'{name}_first_step_s']:.1f}",
                "-" if held is None else f"{held / 1e6:.0f}",
                f"{result[f'{name}_expected_bytes'] / 1e6:.0f}",
            ]
        table.add_row(*row)
    console.print(table)
    console.print(
        f"Peak: a matrix product, {result['matmul_peak_flops'] / 1e9:,.0f} GFLOP/s. Decode (new tokens) over forward "
        f"(teacher-forced): {result['decode_over_forward']:.2f}. RL step: rollout and update. First: the first step, "
        f"compiled. Most memory of the process or device: {result['peak_bytes'] / 1e6:,.0f} MB.",
        highlight=False,
    )
    for name, rows in result["sweeps"].items():
        show_sweep(name, rows, console)


def show_sweep(name: str, rows: list[dict[str, Any]], console: Console) -> None:
    """Rates and fractions along a sweep, and how the time of a step grows."""
    table = Table(title=f"along {name}")
    measures = [m for m in MEASURES if f"{m}_tokens_per_s" in rows[0]]
    for column in (name, *(f"{m}\ntokens/s" for m in measures), *(f"{m}\nof peak" for m in measures)):
        table.add_column(column, justify="right")
    for row in rows:
        rates = [_rate(row[f"{m}_tokens_per_s"]) for m in measures]
        table.add_row(str(row[name]), *rates, *(f"{row[f'{m}_fraction_of_peak']:.2f}" for m in measures))
    console.print(table)
    if len(rows) > 1:
        grown = ", ".join(f"{m} {slope(rows, name, m):.2f}" for m in measures)
        console.print(f"Time of a step grows as {name} to the power: {grown}.", highlight=False)


def show_comparison(result: dict[str, Any], stored: dict[str, Any], console: Console) -> None:
    """New over stored, as measured and per FLOP/s of the matrix product."""
    where = f"{stored['device']['kind']}, commit {stored['provenance']['commit']}"
    table = Table(title=f"against {stored['preset']} on {where}")
    for column in ("", "stored tokens/s", "now / stored", "per matmul FLOP/s"):
        table.add_column(column, justify="left" if not column else "right")
    machine = result["matmul_peak_flops"] / stored["matmul_peak_flops"]
    for name in MEASURES:
        ratio = result[f"{name}_tokens_per_s"] / stored[f"{name}_tokens_per_s"]
        table.add_row(LABELS[name], _rate(stored[f"{name}_tokens_per_s"]), f"{ratio:.2f}", f"{ratio / machine:.2f}")
    console.print(table)
    differing = [k for k, v in result["config"].items() if stored["config"].get(k) != v]
    if differing:
        console.print(f"Not the same measurement: {', '.join(differing)} differ.")
