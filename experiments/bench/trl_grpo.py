"""Training steps of TRL's GRPOTrainer, for `dsjax bench --rounds 1` to be measured against: new tokens a second.

Torch and TRL are NOT dependencies of the project: install them in an environment of your own and run this file with it,

    python -m venv ENV && ENV/bin/pip install torch trl && ENV/bin/python experiments/bench/trl_grpo.py --preset 1M

A GPT-2 of the preset's layers, width and heads, 64 prompts of 10 tokens, groups of 8, 22 new tokens each, the reward of
a Python function, no reference model, and the trainer's own generation and update: what a user would run. A step is one
generation of all 512 completions and one update on them; its new tokens are 512 x 22. Timed with the trainer's own
callbacks after two steps of warm-up, between two matrix products. `--tune` times a grid of what a user could set
(attention, rows at a time, a static cache, torch.compile) and takes the fastest; else the fastest found on two cores of
an AMD EPYC is taken.

Exit status 2 without torch or TRL, or for arguments out of range.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "DATASETS_VERBOSITY": "error"}
try:
    torch, transformers, datasets = map(importlib.import_module, ("torch", "transformers", "datasets"))
    trl: Any = importlib.import_module("trl")
    tokenizers: Any = importlib.import_module("tokenizers")
except ModuleNotFoundError as error:
    print(f"{error.name} is not installed: `pip install torch trl` in an environment of your own", file=sys.stderr)
    raise SystemExit(2) from None

torch_loop: Any = importlib.import_module("torch_loop")  # next to this file

FORMAT = 1
PROMPTS, PROMPT, GROUP, NEW = 64, 10, 8, 22
WARM_UP = 2
DIGITS = "0123456789"


@dataclass(frozen=True)
class Variant:
    """What a user could set.

    Attributes:
      attention: of transformers, `sdpa` or `eager`.
      rows: completions that a forward and backward pass computes at a time.
      cache: of generation: None, or `static`.
      compiled: whether the trainer compiles the model.
    """

    attention: str = "sdpa"
    rows: int = 512
    cache: str | None = None
    compiled: bool = False

    def __str__(self) -> str:
        """In one word."""
        return f"{self.attention}/{self.rows}/{self.cache or 'dynamic'}/{'compile' if self.compiled else 'eager'}"


FASTEST = {"nano": Variant("eager", 512, None, True)}  # found by --tune; all other sizes as 1M
LARGE = Variant("eager", 128, "static", True)


def tokenizer() -> Any:
    """Each digit is a token; nothing ends a completion but its length."""
    known = {token: i for i, token in enumerate((*DIGITS, "<pad>", "<end>"))}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="<pad>"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", eos_token="<end>")


def model(preset: str, attention: str) -> Any:
    """GPT-2 of the preset's size, the same weights every time."""
    layers, width, heads = torch_loop.SIZES[preset]
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=12,
        n_positions=PROMPT + NEW,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=11,
        eos_token_id=11,
        pad_token_id=10,
        attn_implementation=attention,
    )
    return transformers.GPT2LMHeadModel(config)


def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """The part of even tokens, so that rewards differ."""
    if {*map(len, completion_ids)} != {NEW}:
        raise SystemExit(f"completions of { ({*map(len, completion_ids)}) } tokens instead of {NEW}")
    return [sum(token % 2 == 0 for token in ids) / NEW for ids in completion_ids]


