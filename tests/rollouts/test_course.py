"""Files by step: rows, one program for all of them, what an interrupt leaves, and names that tell no step."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import weakref
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dsjax.cli.attribute import attribute as command
from dsjax.cli.main import main
from dsjax.errors import InputError
from dsjax.figures import course as figure
from dsjax.objectives import resolve
from dsjax.rollouts import attribute_rollouts, format
from dsjax.rollouts.course import ESTIMATES, by_step, follow, scalars
from dsjax.rollouts.format import read
from dsjax.trajectories import Trajectories
from tests.cli.plain import assert_plain
from tests.rollouts.test_format import SLOTS, run

STEPS = (5, 40, 300)
asked: list[int] = []


def counted(logp_BxS: jax.Array, traj: Trajectories):
    """RLOO, and a note of each time that Python runs it: in a trace, or outside of one."""
    asked.append(1)
    return resolve("rloo")(logp_BxS, traj)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch) -> Any:
    """Drawing takes seconds: once is enough."""
    drawing = figure.draw_course
    monkeypatch.setattr(figure, "draw_course", lambda *_: [])
    return drawing


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """Files of three steps, each with other returns and with gradients."""
    folder = tmp_path / "rollouts"
    folder.mkdir()
    for i, step in enumerate(STEPS):
        rng = np.random.default_rng(i)
        g = {f"gradient_{c}": 0.3 * i + rng.normal(size=(6, 3)) for c in ("sample", "decision")}
        reward = np.array([1.0, 0.0, float(i % 2), 1.0, 0.0])
        np.savez(folder / f"run2_step_{step:06d}_rank0.npz", **run(reward=reward, **g))
    return folder


def followed(*paths: Path, objective: str = "rloo", **flags: Any) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as text:
        assert command(paths, objective=objective, resamples=20, **flags) == 0
    assert_plain(text.getvalue())
    return text.getvalue()


def rows_of(out: Path) -> list[dict[str, Any]]:
    head, *rows = map(json.loads, (out / "course.jsonl").read_text().splitlines())
    assert head["format"] == 2
    return rows


def test_a_row_a_step_from_one_program(training, tmp_path, undrawn):
    """Numbers are those of each file alone; a second file of the same shape runs no Python of the objective again."""
    out, name = tmp_path / "out", f"{__name__}:counted"
    text = followed(training, objective=name, out=out)
    once = len(asked)
    asked.clear()
    followed(next(iter(by_step([training]).values())), objective=name, out=tmp_path / "one")
    assert len(asked) == once <= 2
    rows = rows_of(out)
    assert [row["step"] for row in rows] == list(STEPS)
    for row, path in zip(rows, by_step([training]).values(), strict=True):
        found = attribute_rollouts("rloo", resamples=20, **read(path))
        assert [row["stop"], row["resample"]] == [d["count"] for d in found.decisions.values()]
        assert row["mean_reward"] == found.rollouts["mean_reward"]
        for quantity, of in ESTIMATES.items():
            expected = of(found).to_json()
            assert row[quantity] == pytest.approx(expected, rel=1e-12, abs=1e-15), quantity
    assert all(str(step) in text for step in STEPS)
    drawn = undrawn(rows, out, "title")
    assert sorted(p.name for p in out.iterdir()) == sorted({"course.jsonl", *(p.name for p in drawn)})
    with (out / "course.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [int(line["step"]) for line in table] == list(STEPS)
    assert float(table[1]["p_stop_right_low"]) == rows[1]["p_stop_right"]["low"]
    flat = scalars(rows[0])
    assert {type(x) for n, x in flat.items() if n not in ("kind", "step")} <= {float, type(None)}
    assert flat["decision_share/high"] == rows[0]["decision_share"]["high"]
    assert "size" not in flat


def test_an_interrupt_leaves_what_is_done(training, tmp_path, monkeypatch):
    """And so does a row that was cut off; a file that has changed since is read again."""
    out, opened = tmp_path / "out", []

    def reading(path: Path) -> dict[str, Any]:
        opened.append(path.name)
        if len(opened) == 2:
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(format, "read", reading)
    arguments = ["attribute", str(training), "--objective", "rloo", "--resamples", "20", "--out", str(out)]
    assert main(arguments) == 130
    assert [row["step"] for row in rows_of(out)] == [5]
    with (out / "course.jsonl").open("a") as file:
        file.write('{"step": 40, "file"')
    followed(training, out=out)
    assert [re.search(r"0+(\d+)_", name)[1] for name in opened] == ["5", "40", "40", "300"]  # type: ignore
    interrupted = rows_of(out)
    followed(training, out=tmp_path / "straight")
    assert interrupted == rows_of(tmp_path / "straight")
    opened.clear()
    changed = by_step([training])[40]
    np.savez(changed, **run(reward=np.ones(5)))
    followed(training, out=out)
    assert opened == [changed.name]
    assert [row["step"] for row in rows_of(out)] == [*STEPS, 40]
    assert rows_of(out)[-1]["mean_reward"] == 1


def test_nothing_of_a_file_stays_but_its_row(training):
    seen: list[weakref.ref] = []

    def diagnosed(path: Path):
        assert all(ref() is None for ref in seen), "an earlier file is still in memory"
        found = attribute_rollouts("rloo", resamples=5, **read(path))
        seen.extend([weakref.ref(found), weakref.ref(found.coefficients)])
        return found

    rows = [row for row, _ in follow(by_step([training]), (), diagnosed)]
    assert len(seen) == 6
    assert [row["step"] for row in rows] == list(STEPS)


def test_a_file_that_is_wrong_is_named_and_the_others_stay(training, tmp_path):
    np.savez(by_step([training])[40], **run(reward=np.full(5, np.nan)))
    with pytest.raises(InputError, match=r"^run2_step_000040_rank0.npz: reward: received 'nan at \[0\]"):
        followed(training, out=tmp_path / "out")
    assert [row["step"] for row in rows_of(tmp_path / "out")] == [5]
    before = (tmp_path / "out" / "course.jsonl").read_bytes()
    with pytest.raises(InputError, match=r"a course of the same settings, or a new directory \(objective = 'rloo'"):
        followed(training, objective="sft", out=tmp_path / "out")
    assert (tmp_path / "out" / "course.jsonl").read_bytes() == before


NAMES = {
    "no step": (["rollouts.npz"], "a name with the step of training"),
    "two of one": (["step_7.npz", "rank0_step7.npz"], r"one file a step \(.*rank0_step7.npz is of step 7 too\)"),
    "nothing": ([], "a directory with .npz files"),
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_that_tell_no_step(kind, tmp_path):
    names, words = NAMES[kind]
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=words):
        by_step([tmp_path])


def test_the_number_behind_step_or_the_last_one(tmp_path):
    for name in ("2024_step-12_rank3.npz", "run_007.npz", "global_step3.npz"):
        (tmp_path / name).touch()
    assert list(by_step([tmp_path])) == [3, 7, 12]


# P(STOP) by what was right.


def test_p_stop_by_answer_and_by_end():
    """Seven decisions, four of them STOP; the answers before them are known, or how the trajectory ends."""
    correct = np.zeros(SLOTS.shape)
    correct[0, 3] = correct[1, 2] = correct[3, 3] = correct[3, 7] = 1
    known = attribute_rollouts("rloo", resamples=5, **run(correct=correct)).stopping
    assert known["known_of"] == "answer"
    assert (known["right"].value, known["wrong"].value) == (2 / 4, 2 / 3)
    ends = attribute_rollouts("rloo", resamples=5, **run()).stopping
    assert ends["known_of"] == "trajectory"  # returns 1, 0, 0.5, 1, 0; success from 0.5
    assert (ends["right"].value, ends["wrong"].value) == (2 / 4, 2 / 3)
    assert attribute_rollouts("rloo", resamples=5, **run(reward=np.ones(5))).stopping["known_of"] is None


# Own objectives in a program.


def test_an_own_objective_may_change_between_calls_but_not_lose_its_checks():
    scale = [1.0]

    def mine(logp_BxS: jax.Array, traj: Trajectories):
        total, count = resolve("rloo")(logp_BxS, traj)
        return scale[0] * total, count

    first = attribute_rollouts(mine, resamples=5, **run()).coefficients
    scale[0] = 2.0
    np.testing.assert_allclose(attribute_rollouts(mine, resamples=5, **run()).coefficients, 2 * first, rtol=1e-15)
    # Five rows in two groups are 2.5 each on average: only the values tell that one has a single member.
    with pytest.raises(InputError, match="group: received 'a group of 1'"):
        attribute_rollouts(mine, resamples=5, **run(group=np.array([0, 0, 0, 0, 9])))
