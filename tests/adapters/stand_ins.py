"""The objects of each framework that an adapter touches, with its field names: one batch of four completions."""

from __future__ import annotations

import enum
import importlib
import sys
import types
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

EOS, PAD, WAIT = 9, 0, 5
PROMPT = np.array([[7, 8], [7, 8], [6, 8], [6, 8]])
TOKENS = np.array([[1, 2, EOS, 0, 0, 0], [1, WAIT, 2, EOS, 0, 0], [3, WAIT, 1, 2, 1, 1], [2, EOS, 0, 0, 0, 0]])
LENGTHS = [3, 4, 6, 2]
MASK = np.arange(6) < np.array(LENGTHS)[:, None]
RNG = np.random.default_rng(0)
LOGP, OLD, REF, MU = (np.where(MASK, -RNG.exponential(1.0, MASK.shape), 0.0).astype(np.float32) for _ in range(4))
REWARD = np.array([1.0, 0.0, 0.5, 0.0], np.float32)
ADVANTAGE = np.array([0.5, -0.5, 0.25, -0.25], np.float32)
PER_TOKEN = ADVANTAGE[:, None] * MASK
GROUP = np.array([0, 0, 1, 1])
TRUNCATED = np.array([False, False, True, False])
FULL = np.concatenate([PROMPT, TOKENS], axis=1)


def mark(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """WAIT is RESAMPLE, the end of an answer STOP; where each stands tells which it is."""
    return {"decision_mask": np.isin(arrays["tokens"], [WAIT, EOS])}


class GRPOTrainer:
    """trl.GRPOTrainer: what it generates, and a `train` of two steps."""

    def __init__(self, old: bool = True, one_end: bool = False):
        self.accelerator = SimpleNamespace(num_processes=1, process_index=0)
        self.state, self.model = SimpleNamespace(global_step=0), SimpleNamespace(training=True)
        self.args = SimpleNamespace(per_device_train_batch_size=2)
        self.reward_weights, self.num_generations = np.array([1.0, 0.5], np.float32), 2
        self.old = old
        if one_end:  # as in older versions
            self.eos_token_id, self.pad_token_id = EOS, PAD
        else:
            self.eos_token_ids, self._tokenizer = [3, EOS], SimpleNamespace(pad_token_id=PAD)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        return np.stack([REWARD, [np.nan, 0.0, 0.0, np.nan]], axis=1)

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, batch_size=None):
        torch: Any = importlib.import_module("torch")
        assert not torch.is_grad_enabled()
        assert input_ids.shape == attention_mask.shape == (4, 8)
        assert (logits_to_keep, batch_size) == (6, 2)
        return torch.from_numpy(OLD).bfloat16(), None

    def _generate_and_score_completions(self, inputs):
        self._calculate_rewards(inputs, None, None, None)
        batch = {
            "prompt_ids": PROMPT,
            "prompt_mask": np.ones_like(PROMPT),
            "completion_ids": TOKENS,
            "completion_mask": MASK.astype(int),
            "advantages": ADVANTAGE,
            "num_items_in_batch": MASK.sum(),
            "sampling_per_token_logps": MU,
        }
        return {**batch, "old_per_token_logps": OLD} if self.old else batch

    def train(self):
        for _ in range(2):
            self._generate_and_score_completions([])
            self.state.global_step += 1


class RayPPOTrainer:
    """verl.trainer.ppo.ray_trainer.RayPPOTrainer, with its DataProto."""

    def __init__(self):
        self.global_steps, self.logged = 1, 0

    def _log_rollout_data(self, batch, reward_extra_infos_dict, timing_raw, rollout_data_dir):
        self.logged += 1

    def fit(self):
        self._log_rollout_data(data_proto(), {}, {}, "rollouts")


def data_proto() -> SimpleNamespace:
    """verl.DataProto after compute_advantage."""
    scores = np.zeros_like(LOGP)
    scores[np.arange(4), np.array(LENGTHS) - 1] = REWARD
    batch = {
        "prompts": PROMPT,
        "responses": TOKENS,
        "response_mask": MASK.astype(int),
        "old_log_probs": OLD,
        "rollout_log_probs": MU,
        "ref_log_prob": REF,
        "advantages": PER_TOKEN,
        "token_level_scores": scores,
        "sum_pi_squared": np.exp(2 * OLD) + 0.5 * np.expm1(OLD) ** 2,  # the rest in two equal parts
    }
    return SimpleNamespace(batch=batch, non_tensor_batch={"uid": np.array(["a", "a", "b", "b"], dtype=object)})


class TransferQueueTrainer:
    """A trainer of verl.trainer.ppo.v1: batches are keys, their fields stand in `transfer_queue`."""

    global_steps = 1

    def _log_rollout_data(self, batch, timing_raw, rollout_data_dir):
        return batch.keys

    def fit(self):
        return self._log_rollout_data(SimpleNamespace(keys=["k"], partition_id="train"), {}, "rollouts")


def kv_batch_get(keys, partition_id, select_fields):
    """transfer_queue.kv_batch_get: the fields that there are."""
    assert (keys, partition_id) == (["k"], "train")
    data = data_proto()
    fields = {**data.batch, "rm_scores": data.batch["token_level_scores"], **data.non_tensor_batch}
    return {name: fields[name] for name in select_fields if name in fields}


def actor_step(loss) -> Any:
    """verl's actor: it calls the policy loss with keywords, one micro-batch of rows 2 and 1 after a step."""
    rows = [2, 1]
    arrays = (OLD[rows], LOGP[rows], PER_TOKEN[rows], MASK[rows].astype(int))
    names = ("old_log_prob", "log_prob", "advantages", "response_mask")
    return loss(
        **dict(zip(names, arrays, strict=True)), loss_agg_mode="token-mean", config=None, rollout_is_weights=None
    )


