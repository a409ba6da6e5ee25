"""The tables of docs/performance.md are those of the stored benchmark results."""

import numpy as np
import pytest

from experiments.bench import page, scale


def test_tables_are_those_of_the_stored_results():
    assert page.between(page.PAGE.read_text()) == page.text()


def test_every_command_was_measured_at_every_size():
    stored = {(p["series"], p["size"], p["repeat"]) for p in page.load("scale.json")["points"]}
    asked = {(n, size, r) for n, s in scale.SERIES.items() for size in s.sizes for r in range(s.repeats)}
    assert stored == asked


@pytest.mark.parametrize("slope", [0.5, 1.0, 1.4])
def test_a_slope_is_found_above_a_fixed_start(slope):
    sizes, rng = (1, 3, 10, 30, 100), np.random.default_rng(0)
    seconds = (5.0 + 20.0 * (np.array(sizes) / 100) ** slope) * (1 + 0.01 * rng.normal(size=5))
    found = scale.fit(sizes, seconds.tolist())
    assert found.low <= slope <= found.high
    assert found.high - found.low < 1
    assert found.fixed == pytest.approx(5.0, rel=0.2)


def test_what_does_not_grow_has_no_fixed_start_below_zero():
    found = scale.fit([1, 10, 100, 1000], [2.0, 2.0, 2.0, 2.0])
    assert min(found.fixed, found.rest) >= 0
    assert found.fixed + found.rest == pytest.approx(2.0)
