"""The transformer of `dsjax` as a plain PyTorch loop: the rival that `dsjax bench` is measured against.

Torch is NOT a dependency of the project: install it in an environment of your own and run this file with it,

    python -m venv ENV && ENV/bin/pip install torch numpy && ENV/bin/python experiments/bench/torch_loop.py --preset 1M

It measures one SFT step (token mean over answer and decision, gradient clipped to norm 1, Adam), the teacher-forced
log-probs of the same rows, and cached sampling with the log-probs of what was drawn, for rows of a prompt and one round
of [ATTEMPT, y_1, .., y_L]. Tokens of sampling are the new ones alone, prompt reading included in the time. Every
measure is timed between two matrix products of the same round, and fractions are medians of one round's ratios.

A variant is ENGINE/ATTENTION/ROWS: `eager`, `compile` or `max-autotune`; `sdpa` (the library's fused attention) or
`manual`; and how many rows are computed at a time, with the gradient accumulated over the parts. `--tune` times the
whole grid first, in turns, and takes the fastest of each measure. Otherwise `DEFAULTS` is taken: for a processor the
fastest found for 1M on one thread of an AMD EPYC, for a GPU a guess, so tune there. Weights are not frozen into the
compiled program, since they change at every step of training.

Exit status 2 without torch, or for arguments out of range.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    torch: Any = importlib.import_module("torch")
except ModuleNotFoundError:
    print("torch is not installed: `pip install torch numpy` in an environment of your own", file=sys.stderr)
    raise SystemExit(2) from None

F: Any = torch.nn.functional

FORMAT = 1
SIZES = {"nano": (2, 64, 4), "1M": (5, 128, 4), "4M": (5, 256, 4), "16M": (5, 512, 8)}  # layers, width, heads
VOCABULARY, PROMPT_VOCABULARY, PROMPT, LENGTH = 10, 12, 10, 21
ATTEMPT = PROMPT_VOCABULARY
ROUND = LENGTH + 1  # ATTEMPT and the answer are read; the answer and the decision are predicted
ROW = PROMPT + ROUND
MEASURES = ("train", "forward", "decode")
PEAK_SIZE = {"cpu": 1024, "cuda": 8192}  # 1024 does not fill an accelerator
PEAK_PRODUCTS = 20
ENGINES = ("eager", "compile", "max-autotune")
ATTENTIONS = ("sdpa", "manual")


@dataclass(frozen=True)
class Variant:
    """One way to run a measure."""

    engine: str
    attention: str
    rows: int  # computed at a time

    def __str__(self) -> str:
        return f"{self.engine}/{self.attention}/{self.rows}"


DEFAULTS = {
    "cpu": {
        "train": Variant("compile", "manual", 64),
        "forward": Variant("compile", "manual", 64),
        "decode": Variant("compile", "manual", 512),
    },
    "cuda": {name: Variant("max-autotune", "sdpa", 512) for name in MEASURES},
}


class Block(torch.nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, heads: int, attention: str) -> None:
        super().__init__()
        self.heads, self.attention = heads, attention
        self.norm_attention = torch.nn.RMSNorm(width, eps=1e-6)
        self.qkv = torch.nn.Linear(width, 3 * width, bias=False)
        self.out = torch.nn.Linear(width, width, bias=False)
        self.norm_mlp = torch.nn.RMSNorm(width, eps=1e-6)
        self.up = torch.nn.Linear(width, 4 * width)
        self.down = torch.nn.Linear(4 * width, width)

    def project(self, x_BxNxD: Any) -> Any:
        """Queries, keys and values, each f[B, H, N, Dh]."""
        B, N, D = x_BxNxD.shape
        qkv = self.qkv(self.norm_attention(x_BxNxD)).view(B, N, 3, self.heads, D // self.heads)
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)

    def finish(self, x_BxNxD: Any, q: Any, k: Any, v: Any, visible_NxK: Any, causal: bool) -> Any:
        """Attend and apply the MLP. Visible: bool[N, K] or None for all; `causal` says that it is a triangle."""
        if self.attention == "sdpa":
            mixed = F.scaled_dot_product_attention(q, k, v, None if causal else visible_NxK, is_causal=causal)
        else:
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
            if visible_NxK is not None:
                scores = scores.masked_fill(~visible_NxK, float("-inf"))
            mixed = scores.softmax(-1) @ v
        x_BxNxD = x_BxNxD + self.out(mixed.transpose(1, 2).reshape(x_BxNxD.shape))
        h = F.gelu(self.up(self.norm_mlp(x_BxNxD)), approximate="tanh")
        return x_BxNxD + self.down(h)


class Network(torch.nn.Module):
    """Shared trunk and two heads, with a static cache of keys and values for decoding."""

    def __init__(self, preset: str, attention: str) -> None:
        super().__init__()
        layers, width, heads = SIZES[preset]
        self.tokens = torch.nn.Embedding(ATTEMPT + 1, width)
        self.offsets = torch.nn.Parameter(0.02 * torch.randn(ROW, width))
        self.blocks = torch.nn.ModuleList(Block(width, heads, attention) for _ in range(layers))
        self.norm = torch.nn.RMSNorm(width, eps=1e-6)
        self.sample_head = torch.nn.Linear(width, VOCABULARY)
        self.decide_head = torch.nn.Linear(width, 2)
        self.register_buffer("visible", torch.ones(ROW, ROW, dtype=torch.bool).tril(), persistent=False)
        torch.nn.init.normal_(self.tokens.weight, std=0.02)

    def make_cache(self, rows: int, dtype: Any) -> None:
        """Room for whole rows, in buffers: their addresses stay, as a captured graph of the device needs."""
        for block in self.blocks:
            head = self.tokens.embedding_dim // block.heads
            for name in ("keys", "values"):
                empty = torch.zeros(rows, block.heads, ROW, head, dtype=dtype, device=self.offsets.device)
                block.register_buffer(name, empty, persistent=False)

    def logits(self, ids_BxN: Any) -> tuple[Any, Any]:
        """(answer logits f[B, L, V], decision logits f[B, 2]) of whole rows."""
        x = self.tokens(ids_BxN) + self.offsets
        for block in self.blocks:
            x = block.finish(x, *block.project(x), self.visible, True)
        x = self.norm(x[:, PROMPT:])
        return self.sample_head(x[:, :LENGTH]), self.decide_head(x[:, LENGTH])

    def loss(self, ids_BxN: Any, decision_B: Any) -> Any:
        """Sum over answer tokens and decisions of the negative log-likelihood, nats."""
        answers, decisions = self.logits(ids_BxN)
        answer_nats = F.cross_entropy(answers.flatten(0, 1), ids_BxN[:, PROMPT + 1 :].flatten(), reduction="sum")
        return answer_nats + F.cross_entropy(decisions, decision_B, reduction="sum")

    def log_probs(self, ids_BxN: Any) -> tuple[Any, Any]:
        """(log pi_sample f[B, L, V], log pi_d f[B, 2])."""
        answers, decisions = self.logits(ids_BxN)
        return answers.log_softmax(-1), decisions.log_softmax(-1)

    def read_prompt(self, ids_BxP: Any) -> None:
        """Write the prompt's keys and values; what the last block makes of them is not needed."""
        x = self.tokens(ids_BxP) + self.offsets[:PROMPT]
        for i, block in enumerate(self.blocks):
            q, k, v = block.project(x)
            block.keys[:, :, :PROMPT].copy_(k)
            block.values[:, :, :PROMPT].copy_(v)
            if i + 1 < len(self.blocks):
                x = block.finish(x, q, k, v, self.visible[:PROMPT, :PROMPT], True)

    def read_token(self, ids_B: Any, at: Any) -> Any:
        """Hidden state f[B, D] of a token at slot `at`: an int, or i64[1] for a program that serves all slots."""
        if isinstance(at, int):
            x, visible, seen = self.tokens(ids_B) + self.offsets[at], None, at + 1
        else:
            x, visible, seen = self.tokens(ids_B) + self.offsets[at], self.visible[at], ROW
        x = x[:, None]
        for block in self.blocks:
            q, k, v = block.project(x)
            if isinstance(at, int):
                block.keys[:, :, at : at + 1].copy_(k)
                block.values[:, :, at : at + 1].copy_(v)
            else:
                block.keys.index_copy_(2, at, k)
                block.values.index_copy_(2, at, v)
            x = block.finish(x, q, block.keys[:, :, :seen], block.values[:, :, :seen], visible, False)
        return self.norm(x[:, 0])

    def sample_token(self, ids_B: Any, at: Any) -> tuple[Any, Any]:
        """Read a token and draw the next one: (i64[B], its log-prob f[B])."""
        return draw(self.sample_head(self.read_token(ids_B, at)))

    def sample_decision(self, ids_B: Any, at: Any) -> tuple[Any, Any]:
        """Read the last token and draw the decision."""
        return draw(self.decide_head(self.read_token(ids_B, at)))


