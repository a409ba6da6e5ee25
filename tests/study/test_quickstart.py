"""The main job at toy size: complete, resumable, honest about what is stored."""

import json

import jax
import numpy as np
import pytest

from dsjax.errors import InputError
from dsjax.figures import style as plotting
from dsjax.study import quickstart as job
from dsjax.training import loop
from tests.compiled_once import share_programs

TINY = job.QuickstartConfig(
    instances=1,
    layers=1,
    model_width=8,
    heads=2,
    base_updates=2,
    base_batch=8,
    arms=("sft-self", "rloo"),
    updates=2,
    points=1,
    prompts=2,
    group=2,
    evaluation_problems=16,
    curve_problems=8,
    resamples=10,
)


@pytest.fixture(scope="module")
def lengths():
    return [
        {"objective": name, "length": n, "share": 0.5 / n, "euclidean_share": 0.4 / n, "block_share": 0.5}
        for name in ("reward", "SFT", "own-token KL", "trajectory KL")
        for n in (1, 2)
    ]


class Killed(BaseException):
    """Stands for SIGKILL: no handler in the library may catch it."""


def test_whole_job_resumes_after_a_kill_and_gives_the_same_results(tmp_path, monkeypatch, lengths):
    monkeypatch.setattr(job, "share_against_length", lambda progress: lengths)
    share_programs(monkeypatch, job, loop)
    report = {"ok": True, "theorems": []}
    calls = []

    def check(instances, seed, progress):
        calls.append((instances, seed))
        return report

    def kill_in_rloo(stage, done, total):
        if stage == "rloo" and 0 < done < total + 1:
            raise Killed

    with pytest.raises(Killed):
        job.run(TINY, tmp_path / "a", check, kill_in_rloo)
    kept = (tmp_path / "a" / "stages" / "sft-self" / "params.msgpack").stat().st_mtime_ns
    assert not (tmp_path / "a" / "stages" / "rloo" / "result.json").exists()
    assert not (tmp_path / "a" / "results.json").exists()
    resumed = job.run(TINY, tmp_path / "a", check, lambda *_: None)
    assert calls == [(1, 0)], "the finished stage is not done again"
    assert (tmp_path / "a" / "stages" / "sft-self" / "params.msgpack").stat().st_mtime_ns == kept
    monkeypatch.setattr(plotting, "draw_figures", lambda results, path: None)  # those of the first run are looked at
    straight = job.run(TINY, tmp_path / "b", check, lambda *_: None)
    for name in ("evaluation", "swap", "accounting", "improvement", "curves"):
        assert resumed[name] == straight[name], name

    stored = json.loads((tmp_path / "a" / "results.json").read_text())
    assert stored["config"]["seed"] == 0
    assert stored["provenance"]["device"]["platform"] == "cpu"
    assert set(stored["seconds"]) == {"theorems", "lengths", "base", "sft-self", "rloo", "evaluation"}
    for figure in ("F1", "F4", "F5", "F6", "F7"):
        assert sorted(p.suffix for p in (tmp_path / "a").glob(f"{figure}_*")) == [".png", ".svg"]
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert {r["stage"] for r in rows} == {"base", "sft-self", "rloo"}
    assert {r["kind"] for r in rows} == {"train", "gradient", "evaluation"}
    for split in ("in", "carry"):
        diagonal = stored["swap"][split]["rloo"]["rloo"]["value"]
        assert diagonal == stored["evaluation"][split]["rloo"]["accuracy"]["value"]
        parts = stored["accounting"][split]["rloo"]["accuracy"]
        total = stored["improvement"][split]["rloo"]["value"]
        assert parts["sampler"]["value"] + parts["decider"]["value"] == pytest.approx(total, abs=1e-12)


def test_keys_differ_by_purpose_and_seed_only():
    data = {
        (seed, purpose): tuple(np.asarray(jax.random.key_data(job.QuickstartConfig(seed=seed).key(purpose))))
        for seed in (0, 1)
        for purpose in ("problems", "rloo", "init")
    }
    assert len(set(data.values())) == len(data)


@pytest.mark.parametrize(
    ("field", "value"),
    [("updates", 7), ("model_width", 30), ("arms", ("rloo", "rloo")), ("curve_problems", 2000), ("cost", -1.0)],
)
def test_impossible_values_name_the_field(field, value):
    with pytest.raises(InputError) as error:
        job.QuickstartConfig(**{field: value})
    assert error.value.field == field
