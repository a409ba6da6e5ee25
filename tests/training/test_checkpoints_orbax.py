"""Orbax checkpoints: whole or absent, verified, restored to any placement, and falling back when damaged."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dsjax.errors import InputError
from dsjax.training.checkpoints import (
    Checkpoints,
    DamagedError,
    StorageError,
    check_files,
    load_checkpoint,
    save_checkpoint,
)
from dsjax.training.sharding import Layout, data_mesh

FACTS = {"measured": 3, "best": {"step": 1, "accuracy": 0.5}, "evaluations": {}}


def trees(seed: int = 0):
    rng = np.random.default_rng(seed)
    params = {"trunk": {"w": jnp.asarray(rng.normal(size=(64, 16)), jnp.float32)}, "head": jnp.arange(3.0)}
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    return {
        "params": params,
        "training": {
            "opt_state": optax.adam(0.1).init(params),
            "half": half,
            "step": jnp.asarray(seed, jnp.int32),
            "key": jax.random.fold_in(jax.random.key(1), seed),
            "options": {},
        },
    }


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


def snapshot(path: Path):
    return {p.relative_to(path).as_posix(): p.read_bytes() if p.is_file() else None for p in path.rglob("*")}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """One checkpoint, to be copied."""
    folder = tmp_path_factory.mktemp("stored") / "00000007"
    save_checkpoint(folder, trees(), FACTS)
    return folder


@pytest.fixture
def checkpoint(stored, tmp_path):
    return Path(shutil.copytree(stored, tmp_path / stored.name))


def test_every_kind_of_array_and_the_facts_come_back(stored):
    restored, facts = load_checkpoint(stored, trees(1))
    assert_same(restored, trees())
    assert facts == FACTS
    assert {p.name for p in stored.iterdir()} == {"arrays", "facts.json", "manifest.json"}
    only, _ = load_checkpoint(stored, {"params": trees(1)["params"]})  # as another run that starts from it
    assert_same(only, {"params": trees()["params"]})


@pytest.mark.parametrize("way", ["split to one", "one to split", "split to replicated"])
def test_arrays_are_restored_to_the_placement_that_is_asked_for(tmp_path, way):
    layouts = {"one": Layout(), "split": Layout(data_mesh(2), "fsdp"), "replicated": Layout(data_mesh(2))}
    source, target = (layouts[name] for name in way.split(" to "))
    save_checkpoint(tmp_path / "1", source.place(trees()), FACTS)
    like = target.place(trees(1))
    restored, _ = load_checkpoint(tmp_path / "1", like)
    assert_same(restored, trees())
    for x, y in zip(jax.tree.leaves(restored["params"]), jax.tree.leaves(like["params"]), strict=True):
        assert x.sharding.is_equivalent_to(y.sharding, x.ndim)
    assert restored["params"]["trunk"]["w"].sharding.is_fully_replicated == (not way.endswith("split"))


def test_nothing_is_unpickled(stored, monkeypatch):
    def refuse(*_args, **_more):
        raise AssertionError("pickle")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    load_checkpoint(stored, trees(1))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def zero(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, zero, flip, Path.unlink])
def test_damage_to_any_file_is_noticed_and_named(checkpoint, damage):
    check_files(checkpoint)
    files = [p for p in checkpoint.rglob("*") if p.is_file() and p.stat().st_size and p.name != "manifest.json"]
    assert len(files) > 5
    for file in files:
        whole = file.read_bytes()
        damage(file)
        with pytest.raises(DamagedError, match=file.relative_to(checkpoint).as_posix()):
            load_checkpoint(checkpoint, trees(1))
        file.write_bytes(whole)
    load_checkpoint(checkpoint, trees(1))


@pytest.mark.parametrize(
    "content", [None, b"", b"\x00" * 100, b"{}", b'{"files": 3}', b'{"files": {"x": 1}}', b'{"files": {}}']
)
def test_a_damaged_manifest_is_noticed(checkpoint, content):
    if content is None:
        (checkpoint / "manifest.json").unlink()
    else:
        (checkpoint / "manifest.json").write_bytes(content)
    with pytest.raises(DamagedError, match=r"manifest\.json"):
        load_checkpoint(checkpoint, trees(1))


def test_whole_files_of_another_state_are_refused(stored):
    like = trees(1)
    for other, words in (
        ({"trunk": {"w": jnp.zeros((64, 8))}, "head": jnp.arange(3.0)}, r"params\.trunk\.w float32\[64, 16\] -> .*8\]"),
        ({**like["params"], "head": jnp.arange(3)}, r"params\.head float32\[3\] -> int32\[3\]"),
        ({**like["params"], "theta": jnp.zeros(3)}, r"params\.theta None -> float32\[3\]"),
        ({"trunk": like["params"]["trunk"]}, r"params\.head float32\[3\] -> None"),
    ):
        with pytest.raises(DamagedError, match=words):
            load_checkpoint(stored, {**like, "params": other})


def test_a_save_that_fails_leaves_what_was_there(checkpoint, monkeypatch):
    before = snapshot(checkpoint.parent)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for folder in (checkpoint, checkpoint.parent / "00000008"):
        with pytest.raises(StorageError, match=f"{folder.name} could not be written .*No space left"):
            save_checkpoint(folder, trees(1), FACTS)
    assert snapshot(checkpoint.parent) == before


def test_a_checkpoint_replaces_another_of_its_name(checkpoint):
    save_checkpoint(checkpoint, trees(3), {**FACTS, "measured": 5})
    restored, facts = load_checkpoint(checkpoint, trees(1))
    assert_same(restored, trees(3))
    assert facts["measured"] == 5
    assert [p.name for p in checkpoint.parent.iterdir()] == [checkpoint.name]


@pytest.fixture
def series(tmp_path):
    """Updates 0, 10, .., 40, of which the newest two and the best, 10, are kept."""
    out = Checkpoints(tmp_path / "checkpoints", keep=2)
    for step in range(0, 50, 10):
        out.save(step, trees(step), {"step": step}, best=10 if step >= 10 else 0)
    return out


def test_the_newest_and_the_best_are_kept(series):
    assert series.steps() == [10, 30, 40]
    restored = series.restore(trees(1))
    assert (restored.step, restored.facts, restored.skipped) == (40, {"step": 40}, [])
    assert_same(restored.trees, trees(40))
    series.save(50, trees(50), {"step": 50}, best=50)
    assert series.steps() == [40, 50]


def test_damaged_ones_are_skipped_told_and_put_aside(series):
    zero(next((series.folder(40) / "arrays" / "params" / "d").iterdir()))
    (series.folder(30) / "facts.json").unlink()
    restored = series.restore(trees(1))
    assert restored.step == 10
    assert_same(restored.trees, trees(10))
    assert len(restored.skipped) == 2
    assert restored.skipped[0].startswith("update 40: arrays/params/d/")
    assert restored.skipped[0].endswith("holds other bytes than were written")
    assert restored.skipped[1] == "update 30: facts.json cannot be read (No such file or directory)"
    # Aside, so that they neither count as the newest nor stand in the way of the next one.
    assert sorted(p.name for p in series.path.iterdir()) == ["00000010", "00000030.damaged", "00000040.damaged"]
    series.save(30, trees(30), {"step": 30}, best=10)
    assert series.steps() == [10, 30]


def test_others_can_refuse_a_checkpoint_by_its_facts(series):
    restored = series.restore(trees(1), lambda facts: "too new" if facts["step"] > 30 else None)
    assert (restored.step, restored.skipped) == (30, ["update 40: too new"])


def test_if_none_can_be_read_nothing_is_touched(series):
    for step in series.steps():
        truncate(series.folder(step) / "facts.json")
    before = snapshot(series.path)
    with pytest.raises(InputError, match=r"checkpoints: .*update 40: facts.json has .* bytes.*update 10"):
        series.restore(trees(1))
    assert snapshot(series.path) == before


def test_none_at_all_is_no_error(tmp_path):
    out = Checkpoints(tmp_path / "checkpoints", keep=2)
    out.clean()
    assert out.restore(trees(1)) is None


def test_what_a_killed_process_left_is_cleaned(series):
    """Killed while writing 50, while removing 20, and between the two renames that replace 40."""
    new, old = series.path / ".00000050.new", series.path / ".00000020.old"
    new.mkdir()
    (new / "half").write_bytes(b"x")
    series.folder(30).rename(old)
    save_checkpoint(series.folder(30), trees(30), {"step": 30})
    (series.path / ".00000020.old").rename(series.path / ".00000030.old")
    series.folder(40).rename(series.path / ".00000040.old")
    series.clean()
    assert sorted(p.name for p in series.path.iterdir()) == ["00000010", "00000030", "00000040"]
    restored = series.restore(trees(1))
    assert (restored.step, restored.skipped) == (40, [])


def test_orbax_is_imported_when_it_is_needed():
    loaded = "'orbax' in sys.modules or 'tensorboard' in sys.modules"
    code = f"import sys, dsjax.training.run, dsjax.cli.main; sys.exit({loaded})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
