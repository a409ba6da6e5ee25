"""Pages in a real browser without a window: what they look like to their own scripts, as JSON."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--virtual-time-budget=5000", "--dump-dom"),
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium (apt-get install chromium)")

# Every page is a frame of its own width. The script is a function of the frames' windows, by name.
HARNESS = """<!DOCTYPE html><meta charset="utf-8">{frames}<pre id=found></pre>
<script id=data type="application/json">{data}</script>
<script>window.onload = () => {{
  const data = JSON.parse(document.getElementById("data").textContent);
  const frames = Object.fromEntries([...document.querySelectorAll("iframe")].map((f) => [f.name, f.contentWindow]));
  let found;
  try {{ found = (({script}))(frames, data); }} catch (error) {{ found = {{ error: error.stack }}; }}
  const exact = (key, x) => (typeof x === "number" && !Number.isFinite(x) ? String(x) : x);
  document.getElementById("found").textContent = JSON.stringify(found, exact);
}};</script>"""


def ask(folder: Path, pages: dict[str, tuple[str, int]], script: str, data: Any = None) -> Any:
    """What a script finds out about pages; numbers that are not finite come as texts.

    Args:
      folder: for the browser's own files.
      pages: by name, HTML and width in pixels.
      script: a JavaScript function (windows of the pages by name, data) -> JSON.
      data: its second argument.
    """
    assert BROWSER is not None
    frames = "".join(
        f'<iframe name="{name}" style="width:{width}px;height:900px;border:0" srcdoc="{html.escape(page)}"></iframe>'
        for name, (page, width) in pages.items()
    )
    file = folder / "harness.html"
    given = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    file.write_text(HARNESS.format(frames=frames, data=given, script=script), encoding="utf-8")
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'browser'}", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    match = re.search(r"<pre id=\"found\">(.*?)</pre>", done.stdout, re.DOTALL)
    assert match is not None, done.stderr
    found = json.loads(html.unescape(match[1]))
    assert not (isinstance(found, dict) and "error" in found), found
    return found


# What any page of ours must be: fits its width, shows no number that is none, and can be worked without a mouse.
MANNERS = """(window) => {
  const page = window.document, inputs = [...page.querySelectorAll("input, select, button, summary")];
  const named = (x) => (x.labels && x.labels.length) || x.textContent.trim();
  const reached = (x) => { x.focus(); return page.activeElement === x; };
  for (const closed of page.querySelectorAll("details")) closed.open = true;
  return {
    width: page.documentElement.scrollWidth - page.documentElement.clientWidth,
    broken: [...page.querySelectorAll("td, output, text, p")].map((x) => x.textContent)
      .filter((x) => /NaN|undefined|Infinity/.test(x)),
    unnamed: inputs.filter((x) => !named(x)).map((x) => x.outerHTML),
    unreached: inputs.filter((x) => !reached(x)).map((x) => x.outerHTML),
    bare: [...page.querySelectorAll("svg[role=img]")].filter((x) => !x.getAttribute("aria-label")).length,
  };
}"""
GOOD_MANNERS = {"width": 0, "broken": [], "unnamed": [], "unreached": [], "bare": 0}


def contrast(one: str, other: str) -> float:
    """Contrast of two colours #rrggbb or #rgb, 1 to 21, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * x for x in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
