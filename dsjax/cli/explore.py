"""`dsjax explore`: the interactive page."""

from __future__ import annotations

from pathlib import Path

from dsjax.cli.terminal import require_files, terminal, writing


def explore(*, out: Path = Path("explorer.html")) -> int:
    """Write the explorer: one HTML page with sliders that needs no network.

    Args:
      out: The file; open it in a browser.
    """
    require_files(out=out)
    from dsjax.explorer import write

    with writing("out", out):
        write(out)
    terminal().print(f"Page: {out}", soft_wrap=True)
    return 0