def draw(logits_BxV: Any) -> tuple[Any, Any]:
    """One multinomial draw a row at temperature 1, as a race of exponential clocks: no synchronisation."""
    logp = logits_BxV.float().log_softmax(-1)
    drawn = (logp.exp() / torch.empty_like(logp).exponential_()).argmax(-1, keepdim=True)
    return drawn[:, 0], logp.gather(-1, drawn)[:, 0]


@dataclass(frozen=True)
class Setting:
    """What is measured, and where."""

    preset: str
    batch: int
    device: str
    dtype: str

    @property
    def weights(self) -> int:
        """Entries of the blocks' matrices: those whose products are counted."""
        layers, width, _ = SIZES[self.preset]
        return 12 * layers * width**2

    def precision(self) -> Any:
        """Context of the network's products."""
        if self.dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device, getattr(torch, self.dtype))

    def rows(self) -> Any:
        """Random whole rows i64[B, ROW]."""
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, VOCABULARY, (self.batch, ROW), generator=generator)
        ids[:, PROMPT] = ATTEMPT
        return ids.to(self.device)

    def network(self, attention: str) -> Network:
        """The same weights every time."""
        torch.manual_seed(0)
        return Network(self.preset, attention).to(self.device)


def compiled(setting: Setting, variant: Variant, function: Any, *, small: bool = False) -> Any:
    """The function as the variant's engine runs it; `small` calls on a GPU go through a captured graph."""
    if variant.engine == "eager":
        return function
    mode = "default" if variant.engine == "compile" else "max-autotune"
    if setting.device == "cuda":
        mode = "reduce-overhead" if small else mode.replace("max-autotune", "max-autotune-no-cudagraphs")
    return torch.compile(function, mode=mode, fullgraph=True, dynamic=False)


