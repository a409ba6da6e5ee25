"""Pages of the site that nobody writes: the reference, the table of objectives, the stored results."""

from __future__ import annotations

import functools
import inspect
import pkgutil
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dsjax
from dsjax import explorer
from dsjax.objectives import OBJECTIVES
from dsjax.objectives.registry import ROWS
from dsjax.objectives.surrogate import Named, surrogate
from dsjax.study.results import read_results

ROOT = Path(__file__).parents[1]
DATA = {  # of the front door; what they are has no docstring
    "__version__": "Of the package, text.",
    "ARMS": "{name: `Arm`}: what a run can train.",
    "RESAMPLE": "1: the id of the decision to try again.",
    "STOP": "0: the id of the decision to keep the answer.",
}
FIELD = re.compile(r"^    (\w+): [^#\n]*  # (.+)$", re.MULTILINE)


@functools.cache
def source_of(thing: Any) -> str:
    """The text of a class; nothing where there is none, as of an alias of a type."""
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):
        return ""


def documented(thing: Any) -> str:
    """Its docstring; that of a class also has what stands behind its fields (`name: Array  # f[B] what it is`)."""
    text = inspect.getdoc(thing) or ""
    if inspect.isclass(thing) and "Attributes:" not in text:
        fields = FIELD.findall(source_of(thing))
        text += "\n\nAttributes:\n" * bool(fields) + "\n".join(f"  {name}: {what}" for name, what in fields)
    return text


def escape(text: str) -> str:
    """A docstring in reStructuredText: code stays, nothing else is markup, a deeper block is literal."""
    out: list[str] = []
    for part in text.split("\n\n"):
        if all(line.startswith("    ") for line in part.split("\n")):
            out += ["::", part]
            continue
        pieces = re.split(r"`([^`]*)`", part)
        pieces[::2] = [re.sub(r"([*|\\]|_\b)", r"\\\1", piece) for piece in pieces[::2]]
        pieces[2::2] = [re.sub(r"^(?=\w)", r"\\ ", piece) for piece in pieces[2::2]]  # `Sample`s: code ends at a space
        pieces[1::2] = [f"``{piece}``" for piece in pieces[1::2]]
        out.append("".join(pieces))
    return "\n\n".join(out)


def modules(package: str) -> Iterator[str]:
    """The public modules of a folder of the package, itself first."""
    yield package
    found = __import__(package, fromlist=["_"])
    for entry in pkgutil.iter_modules(getattr(found, "__path__", [])):
        if not entry.name.startswith("_"):
            yield from modules(f"{package}.{entry.name}")


def title(text: str, line: str = "=") -> list[str]:
    """A headline of reStructuredText."""
    return [text, line * len(text), ""]


def front_door() -> list[str]:
    """The names of `import dsjax as ds`."""
    out = [
        *title("dsjax: the front door"),
        "Every name of ``import dsjax as ds``, with its arguments, shapes and units.",
        "",
    ]
    for name in dsjax.__all__:
        thing = getattr(dsjax, name)
        if name == "atlas":  # the folder and the function in one
            out += [
                ".. py:function:: dsjax.atlas(entries, lengths, progress)",
                "   :no-index:",
                "",
                "   Another name of",
                "",
            ]
            out += ["   .. autofunction:: dsjax.atlas.rows.compute", "      :no-index:", ""]
        elif inspect.ismodule(thing):
            out += [f".. py:module:: dsjax.{name}", "   :no-index:", "", f"``{name}``: see :doc:`dsjax.{name}`.", ""]
        elif name in DATA:
            out += [f".. py:data:: dsjax.{name}", "", f"   {DATA[name]}", ""]
        elif inspect.isclass(thing):
            out += [f".. autoclass:: dsjax.{name}", "   :members:", ""]
        else:
            out += [f".. autofunction:: dsjax.{name}", ""]
    return out


def reference(package: str) -> list[str]:
    """A folder or module of the package with everything public that is defined there."""
    out = title(package)
    for name in modules(package):
        out += title(name, "-") if name != package else []
        out += [f".. automodule:: {name}", "   :members:", "   :ignore-module-all:", ""]
    return out


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Of Markdown."""
    cells = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(c.replace("|", r"\|") for c in row) + " |" for row in cells] + [""]


def _code(values: dict[str, Any]) -> str:
    return ", ".join(f"`{name}={value!r}`" for name, value in values.items())


def objectives() -> list[str]:
    """The registry as a table."""
    usual = {n: p.default for n, p in inspect.signature(surrogate).parameters.items()}
    rows = []
    for name, function in OBJECTIVES.items():
        options = {n: p.default for n, p in list(inspect.signature(function).parameters.items())[2:]}
        if isinstance(function, Named):
            options = {n: value for n, value in options.items() if value != usual[n]}
        labels = [label for label, entry in ROWS.items() if entry.objective == name]
        rows.append(
            [
                f"`{name}`",
                inspect.getdoc(function).split("\n\n")[0].replace("\n", " "),
                _code(options),
                "; ".join(labels),
            ]
        )
    return [
        "# All objectives, from the registry",
        "",
        "What a reader gets here: every name that `ds.objective(name)`, `dsjax attribute` and `dsjax atlas` know, what "
        "it computes, the options that it sets, and its rows in the atlas.",
        "What each does to the decision is in [Objectives](../objectives.md).",
        "",
        *table(["name", "what it is", "options", "rows of the atlas"], rows),
    ]


def results(folder: Path) -> list[str]:
    """One stored run: its tables and its figures."""
    found = read_results("run", folder)[1]
    name = folder.relative_to(ROOT / "experiments").as_posix()
    out = [
        f"# Stored results: {name}",
        "",
        f"Every table of the stored run `experiments/{name}`, as it was written by the run, and its figures.",
        "What they mean is in [the studies](../../experiments.md).",
        "",
    ]
    for picture in sorted(folder.glob("*.png")):
        out += [f"![{picture.stem}](../../../{picture.relative_to(ROOT)})", ""]
    for t in found["report"]["tables"]:
        out += [f"## {t['title']}", "", *table([c or " " for c in t["columns"]], t["rows"])]
    return out


EXTRA = "site"  # of what is written: files that the site has as they are


def write(folder: Path) -> None:
    """All of them, anew."""
    shutil.rmtree(folder, ignore_errors=True)
    made = {"api/dsjax.rst": front_door(), "objectives.md": objectives()}
    for entry in pkgutil.iter_modules(dsjax.__path__):
        if not entry.name.startswith("_"):
            made[f"api/dsjax.{entry.name}.rst"] = reference(f"dsjax.{entry.name}")
    for file in sorted((ROOT / "experiments").rglob("results.json*")):
        if "mutation" not in file.parts:
            made[f"results/{'-'.join(file.parent.parts[-2:])}.md"] = results(file.parent)
    for name, lines in made.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines).rstrip() + "\n")
    (folder / EXTRA).mkdir()
    explorer.write(folder / EXTRA / "explore.html")
