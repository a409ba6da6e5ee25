"""Each adapter on a stand-in with the framework's field names: the file says what the batch said, slot by slot."""

import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.adapters import openrlhf, skyrl, slime, trl, tunix, verl
from dsjax.adapters.recorder import Recorder
from dsjax.errors import InputError
from dsjax.rollouts import attribute_rollouts
from dsjax.rollouts.format import check, read
from tests.adapters.stand_ins import (
    ADVANTAGE,
    EOS,
    GROUP,
    LENGTHS,
    LOGP,
    MASK,
    MU,
    OLD,
    PER_TOKEN,
    REF,
    REWARD,
    TOKENS,
    TRUNCATED,
    WAIT,
    ExperienceMaker,
    GRPOTrainer,
    RayPPOTrainer,
    TrainingInputBatch,
    TransferQueueTrainer,
    actor_step,
    data_proto,
    kv_batch_get,
    mark,
    skyrl_trainer,
    slime_rollout,
    train_example,
)

OPTIONS = {"mark": mark, "decision_choices": 10}
DECISIONS = np.isin(TOKENS, [WAIT, EOS])
COMMON = {"logp": OLD, "old_logp": OLD, "tokens": TOKENS}
TRL = {**COMMON, "sampler_logp": MU, "advantage": ADVANTAGE, "reward": REWARD, "group": GROUP, "truncated": TRUNCATED}
VERL = {**COMMON, "sampler_logp": MU, "ref_logp": REF, "advantage": PER_TOKEN, "reward": REWARD, "group": GROUP}


def of_trl(folder):
    trl.record(trainer := GRPOTrainer(), folder, **OPTIONS)
    trainer.train()


def of_verl(folder):
    class Trainer(RayPPOTrainer):  # a class of its own: `record` changes it
        pass

    verl.record(Trainer, folder, **OPTIONS)
    trainer = Trainer()
    trainer.fit()
    assert trainer.logged == 1


def of_verl_v1(folder):
    class Trainer(TransferQueueTrainer):
        pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "transfer_queue", SimpleNamespace(kv_batch_get=kv_batch_get))
        verl.record(Trainer, folder, **OPTIONS)
        assert Trainer().fit() == ["k"]


def of_skyrl(folder):
    skyrl_trainer([skyrl.RolloutCallback(folder, **OPTIONS)]).train()


def of_slime(folder):
    assert slime_rollout(slime.log_function(folder, **OPTIONS)) is False  # slime logs too


def of_openrlhf(folder):
    openrlhf.record(maker := ExperienceMaker(), folder, **OPTIONS)
    assert len(maker.make_experience_batch([])) == 2


def of_tunix(folder):
    arrays = tunix.rollouts(train_example(ref_per_token_logps=jnp.asarray(REF)))
    Recorder(folder, **OPTIONS).write(5, arrays)


@pytest.mark.parametrize(
    ("run", "file", "expected"),
    [
        (of_trl, "step_000001.npz", TRL),
        (of_verl, "step_000001.npz", VERL),
        (of_verl_v1, "step_000001.npz", VERL),
        (of_skyrl, "step_000003.npz", VERL),
        (of_slime, "step_000007.npz", {**COMMON, "reward": REWARD, "group": GROUP, "truncated": TRUNCATED}),
        (of_openrlhf, "step_000000.npz", {**VERL, "truncated": TRUNCATED}),
        (of_tunix, "step_000005.npz", {**COMMON, "ref_logp": REF, "advantage": ADVANTAGE}),
    ],
)
def test_a_file_says_what_the_batch_said(tmp_path, run, file, expected):
    run(tmp_path)
    data = check(read(tmp_path / file))
    assert {*expected, "sample_mask", "decision_mask", "decision_choices"} <= set(data.given)
    at = (slice(None), slice(-MASK.shape[1], None))  # OpenRLHF has a slot more in front
    np.testing.assert_array_equal(data.decision_mask[at], DECISIONS)
    np.testing.assert_array_equal(data.mask[at], MASK)
    for name, x in expected.items():
        found = getattr(data, name)
        if x.ndim == 2:
            np.testing.assert_array_equal(np.where(MASK, found[at], 0), np.where(MASK, x, 0), name)
        elif name == "advantage" and found.ndim == 2:
            np.testing.assert_array_equal(found[at], x[:, None] * MASK)
        else:
            np.testing.assert_array_equal(found, x, name)


def test_trl_takes_log_probs_of_the_model_where_the_batch_has_none(tmp_path):
    torch = pytest.importorskip("torch")
    trainer = GRPOTrainer(old=False)
    generate = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: {
        k: torch.as_tensor(x) for k, x in generate(inputs).items()
    }
    recorder = trl.record(trainer, tmp_path, **OPTIONS)
    trainer.model.training = False
    trainer._generate_and_score_completions([])  # evaluation is not written
    trainer.model.training = True
    trainer._generate_and_score_completions([])
    assert [f.name for f in tmp_path.iterdir()] == ["step_000000.npz"]
    found = read(tmp_path / "step_000000.npz")
    np.testing.assert_allclose(found["logp"], OLD, rtol=2**-8)  # the model's are bfloat16
    assert recorder.rank is None


