"""Numbers in the README come from the stored run."""

import gzip
import re
from pathlib import Path

import pytest

from dsjax.statistics import Estimate
from dsjax.study.results import read_results

ROOT = Path(__file__).parents[2]
SPLITS = {"in distribution": "in", "longer carries": "carry"}
ROW = re.compile(r"^\| (?P<split>[a-z ]+): `(?P<arm>[a-z-]+)` \|(?P<cells>.*)\|$", re.MULTILINE)


def rows(text):
    return [(m["split"], m["arm"], [c.strip() for c in m["cells"].split("|")]) for m in ROW.finditer(text)]


@pytest.fixture(scope="module")
def entry():
    return read_results("run", ROOT / "experiments" / "quickstart")[1]["report"]["histories"]["none"]


def gains(entry, split, arm):
    """{part: its estimate} of the change of final accuracy."""
    found = entry["splits"][split]["accounting"][f"{arm} - base"]["accuracy"]
    return {part: Estimate.from_json(found[part]) for part in ("total", "sampler", "decider")}


def test_table_is_the_stored_run(entry):
    found = rows((ROOT / "README.md").read_text())
    assert [(split, arm) for split, arm, _ in found] == [(s, a) for s in SPLITS for a in entry["models"][1:]]
    for split, arm, cells in found:
        assert cells == [f"{part:+.3f}" for part in gains(entry, SPLITS[split], arm).values()]


def test_words_under_the_table_follow_from_it(entry):
    """If a new stored run turns out otherwise, the text must be written again."""
    inside, outside = (gains(entry, split, "rloo") for split in ("in", "carry"))
    assert inside["sampler"].low > 0
    assert inside["decider"].low > 0
    assert outside["sampler"].low > 0
    assert outside["decider"].high < 0
    for split in ("in", "carry"):
        mine, other = (gains(entry, split, arm)["total"] for arm in ("rloo", "sft-self"))
        assert max(mine.low, other.low) < min(mine.high, other.high), split
    stopping = entry["splits"]["in"]["measures"]["sft-success"]
    assert all(Estimate.from_json(stopping[name]).value > 0.9 for name in ("a", "b"))


def test_stored_results_hold_no_path_of_a_machine():
    for file in (ROOT / "experiments").rglob("results.json*"):
        text = gzip.decompress(file.read_bytes()).decode() if file.suffix == ".gz" else file.read_text()
        assert not re.search(r'"/(tmp|home|root|work|Users|mnt)/', text), file


def test_linked_files_exist():
    for name in re.findall(r"\]\(([^)]+)\)|`((?:docs|experiments)/[\w./]+)`", (ROOT / "README.md").read_text()):
        path = next(filter(None, name))
        assert (ROOT / path).exists(), path