def train(setting: Setting, variant: Variant) -> Callable[[], Any]:
    """One step: gradient over the batch, in parts, clipped, and the fused Adam update."""
    network, ids = setting.network(variant.attention), setting.rows()
    parts = list(zip(ids.split(variant.rows), (ids[:, 0] % 2).split(variant.rows), strict=True))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    loss = compiled(setting, variant, network.loss)
    scale = 1 / (setting.batch * ROUND)

    def step() -> Any:
        total = torch.zeros((), device=setting.device)
        for part in parts:
            with setting.precision():
                nats = loss(*part) * scale
            nats.backward()
            total += nats.detach()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad()
        return total

    return step


def forward(setting: Setting, variant: Variant) -> Callable[[], Any]:
    """Log-probs of whole rows."""
    network = setting.network(variant.attention)
    parts = setting.rows().split(variant.rows)
    log_probs = compiled(setting, variant, network.log_probs)

    @torch.no_grad()
    def call() -> Any:
        with setting.precision():
            outputs = [tuple(x.clone() for x in log_probs(part)) for part in parts]
        return tuple(torch.cat(x) for x in zip(*outputs, strict=True))

    return call


def decode(setting: Setting, variant: Variant) -> Callable[[], Any]:
    """(whole rows i64[B, ROW], log-probs f[B, L + 1] of the drawn answers and decisions, decisions i64[B])."""
    network = setting.network(variant.attention)
    network.make_cache(variant.rows, getattr(torch, setting.dtype))
    prompts = setting.rows()[:, :PROMPT].contiguous().split(variant.rows)
    read_prompt = compiled(setting, variant, network.read_prompt)
    sample_token = compiled(setting, variant, network.sample_token, small=True)
    sample_decision = compiled(setting, variant, network.sample_decision, small=True)
    slots: Any = range(PROMPT, ROW)
    if variant.engine != "eager":
        slots = list(torch.arange(PROMPT, ROW, device=setting.device).split(1))
    attempt = torch.full((variant.rows,), ATTEMPT, device=setting.device)

    def part(prompt_BxP: Any) -> tuple[Any, Any, Any]:
        read_prompt(prompt_BxP)
        ids, logps = [attempt], []
        for j, at in enumerate(slots):
            drawn, logp = (sample_token if j < LENGTH else sample_decision)(ids[-1], at)
            ids.append(drawn.clone())  # a captured graph writes its next output to the same place
            logps.append(logp.clone())
        return torch.cat([prompt_BxP, torch.stack(ids[:-1], 1)], 1), torch.stack(logps, 1), ids[-1]

    @torch.no_grad()
    def call() -> Any:
        with setting.precision():
            outputs = [part(prompt) for prompt in prompts]
        return tuple(torch.cat(x) for x in zip(*outputs, strict=True))

    return call


