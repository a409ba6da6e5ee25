"""Numbers in the README come from the stored run."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPLITS = {"in distribution": "in", "longer carries": "carry"}
ROW = re.compile(r"^\| (?P<split>[a-z ]+): `(?P<arm>[a-z-]+)` \|(?P<cells>.*)\|$", re.MULTILINE)


def rows(text):
    return [(m["split"], m["arm"], [c.strip() for c in m["cells"].split("|")]) for m in ROW.finditer(text)]


def shown(estimate):
    return "{value:+.3f} [{low:+.3f}, {high:+.3f}]".format(**estimate)


@pytest.fixture(scope="module")
def results():
    return json.loads((ROOT / "experiments" / "quickstart" / "results.json").read_text())


def stated(results, split, arm):
    parts = results["accounting"][split][arm]["accuracy"]
    return [shown(results["improvement"][split][arm]), shown(parts["sampler"]), shown(parts["decider"])]


def test_table_is_the_stored_run(results):
    found = rows((ROOT / "README.md").read_text())
    assert [(split, arm) for split, arm, _ in found] == [(s, a) for s in SPLITS for a in results["config"]["arms"]]
    for split, arm, cells in found:
        assert cells == stated(results, SPLITS[split], arm)


def test_words_under_the_table_follow_from_it(results):
    """If a new stored run turns out otherwise, the text must be written again."""
    inside, outside = (results["accounting"][s]["rloo"]["accuracy"] for s in ("in", "carry"))
    assert inside["sampler"]["low"] > 0
    assert inside["decider"]["low"] > 0
    assert outside["sampler"]["low"] > 0
    assert outside["decider"]["low"] < 0 < outside["decider"]["high"]
    reward, copied = (results["improvement"]["carry"][arm] for arm in ("rloo", "sft-self"))
    assert reward["low"] > copied["high"]
    assert all(results["evaluation"]["in"]["sft-success"][k]["value"] > 0.94 for k in ("a", "b"))


def test_linked_files_exist():
    for name in re.findall(r"\]\(([^)]+)\)|`((?:docs|experiments)/[\w./]+)`", (ROOT / "README.md").read_text()):
        path = next(filter(None, name))
        assert (ROOT / path).exists(), path
