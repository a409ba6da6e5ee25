"""Results of finished studies, packed or not; results of something else are refused by name."""

import gzip
import json

import pytest

from dsjax.cli.main import main
from dsjax.errors import InputError
from dsjax.study.results import read_results
from tests.cli.test_bad_input import refused

WHOLE = b'{"format": 2, "jobs": {}}'


def test_packed_results_are_read_and_broken_ones_refused(tmp_path):
    packed = gzip.compress(WHOLE)
    file = tmp_path / "results.json.gz"
    file.write_bytes(packed)
    for path in (tmp_path, file):
        assert read_results("run", path) == (file, json.loads(WHOLE))
    for content in (packed[:-9], packed[:12] + b"\xff" + packed[13:], WHOLE, gzip.compress(b"{"), b""):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"run: .*finished study"):
            read_results("run", tmp_path)
    (tmp_path / "results.json").write_bytes(WHOLE)  # a later report
    assert read_results("run", tmp_path) == (tmp_path / "results.json", json.loads(WHOLE))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{}", "format 1 or 2"),
        (b"[]", "format 1 or 2"),
        (b'{"format": 3, "jobs": {}}', "format 1 or 2"),
        (b'{"format": 1, "jobs": {}, "report": {"histories": {"none": {}}}}', "'config'"),
        (
            b'{"format": 1, "lengths": [], "accounting": {}}',
            "`dsjax quickstart` 0.1.0, whose figures that version draws",
        ),
        (b"", "finished study"),
        (b"\xff", "finished study"),
        (WHOLE, "with a report"),
    ],
)
def test_results_of_something_else_are_not_drawn(content, words, tmp_path, capsys):
    (tmp_path / "results.json").write_bytes(content)
    error = refused(["figures", str(tmp_path)], capsys)
    assert all(w in error for w in ("run: received", str(tmp_path), words)), error
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_figures_of_what_is_not_there(tmp_path):
    assert main(["figures", str(tmp_path / "none")]) == 2
