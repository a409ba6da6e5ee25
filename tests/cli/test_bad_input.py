"""Bad input, by command: exit status 2, one line that names field, value and what is allowed; nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsjax.cli.main import main


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Exit status 2 and one line; returns the line."""
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("dsjax: ")
    assert error.count("\n") == 1, "one line, no traceback"
    assert "; allowed: " in error
    return error


def files(path: Path) -> dict[Path, Any]:
    """Names, bytes and times of everything below path."""
    return {p: (p.read_bytes() if p.is_file() else None, p.stat().st_mtime_ns) for p in [path, *path.rglob("*")]}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a configuration to train, a file of rollouts and one of something else."""
    (tmp_path / "tiny.json").write_text(json.dumps({"updates": 4, "evaluate_every": 2, "chunk": 1}))
    (tmp_path / "list.json").write_text("[1]")
    one = np.ones((1, 2))
    mask = np.array([[True, False]])
    arrays = {"logp": -one, "sample_mask": mask, "decision_mask": ~mask, "reward": np.ones(1)}
    np.savez(tmp_path / "rollouts.npz", **arrays)
    monkeypatch.chdir(tmp_path)
    return tmp_path


TABLES: dict[str, list[tuple[str, list[str]]]] = {
    "check": [
        ("--theorem T99", ["theorem", "'T99'", "T1, T2"]),
        ("--theorem T1 t2", ["theorem", "'t2'", "T1, T2"]),
        ("--theorem T1 --theorem t2", ["theorem", "'t2'", "T1, T2"]),
        ("--theorem", ["--theorem", "'nothing'", "at least one value"]),
        ("--instances 0", ["instances", "0", "at least 1"]),
        ("--seed -1", ["seed", "-1", "0..2^32-1"]),
        ("--seed 1 --seed 2", ["--seed", "twice", "once"]),
        ("--quick --no-quick", ["--quick", "twice", "once"]),
        ("--symbolic --statistical", ["symbolic and statistical", "one of them"]),
        ("--symbolic --theorem T14", ["theorem", "'T14'", "T1, T2"]),
        ("--statistical --theorem T1", ["theorem", "('T1',)", "no selection"]),
        ("--process no.such:process", ["process", "'no.such:process'", "imported"]),
        ("--process math:sqrt", ["process", "math:sqrt"]),
        ("--process tests.processes:nothing", ["process", "tests.processes:nothing", "returns a process"]),
        ("--process tests.processes:large", ["number of trajectories", "2728", "at most 500"]),
        ("--instance-file none.json", ["instance-file", "none.json", "readable JSON"]),
        ("--json none/report.json", ["json", "none/report.json", "can be written", "No such file"]),
        ("--json tiny.json/report.json", ["json", "can be written", "Not a directory"]),
        ("--json .", ["json", "can be written", "Is a directory"]),
    ],
    "train": [
        ("none.json", ["configuration file", "'none.json'", "No such file"]),
        ("list.json", ["configuration file", "'list.json'", "a JSON object"]),
        ("tiny.json --seed x", ["seed", "'x'", "an integer"]),
        ("tiny.json --updates 2.5", ["updates", "2.5", "an integer"]),
        ("tiny.json --updates 4.0", ["updates", "4.0", "an integer"]),
        ("tiny.json --learning-rate NaN", ["learning_rate", "nan", "a finite number"]),
        ("tiny.json --learning-rate fast", ["learning_rate", "'fast'", "a finite number"]),
        ("tiny.json --set cost=Infinity", ["cost", "inf", "a finite number"]),
        ("tiny.json --tensorboard 1", ["tensorboard", "1", "true or false"]),
        ("tiny.json --history some", ["history", "'some'", "none, full"]),
        ("tiny.json --updates 3", ["updates", "3", "a multiple of evaluate_every = 2"]),
        ("tiny.json --set bogus=1", ["configuration field", "'bogus'", "allowed: seed, "]),
        ("tiny.json --override bogus=1", ["configuration field", "'bogus'", "allowed: seed, "]),
        ("tiny.json --set updates", ["set", "'updates'", "name=value"]),
        ("tiny.json --set", ["--set", "'nothing'", "name=value"]),
        ("--set updates tiny.json", ["set", "'updates'", "name=value"]),
        ("tiny.json --set seed=1 --set seed=2", ["set", "'seed=2'", "each name once"]),
        ("tiny.json --seed 1 --set seed=2", ["--seed", "twice", "once"]),
        ("tiny.json --override keep=3 --override keep=4", ["override", "'keep=4'", "each name once"]),
    ],
    "atlas": [
        ("--objective nope", ["objective", "'nope'", "reinforce", "module:function"]),
        ("--objective nope --option w=1", ["objective", "'nope'", "reinforce", "module:function"]),
        ("--objective sft --option w=1", ["option of objective sft", "'w'", "decision_weight"]),
        ("--objective sft --set w=1", ["option of objective sft", "'w'", "decision_weight"]),
        ("--objective grpo --option clip=abc", ["option clip", "'abc'", "a finite number"]),
        ("--objective grpo --option clip=NaN", ["option clip", "nan", "a finite number"]),
        ("--objective grpo --option clip=[1,2]", ["option clip", "[1, 2]", "a finite number"]),
        ("--objective reinforce --set baseline=[1,2]", ["option baseline", "[1, 2]", "a word"]),
        ("--objective grpo --option max_tokens=2.5", ["option max_tokens", "2.5", "an integer or null"]),
        ("--objective grpo --option clip=1 --set clip=2", ["option", "'clip=2'", "each name once"]),
        ("--objective grpo --option clip", ["option", "'clip'", "name=value"]),
        ("--option clip=1", ["option", "clip", "an objective"]),
        ("--demonstrations", ["demonstrations", "an objective"]),
        ("--length 0", ["length", "0", "1..1024"]),
        ("--json new --csv ./new", ["csv", "'new'", "another file than that of --json"]),
        ("--figures tiny.json", ["figures", "tiny.json", "a directory"]),
    ],
    "attribute": [
        ("none.npz", ["none.npz"]),
        ("rollouts.npz --objective nope", ["objective", "'nope'", "module:function"]),
        ("rollouts.npz --json rollouts.npz", ["json", "'rollouts.npz'", "another file"]),
        ("--option clip rollouts.npz", ["option", "'clip'", "name=value"]),
        ("rollouts.npz --objective reinforce", ["decision_choices", "no such array", "2 where"]),
        ("rollouts.npz --decision-choices 1 --objective sft", ["decision_choices", "1", "at least 2"]),
        (
            "rollouts.npz --decision-choices 2 --objective surrogate --set ratio=token",
            ["old_logp", "no such array", "--on-policy"],
        ),
        ("rollouts.npz --objective surrogate --set advantage=[1,2]", ["option advantage", "[1, 2]", "a word"]),
        ("rollouts.npz --objective reinforce --set baseline=2", ["option baseline", "2", "a word"]),
        (
            "rollouts.npz --decision-choices 2 --objective tests.rollouts.test_rollouts:one_number",
            ["one_number returns", "1 value of shape ()", "two numbers, (sum, count)"],
        ),
        (
            "rollouts.npz --decision-choices 2 --objective tests.rollouts.test_rollouts:raises --set advantage=[1,2]",
            ["option advantage", "[1, 2]", "a word or null"],
        ),
        ("rollouts.npz list.json", ["rollouts", "'rollouts.npz'", "a name with the step"]),
        ("rollouts.npz --tensorboard", ["tensorboard", "True", "--out DIR"]),
        (". --tensorboard", ["tensorboard", "True", "--out DIR"]),
        (". --json all.json", ["json", "'all.json'", "one file of rollouts"]),
        ("rollouts.npz none.npz --out new", ["rollouts", "'rollouts.npz'", "a name with the step"]),
        ("step1.npz step2.npz --out new", ["rollouts file", "'step1.npz'", "No such file"]),
        ("", ["files", "none", "at least one .npz file"]),
        ("rollouts.npz --logp-tolerance -1 --objective sft", ["logp_tolerance", "-1.0", ">= 0"]),
        ("rollouts.npz --objective reinforce --resamples 0", ["resamples", "0", "an integer >= 1"]),
        ("rollouts.npz --objective reinforce --success nan", ["success", "nan", "a finite return"]),
    ],
    "bench": [
        ("--preset 2M", ["preset", "'2M'", "nano, 1M"]),
        ("--batch 2.5", ["batch", "2.5", "an integer"]),
        ("--batch many", ["batch", "'many'", "an integer"]),
        ("--set dtype=float16", ["dtype", "'float16'", "float32, bfloat16"]),
        ("--batch 8 --batch 16", ["--batch", "twice", "once"]),
        ("--sweep depth", ["sweep", "'depth'", "batch, length"]),
        ("--compare list.json", ["compare", "'list.json'", "dsjax bench --json"]),
    ],
    "figures": [
        ("no-such-run", ["run", "no-such-run", "finished study"]),
    ],
    "study": [
        ("run nowhere", ["nowhere", "study.json"]),
        ("run nowhere --resources GPU=1", ["resources", "GPU=1", "without workers or address"]),
        ("run nowhere --workers 0", ["workers", "0", "an integer >= 1"]),
        ("run nowhere --workers 2 --resources GPU=0", ["resources", "'GPU=0'", "an amount > 0"]),
        ("status nowhere", ["nowhere", "study.json"]),
        ("compare one other", ["one", "finished study"]),
        ("compare list.json list.json", ["one", "'list.json'", "format 1 or 2"]),
    ],
}
CASES = [(command, arguments, words) for command, table in TABLES.items() for arguments, words in table]


@pytest.mark.parametrize(("command", "arguments", "words"), CASES, ids=[f"{c} {a}" for c, a, _ in CASES])
def test_bad_input_names_field_value_and_allowed(command, arguments, words, here, capsys):
    before = files(here)
    end = ["--run", "run"] if command == "train" else []
    error = refused([command, *arguments.split(), *end], capsys)
    assert all(word in error for word in words), error
    assert files(here) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("nonsense", "nonsense"),
        ("study", "run, status, report, compare"),
        ("check --seed x", "--seed"),
        ("check --bogus", "--bogus"),
        ("train --run run", "PATH"),
        ("train tiny.json", "--run"),
        ("train tiny.json other.json --run run", "other.json"),
        ("train --learning-rate tiny.json --run run", "PATH"),
        ("train tiny.json --run run --bogus 1", "--bogus"),
        ("study run tiny.json --workers many", "--workers"),
    ],
)
def test_what_the_parser_refuses(arguments, words, here, capsys):
    before = files(here)
    with pytest.raises(SystemExit) as exit_:
        main(arguments.split())
    assert exit_.value.code == 2
    assert words in capsys.readouterr().err
    assert files(here) == before


@pytest.mark.parametrize("content", [b"{}", b"[]", b"", b"\xff", b'{"config": {}, "lengths": [], "swap": {}}'])
def test_results_of_something_else_are_not_drawn(content, tmp_path, capsys):
    (tmp_path / "results.json").write_bytes(content)
    error = refused(["figures", str(tmp_path)], capsys)
    assert all(w in error for w in ("run: received", str(tmp_path), "finished study")), error
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
