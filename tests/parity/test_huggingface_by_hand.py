"""Against forwards of BERT and BART that are written by hand, with omega on the shortcut."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from _helpers.differences import omegas_apart, outputs_apart
from _helpers.perturb import perturb_
from _helpers.small_huggingface import D, bart, batch_of, bert, marian
from torch import Tensor

import admin_init
from admin_init import AdminProfile, SiteProfile

HEADS, LAYERS = 2, 3
Weights = dict[str, Tensor]
Mask = Tensor | None


class Chain:
    """The reference rule for one stack, or given omegas."""

    def __init__(self, given: list[float] | None = None) -> None:
        self.given = given
        self.running = 1.0
        self.omegas: list[float] = []

    def add(self, w: Weights, norm: str, eps: float, x: Tensor, branch: Tensor) -> Tensor:
        omega = self.running if self.given is None else self.given[len(self.omegas)]
        self.omegas.append(omega)
        variances = (omega * x).var(correction=0) + branch.var(correction=0)
        self.running = variances.sqrt().item()
        # LN(omega * x + f) with this eps is LN(x + f / omega) with the model's own.
        return layer_norm(w, norm, eps * omega**2, omega * x + branch)


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def layer_norm(w: Weights, name: str, eps: float, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def attend(w: Weights, names: list[str], x: Tensor, memory: Tensor, allowed: Mask) -> Tensor:
    """Return attention before its output projection; ``names`` are those of q, k and v."""
    q, k, v = (
        linear(w, name, states).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        for name, states in zip(names, (x, memory, memory), strict=True)
    )
    scores = q @ k.transpose(-1, -2) / math.sqrt(D / HEADS)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(-2)


def bert_by_hand(w: Weights, batch: dict[str, Tensor], chains: list[Chain]) -> Tensor:
    ids, allowed, eps = batch["input_ids"], batch["attention_mask"].bool()[:, None, None], 1e-12
    x = w["bert.embeddings.word_embeddings.weight"][ids]
    x = x + w["bert.embeddings.token_type_embeddings.weight"][0]
    x = x + w["bert.embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = layer_norm(w, "bert.embeddings.LayerNorm", eps, x)
    for i in range(LAYERS):
        layer = f"bert.encoder.layer.{i}"
        attention, output = f"{layer}.attention", f"{layer}.output"
        qkv = [f"{attention}.self.{name}" for name in ("query", "key", "value")]
        branch = linear(w, f"{attention}.output.dense", attend(w, qkv, x, x, allowed))
        x = chains[0].add(w, f"{attention}.output.LayerNorm", eps, x, branch)
        branch = linear(w, f"{output}.dense", F.gelu(linear(w, f"{layer}.intermediate.dense", x)))
        x = chains[0].add(w, f"{output}.LayerNorm", eps, x, branch)
    head = "cls.predictions"
    x = layer_norm(
        w, f"{head}.transform.LayerNorm", eps, F.gelu(linear(w, f"{head}.transform.dense", x))
    )
    return x @ w["bert.embeddings.word_embeddings.weight"].T + w[f"{head}.bias"]


def bart_by_hand(w: Weights, batch: dict[str, Tensor], chains: list[Chain]) -> Tensor:
    eps = 1e-5
    padding = batch["attention_mask"].bool()[:, None, None]
    causal = torch.ones(2 * [batch["decoder_input_ids"].shape[1]]).tril().bool()

    def embed(stack: str, ids: Tensor) -> Tensor:
        # BART's positions start at 2.
        positions = w[f"model.{stack}.embed_positions.weight"][2 : 2 + ids.shape[1]]
        x = w["model.shared.weight"][ids] + positions
        return layer_norm(w, f"model.{stack}.layernorm_embedding", eps, x)

    def attention(chain: Chain, name: str, x: Tensor, memory: Tensor, allowed: Mask) -> Tensor:
        qkv = [f"{name}.{letter}_proj" for letter in "qkv"]
        branch = linear(w, f"{name}.out_proj", attend(w, qkv, x, memory, allowed))
        return chain.add(w, f"{name}_layer_norm", eps, x, branch)

    def feed_forward(chain: Chain, layer: str, x: Tensor) -> Tensor:
        branch = linear(w, f"{layer}.fc2", F.gelu(linear(w, f"{layer}.fc1", x)))
        return chain.add(w, f"{layer}.final_layer_norm", eps, x, branch)

    memory = embed("encoder", batch["input_ids"])
    for i in range(LAYERS):
        layer = f"model.encoder.layers.{i}"
        memory = attention(chains[0], f"{layer}.self_attn", memory, memory, padding)
        memory = feed_forward(chains[0], layer, memory)
    x = embed("decoder", batch["decoder_input_ids"])
    for i in range(LAYERS):
        layer = f"model.decoder.layers.{i}"
        x = attention(chains[1], f"{layer}.self_attn", x, x, causal)
        x = attention(chains[1], f"{layer}.encoder_attn", x, memory, padding)
        x = feed_forward(chains[1], layer, x)
    return x @ w["model.shared.weight"].T + w["final_logits_bias"]


def no_bert_dropout() -> Any:
    return bert(num_hidden_layers=LAYERS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def no_bart_dropout() -> Any:
    return bart(encoder_layers=LAYERS, decoder_layers=LAYERS, dropout=0.0)


@pytest.mark.support
@pytest.mark.parametrize(
    ("family", "build", "by_hand", "stacks"),
    [("BERT", no_bert_dropout, bert_by_hand, 1), ("BART", no_bart_dropout, bart_by_hand, 2)],
    ids=["BERT", "BART"],
)
def test_profile_outputs_and_gradients(
    family: str,
    build: Callable[[], Any],
    by_hand: Callable[..., Tensor],
    stacks: int,
    cells: Callable[..., None],
) -> None:
    torch.manual_seed(0)
    model = perturb_(build()).double().eval()
    batch = batch_of(model)
    parameters = dict(model.named_parameters())
    weights = parameters | dict(model.named_buffers())

    plain = [Chain([1.0] * 3 * LAYERS) for _ in range(stacks)]
    # Float64, and twelve digits: the same operations in another order.
    torch.testing.assert_close(
        by_hand(weights, batch, plain), model(**batch).logits, rtol=1e-9, atol=1e-12
    )

    profile = admin_init.profile(model, [batch])
    chains = [Chain() for _ in range(stacks)]
    by_hand(weights, batch, chains)
    expected = [omega for chain in chains for omega in chain.omegas]
    assert max(expected) > 2
    # A profile's variances are float32.
    assert [site.omega for site in profile.sites] == pytest.approx(expected, rel=1e-6)

    found = [[site.omega for site in chain] for chain in by_stack(profile)]
    outputs = by_hand(weights, batch, [Chain(omegas) for omegas in found])
    expected_gradients = gradients(outputs, parameters)
    admin_init.apply_(model, profile)
    logits = model(**batch).logits
    torch.testing.assert_close(logits, outputs, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        gradients(logits, parameters), expected_gradients, rtol=1e-9, atol=1e-12
    )
    cells(
        "Models",
        family,
        profile=f"{omegas_apart(profile, expected)} (by hand)",
        rescale=f"{outputs_apart(logits, outputs)} (by hand)",
    )


def by_stack(profile: AdminProfile) -> list[list[SiteProfile]]:
    grouped: dict[str, list[SiteProfile]] = {}
    for site in profile.sites:
        grouped.setdefault(site.stack, []).append(site)
    return list(grouped.values())


def gradients(logits: Tensor, parameters: Weights) -> dict[str, Tensor | None]:
    loss = (logits * torch.sin(torch.arange(logits.numel())).view_as(logits)).sum()
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return dict(zip(parameters, found, strict=True))


P = 0.3
"""Of the dropout between a branch and the sum; the other dropouts have other probabilities."""


def dropped_bert() -> Any:
    return bert(hidden_dropout_prob=P, attention_probs_dropout_prob=0.1)


def dropped_bart() -> Any:
    return bart(dropout=P, attention_dropout=0.1, activation_dropout=0.2)


def dropped_marian() -> Any:
    return marian(dropout=P, attention_dropout=0.1, activation_dropout=0.2)


@pytest.mark.parametrize("build", [dropped_bert, dropped_bart, dropped_marian])
def test_the_branch_is_measured_after_dropout(
    build: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = build()
    dropout, passed = F.dropout, []

    def spy(x: Tensor, p: float = 0.5, *args: Any, **kwargs: Any) -> Tensor:
        y = dropout(x, p, *args, **kwargs)
        if p == P:
            passed.append((y.var(correction=0).item(), x.var(correction=0).item()))
        return y

    monkeypatch.setattr(F, "dropout", spy)
    profile = admin_init.profile(model, [batch_of(model)])
    stacks = by_stack(profile)
    # What was drawn before belongs to the pass that finds the sites.
    del passed[: -sum(1 + len(sites) for sites in stacks)]
    # The first dropout of each stack is that of its embedding.
    for sites in stacks:
        passed.pop(0)
        for site, (after, before) in zip(sites, passed[: len(sites)], strict=True):
            # The branch was divided by omega before its dropout.
            assert site.variance == pytest.approx(site.omega**2 * after, rel=1e-4)
            # So that the comparison can fail.
            assert after > 1.2 * before
        del passed[: len(sites)]
    assert not passed