PREPARE = {"train": train, "forward": forward, "decode": decode}


def decode_error(setting: Setting, call: Callable[[], Any], attention: str) -> float:
    """Largest difference, nats, of the log-probs from sampling and those from reading the sampled rows at once."""
    ids, drawn_BxT, decision_B = call()
    with torch.no_grad(), setting.precision():
        answers, decisions = setting.network(attention).log_probs(ids)
    read = torch.cat(
        [answers.gather(-1, ids[:, PROMPT + 1 :, None])[..., 0], decisions.gather(-1, decision_B[:, None])], 1
    )
    return float((read - drawn_BxT).abs().max())


def synchronize(setting: Setting) -> None:
    """Wait for the device."""
    if setting.device == "cuda":
        torch.cuda.synchronize()


def seconds(setting: Setting, call: Callable[[], Any]) -> float:
    """Wall time of one call."""
    synchronize(setting)
    start = time.perf_counter()
    call()
    synchronize(setting)
    return time.perf_counter() - start


def peak(setting: Setting) -> Callable[[], float]:
    """A function that measures the FLOP/s of a square product."""
    size = PEAK_SIZE[setting.device]
    x = torch.randn(size, size, device=setting.device, dtype=getattr(torch, setting.dtype))
    out = torch.empty_like(x)

    @torch.no_grad()
    def products() -> None:
        for _ in range(PEAK_PRODUCTS):
            torch.mm(x, x, out=out)

    products()
    return lambda: 2 * size**3 * PEAK_PRODUCTS / seconds(setting, products)


def tokens(setting: Setting, measure: str) -> int:
    """Tokens of one call: whole rows, or the new tokens of sampling."""
    return setting.batch * (ROUND if measure == "decode" else ROW)


def spread(values: list[float]) -> dict[str, float]:
    """Best and median."""
    return {"best": max(values), "median": statistics.median(values)}


def rates(setting: Setting, measure: str, variants: list[Variant], repeats: int) -> dict[str, dict[str, float]]:
    """Tokens/s of each variant, warmed up twice and timed in turns; one that cannot run is named and left out."""
    calls: dict[str, Callable[[], Any]] = {}
    for variant in variants:
        begun = time.perf_counter()
        try:
            call = PREPARE[measure](setting, variant)
            call()
            call()
        except Exception as error:  # a compiler of the user's machine may fail in any way
            first = str(error).strip().splitlines()[:1]
            print(f"  {measure} {variant}: does not run here: {type(error).__name__} {first}", flush=True)
            continue
        calls[str(variant)] = call
        print(f"  {measure} {variant}: ready after {time.perf_counter() - begun:.1f} s", flush=True)
    n = tokens(setting, measure)
    timed: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            timed[name].append(n / seconds(setting, call))
    return {name: spread(values) for name, values in timed.items()}


def run(setting: Setting, variants: dict[str, Variant], repeats: int) -> dict[str, Any]:
    """Each measure between two matrix products, in every round."""
    calls = {name: PREPARE[name](setting, variants[name]) for name in MEASURES}
    for call in calls.values():
        call()
        call()
    error = decode_error(setting, calls["decode"], variants["decode"].attention)
    # 22 dependent steps of float32 rounding stay far below 1e-3 nats, a wrong cache or mask far above.
    allowed = 1e-3 if setting.dtype == "float32" else 0.2
    if error > allowed:
        raise SystemExit(f"cached decoding and the forward pass differ by {error:.2g} nats, more than {allowed}")
    flops = {"train": 6 * setting.weights, "forward": 2 * setting.weights}
    measure_peak = peak(setting)
    peaks: list[float] = []
    rate: dict[str, list[float]] = {name: [] for name in MEASURES}
    fraction: dict[str, list[float]] = {name: [] for name in flops}
    for _ in range(repeats):
        for name, call in calls.items():
            before = measure_peak()
            rate[name].append(tokens(setting, name) / seconds(setting, call))
            here = 0.5 * (before + measure_peak())
            peaks.append(here)
            if name in flops:
                fraction[name].append(rate[name][-1] * flops[name] / here)
    ratio = [d / f for d, f in zip(rate["decode"], rate["forward"], strict=True)]
    row: dict[str, Any] = {f"{name}_tokens_per_s": statistics.median(rate[name]) for name in MEASURES}
    row["matmul_peak_flops"] = statistics.median(peaks)
    row |= {f"{name}_fraction_of_peak": statistics.median(fraction[name]) for name in flops}
    row["decode_over_forward"] = statistics.median(ratio)
    row["best"] = {f"{name}_tokens_per_s": max(rate[name]) for name in MEASURES} | {"matmul_peak_flops": max(peaks)}
    row["rounds"] = rate
    row["decode_error_nats"] = error
    return row


