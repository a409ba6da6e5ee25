"""Numbers in the README come from the stored run."""

import gzip
import re
from pathlib import Path

import pytest

from dsjax.statistics import Estimate
from dsjax.study.results import read_results
from dsjax.study.tables import with_student

ROOT = Path(__file__).parents[2]
SPLITS = {"prefix sums": ("full", "in"), "longer carries": ("none", "carry")}
ROW = re.compile(r"^\| (?P<split>[a-z ]+): `(?P<arm>[a-z-]+)` \|(?P<cells>.*)\|$", re.MULTILINE)


def rows(text):
    return [(m["split"], m["arm"], [c.strip() for c in m["cells"].split("|")]) for m in ROW.finditer(text)]


@pytest.fixture(scope="module")
def histories():
    return read_results("run", ROOT / "experiments" / "quickstart")[1]["report"]["histories"]


def gains(histories, place, arm):
    """{part: its estimate} of the change of final accuracy."""
    history, split = place
    found = histories[history]["splits"][split]["accounting"][f"{arm} - base"]["accuracy"]
    return {part: Estimate.from_json(found[part]) for part in ("total", "sampler", "decider")}


def test_table_is_the_stored_run(histories):
    text = (ROOT / "README.md").read_text()
    found = rows(text)
    assert [(name, arm) for name, arm, _ in found] == [
        (name, arm) for name, (history, _) in SPLITS.items() for arm in histories[history]["models"][1:]
    ]
    for name, arm, cells in found:
        assert cells == [f"{part:+.3f}" for part in gains(histories, SPLITS[name], arm).values()]
    known = histories["full"]["predicted"]
    gain = known["reward"] - known["imitation"]
    assert f"| predicted | {gain:+.3f} | {known['sampler']:+.3f} | {known['decider']:+.3f} |" in text


def test_words_under_the_table_follow_from_it(histories):
    """If a new stored run turns out otherwise, the text must be written again."""
    known, found = histories["full"]["predicted"], gains(histories, ("full", "in"), "rloo")
    assert found["total"].low < known["reward"] - known["imitation"] < found["total"].high
    assert found["decider"].low > known["decider"]
    swapped = histories["full"]["splits"]["in"]["swap"]["base"]["rloo"]["value"]
    guessed = known["imitation"] + (1 - known["imitation"]) * known["guess"]
    assert f"({swapped:.3f} correct, where T17's chance of a third would give {guessed:.3f})" in " ".join(
        (ROOT / "README.md").read_text().split()
    )
    outside = gains(histories, ("none", "carry"), "rloo")
    assert outside["sampler"].low > 0
    assert outside["decider"].low < 0 < outside["decider"].high
    mine, other = (gains(histories, ("none", "carry"), arm)["total"] for arm in ("rloo", "sft-self"))
    assert max(mine.low, other.low) < min(mine.high, other.high)


def test_the_sentence_about_countdown_is_the_stored_run():
    report = read_results("run", ROOT / "experiments" / "causes" / "countdown" / "cpu")[1]["report"]
    cells = {c["id"]: c for c in report["histories"]["none"]["cells"] if c["split"] == "more"}
    one, own = (Estimate.from_json(cells[name]["gap"]) for name in ("canonical", "own"))
    text = " ".join((ROOT / "README.md").read_text().split())
    assert f"reward is {with_student(one)} more accurate than imitation of one right answer" in text
    assert f"and {with_student(own)} than imitation of own successes" in text
    assert one.t_low > own.t_high
    assert len(one.seeds) == 16
    assert report["predictions"]["older_than"] == report["predictions"]["arms"]


def test_the_sentence_about_the_decider_is_that_of_the_results():
    """Whose page is written from the stored runs."""
    (found,) = re.findall(
        r"of (\d+) comparisons each term favours reward and imitation in: decider (\d+) and (\d+),.*?\(AUROC\) in"
        r" (\d+) and (\d+)\.",
        (ROOT / "docs" / "results.md").read_text(),
    )
    every, up, down, better, worse = found
    text = " ".join((ROOT / "README.md").read_text().split())
    assert (
        f"Of {every} comparisons out of distribution the decider's term favours reward in {up} and imitation in {down}"
        in text
    )
    assert f"(AUROC) favours them in {better} and {worse}:" in text
    assert int(up) > 5 * int(down)
    assert int(better) < int(worse)
    report = read_results("run", ROOT / "experiments" / "causes" / "finite" / "cpu-unlimited")[1]["report"]
    for split in ("in", "carry"):
        measures = report["histories"]["none"]["splits"][split]["measures"]
        for arm in ("sft-online", "sft-success"):
            for kept in ("a", "b"):  # of right answers, of wrong ones
                assert measures["rloo"][kept]["high"] < measures[arm][kept]["low"]
            assert measures["rloo"]["auroc_on_base"]["value"] < measures[arm]["auroc_on_base"]["value"]


def test_stored_results_hold_no_path_of_a_machine():
    for file in (ROOT / "experiments").rglob("results.json*"):
        text = gzip.decompress(file.read_bytes()).decode() if file.suffix == ".gz" else file.read_text()
        assert not re.search(r'"/(tmp|home|root|work|Users|mnt)/', text), file


def test_linked_files_exist():
    for name in re.findall(r"\]\(([^)]+)\)|`((?:docs|experiments)/[\w./]+)`", (ROOT / "README.md").read_text()):
        path = next(filter(None, name))
        assert (ROOT / path).exists(), path
