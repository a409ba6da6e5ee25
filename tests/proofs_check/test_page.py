"""Stored instances, a user's own process, and the HTML page."""

from __future__ import annotations

import copy
import json
import re

import jax
import numpy as np
import pytest

import proofs_check
from dsjax.errors import InputError
from proofs_check import page
from proofs_check.boundaries import BOUNDARIES
from proofs_check.instance_file import decode, encode
from proofs_check.registry import THEOREMS
from proofs_check.report import Report
from proofs_check.runner import check, check_instance, worst_instance
from proofs_check.symbolic import ProofResult
from tests import processes
from tests.browser import GOOD_MANNERS, MANNERS, ask, needs_browser


@pytest.fixture(scope="module")
def report():
    return check(["T8", "T13"], instances=3, quick=True)  # the fourth would be at an extreme


@pytest.fixture(scope="module")
def stored(report):
    return json.loads(json.dumps(worst_instance(report.rows[0], 0, instances=3, quick=True), allow_nan=False))


def test_a_stored_instance_gives_the_same_numbers(report, stored):
    (result,) = check_instance(stored).rows
    claim = next(c for c in report.rows[0].claims if c.name == stored["origin"]["claim"])
    again = next(c for c in result.claims if c.name == claim.name)
    assert result.ok
    # Compiled in a batch or alone, sums may be taken in another order.
    assert abs(again.worst_error - claim.worst_error) < claim.tolerance / 10


@pytest.mark.parametrize("name", ["T4", "T8", "T14"])
def test_instances_survive_storage_to_the_last_bit(name):
    theorem = THEOREMS[name]
    with jax.enable_x64(True):
        instance = theorem.draw(jax.random.key(5), theorem.shapes[0], None)
        data = json.loads(json.dumps(encode(theorem, theorem.shapes[0], instance, {}), allow_nan=False))
        found, shape, back = decode(data)
        assert (found.id, shape) == (name, theorem.shapes[0])
        words = [
            [
                np.asarray(jax.random.key_data(x) if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
                for x in leaves
            ]
            for leaves in (jax.tree.leaves(instance), jax.tree.leaves(back))
        ]
        for a, b in zip(*words, strict=True):
            np.testing.assert_array_equal(a, b)
        assert jax.tree.structure(instance) == jax.tree.structure(back)


def test_a_changed_instance_is_checked_as_changed(stored):
    """The file is what is checked: with 0.9 for a wrong answer the verifier is not binary, and T8's signs fail."""
    changed = copy.deepcopy(stored)
    table = next(leaf for leaf in changed["leaves"] if "reward_table" in leaf["name"])
    values = np.asarray(table["values"])
    table["values"] = np.where(values == 0, 0.9, 1.0).tolist()
    assert check_instance(stored).ok
    assert not check_instance(changed).ok


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda d: d.update(format=2), "format"),
        (lambda d: d.update(theorem="T99"), "theorem"),
        (lambda d: d["shape"].update(kind="Circle"), "shape.kind"),
        (lambda d: d["shape"].update(corners=3), "shape"),
        (lambda d: d["leaves"].pop(), "leaves"),
        (lambda d: d["leaves"][0].update(values="x"), ""),
        (lambda d: d["leaves"][0].update(values=[1.0] * 99), ".shape"),
        (lambda d: d["leaves"][1].pop("values"), ""),
    ],
)
def test_damaged_instance_files_are_refused(stored, change, field):
    data = copy.deepcopy(stored)
    change(data)
    with pytest.raises(InputError) as error:
        check_instance(data)
    assert field in error.value.field


def test_an_instance_of_another_theorem_is_refused(stored):
    with pytest.raises(InputError, match="T8, as in the instance file"):
        check_instance(stored, ["T1"])