def grid(setting: Setting, engines: list[str], attentions: list[str], rows: list[int]) -> list[Variant]:
    """All variants whose parts divide the batch."""
    rows = sorted({r for r in rows if r <= setting.batch and setting.batch % r == 0})
    return [Variant(*choice) for choice in itertools.product(engines, attentions, rows)]


def device_name(device: str) -> str:
    """The processor or accelerator in words."""
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; exit status 2 for what is out of range."""
    parser = argparse.ArgumentParser(
        description="A plain PyTorch loop of the transformer, timed against the machine's matrix product."
    )
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--preset", choices=SIZES, default="1M")
    parser.add_argument("--batch", type=int, default=512, help="rows a step")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of measurement")
    parser.add_argument("--device", choices=sorted(PEAK_SIZE), default=default_device)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the products")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of one operation")
    parser.add_argument("--tune", action="store_true", help="time the grid of variants first and take the fastest")
    parser.add_argument("--tune-repeats", type=int, default=3)
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=list(MEASURES), help="which to tune")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=["eager", "compile"], help="to tune over")
    parser.add_argument("--attentions", nargs="+", choices=ATTENTIONS, default=list(ATTENTIONS), help="to tune over")
    parser.add_argument("--rows", nargs="+", type=int, default=[32, 64, 128, 512], help="of a part, to tune over")
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args(argv)
    for name in ("batch", "repeats", "threads", "tune_repeats"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if any(r < 1 for r in args.rows):
        parser.error("--rows must be at least 1")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device")
    return args


def main() -> None:
    """Tune if asked, measure, print a table, write the JSON file."""
    args = arguments()
    torch.set_num_threads(args.threads)
    if args.device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32
    torch._dynamo.config.recompile_limit = 256  # one program a variant, all of the same functions
    setting = Setting(args.preset, args.batch, args.device, args.dtype)
    chosen: dict[str, Variant] = {}
    for name, v in DEFAULTS[args.device].items():
        chosen[name] = v if args.batch % v.rows == 0 else Variant(v.engine, v.attention, args.batch)
    tuned: dict[str, dict[str, dict[str, float]]] = {name: {} for name in MEASURES}
    if args.tune:
        variants = {str(v): v for v in grid(setting, args.engines, args.attentions, args.rows)}
        for name in args.measures:
            tuned[name] = rates(setting, name, list(variants.values()), args.tune_repeats)
            torch._dynamo.reset()
            if tuned[name]:
                chosen[name] = variants[max(tuned[name], key=lambda v: tuned[name][v]["best"])]
            for v, rate in sorted(tuned[name].items(), key=lambda item: -item[1]["best"]):
                print(f"{name:8} {v:24} best {rate['best']:11,.0f}  median {rate['median']:11,.0f} tokens/s")
    row = run(setting, chosen, args.repeats)
    report = {
        "format": FORMAT,
        "preset": args.preset,
        **row,
        "variants": {name: {"chosen": str(chosen[name]), "tokens_per_s": tuned[name]} for name in MEASURES},
        "device": device_name(args.device),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "threads": args.threads,
        "batch": args.batch,
        "dtype": args.dtype,
    }
    print(f"{args.preset} on {report['device']}, {args.threads} threads, {args.dtype}, torch {torch.__version__}")
    print(f"{'measure':8} {'variant':24} {'best':>14} {'median':>14}  fraction of the matrix product")
    for name in MEASURES:
        best, median = row["best"][f"{name}_tokens_per_s"], row[f"{name}_tokens_per_s"]
        of_peak = f"{row[f'{name}_fraction_of_peak']:.3f}" if f"{name}_fraction_of_peak" in row else ""
        print(f"{name:8} {chosen[name]!s:24} {best:14,.0f} {median:14,.0f}  {of_peak}")
    best, median = row["best"]["matmul_peak_flops"], row["matmul_peak_flops"]
    print(f"{'matmul':8} {'':24} {best:14.3g} {median:14.3g}")
    print(f"decode / forward: {row['decode_over_forward']:.3f}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
