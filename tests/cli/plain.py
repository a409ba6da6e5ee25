"""What output in a pipe must be."""

import re


def assert_plain(text: str, out_of_width: tuple[str, ...] = ()) -> None:
    """No control codes, and 80 columns but for lines with a path, which contain one of `out_of_width`."""
    assert text
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text) is None, repr(text)
    wide = [line for line in text.splitlines() if len(line) > 80 and not any(word in line for word in out_of_width)]
    assert wide == []
