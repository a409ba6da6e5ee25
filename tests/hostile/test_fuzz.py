"""Random input to every reader and every parser: an answer, or an `InputError` on one line; nothing else.

A few examples each; with DSJAX_FUZZ=MINUTES each goes on for that long.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsjax.cli.atlas import atlas
from dsjax.cli.bench import bench
from dsjax.cli.check import check
from dsjax.cli.flags import gathered, options, pairs
from dsjax.cli.study import run as study_run
from dsjax.cli.train import train
from dsjax.config import from_dict, from_text
from dsjax.errors import InputError
from dsjax.io import inside, parse_json, read_arrays, read_json, read_rows
from dsjax.objectives import resolve
from dsjax.objectives.registry import OBJECTIVES, defaults
from dsjax.own import import_name
from dsjax.rollouts.format import check as check_rollouts
from dsjax.study.jobs import Definition, Job, Study
from dsjax.study.results import read_results, report_of
from dsjax.study.settings import Settings
from dsjax.training.bench import BenchConfig
from dsjax.training.config import TrainConfig
from dsjax.training.run_directory import RunDirectory
from proofs_check.instance_file import decode

MINUTES = float(os.environ.get("DSJAX_FUZZ", "0"))
EXAMPLES = 40
PATIENCE = settings(max_examples=EXAMPLES, deadline=None, derandomize=not MINUTES, database=None)
SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large, HealthCheck.large_base_example]
PATIENCE = settings(PATIENCE, suppress_health_check=SLOW)

SCALARS = (
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.integers(-3, 9) | st.floats() | st.text(max_size=8)
)
WORDS = st.sampled_from(
    ["in", "none", "full", "rloo", "a:b", "../x", "grpo", "base", "addition", "0", "-1", "1e999", "null"]
)
VALUES = st.recursive(
    SCALARS | WORDS,
    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=6) | WORDS, x, max_size=4),
    max_leaves=12,
)


def fields(*names: str) -> st.SearchStrategy:
    """An object with some of these fields, and sometimes another one."""
    return st.dictionaries(st.sampled_from([*names, "other"]), VALUES | WORDS, max_size=6)


def only_input_errors(call: Callable[[], Any]) -> None:
    said = "; allowed: "
    try:
        call()
    except InputError as error:
        said = str(error)
    assert "\n" not in said
    assert "; allowed: " in said


def fuzzed(strategy: st.SearchStrategy, call: Callable[[Any], Any]) -> None:
    @PATIENCE
    @given(strategy)
    def once(value: Any) -> None:
        only_input_errors(lambda: call(value))

    end = time.monotonic() + 60 * MINUTES
    once()
    while time.monotonic() < end:
        once()


# The fields of a configuration that size its arrays would take time, not patience.
TRAIN = [n for n in TrainConfig.__dataclass_fields__ if n not in ("task", "network", "arm")]
MADE = Study(Path("nowhere"), "n", "a", [Job("j", "a:b")])
FIELDS: dict[str, tuple[st.SearchStrategy, Callable[[Any], Any]]] = {
    "TrainConfig": (fields(*TRAIN), lambda x: from_dict(TrainConfig, x)),
    "BenchConfig": (fields(*BenchConfig.__dataclass_fields__), lambda x: from_dict(BenchConfig, x)),
    "Settings": (
        fields(*Settings.__dataclass_fields__).map(lambda x: {"arms": ["rloo"], "sweep": None, **x}),
        lambda x: from_dict(Settings, x),
    ),
    "Job": (
        fields("name", "kind", "options", "needs", "work"),
        lambda x: Job(**{"name": "j", "kind": "a:b", **_known(x)}),
    ),
    "instance": (
        fields("format", "theorem", "shape", "leaves", "origin").map(lambda x: {"format": 1, "theorem": "T1", **x}),
        decode,
    ),
    "rollouts": (
        st.dictionaries(st.sampled_from(["logp", "sample_mask", "decision_mask", "reward", "weight", "group"]), VALUES),
        lambda x: check_rollouts({k: np.asarray(v) for k, v in x.items() if _is_array(v)}),
    ),
}


def _known(x: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in x.items() if name != "other"}


def _is_array(x: Any) -> bool:
    try:
        return np.asarray(x).dtype.kind in "biufU"
    except (ValueError, OverflowError):
        return False


@pytest.mark.parametrize("name", FIELDS)
def test_fields(name):
    fuzzed(*FIELDS[name])


FLAGS = ["--set", "--option", "--theorem", "--json", "--csv", "--seed", "--layers", "--run", "--arms", "--resources"]
FLAGS += ["--", "-", "--="]
ARGUMENT = st.one_of(
    st.text(max_size=8),
    st.sampled_from(FLAGS),
    st.builds(
        "{}={}".format, st.sampled_from(["clip", "seed", "cost", "keep", "--set", "--json", ""]), st.text(max_size=5)
    ),
)
ARGUMENTS = st.lists(ARGUMENT, max_size=6)
NUMBERS = st.sampled_from(sorted({n for f in OBJECTIVES.values() for n in defaults(f) or {}}))
PARSERS: dict[str, tuple[st.SearchStrategy, Callable[[Any], Any]]] = {
    "gathered": (ARGUMENTS, lambda x: [gathered(x, command) for command in (atlas, bench, check, study_run, train)]),
    "pairs": (ARGUMENTS, lambda x: pairs("set", x)),
    "options": (
        st.tuples(
            st.sampled_from([*OBJECTIVES]), st.lists(st.builds("{}={}".format, NUMBERS, VALUES.map(str)), max_size=3)
        ),
        lambda x: options(*x),
    ),
    "resolve": (
        st.tuples(st.sampled_from([*OBJECTIVES]), st.dictionaries(NUMBERS, VALUES, max_size=3)),
        lambda x: resolve(*x),
    ),
    "texts": (
        st.dictionaries(st.sampled_from(TRAIN), st.text(max_size=8) | WORDS, max_size=3),
        lambda x: from_dict(TrainConfig, from_text(TrainConfig, x)),
    ),
    "names": (VALUES | st.text(), lambda x: import_name("f", x)),
    "paths": (VALUES | st.text(), lambda x: _stays(x)),
}


def _stays(name: Any) -> None:
    folder = Path("/a/b")
    assert Path(os.path.normpath(inside(folder, name))).is_relative_to(folder)


@pytest.mark.parametrize("name", PARSERS)
def test_parsers(name):
    fuzzed(*PARSERS[name])


def _with(path: Path, data: bytes, call: Callable[[], Any]) -> Any:
    path.write_bytes(data)
    return call()


JSON = st.one_of(
    st.binary(max_size=40),
    VALUES.map(lambda x: json.dumps(x).encode()),
    st.text('[]{}":,1e-.nulltrue \\', max_size=40).map(str.encode),
    fields("format", "jobs", "report", "study", "preset", "kind", "config", "name", "presets", "hypotheses").map(
        lambda x: json.dumps({"format": 2, "jobs": {}, **x}).encode()
    ),
)


@pytest.mark.parametrize(
    "name", ["read_json", "read_rows", "Definition", "Study", "RunDirectory", "read_results", "progress.json"]
)
def test_json_files(name, tmp_path):
    calls: dict[str, tuple[str, Callable[[], Any]]] = {
        "read_json": ("it.json", lambda: read_json(tmp_path / "it.json")),
        "read_rows": ("it.json", lambda: read_rows(tmp_path / "it.json")),
        "Definition": ("study.json", lambda: Definition.read(tmp_path).settings_of("a")),
        "Study": ("jobs.json", lambda: Study.load(tmp_path)),
        "RunDirectory": ("config.json", lambda: RunDirectory(tmp_path, "train", {"a": 1}).settle()),
        "read_results": ("results.json", lambda: report_of(read_results("run", tmp_path)[1], "run", tmp_path)),
        "progress.json": ("jobs/j/progress.json", lambda: Study(tmp_path, "n", "a", [Job("j", "a:b")]).status()),
    }
    file, call = calls[name]
    (tmp_path / "jobs" / "j").mkdir(parents=True)
    fuzzed(JSON, lambda data: _with(tmp_path / file, data, call))


def archive() -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, logp=-np.ones((2, 3)), reward=np.array([0.0, 1.0]), group=np.array(["a", "b"]))
    return out.getvalue()


ARCHIVE = archive()
CHANGES = st.lists(st.tuples(st.integers(0, len(ARCHIVE) - 1), st.integers(0, 255)), max_size=6)


def changed(changes: list[tuple[int, int]]) -> bytes:
    data = bytearray(ARCHIVE)
    for at, byte in changes:
        data[at] = byte
    return bytes(data)


def rebuilt(members: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with contextlib.suppress(UserWarning), zipfile.ZipFile(out, "w") as made:
        for name, data in members:
            made.writestr(name, data)
    return out.getvalue()


HEADER = st.builds(
    lambda descr, shape, more: f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}{more}}}\n",
    st.sampled_from(["'<f8'", "'|O'", "'<U1'", "[('a', '<f8')]", "'<f99'", "5", "None"]),
    st.sampled_from(["()", "(2,)", "(-1,)", "(10**9,)", "(1e3,)", "(99999999999999999999,)", "(0, 5)", "2", "[2]"]),
    st.sampled_from(["", ", 'x': 1", ", "]),
)
MEMBER = st.one_of(
    st.binary(max_size=60),
    st.tuples(HEADER, st.binary(max_size=40)).map(
        lambda x: b"\x93NUMPY\x01\x00" + len(x[0]).to_bytes(2, "little") + x[0].encode() + x[1]
    ),
)
NPZ = st.one_of(
    CHANGES.map(changed),
    st.integers(0, len(ARCHIVE)).map(lambda n: ARCHIVE[:n]),
    st.binary(max_size=80),
    st.lists(
        st.tuples(st.sampled_from(["logp.npy", "reward.npy", "x"]), MEMBER), max_size=3, unique_by=lambda x: x[0]
    ).map(rebuilt),
)


def test_arrays(tmp_path):
    fuzzed(NPZ, lambda data: _with(tmp_path / "it.npz", data, lambda: read_arrays(tmp_path / "it.npz")))


def test_parse_json_gives_json():
    """What it takes, JSON gives back unchanged."""

    def both(data: bytes) -> None:
        with contextlib.suppress(ValueError):
            found = parse_json(data)
            assert json.loads(json.dumps(found)) == found

    fuzzed(JSON, both)
