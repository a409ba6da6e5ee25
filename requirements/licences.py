"""Prints the licence of every installed package that the lock file names, as a Markdown table.

    .venv/bin/python requirements/licences.py > requirements/licences.md

The licence is what a package's own metadata says: its SPDX expression, else its classifiers, else the
first line of its text.
"""

import re
from importlib import metadata
from pathlib import Path

LOCK = Path(__file__).parent / "dev.txt"


def locked(lock: Path = LOCK) -> list[str]:
    """Names in a lock file, each once."""
    return sorted({match[1] for match in re.finditer(r"^([A-Za-z0-9._-]+)==", lock.read_text(), re.M)})


def licence(name: str) -> str:
    """What the package says of itself; KeyError if it says nothing."""
    about = metadata.metadata(name)
    if about.get("License-Expression"):
        return about["License-Expression"]
    classifiers = [c.split(" :: ")[-1] for c in about.get_all("Classifier", []) if c.startswith("License ::")]
    text = (about.get("License") or "").strip().splitlines()
    found = [c for c in classifiers if c != "OSI Approved"] or text[:1]
    return "; ".join(found) if found else about["License-File"]


def installed() -> list[str]:
    """Locked packages that this Python and system have."""
    names = {dist.name.lower().replace("_", "-").replace(".", "-") for dist in metadata.distributions()}
    return [name for name in locked() if name.lower().replace("_", "-").replace(".", "-") in names]


def table() -> str:
    """The whole page."""
    rows = [f"| {name} | {metadata.version(name)} | {licence(name)} |" for name in installed()]
    head = ["# Licences of what `make setup` installs", "", "| package | version | licence |", "|---|---|---|"]
    return "\n".join([*head, *rows, ""])


if __name__ == "__main__":
    print(table(), end="")
