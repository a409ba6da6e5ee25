"""The one writer: what it makes of arrays of any library, and what it refuses."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.adapters.recorder import Recorder, to_numpy
from dsjax.errors import InputError
from dsjax.rollouts.format import check, read
from tests.adapters.stand_ins import ADVANTAGE, EOS, LOGP, MASK, TOKENS, WAIT, mark

BATCH = {"tokens": TOKENS, "sample_mask": MASK, "logp": LOGP, "advantage": ADVANTAGE, "values": None}


def test_no_adapter_of_a_torch_trainer_imports_jax_or_its_framework():
    names = ["trl", "verl", "skyrl", "slime", "openrlhf", "gradients"]
    code = f"import sys, importlib\nfor n in {names}: importlib.import_module('dsjax.adapters.' + n)\n"
    heavy = ("jax", "flax", "torch", "trl", "verl", "skyrl", "slime", "openrlhf", "scipy")
    code += f"print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_step_is_a_file_of_the_format(tmp_path):
    recorder = Recorder(tmp_path / "new", mark=mark, every=2, decision_choices=10)
    assert recorder.write(1, BATCH) is None
    file = recorder.write(2, BATCH)
    assert file == tmp_path / "new" / "step_000002.npz"
    assert file is not None
    data = check(read(file))
    np.testing.assert_array_equal(data.decision_mask, np.isin(TOKENS, [WAIT, EOS]))
    np.testing.assert_array_equal(data.mask, MASK)  # decisions left the sampling tokens
    assert data.decision[data.decision_mask].tolist() == [0, 1, 0, 1, 0]
    assert data.values is None
    assert data.decision_choices == 10


def test_without_a_mark_no_token_decides_and_padding_never_does(tmp_path):
    found = Recorder(tmp_path).marked(BATCH)
    assert not found["decision_mask"].any()
    everywhere = Recorder(tmp_path, mark=lambda a: {"decision_mask": np.ones_like(a["sample_mask"])}).marked(BATCH)
    np.testing.assert_array_equal(everywhere["decision_mask"], MASK)


def test_a_directory_has_one_file_a_step(tmp_path):
    recorder = Recorder(tmp_path, rank=3)
    files = [recorder.write(step, BATCH) for step in (4, 4, 5)]
    folder = tmp_path / "rank_0003"
    assert files == [folder / "step_000004.npz", folder / "part_01" / "step_000004.npz", folder / "step_000005.npz"]
    with pytest.raises(InputError, match="overwrite=True"):
        Recorder(tmp_path, rank=3).write(4, BATCH)
    Recorder(tmp_path, rank=3, overwrite=True).write(4, BATCH)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"logp": LOGP[:, :5]}, "tokens.shape"),
        ({"advantage": ADVANTAGE[:3]}, "advantage.shape"),
        ({"group": np.array([0.5, 1, 2, 3])}, "group.dtype"),
        ({"advantage": None}, "reward"),
        ({"advantages": ADVANTAGE}, "array"),
    ],
)
def test_what_no_reader_would_take_is_not_written(tmp_path, changed, field):
    with pytest.raises(InputError) as error:
        Recorder(tmp_path).write(0, {**BATCH, **changed})
    assert error.value.field == field
    assert not list(tmp_path.iterdir())


def test_a_mark_must_tell_the_decisions_of_these_tokens(tmp_path):
    for marks, field in (({}, "decision_mask"), ({"decision_mask": MASK[:2]}, "decision_mask.shape")):
        with pytest.raises(InputError) as error:
            Recorder(tmp_path, mark=lambda _, m=marks: m).write(0, BATCH)
        assert error.value.field == field
    with pytest.raises(InputError, match="decision_choice"):
        Recorder(tmp_path, decision_choice=10)


def test_arrays_of_any_library_become_numpy():
    torch = pytest.importorskip("torch")
    narrow = torch.tensor([0.1, -2.0], dtype=torch.bfloat16, requires_grad=True)
    np.testing.assert_array_equal(to_numpy(narrow), np.array([0.10009765625, -2.0], np.float32))
    for x in (narrow, jnp.ones(2, jnp.bfloat16), np.ones(2, np.float16)):
        assert to_numpy(x).dtype == np.float32
    assert to_numpy(torch.ones(2, dtype=torch.float64)).dtype == np.float64
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(1)], layout=torch.jagged)
    assert to_numpy(nested).tolist() == [[1, 1], [1, 0]]
    assert to_numpy([[1, 2], [3]]).tolist() == [[1, 2], [3, 0]]
    assert to_numpy(np.array(["a", "b"], dtype=object)).dtype.kind == "U"


def test_a_file_may_have_prompts_and_gradients(tmp_path):
    """Both have an axis of their own: widths of 2 and of 7."""
    gradients = {f"gradient_{part}": np.ones((3, 7)) for part in ("sample", "decision")}
    file = Recorder(tmp_path).write(0, {**BATCH, **gradients, "prompt": np.ones((4, 2), int)})
    assert file is not None
    assert check(read(file)).prompt.shape == (4, 2)  # type: ignore[union-attr]
