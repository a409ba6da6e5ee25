"""The snippets of docs/adapters.md run, on stand-ins, and their files are rollouts with decisions."""

import sys

import jax.numpy as jnp
import pytest

from dsjax.rollouts.format import check, read
from tests.adapters import stand_ins
from tests.adapters.page import INTRO, SECTIONS


def after_skyrl(given):
    stand_ins.skyrl_trainer(given["callbacks"]).train()


def after_verl(given):
    stand_ins.RayPPOTrainer().fit()
    stand_ins.actor_step(stand_ins.POLICY_LOSS_REGISTRY["recorded"])


AFTER = {  # what the framework does after a snippet of its section
    "verl": after_verl,
    "SkyRL": after_skyrl,
    "slime": lambda given: stand_ins.slime_rollout(given["log"]),
    "OpenRLHF": lambda given: given["experience_maker"].make_experience_batch([]),
}
FILES = {"TRL": 2, "verl": 1, "SkyRL": 1, "slime": 1, "OpenRLHF": 1, "tunix": 1}


@pytest.mark.parametrize("section", SECTIONS)
def test_snippets_are_short(section):
    for block in [*INTRO, *SECTIONS[section]]:
        assert len([line for line in block.splitlines() if line.strip()]) <= 10


@pytest.mark.parametrize("section", FILES)
def test_a_framework_s_snippets_write_rollouts(section, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, module in stand_ins.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(stand_ins.RayPPOTrainer, "_log_rollout_data", stand_ins.RayPPOTrainer._log_rollout_data)
    given = {
        "trainer": stand_ins.GRPOTrainer(),
        "experience_maker": stand_ins.ExperienceMaker(),
        "train_example": stand_ins.train_example(),
        "step": 5,
        "per_token_logps": jnp.asarray(stand_ins.OLD),
        "aux_metrics": {},
    }
    blocks = [*INTRO, *SECTIONS[section]]
    for block in blocks:
        if "joined" in block:  # after the run
            AFTER[section](given)
        exec(block, given)
    if section in AFTER and "arrays" not in given:
        AFTER[section](given)
    files = sorted((tmp_path / "rollouts" / section.lower()).glob("*.npz"))
    assert len(files) == FILES[section]
    for arrays in [read(files[0]), *([given["arrays"]] if section == "verl" else [])]:
        assert check(arrays).decision_mask.any()
    if section == "tunix":
        assert 0 < float(given["aux_metrics"]["dsjax/share_of_tokens"]) < 1


def test_every_section_is_run():
    assert {*FILES, "Score norms", "Gradients: convention (iv)"} == set(SECTIONS)  # the last two: in test_torch_model
