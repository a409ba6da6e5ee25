"""Run inside of a copy of the repository: theorem checks, then tests, up to the first one that fails.

    python -m tests.mutation.evidence '{"theorems": [id, ..], "tests": [node id, ..], "out": path}'

The file at `out` always says how far it got: `{"dsjax": path of the package that was imported, "stage": what is running
or ran last, "caught_by": what failed or null, "finished": bool}`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# The tests' session removes the compilation cache that the environment names; that of the mutation run is kept.
import jax

os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
jax.config.update("jax_raise_persistent_cache_errors", False)


class _Log:
    """The file that the parent process reads."""

    def __init__(self, path: str):
        self.path = Path(path)
        self.found: dict[str, Any] = {"dsjax": None, "stage": "import", "caught_by": None, "finished": False}

    def write(self, **change: Any) -> None:
        self.found.update(change)
        self.path.write_text(json.dumps(self.found))


def theorem_failure(theorem: str, *, quick: bool) -> str | None:
    """The first claim or control that fails, in words."""
    from proofs_check.runner import QUICK_INSTANCES, check

    try:
        report = check(theorem, instances=QUICK_INSTANCES, quick=quick)
    except Exception as error:  # whatever the error in the library makes of it
        return f"{theorem}: {type(error).__name__}"
    (result,) = report.rows
    for claim in result.claims:
        if not claim.ok:
            return f"{theorem}: {claim.name}"
    for control in result.controls:
        if not control.rejected:
            return f"{theorem}: control not rejected: {control.name}"
    return None


class _FirstFailure:
    """pytest plugin that remembers the first test that failed."""

    def __init__(self) -> None:
        self.test: str | None = None
        self.passed = 0

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and self.test is None:
            self.test = report.nodeid
        self.passed += report.passed and report.when == "call"

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and self.test is None:
            self.test = f"{report.nodeid or 'tests'} (import)"


def test_failure(tests: Sequence[str]) -> str | None:
    """The first test that fails.

    Raises:
      RuntimeError: if pytest did not run every one of them to an end.
    """
    import pytest

    seen = _FirstFailure()
    status = pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests], plugins=[seen])
    if seen.test is not None:
        return seen.test
    if status != pytest.ExitCode.OK or seen.passed < len(tests):
        raise RuntimeError(f"pytest stopped with status {int(status)} after {seen.passed} tests of {list(tests)}")
    return None


def main(arguments: dict[str, Any]) -> None:
    """Quick checks of the theorems, then all of their shapes, then the tests."""
    log = _Log(arguments["out"])
    log.write()
    try:
        import dsjax

        log.write(dsjax=dsjax.__file__)
        import proofs_check.registry  # noqa: F401
    except Exception as error:
        log.write(caught_by=f"import: {type(error).__name__}", finished=True)
        return
    for quick in (True, False):
        for theorem in arguments["theorems"]:
            log.write(stage=theorem)
            if failure := theorem_failure(theorem, quick=quick):
                log.write(caught_by=failure, finished=True)
                return
    failure = None
    if arguments["tests"]:
        log.write(stage="tests")
        failure = test_failure(arguments["tests"])
    log.write(caught_by=failure, finished=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
