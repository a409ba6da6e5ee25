"""Every optimisation of the training engine, before and after, as ratios from one run.

    python experiments/bench/ablations.py --json experiments/bench/ablations.json
    python experiments/bench/ablations.py --pairs bfloat16 --json experiments/bench/bfloat16.json

Both sides of a pair are compiled first, then timed in turn; a ratio is the median over rounds of one round's ratio.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dsjax.cli.bench import LABELS
from dsjax.cli.devices import use_processor_cores
from dsjax.io import write_json
from dsjax.policies import base, transformer
from dsjax.policies.microbatch import InParts
from dsjax.policies.rollout import sample
from dsjax.training import sources
from dsjax.training.bench import BenchConfig, Timed, layout_of, prepare, seconds
from dsjax.training.run_directory import provenance

FORMAT = 1
Side = Callable[[], Timed]


@contextmanager
def gathers() -> Iterator[None]:
    """Embeddings and chosen log-probs by gather, as first written: their gradients are scatters."""

    def embed(ids: jax.Array, table: jax.Array) -> jax.Array:
        return table[ids]

    def select(log_dist: jax.Array, index: jax.Array) -> jax.Array:
        return jnp.take_along_axis(log_dist, index[..., None], axis=-1)[..., 0]

    with mock.patch.object(transformer, "embed", embed), mock.patch.object(base, "select", select):
        yield


@contextmanager
def two_passes() -> Iterator[None]:
    """Log-probs of the whole batch first, then each part again for its gradient, whatever the objective."""
    with mock.patch.object(InParts, "log_probs_vjp", base.Policy.log_probs_vjp):
        yield


@contextmanager
def products(product: Callable[..., jax.Array]) -> Iterator[None]:
    """Products with the weights in another form."""
    dense = functools.partial(nn.Dense, dot_general=product)
    with mock.patch.object(transformer, "product", product), mock.patch.object(transformer, "Dense", dense):
        yield


def several_axes(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """x W as Flax writes it: rows are as many axes as x has."""
    return jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def one_axis(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """x W with one axis of rows, whichever factor of the gradient is the narrower one."""
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[1])


def low(measure: str) -> dict[str, tuple[Side, Side]]:
    """bfloat16 against float32 as it is used, and with every product left to XLA."""
    narrow = measured(BenchConfig(dtype="bfloat16"), measure)
    return {
        f"bfloat16 for float32, {LABELS[measure]}": (measured(BenchConfig(), measure), narrow),
        f"bfloat16 products summed in float32, {LABELS[measure]}": (under(lambda: products(one_axis), narrow), narrow),
    }


@contextmanager
def rounds_to_the_end() -> Iterator[None]:
    """Rollouts draw all rounds although every episode has stopped."""

    def all_rounds(*arguments: Any, stop_early: bool = False, **options: Any) -> Any:
        del stop_early
        return sample(*arguments, **options)

    with mock.patch.object(sources, "sample", all_rounds):
        yield


def matrix_units() -> bool | None:
    """Whether this processor has bfloat16 matrix units; None where the system does not say."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return None


def measured(config: BenchConfig, measure: str) -> Side:
    """One measure of the benchmark."""
    return lambda: prepare(config, layout_of(config), measure)


def under(change: Callable[[], Any], side: Side) -> Side:
    """The same with a part of the library replaced while it is traced."""

    def build() -> Timed:
        with change():
            return side()

    return build


def pairs() -> dict[str, tuple[Side, Side]]:
    """Name: (before, after)."""
    one = BenchConfig(devices=1)
    cores = BenchConfig(devices=None)
    whole = BenchConfig(devices=1, microbatch=0)
    small = BenchConfig(preset="nano", batch=64, group=8, devices=1, length=5)
    full = BenchConfig(preset="nano", batch=256, devices=1, length=5, history="full", rounds=4)
    to_the_end = under(rounds_to_the_end, measured(full, "rl"))
    narrow_last = under(lambda: products(one_axis), measured(cores, "sft"))

    def each(name: str, measures: str, before: BenchConfig | Any, after: BenchConfig) -> dict[str, tuple[Side, Side]]:
        """A pair for each measure; `before` is a configuration, or a change to the library."""
        return {
            f"{name}, {LABELS[m]}": (
                measured(before, m) if isinstance(before, BenchConfig) else under(before, measured(after, m)),
                measured(after, m),
            )
            for m in measures.split()
        }

    return {
        **each("one-hot products for gathers", "sft", gathers, whole),
        **each("batch in parts", "sft forward rl", whole, one),
        **each("one pass where the loss is linear", "sft rl", two_passes, cores),
        "one axis of rows in products, SFT step": (
            under(lambda: products(several_axes), measured(cores, "sft")),
            narrow_last,
        ),
        "narrower factor first, SFT step": (narrow_last, measured(cores, "sft")),
        **each("a device of each core", "sft forward decode rl", one, cores),
        "10 updates a dispatch, nano, batch 64": (measured(small, "sft"), measured(replace(small, steps=10), "sft")),
        "stop when all have stopped, history full": (to_the_end, measured(full, "rl")),
        "rounds at once, nano, history none for full": (to_the_end, measured(replace(full, history="none"), "rl")),
        **low("forward"),
        **low("decode"),
        **low("sft"),
    }


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pairs", default="", help="only pairs with this word in their name")
    options = parser.parse_args()
    chosen = {name: pair for name, pair in pairs().items() if options.pairs in name}
    if not chosen:
        parser.error(f"--pairs: received {options.pairs!r}, allowed: a part of one of {list(pairs())}")
    use_processor_cores(None)
    rows: list[dict[str, Any]] = []
    for name, (before, after) in track(list(chosen.items()), "pairs"):
        old, new = before(), after()
        ratios = []
        for _ in range(options.repeats):
            rate_old = old.tokens / seconds(old.call)
            ratios.append(new.tokens / seconds(new.call) / rate_old)
        first = {"before": old.first_s, "after": new.first_s}
        rows.append({"name": name, "ratio": statistics.median(ratios), "rounds": ratios, "first_s": first})
    table = Table("", "tokens/s after / before", "of single rounds")
    for row in rows:
        table.add_row(row["name"], f"{row['ratio']:.2f}", f"{min(row['rounds']):.2f}..{max(row['rounds']):.2f}")
    Console().print(table)
    if options.json is not None:
        result = {"format": FORMAT, "provenance": provenance(), "matrix_units": matrix_units(), "pairs": rows}
        write_json(options.json, result)


if __name__ == "__main__":
    main()
