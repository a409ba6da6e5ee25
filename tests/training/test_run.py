"""Long runs: bit-exact after kills and signals, and clear about every fault."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from orbax.checkpoint import v1

import dsjax.training.run as job
from dsjax.cli.main import main
from dsjax.config import from_dict, load, to_dict
from dsjax.errors import InputError
from dsjax.io import write_json
from dsjax.objectives import resolve
from dsjax.statistics import Estimate
from dsjax.training import arms
from dsjax.training.arms import Arm
from dsjax.training.checkpoints import Checkpoints, StorageError, check_files, load_checkpoint
from dsjax.training.config import MAY_CHANGE, TrainConfig
from dsjax.training.divergence import DivergedError, not_finite
from dsjax.training.run import Stopped, run
from dsjax.training.start import read_params
from dsjax.training.step import draw
from tests.cli.plain import assert_plain
from tests.kills import PROCESSES, killed
from tests.programs import own_programs, with_parts
from tests.training import run_worker
from tests.training.finished import assert_same_end, final, rows_of

TINY = TrainConfig(
    digits=2,
    rounds=2,
    layers=1,
    model_width=8,
    heads=2,
    updates=24,
    chunk=2,
    evaluate_every=8,
    checkpoint_every=4,
    keep=2,
    learning_rate=1e-2,
    prompts=4,
    group=2,
    cost=0.25,  # so that rewards differ although no answer is right
    evaluation_problems=16,
)


def changed(config: TrainConfig = TINY, **fields) -> TrainConfig:
    return dataclasses.replace(config, **fields)


WITHOUT_GRADIENT_ROWS = own_programs()


@pytest.fixture
def no_gradient_rows(monkeypatch):
    """Without the slowest program to compile, where a test is not about it."""
    with_parts(monkeypatch, WITHOUT_GRADIENT_ROWS, make_gradient_measure=lambda *_: lambda state, base_params: {})


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nothing disturbed."""
    path = tmp_path_factory.mktemp("straight")
    run(TINY, path)
    return path


def stop_at(step: int, number: int = signal.SIGTERM):
    """(advance, stop) of a run that is asked to stop after that many updates."""
    seen = [0]

    def advance(done: int, row) -> None:
        seen[0] = done

    return {"advance": advance, "stop": lambda: number if seen[0] >= step else None}


def stopped_at(path: Path, step: int, config: TrainConfig = TINY) -> None:
    with pytest.raises(Stopped) as caught:
        run(config, path, **stop_at(step))
    assert caught.value.signal == signal.SIGTERM
    assert f"after update {step} of {config.updates}" in str(caught.value)


def test_what_a_run_leaves(straight):
    assert {p.name for p in straight.iterdir()} == {
        *(".lock", "config.json", "checkpoints", "metrics.jsonl", "timings.jsonl", "starts.json", "result.json")
    }
    assert [r["step"] for r in rows_of(straight, "train")] == list(range(2, 26, 2))
    assert [r["step"] for r in rows_of(straight, "gradient")] == [0, 8, 16, 24]
    assert [(r["step"], r["split"]) for r in rows_of(straight, "evaluation")] == [(s, "in") for s in (0, 8, 16, 24)]
    assert max(r["gradient_norm"] for r in rows_of(straight, "train")) > 0.01
    config = json.loads((straight / "config.json").read_text())
    assert config == {"kind": "train", "format": 1, "config": to_dict(TINY)}
    pair = map(jax.tree.leaves, (final(straight, TINY)["params"], job.start_params(TINY, straight, None)))
    moved = [float(abs(x - y).max()) for x, y in zip(*pair, strict=True)]
    assert min(moved) > 0


def test_a_finished_run_is_left_as_it_is(straight):
    names = ("metrics.jsonl", "timings.jsonl", "result.json")
    before = [(straight / name).read_bytes() for name in names], Checkpoints(straight / "checkpoints", 2).steps()
    assert run(TINY, straight) == json.loads(before[0][2])
    assert (
        [(straight / name).read_bytes() for name in names],
        Checkpoints(straight / "checkpoints", 2).steps(),
    ) == before


