"""Score norms and projected gradients of a tiny random GPT-2 in torch, against exact ones; and the whole way."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dsjax.adapters import torch_model  # noqa: E402
from dsjax.adapters.gradients import gradient_arrays  # noqa: E402
from dsjax.adapters.recorder import Recorder  # noqa: E402
from dsjax.cli.main import main  # noqa: E402
from dsjax.errors import InputError  # noqa: E402
from tests.adapters.gpt2 import GPT2, log_probs  # noqa: E402
from tests.adapters.page import INTRO, SECTIONS  # noqa: E402

torch.set_num_threads(1)
V, P, S, B, STOP, RESAMPLE = 16, 2, 6, 12, 9, 5  # STOP and RESAMPLE as on the page
EPS = float(np.finfo(np.float32).eps)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return GPT2(V, P + S).double()


@pytest.fixture(scope="module")
def batch():
    """Six prompts of two completions each, ragged; slots 2 and 4 decide, STOP at the end, else RESAMPLE."""
    rng = np.random.default_rng(1)
    prompt = torch.from_numpy(np.repeat(rng.integers(V, size=(B // 2, P)), 2, axis=0))
    tokens = torch.from_numpy(rng.integers(V, size=(B, S)))
    drawn = torch.arange(S) < torch.from_numpy(rng.integers(3, S + 1, size=B))[:, None]
    decision = drawn & torch.isin(torch.arange(S), torch.tensor([2, 4]))
    last = ~torch.nn.functional.pad(drawn, (0, 1))[:, 1:]
    tokens = torch.where(decision, torch.where(last, STOP, RESAMPLE), tokens)
    arrays = {"prompt": prompt, "tokens": tokens, "sample_mask": drawn & ~decision, "decision_mask": decision}
    reward = rng.normal(size=B)
    return {**arrays, "reward": reward, "group": np.arange(B) // 2, "decision_choices": V}


def exact_norm(z, v):
    """|e_v - pi| in float64, without cancellation."""
    others = np.arange(len(z)) != v
    pi = np.exp(z - z.max())
    pi /= pi.sum()
    return np.sqrt(pi[others].sum() ** 2 + (pi[others] ** 2).sum())


def test_score_norm_is_the_norm_of_the_score():
    logits = torch.randn(5, V, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    tokens = torch.arange(5)
    logp = torch.log_softmax(logits, -1)[torch.arange(5), tokens]
    (score,) = torch.autograd.grad(logp.sum(), logits)  # a row has its own softmax
    found = torch_model.token_scores(logits[None], tokens[None])
    np.testing.assert_allclose(found["score_norm"][0], score.norm(dim=-1), rtol=20 * EPS)
    np.testing.assert_allclose(found["logp"][0], logp.detach(), rtol=20 * EPS)


def test_score_norm_is_right_where_the_token_is_nearly_certain():
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.normal(size=(2, 4, 3000))).bfloat16()
    tokens = torch.from_numpy(rng.integers(3000, size=(2, 4)))
    for k, peak in enumerate((0.0, 8.0, 20.0, 45.0)):  # 1 - p of about 1, 0.7, 1e-5, 1e-16
        z[:, k].scatter_(-1, tokens[:, k, None], peak)
    exact = np.array([[exact_norm(z[i, k].double().numpy(), int(tokens[i, k])) for k in range(4)] for i in range(2)])
    found = torch_model.token_scores(z, tokens, chunk=3, stop=5)
    # Logits of up to 45 are rounded by eps/2 of that; sums of 3000 terms, in pairs, add some.
    tolerance = 64 * EPS
    np.testing.assert_allclose(found["score_norm"], exact, rtol=tolerance)
    pi = torch.softmax(z.double(), -1)
    np.testing.assert_allclose(found["stop_logp"], pi[..., 5].log(), rtol=tolerance)
    others = pi.scatter(-1, tokens[..., None], 0.0).sum(-1)
    np.testing.assert_allclose(found["logp"].double(), torch.log1p(-others), rtol=tolerance)

    pi = torch.softmax(z.float(), -1)
    p = pi.gather(-1, tokens[..., None])[..., 0]
    naive = (1 - 2 * p + (pi**2).sum(-1)).clamp(min=0.0).sqrt()
    assert (abs(naive.numpy() / exact - 1) > tolerance).any(axis=0).tolist()[2:] == [True, True]  # the control

    head = torch.randn(3000, 8, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(1))
    hidden = torch.randn(2, 4, 8, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(2))
    whole = torch_model.token_scores(hidden @ head.T, tokens, temperature=0.5)
    parts = torch_model.token_scores(hidden, tokens, temperature=0.5, head=lambda h: h @ head.T, chunk=8)
    np.testing.assert_array_equal(whole["score_norm"], parts["score_norm"])


def test_a_token_without_rivals_has_no_score():
    only = torch.full((1, 1, 4), -torch.inf).index_fill(-1, torch.tensor([2]), 3.0)
    found = torch_model.token_scores(only, torch.tensor([[2]]))
    assert {name: float(x) for name, x in found.items()} == {"logp": 0.0, "score_norm": 0.0}


def policy_loss(logp, batch):
    """A clipped token mean with a KL to 0.7 of itself: coefficients that differ from token to token."""
    mask = batch["sample_mask"] | batch["decision_mask"]
    ratio = (logp - 0.9 * logp.detach()).exp()
    A = torch.from_numpy(batch["reward"])[:, None]
    loss = -torch.minimum(ratio * A, ratio.clamp(0.8, 1.2) * A) + 0.1 * (logp - 0.7 * logp.detach()) ** 2
    return (loss * mask).sum() / mask.sum()


def test_component_gradients_are_those_of_the_loss(model, batch):
    logp = log_probs(model, batch["prompt"], batch["tokens"])
    c = torch_model.coefficients(lambda x: policy_loss(x, batch), logp)
    masks = (batch["sample_mask"], batch["decision_mask"])
    parts = torch_model.component_gradients(logp, c, *masks, model.parameters(), size=None)
    for mask, part in zip(masks, parts, strict=True):  # the other component's log-probs detached
        alone = torch.where(mask, logp, logp.detach())
        exact = torch.autograd.grad(-policy_loss(alone, batch), list(model.parameters()), retain_graph=True)
        np.testing.assert_allclose(part, torch_model.sketch(exact, None), atol=1e-14)
        projected = torch_model.sketch(exact, 64, seed=3)
        which = torch_model.component_gradients(logp, c, *masks, model.parameters(), size=64, seed=3)
        np.testing.assert_allclose(which[0 if mask is masks[0] else 1], projected, atol=1e-14)
    assert float(torch.linalg.norm(parts[0] - parts[1])) > 1e-3


def test_projection_is_unbiased_with_the_variance_it_states():
    rng = np.random.default_rng(0)
    g, h = rng.normal(size=(2, 40)) + 0.5
    m, draws = 16, 800
    pieces = [[torch.from_numpy(x[:25].reshape(5, 5)), torch.from_numpy(x[25:])] for x in (g, h)]
    pairs = [[torch_model.sketch(piece, m, seed) for piece in pieces] for seed in range(draws)]
    products = np.array([float(a @ b) for a, b in pairs])
    variance = ((g @ g) * (h @ h) + (g @ h) ** 2 - 2 * (g**2 * h**2).sum()) / m
    off = 5 * np.sqrt(variance / draws)
    assert abs(products.mean() - g @ h) < off
    # A product has some 15 times the kurtosis of a coin: its sample variance is known to sqrt(15/800).
    assert products.var() == pytest.approx(variance, rel=5 * np.sqrt(15 / draws))

    bucket = rng.integers(m, size=(draws, 40))  # the control: without signs
    unsigned = [np.bincount(b, g, m) @ np.bincount(b, h, m) for b in bucket]
    assert abs(np.mean(unsigned) - g @ h) > off


def quadratic_bound(rows):
    """Standard deviation of a projected signal times sqrt(m): sqrt(2) |A|_F of the exact rows."""
    N, gram = len(rows), rows @ rows.T
    other = 1 - np.eye(N)
    return np.sqrt(2 * np.trace(other @ gram @ other @ gram)) / (N * (N - 1))


def test_the_whole_way_from_a_model_to_convention_iv(model, batch, tmp_path, capsys):
    """The page's snippets, then `dsjax attribute`, against gradients that were never projected."""
    prompt, tokens, sample, decision = (batch[n] for n in ("prompt", "tokens", "sample_mask", "decision_mask"))
    groups = list(torch.arange(B).reshape(-1, 2))
    given = {"torch": torch, "model": model, "log_probs": log_probs, "groups": groups, "arrays": dict(batch)}
    given |= {"prompt": prompt, "tokens": tokens, "sample": sample, "decision": decision}
    for block in [*INTRO, *SECTIONS["Score norms"], *SECTIONS["Gradients: convention (iv)"]]:
        exec(block, given)
    arrays, m = given["arrays"], 1024
    file = Recorder(tmp_path).write(0, {**arrays, "old_logp": arrays["logp"]})
    out = tmp_path / "found.json"
    assert main(["attribute", str(file), "--objective", "grpo", "--resamples", "2", "--json", str(out)]) == 0
    capsys.readouterr()
    found = json.loads(out.read_text())
    assert found["logit_space"]["share"]["status"] == "available"
    assert found["decisions"]["RESAMPLE"]["push_on_stop_logit"] is not None

    def exact_gradients(at):
        logp = log_probs(model, prompt[at], tokens[at])
        given_c = (given["c"][at], sample[at], decision[at], model.parameters())
        return torch_model.component_gradients(logp, *given_c, size=None)

    exact = gradient_arrays([exact_gradients(at) for at in groups])
    whole = exact_gradients(torch.arange(B))
    wrong = np.random.default_rng(0).normal(size=(64, whole[0].numel()))  # the control: a projection without 1/sqrt(m)
    for part, G in zip(("sample", "decision"), whole, strict=True):
        g, N = exact[f"gradient_{part}"], len(groups)
        np.testing.assert_allclose(g.mean(0), G, atol=1e-13)  # units add up to the gradient of the whole batch
        signal = ((g.sum(0) ** 2).sum() - (g**2).sum()) / (N * (N - 1))
        bound = 4 * quadratic_bound(g)
        assert abs(found["gradients"][f"signal_{part}"]["value"] - signal) < bound / np.sqrt(m)
        w = g @ wrong.T
        assert abs(((w.sum(0) ** 2).sum() - (w**2).sum()) / (N * (N - 1)) - signal) > bound / np.sqrt(64)


def test_one_unit_is_not_enough():
    with pytest.raises(InputError, match="at least 2"):
        gradient_arrays([(np.ones(3), np.ones(3))])