def test_own_process_runs_what_applies_and_says_why_not():
    with jax.enable_x64(True):
        process, right, graded = processes.binary(), processes.always_right(), processes.graded()
    found = check(["T8", "T10"], instances=4, process=process)
    assert found.ok
    assert [t.id for t in found.rows] == ["T8", "T10"]
    assert found.skipped == {}
    skipped = check(["T8", "T9"], instances=4, process=right).skipped
    assert "right and a wrong answer" in skipped["T8"][0]
    skipped = check(["T8", "T10"], instances=4, process=graded)
    assert skipped.ok
    assert skipped.skipped["T10"][:3] == ("a binary verifier", "no resampling cost (c = 0)", "history `none`")
    assert skipped.to_json()["skipped"]["T10"][0] == "a binary verifier"


@pytest.fixture(scope="module")
def evidence(report, stored):
    boundary = next(b for b in BOUNDARIES if b.theorem == "T13")
    symbolic = proofs_check.run_symbolic(["T8"])
    return page.Evidence(report, symbolic, None, {"T13": boundary.measure()}, {"T8": stored})


def test_page_is_complete_and_self_contained(evidence, tmp_path):
    assert evidence.ok
    path = page.write(tmp_path / "report", evidence)
    text = path.read_text()
    words = ("everything holds", 'id="T8"', "[N]", "Proof.", "rejected", "Symbolic", "Where it stops", "<svg", "<math>")
    assert [word for word in words if word not in text] == []
    assert "default-src 'none'" in text
    # Names of XML dialects in the figure are no addresses to fetch.
    without_names = re.sub(r"xmlns(:\w+)?=\"[^\"]*\"|<(rdf|cc|dc):[^>]*>", "", text)
    assert not re.search(r"(src|href)=\"(https?:)?//|@import|url\(http", without_names)
    data = page.load(tmp_path / "report")
    assert data["ok"] is True
    assert data["numeric"]["theorems"][0]["id"] == "T8"
    assert data["boundaries"]["T13"]["summary"]
    assert proofs_check.check_instance(tmp_path / "report" / "worst" / "T8.json", ["T8"]).ok


def test_page_says_what_failed(report):
    """Whatever the kind of evidence, and whatever is written in it stays text."""
    failed = ProofResult("T8", "<script>a & b</script>", "s", "x", 1, 1, "c", False, 0.0)
    broken = page.Evidence(report, Report(ProofResult, (failed,), 0.0))
    assert not broken.ok
    text = page.html(broken)
    assert "something failed" in text
    assert "&lt;script&gt;a &amp; b&lt;/script&gt;" in text
    assert text.count("<script") == 1  # its own
    assert text.count("<span class=bad>NOT REJECTED</span>") == 1


@needs_browser
def test_page_in_a_browser(evidence, tmp_path):
    """It fits a phone; formulas are set; the contents name each statement; a worst instance is copied as a command."""
    text = page.html(evidence)
    script = """(frames) => {
      const page = frames.wide.document, button = page.querySelector("button[data-copy]");
      const manners = MANNERS;
      button.click();
      return {
        manners: [manners(frames.wide), manners(frames.phone)],
        copied: frames.wide.getSelection().toString(),
        set: page.querySelector("math msub").getBoundingClientRect().height > 0,
        contents: [...page.querySelectorAll("nav tbody tr")].map((x) => x.textContent.replace(/\\s+/g, " ")),
        targets: [...page.querySelectorAll("a[href^='#']")].every((x) => page.querySelector(x.getAttribute("href"))),
      };
    }""".replace("MANNERS", f"({MANNERS})")
    found = ask(tmp_path, {"wide": (text, 1100), "phone": (text, 390)}, script)
    assert found["manners"] == [GOOD_MANNERS] * 2
    assert found["copied"] == "dsjax check --theorem T8 --instance-file worst/T8.json"
    assert found["set"]
    assert found["targets"]
    first, second = found["contents"]
    assert all(word in first for word in ("T8", "holds", "3 instances", "proofs", "rejected", "assumptions"))
    assert "mapped: " in second