@pytest.mark.parametrize("step", [0, 6, 8, 24])
def test_a_stopped_run_continues_bit_for_bit(straight, tmp_path, step):
    """Before anything, between measurements, where one is due, and at the end."""
    stopped_at(tmp_path, step)
    assert not (tmp_path / "result.json").exists()
    check_files(tmp_path / "checkpoints" / f"{step:08d}")
    said = []
    run(TINY, tmp_path, say=said.append)
    assert said == [f"Continuing after update {step} of 24."]
    assert_same_end(tmp_path, straight, TINY)


def test_kills_change_nothing(straight, tmp_path):
    path, errors = tmp_path / "killed", tmp_path / "errors"
    write_json(tmp_path / "tiny.json", to_dict(TINY))
    arguments = ["train", str(tmp_path / "tiny.json"), "--run", str(path)]

    def lines(of: Path) -> int:
        metrics = of / "metrics.jsonl"
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    for _ in killed(run_worker.command, arguments, lambda: lines(path), lines(straight), errors):
        pass
    assert_same_end(path, straight, TINY)
    starts = json.loads((path / "starts.json").read_text())
    assert len(starts) > 1
    assert not any(start["skipped"] for start in starts)  # a kill never leaves half a checkpoint


def test_signals_save_and_leave_and_a_second_process_is_refused(tmp_path, capsys):
    file, path, errors = tmp_path / "config.json", tmp_path / "run", tmp_path / "errors"
    write_json(file, to_dict(changed(updates=4000, evaluate_every=2000)))
    arguments = ["train", str(file), "--run", str(path)]
    metrics = path / "metrics.jsonl"
    for number in (signal.SIGTERM, signal.SIGINT):
        size = metrics.stat().st_size if metrics.exists() else 0
        process = PROCESSES.Process(target=run_worker.command, args=(arguments, str(errors)))
        process.start()
        deadline = time.monotonic() + 120
        # More than what may be cut off at the start: it has really gone on.
        while process.is_alive() and not (metrics.exists() and metrics.stat().st_size > size + 5000):
            assert time.monotonic() < deadline, "no progress"
            time.sleep(0.01)
        assert process.is_alive(), errors.read_text()
        if number == signal.SIGINT:
            assert main(arguments) == 2
            assert "one that no other process is using" in capsys.readouterr().err
        assert process.pid is not None
        os.kill(process.pid, number)
        process.join(120)
        assert process.exitcode == 128 + number
        assert "all of it saved; the same command continues" in errors.read_text()
        last = Checkpoints(path / "checkpoints", 2).steps()[-1]
        check_files(path / "checkpoints" / f"{last:08d}")
        assert f"after update {last} of 4000" in errors.read_text()
        assert rows_of(path, "train")[-1]["step"] == last  # nothing was done that is not saved


def newest_arrays(path: Path, step: int) -> Path:
    files = (path / "checkpoints" / f"{step:08d}" / "arrays" / "training" / "d").iterdir()
    return max(files, key=lambda p: p.stat().st_size)


def test_damaged_checkpoints_are_told_and_the_one_before_is_used(straight, tmp_path):
    stopped_at(tmp_path, 14)
    assert Checkpoints(tmp_path / "checkpoints", 2).steps()[-2:] == [12, 14]
    file = newest_arrays(tmp_path, 14)
    file.write_bytes(bytes(file.stat().st_size))
    said = []
    run(TINY, tmp_path, say=said.append)
    assert len(said) == 2
    assert said[0].startswith("Checkpoint skipped: update 14: arrays/training/d/")
    assert said[1] == "Continuing after update 12 of 24."
    assert_same_end(tmp_path, straight, TINY)


def test_metrics_that_were_lost_are_written_again(straight, tmp_path):
    """As after a crash of the machine: the checkpoint is there, the end of metrics.jsonl is not."""
    stopped_at(tmp_path, 14)
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-10])
    said = []
    run(TINY, tmp_path, say=said.append)
    assert said[0] == "Checkpoint skipped: update 14: metrics.jsonl lacks the last 10 bytes that belong to it."
    assert_same_end(tmp_path, straight, TINY)


