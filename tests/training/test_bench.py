"""The benchmark: what it counts, the fields it writes, its plots and comparison. Times themselves are not tested."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from dsjax.cli.bench import read, show_comparison
from dsjax.cli.main import main
from dsjax.cli.terminal import terminal
from dsjax.config import to_dict
from dsjax.errors import InputError
from dsjax.training import bench
from dsjax.training.bench import BenchConfig, expected_bytes, layout_of, measure, prepare, slope, sweep
from tests.cli.plain import assert_plain

SMALL = BenchConfig(preset="nano", batch=8, prompt_length=3, length=2, rounds=2, group=2, width=8, repeats=1, devices=1)
FIELDS = (
    *("preset", "forward_tokens_per_s", "decode_tokens_per_s", "sft_tokens_per_s", "rl_tokens_per_s"),
    *("matmul_peak_flops", "sft_fraction_of_peak", "decode_over_forward", "first_step_s", "peak_bytes", "device"),
    "versions",
)


@pytest.fixture(autouse=True)
def small_peak(monkeypatch):
    monkeypatch.setitem(bench.PEAK_SIZE, "cpu", 32)
    monkeypatch.setitem(bench.SWEEPS, "rounds", (1,))


def test_the_counts():
    assert SMALL.weights == 12 * 2 * 8**2
    params = jax.eval_shape(SMALL.policy(1).init, jax.random.key(0))
    blocks = [v for k, v in params["trunks_shared"].items() if k.startswith("block")]
    matrices = [x.size for x in jax.tree.leaves(blocks) if x.ndim == 2]
    assert SMALL.weights == sum(matrices)
    assert SMALL.row_tokens(1) == 3 + 3
    assert SMALL.row_tokens(2) == 3 + 2 * 3


def test_tokens_and_flops_of_each_measure():
    two, layout = replace(SMALL, steps=2), layout_of(SMALL)
    sft, rl = prepare(two, layout, "sft"), prepare(SMALL, layout, "rl")
    assert (sft.tokens, sft.episodes) == (8 * 6 * 2, 8 * 2)  # batch x row x steps
    assert (rl.tokens, rl.episodes) == (8 * 9, 8)
    assert sft.flops_per_token == 6 * SMALL.weights
    forward, decode = prepare(SMALL, layout, "forward"), prepare(SMALL, layout, "decode")
    assert (forward.tokens, decode.tokens) == (8 * 6, 8 * 3)  # decoding counts new tokens alone
    assert forward.flops_per_token == 2 * SMALL.weights
    assert sft.call()["loss"].shape == (2,)


def test_programs_stay_near_what_the_count_says():
    """A program that kept the whole batch's activations would exceed the count many times."""
    config = replace(SMALL, width=64, batch=256, prompt_length=10, length=21, microbatch=16)
    held = prepare(config, layout_of(config), "sft").program_bytes
    assert held is not None
    assert held <= 1.5 * expected_bytes(config, "sft", layout_of(config))
    whole = replace(config, microbatch=0)
    all_at_once = prepare(whole, layout_of(whole), "sft").program_bytes
    assert all_at_once is not None
    assert all_at_once > 3 * held


def test_the_command_writes_every_field(tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert command("--sweep", "rounds", "--json", str(out), "--figures", str(tmp_path)) == 0
    assert_plain(capsys.readouterr().out, out_of_width=("Numbers: ", "Figures: "))
    result = json.loads(out.read_text())
    assert result["format"] == bench.FORMAT
    assert set(FIELDS) <= result.keys()
    assert [row["rounds"] for row in result["sweeps"]["rounds"]] == list(bench.SWEEPS["rounds"])
    assert (tmp_path / "scaling_rounds.png").stat().st_size > 0
    assert all(result[f"{name}_tokens_per_s"] > 0 for name in bench.MEASURES)
    assert result["config"] == to_dict(SMALL)
    show_comparison(result, read(out), terminal())
    text = capsys.readouterr().out
    assert_plain(text)
    assert "now / stored" in text


def command(*arguments: str) -> int:
    """The exit status of the command at SMALL."""
    flags = [f"--{name}={value}" for name, value in to_dict(SMALL).items() if value is not None]
    return main(["bench", *flags, *arguments])


def test_a_result_of_something_else_is_refused(tmp_path, capsys):
    other = tmp_path / "other.json"
    for text in ("[]", "not json", json.dumps({"format": 99, "matmul_peak_flops": 1.0})):
        other.write_text(text)
        assert command("--compare", str(other)) == 2
        assert "dsjax: compare: received" in capsys.readouterr().err
    assert command("--sweep", "depth") == 2
    assert "dsjax: sweep: received 'depth'; allowed: batch, " in capsys.readouterr().err


def test_sweeps_skip_devices_that_are_not_there():
    rows = sweep(replace(SMALL, devices=None), "devices", measures=("sft",))
    assert [row["devices"] for row in rows] == [1, 2]


def test_slope():
    rows = [{"batch": b, "sft_seconds": 3 * b**0.9} for b in (1, 2, 4)]
    assert slope(rows, "batch", "sft") == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("field", "value"), [("preset", "2M"), ("batch", 0), ("group", 1), ("width", 6), ("dtype", "float16"), ("batch", 9)]
)
def test_impossible_settings_are_refused(field, value):
    with pytest.raises(InputError, match=field):
        replace(SMALL, **{field: value})


def test_measures_are_numbers_a_fraction_of_the_peak():
    row = measure(SMALL, measures=("forward",))
    for i, rate in enumerate(row["forward_rounds"]):
        assert np.isfinite(rate), i
    share = row["forward_tokens_per_s"] * 2 * SMALL.weights / row["matmul_peak_flops"]
    assert row["forward_fraction_of_peak"] == pytest.approx(share)  # one round: the same peak
