"""Options of the objectives: coefficients and slopes of many settings in one program; corrections for the engine."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.attribution import coefficients, loss_of
from dsjax.errors import InputError
from dsjax.objectives import resolve
from dsjax.objectives.kl import LOSS_ESTIMATORS
from dsjax.objectives.mismatch import MISMATCH
from tests.objectives import reference
from tests.objectives.reference import batch, quick_jit

EXACT = 1e-13  # a few dozen operations on numbers of order 1

# label -> (objective, options). Ratios of the batch are exp(+-0.1), exp(+-0.5); pi_old/mu exp(+-0.05), exp(0.8).
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "dual clip": ("grpo", {"dual_clip": 1.4}),
    "ratio cap": ("surrogate", {"advantage": "leave_one_out", "ratio": "token", "ratio_cap": 1.4}),
    "ratio cap, nonempty": ("grpo", {"ratio_cap": 1.4, "aggregation": "nonempty_sequence_sum"}),
    "caller's count": ("reinforce", {"aggregation": "given_count", "tokens_per_sequence": 3.7}),
    "hinge": ("dpo", {"beta": 0.8, "loss": "hinge"}),
    "hinge of means": ("dpo", {"beta": 3.0, "loss": "hinge", "token_mean": True}),
    "dpo of means": ("dpo", {"beta": 3.0, "token_mean": True}),
    "kto, point of the batch": ("kto", {"beta": 0.5, "threshold": 0.5, "desirable_weight": 0.7}),
    "distillation, own token": ("distillation", {}),
    **{f"KL {e}": ("reinforce", {"token_kl": 0.3, "kl_estimator": e}) for e in LOSS_ESTIMATORS},
    **{
        f"{rule}, {rejected}": (
            "dapo",
            {"mismatch": rule, "rejected": rejected, "token_kl": 0.2, "kl_estimator": "k2", **bounds},
        )
        for rule, bounds in {
            "token_truncate": {"mismatch_high": 1.5},
            "sequence_truncate": {"mismatch_high": 1.5},
            "token_mask": {"mismatch_high": 1.5},
            "sequence_mask": {"mismatch_low": 2.4, "mismatch_high": 50.0},
            "geometric_drop": {"mismatch_low": 1.1, "mismatch_high": 1.6},
        }.items()
        for rejected in ("count", "leave")
    },
}
# A stop-gradient makes the derivative something else than the slope of the value.
NO_POTENTIAL = (
    "distillation",
    "KL k1+",
    "KL k3+",
    "KL abs+",
    "KL k1_score",
    "KL k2_score",
    "KL k3_score",
)


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """By label: coefficients on the ragged batch, and the loss a small step to both sides along one direction."""
    with jax.enable_x64(True):
        logp, traj = batch()
        direction = np.where(traj.mask, np.random.default_rng(0).uniform(-1, 1, logp.shape), 0.0)
        h = 1e-5
        objectives = {label: resolve(*setting) for label, setting in SETTINGS.items()}

        @quick_jit
        def run(x, t):
            return {
                label: (coefficients(f, x, t), [loss_of(f, x + s * h * direction, t) for s in (1, -1)])
                for label, f in objectives.items()
            }

        found = jax.device_get(run(logp, traj))
        slopes = {label: -(ahead - behind) / (2 * h) for label, (_, (ahead, behind)) in found.items()}
        return {label: (c, slopes[label], (c * direction).sum()) for label, (c, _) in found.items()}


@pytest.mark.parametrize("label", SETTINGS)
def test_settings_have_the_coefficients_of_their_formula(x64, measured, label):
    c, slope, along = measured[label]
    logp, traj = batch()
    kind, options = SETTINGS[label]
    np.testing.assert_allclose(c, reference.coefficients(kind, options, logp, traj), rtol=0, atol=EXACT)
    if label.startswith(NO_POTENTIAL):
        assert label == "distillation, own token" or abs(slope - along) > 1e-3
    else:
        assert slope == pytest.approx(along, abs=1e-9)  # h^2/6 |f'''| below 1e-9, eps |f| / h ~ 1e-10
    # Control: without the options that make the setting the coefficients are others.
    plain = reference.coefficients(kind, {"beta": options["beta"]} if "beta" in options else {}, logp, traj)
    assert np.abs(c - plain).max() > 1e-3 or label == "distillation, own token"


def test_sequence_rules_keep_the_balance_of_a_trajectory_and_token_rules_do_not(x64):
    """One weight for all tokens of a trajectory; the ratios of the weights are those of w."""
    logp, traj = batch()
    mask = np.asarray(traj.mask)
    bounds = {"mismatch_high": 1.5}
    for rule in MISMATCH:
        c = np.asarray(coefficients(resolve("rloo", mismatch=rule, **bounds), logp, traj))
        spread = np.where(mask, c, -np.inf).max(-1) - np.where(mask, c, np.inf).min(-1)
        assert (spread.max() < EXACT) == (not rule.startswith("token")), rule


def test_a_correction_on_policy_changes_nothing(x64):
    """mu = pi_old: every weight is 1 and nothing is rejected, bit for bit."""
    logp, traj = batch()
    same = traj.replace(sampler_logp=traj.old_logp)
    expected = np.asarray(coefficients(resolve("dapo"), logp, traj))
    for rule in MISMATCH:
        for rejected in ("count", "leave"):
            c = coefficients(resolve("dapo", mismatch=rule, rejected=rejected), logp, same)
            np.testing.assert_array_equal(c, expected)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("mismatch", {"mismatch": "word"}),
        ("rejected", {"rejected": "maybe"}),
        ("option of mismatch none", {"mismatch_high": 2.0}),
        ("option of mismatch token_truncate", {"mismatch": "token_truncate", "mismatch_low": 0.5}),
        ("mismatch_high", {"mismatch": "token_truncate", "mismatch_high": 0.0}),
        ("mismatch_low", {"mismatch": "token_mask", "mismatch_low": 3.0, "mismatch_high": 2.0}),
        ("option of clip_rule ppo", {"temperature": 1.0}),
        ("temperature", {"clip_rule": "sapo", "temperature": 0.0}),
        ("beta", {"clip_rule": "dro", "beta": -1.0}),
        ("ratio", {"clip_rule": "gmpo", "ratio": "sequence"}),
        ("ratio_cap", {"ratio_cap": 1.0}),
        ("ratio_cap", {"clip_rule": "dro", "ratio_cap": 2.0}),
        ("dual_clip", {"dual_clip": 0.5}),
        ("option of ratio none", {"dual_clip": 2.0, "ratio": "none", "clip_rule": "none"}),
        ("tokens_per_sequence", {"aggregation": "given_count"}),
        ("tokens_per_sequence", {"aggregation": "given_count", "tokens_per_sequence": 0.0}),
        ("tokens_per_sequence", {"tokens_per_sequence": 2.0}),
        ("std_of", {"std_of": "all"}),
        ("ddof", {"ddof": 2}),
    ],
)
def test_bad_options_name_the_field(x64, field, options):
    logp, traj = batch()
    with pytest.raises(InputError) as error:
        resolve("grpo", options)(logp, traj)
    assert error.value.field == field


def test_a_correction_needs_both_log_probs(x64):
    logp, traj = batch()
    for field in ("old_logp", "sampler_logp"):
        with pytest.raises(InputError) as error:
            resolve("rloo", mismatch="token_truncate")(logp, traj.replace(**{field: None}))
        assert error.value.field == field
    with pytest.raises(InputError, match="sampler_logp"):
        traj.replace(sampler_logp=jnp.ones(logp.shape)).validate()