@pytest.mark.parametrize("size", [0, 3000])
def test_a_disk_that_is_full_during_a_save(straight, tmp_path, size):
    """In a process of its own, which Orbax leaves untidy: first nothing can be written, then only small files."""
    path, errors = tmp_path / "run", tmp_path / "errors"
    write_json(tmp_path / "tiny.json", to_dict(TINY))
    arguments = ["train", str(tmp_path / "tiny.json"), "--run", str(path)]
    process = PROCESSES.Process(target=run_worker.command_on_full_disk, args=(arguments, str(errors), 12, size))
    process.start()
    process.join(300)
    assert process.exitcode == 1
    text = errors.read_text()
    assert "dsjax: checkpoint of update 12: 00000012 could not be written (" in text
    assert "that of update 8 is intact; with room to write, the same command continues" in text
    checkpoints = Checkpoints(path / "checkpoints", 2)
    assert checkpoints.steps() == [0, 4, 8]
    for step in checkpoints.steps():
        check_files(checkpoints.folder(step))
    run(TINY, path)  # with room again
    assert not list(checkpoints.path.glob(".*"))
    assert_same_end(path, straight, TINY)


def test_too_little_room_is_told_before_anything_is_written(straight, tmp_path, monkeypatch):
    stopped_at(tmp_path, 6)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1000, 990, 10))  # type: ignore[attr-defined]
        patch.setattr(v1, "save_checkpointables", None)
        with pytest.raises(
            StorageError, match=r"No space left on device: 10 bytes free, \d+ needed.*update 6 is intact"
        ):
            run(TINY, tmp_path)
    run(TINY, tmp_path)
    assert_same_end(tmp_path, straight, TINY)


def test_a_disk_that_is_full_for_metrics(straight, tmp_path, capsys):
    write_json(tmp_path / "tiny.json", to_dict(TINY))
    arguments = ["train", str(tmp_path / "tiny.json"), "--run", str(tmp_path / "run")]
    stopped_at(tmp_path / "run", 14)
    with run_worker.SmallFiles((tmp_path / "run" / "metrics.jsonl").stat().st_size + 20):
        assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("dsjax: ")
    assert error.count("\n") == 1
    assert "could not be written" in error
    assert "with room to write, the same command continues" in error
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert_plain(text, out_of_width=("Run: ",))
    assert "Continuing after update 14 of 24" in text
    assert_same_end(tmp_path / "run", straight, TINY)


def test_another_configuration_is_refused_and_shown(straight):
    with pytest.raises(InputError) as caught:
        run(changed(seed=1, group=4), straight)
    assert caught.value.field == "seed"
    assert "0, the value of the results in" in caught.value.allowed
    assert "group 2 -> 4" in caught.value.allowed
    with pytest.raises(InputError, match=r"updates: received 48; allowed: 24, .*or --override updates=48"):
        run(changed(updates=48), straight)
    for name in (f.name for f in dataclasses.fields(TrainConfig) if f.name not in MAY_CHANGE):
        with pytest.raises(InputError, match=f"override: received '{name}'; allowed: updates, "):
            run(TINY, straight, override=(name,))
    with pytest.raises(InputError, match="seed"):  # an override does not carry another difference along
        run(changed(updates=48, seed=1), straight, override=("updates",))
    with pytest.raises(InputError, match="updates: received 16; allowed: at least 24, the updates that are done"):
        run(changed(updates=16), shutil.copytree(straight, straight.parent / "shorter"), override=("updates",))
    assert json.loads((straight / "config.json").read_text())["config"] == to_dict(TINY)


def test_a_longer_run_is_the_run_that_was_longer_from_the_start(straight, tmp_path):
    run(changed(updates=16), tmp_path)
    config = changed(checkpoint_every=6, keep=5)
    run(config, tmp_path, override=("updates", "checkpoint_every", "keep"))
    assert json.loads((tmp_path / "config.json").read_text())["config"] == to_dict(config)
    assert_same_end(tmp_path, straight, TINY)


@pytest.mark.usefixtures("no_gradient_rows")
def test_another_number_of_devices_is_the_same_run_up_to_rounding(straight, tmp_path):
    stopped_at(tmp_path, 22)
    config = changed(devices=2, parameter_sharding="fsdp")
    said = []
    run(config, tmp_path, override=("devices", "parameter_sharding"), say=said.append)
    one, two = final(tmp_path, TINY)["params"], final(straight, TINY)["params"]
    # Two Adam steps of 0.01: where a gradient is rounding dust its sign, and so a step, may differ; else 1e-6.
    difference = np.concatenate([np.ravel(abs(x - y)) for x, y in zip(*map(jax.tree.leaves, (one, two)), strict=True)])
    assert difference.max() <= 4 * 0.01
    assert np.median(difference) < 1e-6


