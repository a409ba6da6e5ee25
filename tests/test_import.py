"""The front door: `import dsjax as ds` is light, and every public name is there, documented, and what it says."""

import inspect
import subprocess
import sys

import pytest

import dsjax as ds

HEAVY = ("jax", "numpy", "flax", "matplotlib", "scipy", "orbax")


@pytest.mark.parametrize("code", ["import dsjax", "import dsjax as ds; ds.InputError, ds.__version__, dir(ds)"])
def test_import_is_light(code):
    loaded = f"sorted(m for m in {HEAVY} if m in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print({loaded})"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_all_lists_the_public_names_and_nothing_else():
    assert ds.__all__ == sorted(set(ds.__all__), key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    assert dir(ds) == sorted(ds.__all__)
    for name in ds.__all__:
        assert getattr(ds, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ds.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [n for n in ds.__all__ if not n.isupper() and n != "__version__"])
def test_every_public_name_is_documented(name):
    thing = getattr(ds, name)
    assert inspect.getdoc(thing), name


def test_names_stay_what_they_are_whatever_is_imported_first():
    code = "import dsjax.atlas.rows, dsjax as ds; assert callable(ds.atlas); ds.atlas.rows"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_everything_changes_no_jax_setting():
    code = """
import jax
names = ("jax_enable_x64", "jax_numpy_rank_promotion", "jax_numpy_dtype_promotion", "jax_default_device",
         "jax_default_matmul_precision", "jax_platforms")
before = {n: getattr(jax.config, n) for n in names}
import dsjax as ds, dsjax.cli.main, proofs_check
[getattr(ds, n) for n in ds.__all__]
assert before == {n: getattr(jax.config, n) for n in names}
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
