"""The explorer: one HTML page with sliders over the closed forms of the theory, its numbers in JavaScript.

functions.js    the numbers, pure; the tests run them in a browser and compare them with the library
panels.js       sliders and drawings
look.css        colours and type, shared with the report of `dsjax check`
shares.json     decision shares of the atlas, written by `python -m dsjax.explorer.shares`
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dsjax.io import read_json, write_atomically

SHARES = Path(str(files("dsjax.explorer"))) / "shares.json"


def text(name: str) -> Markup:
    """A file of this folder, as it is."""
    return Markup(files("dsjax.explorer").joinpath(name).read_text(encoding="utf-8"))


def html(functions: str | None = None) -> str:
    """The page.

    Args:
      functions: another functions.js, for tests.
    """
    from dsjax.atlas.classes import FILLER

    shares: dict[str, Any] = {n: {**x, "words": FILLER[x["filler"]]} for n, x in read_json(SHARES).items()}
    options: dict[str, Any] = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    page = Environment(loader=PackageLoader(__name__, ""), autoescape=True, **options).get_template("page.html.j2")
    return page.render(
        shares=shares,
        data=Markup(json.dumps(shares, allow_nan=False).replace("<", "\\u003c")),
        look=text("look.css"),
        page_look=text("page.css"),
        functions=text("functions.js") if functions is None else Markup(functions),
        panels=text("panels.js"),
    )


def write(path: Path) -> None:
    """Write the page to a file."""
    write_atomically(path, html().encode())