def test_other_versions_are_told(tmp_path):
    stopped_at(tmp_path, 2)
    starts = json.loads((tmp_path / "starts.json").read_text())
    starts[-1]["provenance"]["packages"]["jax"] = "0.1"
    write_json(tmp_path / "starts.json", starts)
    said = []
    with pytest.raises(Stopped):
        run(TINY, tmp_path, say=said.append, **stop_at(4))
    assert f"Not bit for bit what an uninterrupted run would give: packages.jax '0.1' -> '{jax.__version__}'." in said


@pytest.mark.usefixtures("no_gradient_rows")
def test_a_gradient_that_is_not_finite_is_named_and_its_batch_kept(tmp_path, monkeypatch):
    arm = Arm("success", f"{run_worker.__name__}:poisoned", "sft", {"component": "decision"})
    monkeypatch.setitem(arms.ARMS, "poisoned", arm)
    config = changed(arm="poisoned", seed=4)

    def problems(step: int):
        return config.task_of.training_problems(jax.random.fold_in(config.key("problems"), step), config.prompts)

    bad = next(step for step in range(config.updates) if problems(step).prompt[0, 0] == 7)
    assert bad > config.checkpoint_every
    assert bad % config.chunk == 1  # in the middle of a chunk
    with pytest.raises(DivergedError, match=f"update {bad}: not finite: gradient of decision\\. Its batch is in"):
        run(config, tmp_path)
    with np.load(tmp_path / "bad_batch.npz", allow_pickle=False) as batch:
        assert batch["update"] == bad
        np.testing.assert_array_equal(batch["prompt"], problems(bad).prompt)
        assert {"tokens", "sample_mask", "decision_mask", "reward", "weight"} <= set(batch)
    last = Checkpoints(tmp_path / "checkpoints", 2).steps()[-1]
    assert last <= bad
    trees, _ = load_checkpoint(
        tmp_path / "checkpoints" / f"{last:08d}", {"params": job.start_params(config, tmp_path, None)}
    )
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(trees["params"]))
    assert rows_of(tmp_path, "train")[-1]["step"] <= bad
    with pytest.raises(DivergedError, match=f"update {bad}: .*last good checkpoint is of update {last}"):
        run(config, tmp_path)  # it goes on from there, to the same end

    program = job.Program(config)
    state = program.state(config, job.start_params(config, tmp_path, None)).replace(
        step=jax.numpy.asarray(bad, jax.numpy.int32)
    )
    traj = jax.jit(lambda s: draw(config.setting, program.policy, program.source, s, s.params))(state)
    objective = resolve(arm.objective, {"component": "sample"})
    assert not_finite(program.policy, state, traj, objective) == ["gradient of sample"]
    assert not_finite(program.policy, state, traj, resolve("sft")) == []


def test_runs_that_differ_in_what_no_program_depends_on_share_one():
    """Each seed of an arm would else trace and compile the same programs again."""
    program = job.program_of(TINY)
    free = {"seed": 5, "init_from": "x", "init_checkpoint": "last", "keep": 9, "evaluation_problems": 5}
    assert {*job.NOT_COMPILED} == {*free, "tensorboard"}
    other: dict[str, Any] = {"arm": "grpo", "learning_rate": 1e-3, "problem_set": 4, "prompts": 8, "cost": 0.0}
    for name, value in {**free, "updates": 48}.items():
        assert job.program_of(changed(**{name: value})) is program, name
    for name, value in other.items():
        assert job.program_of(changed(**{name: value})) is not program, name


@pytest.mark.usefixtures("no_gradient_rows")
def test_parameters_that_are_not_finite_are_never_saved(tmp_path, monkeypatch):
    """The last update before a checkpoint overflows, after a loss and a gradient that were finite."""

    def adam(learning_rate, clip_norm):
        return optax.chain(optax.sgd(1.0), optax.scale_by_schedule(lambda n: jax.numpy.where(n == 7, np.inf, 1e-3)))

    with_parts(monkeypatch, adam=adam)
    config = changed(arm="sft-success", seed=6, evaluate_every=12)
    with pytest.raises(DivergedError, match=r"update 7: not finite: the parameters after it\. .* of update 4"):
        run(config, tmp_path)
    assert Checkpoints(tmp_path / "checkpoints", 2).steps() == [0, 4]


