"""What is installed: locked with hashes, of known licences, and importable where the project says it runs."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
REQUIREMENTS = ROOT / "requirements"
# A licence is allowed that asks for no more than notices; MPL-2.0 asks for changes of its own files, and we have none.
ALLOWED = "Apache|MIT|BSD|PSF|Python Software Foundation|Zlib|CC0|MPL-2.0|HPND"
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WANTED = [*PACKAGES["dependencies"], *PACKAGES["optional-dependencies"]["dev"]]


def name_of(requirement):
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower()


def pins(file):
    """(name, version) of each line of a lock file; one name may have several versions, for several Pythons."""
    return re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\\n]+)", (REQUIREMENTS / file).read_text(), re.M)


@pytest.fixture(scope="module")
def licences():
    return runpy.run_path(str(REQUIREMENTS / "licences.py"))["locked"]()


@pytest.mark.parametrize("file", ["dev.txt", "lowest.txt"])
def test_everything_that_the_project_names_is_locked(file):
    assert {name_of(r) for r in WANTED} <= {name for name, _ in pins(file)}


@pytest.mark.parametrize("file", ["dev.txt", "uv.txt"])
def test_every_locked_package_has_a_hash(file):
    blocks = re.split(r"\n(?=[A-Za-z])", (REQUIREMENTS / file).read_text().strip())
    assert len(blocks) == len(pins(file))
    assert all("--hash=sha256:" in block for block in blocks)


def test_the_lowest_versions_are_those_of_the_ranges():
    lowest = dict(pins("lowest.txt"))
    for requirement in WANTED:
        (low,) = re.findall(r">=([0-9.]+)", requirement)
        found = lowest[name_of(requirement)]
        assert re.sub(r"(\.0)+$", "", found) == re.sub(r"(\.0)+$", "", low), requirement


def test_licences_are_listed_and_allowed(licences):
    listed = dict(re.findall(r"^\| ([^|]+) \| [^|]+ \| ([^|]+) \|$", (REQUIREMENTS / "licences.md").read_text(), re.M))
    del listed["package"]
    assert {name_of(r) for r in WANTED} <= set(listed) <= set(licences)
    assert {name: text for name, text in listed.items() if not re.search(ALLOWED, text)} == {}
    assert re.search(ALLOWED, "GPL-3.0-or-later") is None  # what it must reject