def seconds_of_steps(preset: str, variant: Variant, steps: int) -> list[float]:
    """Wall time of each step after the warm-up: generation, rewards, log-probs, update."""
    times: list[float] = []

    class Clock(transformers.TrainerCallback):
        """Ends of steps."""

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 10, (PROMPTS * (steps + WARM_UP + 1), PROMPT), generator=generator).tolist()
    with tempfile.TemporaryDirectory() as folder:
        settings = trl.GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=variant.rows,
            gradient_accumulation_steps=PROMPTS * GROUP // variant.rows,
            num_generations=GROUP,
            max_completion_length=NEW,
            generation_kwargs={"min_new_tokens": NEW, "max_new_tokens": NEW},
            cache_implementation=variant.cache,
            torch_compile=variant.compiled,
            learning_rate=1e-4,
            max_grad_norm=1.0,
            beta=0.0,
            max_steps=steps + WARM_UP + 1,
            shuffle_dataset=False,
            report_to=[],
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
        )
        trainer = trl.GRPOTrainer(
            model=model(preset, variant.attention),
            reward_funcs=reward,
            args=settings,
            train_dataset=datasets.Dataset.from_dict({"prompt": [" ".join(map(str, row)) for row in rows]}),
            processing_class=tokenizer(),
            callbacks=[Clock()],
        )
        trainer.train()
    return [b - a for a, b in itertools.pairwise(times)][WARM_UP:]


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; exit status 2 for what is out of range."""
    parser = argparse.ArgumentParser(description="Steps of TRL's GRPOTrainer, timed next to the matrix product.")
    parser.add_argument("--preset", choices=torch_loop.SIZES, default="1M")
    parser.add_argument("--steps", type=int, default=5, help="that are timed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of one operation")
    parser.add_argument("--tune", action="store_true", help="time a grid of settings first and take the fastest")
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args(argv)
    for name in ("steps", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return args


def tuned(preset: str) -> dict[str, float]:
    """Seconds of a step of each variant that runs here; each choice is made with the others at their best so far."""
    found: dict[str, float] = {}
    best = Variant()
    choices: dict[str, tuple[Any, ...]] = {
        "attention": ("sdpa", "eager"),
        "rows": (512, 128, 64, 8),
        "cache": (None, "static"),
        "compiled": (False, True),
    }
    for field, values in choices.items():
        for value in values:
            variant = Variant(**{**asdict(best), field: value})
            if str(variant) in found:
                continue
            try:
                found[str(variant)] = statistics.median(seconds_of_steps(preset, variant, 3))
            except Exception as error:  # what a library does not allow together is left out, and named
                print(f"  {variant}: does not run here: {type(error).__name__} {str(error)[:100]}", flush=True)
                continue
            print(f"  {variant}: {found[str(variant)]:.2f} s a step", flush=True)
            if found[str(variant)] == min(found.values()):
                best = variant
    return found


def read_variant(word: str) -> Variant:
    """The inverse of its `str`."""
    attention, rows, cache, engine = word.split("/")
    return Variant(attention, int(rows), None if cache == "dynamic" else cache, engine == "compile")


def main() -> None:
    """Tune if asked, measure, print a line, write the JSON file."""
    warnings.filterwarnings("ignore")
    args = arguments()
    torch.set_num_threads(args.threads)
    grid = tuned(args.preset) if args.tune else {}
    chosen = read_variant(min(grid, key=lambda word: grid[word])) if grid else FASTEST.get(args.preset, LARGE)
    peak = torch_loop.peak(torch_loop.Setting(args.preset, PROMPTS * GROUP, "cpu", "float32"))
    before = peak()
    found = seconds_of_steps(args.preset, chosen, args.steps)
    flops = 0.5 * (before + peak())
    new = PROMPTS * GROUP * NEW
    report = {
        "format": FORMAT,
        "preset": args.preset,
        "new_tokens_per_s": new / statistics.median(found),
        "best": {"new_tokens_per_s": new / min(found)},
        "seconds": found,
        "matmul_peak_flops": flops,
        "variant": str(chosen),
        "tuned": grid,
        "device": torch_loop.device_name("cpu"),
        "threads": args.threads,
        "versions": {
            **{m.__name__: m.__version__ for m in (torch, transformers, trl)},
            "python": platform.python_version(),
        },
        "setting": {"prompts": PROMPTS, "prompt_length": PROMPT, "group": GROUP, "new_tokens": NEW},
    }
    print(
        f"{args.preset}, {chosen}: {report['new_tokens_per_s']:,.0f} new tokens/s, {statistics.median(found):.2f} s a"
        f" step (best {min(found):.2f}); matrix product {flops / 1e9:.0f} GFLOP/s"
    )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