@pytest.mark.usefixtures("no_gradient_rows")
def test_the_best_in_distribution_is_kept_and_can_be_a_start(tmp_path, monkeypatch):
    accuracy = iter([("in", 0.1), ("longer", 0.1), ("in", 0.5), ("longer", 0.2), ("in", 0.5), ("longer", 0.9)])
    measures = dict.fromkeys(("p", "a", "b", "auroc", "gain", "rounds"), Estimate(np.nan))
    monkeypatch.setattr(job, "measure", lambda *_: {**measures, "accuracy": Estimate(next(accuracy)[1])})
    problems = TINY.task_of.evaluation_problems("in", 16)
    monkeypatch.setattr(job, "evaluation_sets", lambda *_: {"in": problems, "longer": problems})
    config = changed(evaluate_every=12, checkpoint_every=2)
    result = run(config, tmp_path / "base")
    # The first of equals, whatever happens out of distribution; kept although it is neither new nor at a fixed step.
    assert result["best"] == {"step": 12, "accuracy": 0.5}
    assert {k: result["evaluations"][k]["longer"]["accuracy"] for k in ("start", "best", "last")} == {
        **{"start": 0.1, "best": 0.2, "last": 0.9}
    }
    checkpoints = Checkpoints(tmp_path / "base" / "checkpoints", 2)
    assert checkpoints.steps() == [12, 22, 24]
    for which, step in (("best", 12), ("last", 24)):
        given = read_params(changed(config, init_from=str(tmp_path / "base"), init_checkpoint=which))
        stored, _ = load_checkpoint(checkpoints.folder(step), {"params": given})
        jax.tree.map(np.testing.assert_array_equal, given, stored["params"])