POLICY_LOSS_REGISTRY: dict[str, Any] = {"vanilla": lambda *_, **__: ("loss", {})}


def register_policy_loss(name):
    """verl.trainer.ppo.core_algos.register_policy_loss."""

    def decorator(function):
        POLICY_LOSS_REGISTRY[name] = function
        return function

    return decorator


class TrainingInputBatch(dict):
    """skyrl's: a mapping of tensors with `metadata`; the last row only fills the batch."""

    def __init__(self, **metadata):
        fields = {
            "sequences": FULL,
            "attention_mask": np.ones_like(FULL),
            "loss_mask": MASK.astype(np.float32),
            "response_mask": MASK.astype(int),
            "action_log_probs": OLD,
            "base_action_log_probs": REF,
            "rollout_logprobs": MU,
            "advantages": PER_TOKEN,
            "rewards": REWARD[:, None] * (np.arange(6) == 5),
            "values": None,
        }
        super().__init__({k: None if x is None else np.concatenate([x, x[:1]]) for k, x in fields.items()})
        self["loss_mask"][-1] = 0
        bounds = [(0, 2), (2, 4)]
        self.metadata = {"policy_prompt_boundaries": bounds, "pad_size": 1, "response_length": 6, **metadata}


def skyrl_trainer(callbacks) -> SimpleNamespace:
    """A SkyRL trainer that calls every event of its callbacks as `CallbackHandler` does."""
    given = SimpleNamespace(global_step=3, epoch=0, total_steps=9, steps_per_epoch=9, batch=None)

    def train() -> None:
        for event, batch in (("on_train_start", None), ("on_step_end", TrainingInputBatch()), ("on_log", None)):
            given.batch = batch
            for callback in callbacks:
                getattr(callback, event)(None, given, SimpleNamespace(should_save=False))

    return SimpleNamespace(train=train)


class Status(enum.Enum):
    """slime.utils.types.Sample.Status."""

    COMPLETED = "completed"
    TRUNCATED = "truncated"


@dataclass
class Sample:
    """slime.utils.types.Sample."""

    group_index: int
    index: int
    tokens: list[int]
    response_length: int
    reward: Any
    loss_mask: list[int] | None
    rollout_log_probs: list[float] | None
    status: Status
    remove_sample: bool = False

    def get_reward_value(self, args):
        return self.reward if not args.reward_key else self.reward[args.reward_key]


def slime_rollout(log) -> Any:
    """slime's `_log_rollout_data`: what the custom function gets."""
    samples = [
        Sample(
            group_index=int(GROUP[i]),
            index=i,
            tokens=FULL[i, : 2 + n].tolist(),
            response_length=n,
            reward=float(REWARD[i]),
            loss_mask=None if i else [1] * n,
            rollout_log_probs=OLD[i, :n].tolist(),
            status=Status.TRUNCATED if TRUNCATED[i] else Status.COMPLETED,
        )
        for i, n in enumerate(LENGTHS)
    ]
    return log(7, SimpleNamespace(reward_key=None), samples, {}, 1.0)


class ExperienceMaker:
    """openrlhf's: two experiences of different widths; actions are all of a sequence but its first token."""

    def make_experience_batch(self, rollout_samples):
        first = np.zeros((4, 1))

        def part(rows: slice, width: int) -> SimpleNamespace:
            def shifted(x):
                return np.concatenate([first, x], axis=1)[rows, : 1 + width].astype(x.dtype)

            return SimpleNamespace(
                sequences=FULL[rows, : 2 + width],
                attention_mask=np.ones((2, 2 + width), int),
                action_mask=shifted(MASK),
                action_log_probs=shifted(OLD),
                base_action_log_probs=shifted(REF),
                rollout_log_probs=shifted(MU),
                values=None,
                returns=shifted(PER_TOKEN),
                advantages=shifted(PER_TOKEN),
                rewards=REWARD[rows],
                truncated=TRUNCATED[rows],
                prompts=["p", "p", "q", "q"][rows],
                info={},
            )

        return [part(slice(0, 2), 4), part(slice(2, 4), 6)]


@dataclass(frozen=True)
class TrainExample:
    """tunix.rl.common.TrainExample."""

    prompt_ids: Any
    prompt_mask: Any
    completion_ids: Any
    completion_mask: Any
    advantages: Any
    ref_per_token_logps: Any
    old_per_token_logps: Any
    segment_ids: Any = None
    segment_positions: Any = None


def train_example(**changes: Any) -> TrainExample:
    fields = {
        "prompt_ids": PROMPT,
        "prompt_mask": np.ones_like(PROMPT),
        "completion_ids": TOKENS,
        "completion_mask": MASK.astype(np.int32),
        "advantages": ADVANTAGE,
        "ref_per_token_logps": None,
        "old_per_token_logps": OLD,
    }
    return TrainExample(**{**fields, **changes})


def modules() -> dict[str, types.ModuleType]:
    """Modules of the frameworks that users import, to stand in `sys.modules`."""
    contents = {
        "verl.trainer.ppo.ray_trainer": {"RayPPOTrainer": RayPPOTrainer},
        "verl.trainer.ppo.core_algos": {
            "register_policy_loss": register_policy_loss,
            "get_policy_loss_fn": POLICY_LOSS_REGISTRY.__getitem__,
        },
    }
    found: dict[str, types.ModuleType] = {}
    for name, values in contents.items():
        parts = name.split(".")
        for n in range(1, len(parts)):
            found.setdefault(".".join(parts[:n]), types.ModuleType(".".join(parts[:n]))).__path__ = []
        found[name] = types.ModuleType(name)
        vars(found[name]).update(values)
    assert not set(found) & set(sys.modules)
    return found