def test_trl_of_several_processes_takes_its_own_rewards_and_leaves_out_text_of_tools():
    trainer = GRPOTrainer(one_end=True)
    trainer.accelerator.num_processes, trainer.accelerator.process_index = 2, 1
    tools = np.ones_like(TOKENS)
    tools[2, 3] = 0
    batch = {**trainer._generate_and_score_completions([]), "tool_mask": tools}
    rewards = np.concatenate([np.full((4, 2), 7.0), np.stack([REWARD, np.full(4, np.nan)], axis=1)])
    found = trl.rollouts(trainer, batch, rewards)
    np.testing.assert_array_equal(found["reward"], REWARD)
    assert found["group"].tolist() == [2, 2, 3, 3]
    assert found["sample_mask"].sum() == MASK.sum() - 1
    assert found["truncated"].tolist() == TRUNCATED.tolist()


def test_what_verls_policy_loss_sees_is_joined_with_its_step(tmp_path):
    recorded = verl.policy_loss(lambda *a, **k: (a, k), tmp_path, rank=2)
    arguments, keywords = actor_step(recorded)
    assert len(arguments) == 4
    assert keywords == {"loss_agg_mode": "token-mean", "config": None, "rollout_is_weights": None}
    loss = read(tmp_path / "rank_0002" / "step_000000.npz")
    step = Recorder(tmp_path, **OPTIONS).marked(verl.rollouts(data_proto()))
    found = verl.joined(loss, step)
    data = check(found)
    np.testing.assert_array_equal(found["tokens"], TOKENS[[2, 1]])
    np.testing.assert_array_equal(found["logp"], LOGP[[2, 1]])
    np.testing.assert_array_equal(data.decision_mask, DECISIONS[[2, 1]])
    assert data.reward is not None
    assert data.reward.tolist() == REWARD[[2, 1]].tolist()
    with pytest.raises(InputError, match="bit by bit"):
        verl.joined({**loss, "old_logp": np.nextafter(loss["old_logp"], -1)}, step)


def test_the_score_norm_of_verls_sum_of_squares():
    data = data_proto()
    expected = np.sqrt(1.5) * -np.expm1(OLD.astype(float))  # the rest in two equal parts
    found = verl.rollouts(data)["score_norm"]
    np.testing.assert_allclose(found[MASK], expected[MASK], atol=4 * float(np.finfo(np.float32).eps) ** 0.5)
    assert np.abs(verl.rollouts(data)["score_norm"] ** 2 - expected)[MASK].max() > 0.1  # its square is not it


def test_skyrl_rows_of_one_trajectory_stay_together():
    batch = TrainingInputBatch(trajectory_ids=["x", "x", "y", "z", "x"], uids=["a", "a", "b", "b", "a"])
    del batch["rewards"]  # as SkyRL does
    found = skyrl.rollouts(batch)
    assert found["trajectory"].tolist() == ["x", "x", "y", "z"]
    assert found["group"].tolist() == ["a", "a", "b", "b"]
    assert "reward" not in found
    with pytest.raises(AttributeError):
        _ = skyrl.RolloutCallback("never").nothing


def test_slime_without_log_probs_says_so(tmp_path):
    log = slime.log_function(tmp_path)

    def without(rollout_id, args, samples, *rest):
        samples[0].rollout_log_probs = None
        return log(rollout_id, args, samples, *rest)

    with pytest.raises(InputError, match="rollout_log_probs"):
        slime_rollout(without)


def test_slime_takes_what_it_removes_out_of_the_masks(tmp_path):
    log = slime.log_function(tmp_path)

    def removed(rollout_id, args, samples, *rest):
        samples[1].remove_sample = True
        return log(rollout_id, args, samples, *rest)

    slime_rollout(removed)
    mask = check(read(tmp_path / "step_000007.npz")).mask
    assert mask.sum(-1).tolist() == [LENGTHS[0], 0, *LENGTHS[2:]]


def test_tunix_without_log_probs_says_so():
    with pytest.raises(InputError, match="old_per_token_logps"):
        tunix.rollouts(train_example(old_per_token_logps=None))
    found = tunix.rollouts(train_example(old_per_token_logps=None), jnp.asarray(LOGP))
    np.testing.assert_array_equal(found["old_logp"], LOGP)


def test_tunix_metrics_are_the_conventions_of_the_diagnosis():
    arguments = [jnp.asarray(x) for x in (LOGP, MASK, DECISIONS, ADVANTAGE)]

    @jax.jit
    def metrics(logp, *rest):
        return tunix.decision_metrics("grpo", logp, *rest, old_logp=jnp.asarray(OLD), options={"clip": 0.3})

    found = {name: float(x) for name, x in metrics(*arguments).items()}
    arrays = {"sample_mask": MASK & ~DECISIONS, "decision_mask": DECISIONS, "logp": LOGP, "old_logp": OLD}
    given = {**arrays, "advantage": ADVANTAGE, "decision_choices": 10}
    expected = attribute_rollouts("grpo", {"clip": 0.3}, resamples=1, **given)
    c = expected.coefficients
    shares = {unit: expected.conventions[unit]["share"].value for unit in ("token", "block")}
    wanted = {
        "dsjax/share_of_tokens": shares["token"],
        "dsjax/share_of_coefficients": shares["block"],
        "dsjax/net_sample": c[MASK & ~DECISIONS].sum(),
        "dsjax/net_decision": c[DECISIONS].sum(),
    }
    assert found.keys() == wanted.keys()
    # Ratios up to exp(5) in float32, of 15 terms.
    tolerance = 100 * float(np.finfo(np.float32).eps)
    for name, x in wanted.items():
        assert found[name] == pytest.approx(x, rel=tolerance, abs=tolerance), name
    assert abs(shares["token"] - shares["block"]) > 0.01  # one in place of the other would be noticed
    with pytest.raises(InputError, match="takes advantages"):
        tunix.decision_metrics("sft", *arguments)
