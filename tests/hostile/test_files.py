"""Files that are damaged, of another kind, or made to harm: every reader says which file, and what is wrong with it."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsjax.cli.bench import read as read_bench
from dsjax.cli.main import main
from dsjax.config import load
from dsjax.errors import InputError
from dsjax.io import MOST_DEEP, array_names, parse_json, read_arrays, read_json, read_rows
from dsjax.rollouts.format import read as read_rollouts
from dsjax.study.agreement import agreement
from dsjax.study.jobs import Definition, Job, Study
from dsjax.study.measures import Evaluated
from dsjax.study.results import read_results
from dsjax.training.config import TrainConfig
from dsjax.training.run_directory import RunDirectory
from proofs_check import check_instance
from tests.cli.test_bad_input import refused

DEEP = 900
BYTES = {
    "empty": b"",
    "text": b"hello",
    "binary": bytes(range(256)),
    "cut": b'{"a": [1, 2',
    "two": b"{}{}",
    "utf16": "{}".encode("utf-16"),
    "nan": b'{"a": NaN}',
    "infinity": b"[-Infinity]",
    "long integer": b'{"a": ' + b"9" * 5000 + b"}",
    "key twice": b'{"a": 1, "a": 2}',
    "inner key twice": b'{"b": [{"a": 1, "a": 1}]}',
    "lists": b"[" * DEEP + b"]" * DEEP,
    "objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "lists, far too deep": b"[" * 100_000 + b"]" * 100_000,
    "never closed": b"[" * 100_000,
    "gzip": gzip.compress(b"{}"),
}


def readers(path: Path) -> dict[str, Any]:
    """Everything that reads a JSON file, given one."""
    folder = path.parent
    for name in ("study.json", "jobs.json", "config.json", "results.json"):
        (folder / name).write_bytes(path.read_bytes())
    return {
        "read_json": lambda: read_json(path),
        "configuration": lambda: load(TrainConfig, path),
        "study": lambda: Definition.read(folder),
        "directory of a study": lambda: Study.load(folder),
        "run directory": lambda: RunDirectory(folder, "train", {}).settle(),
        "results": lambda: read_results("run", folder),
        "instance": lambda: check_instance(path),
        "bench": lambda: read_bench(path),
    }


@pytest.mark.parametrize("name", BYTES)
def test_json_that_is_none(name, tmp_path):
    file = tmp_path / "it.json"
    file.write_bytes(BYTES[name])
    for reader, call in readers(file).items():
        with pytest.raises(InputError) as found:
            call()
        said = str(found.value)
        assert str(tmp_path) in said, f"{reader}: {said}"
        assert len(said) < 1500, reader


def test_packed_json_that_is_none(tmp_path, monkeypatch):
    file = tmp_path / "it.json.gz"
    whole = gzip.compress(b'{"a": 1}')
    file.write_bytes(whole)
    assert read_json(file) == {"a": 1}
    for data in (b"", whole[:-1], whole[:-9] + b"\0" * 9, b"{}", whole + b"x", b"\x1f\x8b" + bytes(20)):
        file.write_bytes(data)
        with pytest.raises(InputError, match=r"it\.json\.gz"):
            read_json(file)
    monkeypatch.setattr("dsjax.io.MOST_BYTES", 1000)
    file.write_bytes(gzip.compress(b" " * 10_000_000))  # 10 kB that unpack to far more
    with pytest.raises(InputError, match="larger than 1 kB"):
        read_json(file)


@pytest.mark.parametrize("path", [".", "nowhere.json", "file/inside.json", "x" * 300, "a\0b"])
def test_what_is_no_file(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    for reader in (read_json, read_rows, read_arrays, array_names):
        with pytest.raises(InputError):
            reader(Path(path))


def test_depth_is_counted():
    assert parse_json("[" * MOST_DEEP + "]" * MOST_DEEP)
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * (MOST_DEEP + 2) + "]" * (MOST_DEEP + 2))
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json('[{"a":' * 60 + "1" + "}]" * 60)


@pytest.mark.parametrize("line", ["", "{", "[1]", "1", '{"a": NaN}', '{"a": 1, "a": 1}', "\xff"])
def test_rows_that_are_none(line, tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"a": 1}\n' + line + "\n{}\n", "latin-1")
    with pytest.raises(InputError, match="line 2"):
        read_rows(file)
    file.write_text('{"a": 1}\n{}\n')
    assert read_rows(file) == [{"a": 1}, {}]


# Arrays.


def packed(x: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, x)
    return out.getvalue()


def announced(shape: tuple, descr: str = "<f8", data: bytes = bytes(64)) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": descr, "fortran_order": False, "shape": shape})
    return out.getvalue() + data


class Runs:
    """What a pickle can do."""

    def __reduce__(self):
        return pytest.fail, ("a file was run",)


def pickled() -> bytes:
    return announced((1,), "|O", pickle.dumps(Runs()))


GOOD = packed(np.arange(3.0))
MEMBERS = {
    "no array": b"not an array",
    "empty": b"",
    "only a magic": b"\x93NUMPY",
    "version": b"\x93NUMPY\x09\x00" + GOOD[8:],
    "version 3": b"\x93NUMPY\x03\x00" + GOOD[8:],
    "cut": GOOD[:-8],
    "too long": GOOD + bytes(8),
    "header cut": GOOD[:40],
    "pickle": pickled(),
    "a bare pickle": pickle.dumps(Runs()),
    "8 PB": announced((10**15,)),
    "8 EB": announced((10**9, 10**9)),
    "overflow": announced((2**63, 2)),
    "negative": announced((-8,)),
    "negative twice": announced((-4, -2)),
    "fraction": announced((2.0,)),  # pyright: ignore[reportArgumentType]
    "dtype": announced((8,), "<q9"),
    "code": GOOD.replace(b"{'descr': '<f8'", b"{'descr': exit()"),
}


def write(file: Path, *members: tuple[str, bytes], packing: int = zipfile.ZIP_STORED) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", packing) as archive:
        warnings.simplefilter("ignore")  # of a name twice
        for name, data in members:
            archive.writestr(name, data)
    return file


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_that_is_no_array(name, tmp_path):
    file = write(tmp_path / "it.npz", ("good.npy", GOOD), ("reward.npy", MEMBERS[name]))
    for reader in (read_arrays, read_rollouts, lambda path: Evaluated.read(path, ["base"])):
        with pytest.raises(InputError) as found:
            reader(file)
        assert found.value.field == "reward"
        assert str(file) in str(found.value)
    assert read_arrays(file, names=("good",))["good"].tolist() == [0, 1, 2]


def damaged(file: Path, at: int) -> Path:
    data = bytearray(file.read_bytes())
    data[at] ^= 255
    file.write_bytes(bytes(data))
    return file


ARCHIVES = {
    "text": lambda file: file.write_text("hello") and file,
    "an array alone": lambda file: file.write_bytes(GOOD) and file,
    "empty": lambda file: file.write_bytes(b"") or file,
    "cut": lambda file: file.write_bytes(write(file, ("a.npy", GOOD)).read_bytes()[:-30]) and file,
    "flipped": lambda file: damaged(write(file, ("a.npy", GOOD)), 60),
    "another sum": lambda file: damaged(write(file, ("a.npy", GOOD)), file.read_bytes().rindex(b"PK\x01\x02") + 16),
    "twice": lambda file: write(file, ("a.npy", GOOD), ("a.npy", GOOD)),
    "twice, once without ending": lambda file: write(file, ("a.npy", GOOD), ("a", GOOD)),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_that_is_none(name, tmp_path):
    file = ARCHIVES[name](tmp_path / "it.npz")
    for reader in (read_arrays, read_rollouts):
        if reader is read_rollouts and name in ("flipped", "another sum"):
            continue  # the array is not one that it opens
        with pytest.raises(InputError, match=r"it\.npz"):
            reader(file)


def test_a_member_that_is_no_array_file(tmp_path):
    file = write(tmp_path / "it.npz", ("a.npy", GOOD), ("notes.txt", b"hello"), ("reward", b"text"))
    assert array_names(file) == ["a", "notes.txt", "reward"]
    assert list(read_arrays(file, names=("a",))) == ["a"]
    with pytest.raises(InputError) as found:
        read_rollouts(file)
    assert found.value.field == "reward"


def test_more_than_it_says_or_can_hold(tmp_path, monkeypatch):
    """A directory that announces another size; and honest arrays that are more than there is memory."""
    file = write(tmp_path / "it.npz", ("a.npy", packed(np.zeros(1000))), packing=zipfile.ZIP_DEFLATED)
    assert read_arrays(file)["a"].shape == (1000,)
    whole = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        size = archive.infolist()[0].file_size.to_bytes(4, "little")
    for lie in ((100).to_bytes(4, "little"), (2**32 - 2).to_bytes(4, "little")):
        file.write_bytes(whole.replace(size, lie))
        with pytest.raises(InputError):
            read_arrays(file)
    file.write_bytes(whole)
    monkeypatch.setattr("dsjax.io.memory_of_machine", lambda: 1000.0)
    with pytest.raises(InputError, match=r"at most 1 kB of memory, not at least 8\.13 kB"):
        read_arrays(file)


# Files of studies and runs.

LIST = {"format": 1, "study": "n", "preset": "a"}
JOB = {"name": "j", "kind": "a:b", "options": {}, "needs": [], "work": 1.0}
BAD_JOBS: list[Any] = [
    *([], 5, None, "text", {}),
    *({**LIST, "jobs": jobs} for jobs in (5, None, [], [5], [None], ["j"], [[]], {}, [{}])),
    *({**LIST, "jobs": [{**JOB, **change}]} for change in ({"name": "../x"}, {"work": "x"}, {"work": 0}, {"more": 1})),
    *({**LIST, "jobs": [{**JOB, "needs": needs}]} for needs in ("j", ["j"], ["k"], 5, [5], None, {"a": 1})),
    *({**LIST, "jobs": [{**JOB, "options": options}]} for options in (5, None, "x", [1])),
    *({**LIST, "jobs": [{**JOB, "kind": kind}]} for kind in (5, None, "x", ["a:b"])),
    *({**LIST, "jobs": [JOB, JOB], **change} for change in ({}, {"study": "../x"}, {"study": 5})),
    *(
        {**LIST, "jobs": [JOB], **change}
        for change in ({"format": 2}, {"format": "1"}, {"preset": "../x"}, {"study": 5})
    ),
]


@pytest.mark.parametrize("data", BAD_JOBS, ids=lambda data: json.dumps(data)[-60:])
def test_a_list_of_jobs_that_is_none(data, tmp_path):
    (tmp_path / "jobs.json").write_text(json.dumps(data))
    with pytest.raises(InputError):
        Study.load(tmp_path)


ODD: list[Any] = [None, 5, "x", [], {}, {"result": 1}, {"result": 1, "seconds": "x", "provenance": {}}]
ODD += [
    {"result": 1, "seconds": 1.0, "provenance": 5},
    {"fraction": "x", "seconds": 1},
    {"fraction": 1, "seconds": None},
]
ODD += [{"error": "E", "message": "m", "seconds": "x"}, b"{", b"\xff", b"[" * 5000]


@pytest.mark.parametrize("name", ["result.json", "progress.json", "error.json"])
@pytest.mark.parametrize("data", ODD, ids=repr)
def test_a_file_of_the_engine_that_is_none_counts_as_not_there(name, data, tmp_path):
    study = Study(tmp_path, "n", "a", [Job("j", "a:b")])
    folder = study.folder("j")
    folder.mkdir(parents=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    (status,) = study.status()
    assert (status.state, status.fraction, status.seconds) == ("todo", 0.0, 0.0)


DEFINITION = {"name": "n", "jobs": "a:b", "presets": {"a": {}}}
DEFINITIONS = {
    "hypotheses": [5, "text", {"a": 1}, None],
    "report": [5, [], {}, True],
    "jobs": [5, None, [], {}],
    "name": [5, None, "", "../x", []],
    "presets": [5, None, [], {}, {"a": 5}, {"a": []}, {"../x": {}}],
}
CHANGES = [(field, value) for field, values in DEFINITIONS.items() for value in values]


@pytest.mark.parametrize(("field", "value"), CHANGES, ids=repr)
def test_a_study_that_is_none(field, value, tmp_path):
    (tmp_path / "study.json").write_text(json.dumps({**DEFINITION, field: value}))
    with pytest.raises(InputError) as found:
        Definition.read(tmp_path)
    assert "study.json" in found.value.field
    assert field.removesuffix("s") in found.value.field


@pytest.mark.parametrize("extends", ["a", "b", 5, None, [], {}])
def test_presets_that_extend_nothing(extends, tmp_path):
    (tmp_path / "study.json").write_text(json.dumps({**DEFINITION, "presets": {"a": {"extends": extends}}}))
    with pytest.raises(InputError, match=r"presets\.a\.extends"):
        Definition.read(tmp_path).settings_of("a")


ENTRY = {"gradients": {"g": {"value": 1, "low": 0, "high": 2}}, "splits": {}, "seeds": [0], "models": ["base"]}
REPORTS: dict[str, Any] = {
    "number": 5,
    "list": [],
    "histories": {"histories": 5},
    "empty history": {"histories": {"none": {}}},
    "history": {"histories": {"none": 5}},
    "gradients": {"histories": {"none": {**ENTRY, "gradients": 5}}},
    "splits": {"histories": {"none": {**ENTRY, "splits": 5}}},
    "seeds": {"histories": {"none": {**ENTRY, "seeds": 5}}},
    "estimate": {"histories": {"none": {**ENTRY, "gradients": {"g": {"value": "x", "low": 0, "high": {}}}}}},
    "estimate's fields": {"histories": {"none": {**ENTRY, "gradients": {"g": {**ENTRY["gradients"]["g"], "x": 1}}}}},
    "models": {"histories": {"none": {**ENTRY, "models": 5}}},
    "no hypotheses": {"histories": {"none": ENTRY}},
    "hypotheses": {"histories": {"none": ENTRY}, "hypotheses": 5},
}


@pytest.mark.parametrize("name", REPORTS)
def test_results_that_are_none(name, tmp_path, capsys):
    for n, seeds in (("one", [0]), ("other", [1])):
        report = json.loads(json.dumps(REPORTS[name]).replace('"seeds": [0]', f'"seeds": {seeds}'))
        (tmp_path / n).mkdir()
        (tmp_path / n / "results.json").write_text(json.dumps({"format": 2, "jobs": {}, "report": report}))
    one, other = (str(tmp_path / n) for n in ("one", "other"))
    for arguments in (["study", "compare", one, other], ["figures", one, "--out", str(tmp_path / "out")]):
        assert str(tmp_path) in refused(arguments, capsys)
    assert not list(tmp_path.rglob("F*"))


@pytest.mark.parametrize(
    "found", [None, 5, [], {}, {"format": 3, "jobs": {}}, {"format": "2", "jobs": {}}, {"format": []}]
)
def test_results_of_another_format(found, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match="format 1 or 2"):
        read_results("run", tmp_path)


def test_results_without_anything_in_common():
    with pytest.raises(InputError, match="without a common estimate"):
        agreement({"histories": {}}, {"histories": {}})


INSTANCE = {"format": 1, "theorem": "T1", "shape": {"kind": "Shape", "rounds": 2, "length": 1, "vocabulary": 2}}
INSTANCES: list[Any] = [
    *([], 5, None, {}, {"format": 2}, {**INSTANCE, "theorem": 5}, {**INSTANCE, "theorem": "T99"}, INSTANCE),
    *({**INSTANCE, "shape": shape} for shape in (None, 5, [], {}, {"kind": []}, {"kind": {}}, {"kind": "Nothing"})),
    *(
        {**INSTANCE, "shape": {**INSTANCE["shape"], "rounds": n}, "leaves": []}
        for n in (10**9, "2", 2.5, None, -1, [2])
    ),
    {**INSTANCE, "shape": {**INSTANCE["shape"], "more": 1}, "leaves": []},
    {**INSTANCE, "shape": {**INSTANCE["shape"], "history": "some"}, "leaves": []},
    {**INSTANCE, "leaves": 5},
    {**INSTANCE, "leaves": []},
]


@pytest.mark.parametrize("data", INSTANCES, ids=lambda data: json.dumps(data)[-70:])
def test_an_instance_that_is_none(data, tmp_path):
    with pytest.raises(InputError):
        check_instance(data)


@pytest.mark.parametrize(
    "data", [5, [], {}, {"format": 1, "matmul_peak_flops": 1}, {"format": 1, "matmul_peak_flops": "x"}]
)
def test_a_measurement_that_is_none(data, tmp_path):
    (tmp_path / "it.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match="a result of `dsjax bench --json`"):
        read_bench(tmp_path / "it.json")


@pytest.mark.parametrize("data", [b"{", b"[]", b"{}", b'{"address": 5}', b"\xff", None])
def test_a_scheduler_file_that_is_none(data, tmp_path, capsys, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.json").write_text(json.dumps({**DEFINITION, "jobs": "tests.hostile.own:jobs"}))
    if data is not None:
        (tmp_path / "scheduler.json").write_bytes(data)
    assert main(["study", "run", ".", "--address", "scheduler.json"]) == 2
    said = capsys.readouterr().err
    assert "address: received 'scheduler.json'" in said
    assert said.count("\n") == 1
