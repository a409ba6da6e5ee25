"""Strict settings for every test; see pyproject.toml for warnings."""

import gc
import os
import shutil
import tempfile

from tests.compiler import FLAGS

# Two devices; and programs run once or twice here, so that compiling is most of the time.
os.environ["XLA_FLAGS"] = " ".join(
    ["--xla_force_host_platform_device_count=2", FLAGS, os.environ.get("XLA_FLAGS", "")],
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

# Where in the source an operation comes from, for readers of compiled programs: a twentieth of the time.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

# Processes that tests start and kill compile the same programs: they share them.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    os.path.join(tempfile.gettempdir(), "dsjax-tests-" + os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")  # storing costs as a short compilation

import jax
import pytest

# Tracing makes many objects that live on: looking for garbage among them as often as usual takes a tenth of the time.
gc.freeze()
gc.set_threshold(100_000, 50, 100)

# Here hardly a program is compiled twice, and storing one costs a tenth of compiling it.
jax.config.update("jax_enable_compilation_cache", False)

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def x64():
    """Exact work runs in float64 in a scope, never process-wide."""
    with jax.enable_x64(True):
        yield


def pytest_sessionfinish(session):
    """The process that started last removes the shared cache; what is left is looked through once, not five times."""
    gc.collect()
    gc.freeze()
    if not hasattr(session.config, "workerinput"):
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
