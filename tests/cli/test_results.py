"""Results of finished runs and studies, packed or not."""

import gzip

import pytest

from dsjax.cli.results import read_results
from dsjax.errors import InputError


def test_packed_results_are_read_and_broken_ones_refused(tmp_path):
    packed = gzip.compress(b'{"config": {}}')
    file = tmp_path / "results.json.gz"
    file.write_bytes(packed)
    for path in (tmp_path, file):
        assert read_results("run", path) == (file, {"config": {}})
    for content in (packed[:-9], packed[:12] + b"\xff" + packed[13:], b"{}", gzip.compress(b"{"), b""):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"run: .*finished run or study"):
            read_results("run", tmp_path)
    (tmp_path / "results.json").write_text("{}")  # a later report
    assert read_results("run", tmp_path) == (tmp_path / "results.json", {})