@pytest.mark.usefixtures("no_gradient_rows")
def test_a_run_keeps_the_start_that_another_gave(straight, tmp_path):
    base = Path(shutil.copytree(straight, tmp_path / "base"))
    config = changed(init_from=str(base), seed=1)
    with pytest.raises(InputError, match=r"rounds: received 3; allowed: 2, as in init_from"):
        run(changed(config, rounds=3), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    stopped_at(tmp_path / "run", 2, config)
    shutil.rmtree(base)
    stopped_at(tmp_path / "run", 4, config)
    like = {"params": job.start_params(TINY, base, None)}
    best = json.loads((straight / "result.json").read_text())["best"]["step"]
    given, _ = load_checkpoint(straight / "checkpoints" / f"{best:08d}", like)
    for folder in ("start", "checkpoints/00000000"):
        kept, _ = load_checkpoint(tmp_path / "run" / folder, like)
        jax.tree.map(np.testing.assert_array_equal, kept, given)
    with pytest.raises(InputError, match=r"init_from: .* allowed: the directory of a run"):
        run(config, tmp_path / "other")
    (tmp_path / "run" / "start" / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"start: .*manifest\.json cannot be read"):
        run(config, tmp_path / "run")


@pytest.mark.usefixtures("no_gradient_rows")
def test_a_critic_starts_at_random_next_to_a_policy_without_one(straight, tmp_path):
    config = changed(arm="ppo", init_from=str(straight), init_checkpoint="last", updates=8)
    given = read_params(config)
    jax.tree.map(
        np.testing.assert_array_equal,
        {k: v for k, v in given.items() if k != "value_head"},
        final(straight, TINY)["params"],
    )
    run(config, tmp_path)
    trees, _ = load_checkpoint(Checkpoints(tmp_path / "checkpoints", 2).folder(8), {"params": given})
    assert abs(trees["params"]["value_head"]["kernel"] - given["value_head"]["kernel"]).max() > 0


@pytest.mark.usefixtures("no_gradient_rows")
def test_event_files_hold_every_row_once(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = changed(tensorboard=True)
    stopped_at(tmp_path, 10, config)
    (tmp_path / "checkpoints" / "00000010" / "facts.json").unlink()  # so that the last rows are written twice
    run(config, tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"), {"tensors": 0}).Reload()  # 0: all of them
    for kind, name, tag in (("train", "loss", "train/loss"), ("evaluation", "rounds", "evaluation/in/rounds")):
        rows = rows_of(tmp_path, kind)
        stored = [(e.step, float(np.asarray(e.tensor_proto.float_val)[0])) for e in events.Tensors(tag)]
        assert stored == [(r["step"], float(np.float32(r[name]))) for r in rows]


def test_event_files_need_their_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard.summary", None)
    with pytest.raises(
        InputError, match=r"tensorboard: received True; allowed: with pip install 'dsjax\[tensorboard\]'"
    ):
        run(changed(tensorboard=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"updates": 20}, "updates: received 20; allowed: a multiple of evaluate_every = 8"),
        ({"chunk": 3}, "evaluate_every: received 8; allowed: a multiple of chunk = 3"),
        ({"keep": 1}, "keep: received 1; allowed: an integer >= 2"),
        ({"arm": "sgd"}, "arm: received 'sgd'; allowed: base, sft-success"),
        ({"group": 1}, "group: received 1; allowed: an integer >= 2"),
        ({"heads": 3}, "model_width: received 8; allowed: a multiple of heads = 3"),
        ({"dtype": "float16"}, "dtype: received 'float16'; allowed: float32, bfloat16"),
        ({"history": "some"}, "history: received 'some'; allowed: none, full"),
        ({"devices": 0}, "devices: received 0; allowed: an integer >= 1"),
        ({"microbatch": -1}, "microbatch: received -1; allowed: an integer >= 0"),
        ({"rounds": 1}, "rounds: received 1"),
        ({"learning_rate": 0.0}, "learning_rate: received 0.0; allowed: a finite number > 0"),
        ({"decay_updates": -1}, "decay_updates: received -1; allowed: an integer >= 0"),
        # A run that is made longer would stand still: its schedule belongs to the length that was planned.
        ({"decay_updates": 23}, "decay_updates: received 23; allowed: 0, or at least updates = 24"),
    ],
)
def test_settings_are_checked(fields, words):
    with pytest.raises(InputError) as caught:
        changed(**fields)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.json"], ["configuration file", "'none.json'", "No such file"]),
        (["tiny.json", "--set", "bogus=1"], ["configuration field", "'bogus'", "allowed: seed, "]),
        (["tiny.json", "--set", "arm=sgd"], ["arm", "'sgd'", "base, sft-success"]),
        (["tiny.json", "--override", "seed=1"], ["override", "'seed'", "updates, checkpoint_every, keep"]),
        (["tiny.json", "--set", "devices=99"], ["devices", "99", "at most 2"]),
        (["tiny.json", "--set", "init_from=nowhere"], ["init_from", "'nowhere/config.json'", "the directory of a run"]),
    ],
)
def test_bad_input_is_refused_before_the_directory_is_made(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "tiny.json", to_dict(TINY))
    assert main(["train", *arguments, "--run", "run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("dsjax: ")
    assert error.count("\n") == 1
    assert all(word in error for word in words), error
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.json"]


@pytest.mark.parametrize(
    ("decay", "expected"), [(0, [1e-2, 1e-2, 1e-2, 1e-2]), (24, [1e-2, (1 + 0.5**0.5) / 2 * 1e-2, 0.5e-2, 0.0])]
)
def test_the_step_size_of_an_update(decay, expected):
    """Adam moves a parameter whose gradient is always the same by the step size."""
    optimizer = job.Program(changed(decay_updates=decay)).optimizer
    params = {"x": jax.numpy.zeros(3)}
    gradient = {"x": jax.numpy.full(3, 0.1)}

    def update(state, _):
        with jax.numpy_dtype_promotion("standard"):
            moved, state = optimizer.update(gradient, state, params)
        return state, jax.tree.leaves(moved)[0][0]

    _, moved = jax.lax.scan(update, optimizer.init(params), None, length=25)
    # float32: Adam divides by the root of a mean of squares, a few roundings of 6e-8 each.
    np.testing.assert_allclose(-np.asarray(moved)[[0, 6, 12, 24]], expected, rtol=1e-5, atol=1e-9)


def test_what_may_change_are_fields():
    assert set(MAY_CHANGE) <= {f.name for f in dataclasses.fields(TrainConfig)}


@pytest.mark.parametrize("file", sorted(Path("experiments/train").glob("*.json")))
def test_the_examples_are_valid(file):
    assert from_dict(TrainConfig, to_dict(load(TrainConfig, file))) == load(TrainConfig, file)
