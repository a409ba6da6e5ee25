"""The snippets of docs/adapters.md by section."""

import re
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text()
SECTIONS = {part.split("\n")[0]: re.findall(r"```python\n(.*?)```", part, re.DOTALL) for part in PAGE.split("\n## ")}
INTRO = SECTIONS.pop("# In your trainer")
