"""Names that come from data: none leaves the folder that it belongs to; no output takes the place of an input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dsjax.cli.main import main
from dsjax.errors import InputError
from dsjax.figures import draw
from dsjax.io import inside
from dsjax.study.jobs import Definition, Job, Study
from dsjax.training.run_directory import RunDirectory
from tests.cli.test_bad_input import files

BAD = [
    "../x",
    "/x",
    "..",
    ".",
    ".x",
    "",
    " ",
    "a b",
    "a\nb",
    "a\0b",
    "a\\b",
    "C:x",
    "~",
    "ä",
    "a*",
    "x" * 101,
    "a/../b",
]
BAD_OBJECTS = [*BAD, 5, None, ["a"], {"a": 1}, True, 2.5]
JOB = Job("j", "a:b")


def definition(folder: Path, **fields) -> Definition:
    folder.mkdir(exist_ok=True)
    (folder / "study.json").write_text(json.dumps({"name": "n", "jobs": "a:b", "presets": {"a": {}}, **fields}))
    return Definition.read(folder)


WRITERS = {
    "inside": lambda name, path: inside(path, name),
    "job": lambda name, path: Job(name, "a:b"),
    "study": lambda name, path: Study(path, name, "a", [JOB]),
    "preset": lambda name, path: Study(path, "n", name, [JOB]),
    "folder of a job": lambda name, path: Study(path, "n", "a", [JOB]).folder(name),
    "stage": lambda name, path: RunDirectory(path, "job", {}).stage_path(name),
    "study.json": lambda name, path: definition(path, name=name),
    "preset of study.json": lambda name, path: definition(path, presets={name: {}}),
}
CASES = [
    (writer, name)
    for writer in WRITERS
    for name in BAD_OBJECTS
    if isinstance(name, str) or writer != "preset of study.json"
]


@pytest.mark.parametrize(("writer", "name"), CASES, ids=lambda x: repr(x)[:20])
def test_no_name_leaves_its_folder(writer, name, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="letters, digits and"):
        WRITERS[writer](name, tmp_path / "in")
    assert {p.name for p in tmp_path.iterdir()} == {"in"}


@pytest.mark.parametrize("name", ["a", "a/b", "rate-0.001-prompts-32", "module.name", "_x=+-", "x" * 100])
def test_names_of_the_alphabet(name, tmp_path):
    assert inside(tmp_path, name) == tmp_path / name
    Job(name, "a:b")


@pytest.mark.parametrize("history", ["../x", "/x", "a/../../b"])
def test_figures_of_a_file_stay_where_they_belong(history, tmp_path, monkeypatch):
    monkeypatch.setattr("dsjax.figures.FIGURES", {"F": ("history", lambda source: pytest.fail("drawn"))})
    report = {"theory": {}, "histories": {history: {"models": ["base"]}}}
    with pytest.raises(InputError):
        draw(report, tmp_path / "out")
    assert not list(tmp_path.rglob("F*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("atlas --json new --csv new", "csv"),
        ("atlas --json new --csv ./a/../new", "csv"),
        ("attribute it.npz --json it.npz", "json"),
        ("check --instance-file it.json --json it.json", "json"),
        ("check --report page --json page/report.json", "json"),
        ("check --report page --json page/index.html", "json"),
        ("bench --compare it.json --json it.json", "json"),
        ("study compare it.json it.json --json it.json", "one"),
        ("train --learning-rate it.json --run run", "PATH"),
        ("train --set seed= it.json --run run", "seed"),
        ("figures --arms sft it.json --out it.json", "run"),
    ],
)
def test_no_output_is_an_input_and_no_flag_takes_a_file(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("it.json", "it.npz"):
        Path(name).write_text("{}")
    Path("a").mkdir()
    Path("page").mkdir()
    before = files(tmp_path)
    try:
        status = main(arguments.split())
    except SystemExit as error:  # the parser's
        status = error.code
    assert status == 2
    assert words in capsys.readouterr().err
    assert files(tmp_path) == before
