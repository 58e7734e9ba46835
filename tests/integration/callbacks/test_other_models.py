"""Post-LN models that no adapter knows, their sites named: against forwards written by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from _helpers.differences import omegas_apart, outputs_apart
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import admin_init
from admin_init import AdminInit, SitePattern

DIM, HEADS, LAYERS, WORDS, LENGTH = 32, 4, 3, 50, 12


class LanguageModelLayer(nn.Module):
    """Causal attention with one projection for q, k and v, and a gated feed-forward network."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(DIM, 3 * DIM)
        self.out = nn.Linear(DIM, DIM)
        self.gate = nn.Linear(DIM, 2 * DIM)
        self.up = nn.Linear(DIM, 2 * DIM)
        self.down = nn.Linear(2 * DIM, DIM, bias=False)
        self.norm1 = nn.LayerNorm(DIM)
        self.norm2 = nn.LayerNorm(DIM)

    def attention(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.feed_forward(x))  # type: ignore[no-any-return]


class LanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, DIM)
        self.blocks = nn.ModuleList(LanguageModelLayer() for _ in range(LAYERS))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return x @ self.embedding.weight.T  # type: ignore[no-any-return]


class ClassifierLayer(nn.Module):
    """Attention of torch.nn, dropout as modules, and the norms in a container of their own."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(DIM, HEADS, dropout=dropout, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(DIM, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM), nn.Dropout(dropout)
        )
        self.norms = nn.ModuleDict({"attention": nn.LayerNorm(DIM), "mlp": nn.LayerNorm(DIM)})

    def forward(self, x: Tensor) -> Tensor:
        mixed, _ = self.attention(x, x, x, need_weights=False)
        x = self.norms["attention"](x + mixed)
        return self.norms["mlp"](x + self.mlp(x))  # type: ignore[no-any-return]


class Classifier(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, DIM)
        self.positions = nn.Parameter(torch.randn(LENGTH, DIM))
        self.encoder = nn.Sequential(*(ClassifierLayer(dropout) for _ in range(LAYERS)))
        self.head = nn.Linear(DIM, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(tokens) + self.positions).mean(1))  # type: ignore[no-any-return]


def x_transformer() -> nn.Module:
    """x-transformers' encoder with post-norm, its branches without dropout."""
    library = pytest.importorskip("x_transformers")
    layers = library.Encoder(dim=DIM, depth=LAYERS, heads=HEADS, pre_norm=False)
    wrapper: nn.Module = library.TransformerWrapper(
        num_tokens=WORDS, max_seq_len=LENGTH, attn_layers=layers
    )
    return wrapper


Branch = Callable[[Tensor], Tensor]


class Case(NamedTuple):
    build: Callable[[], nn.Module]
    sites: list[SitePattern]
    embed: Callable[[Any, Tensor], Tensor]
    sublayers: Callable[[Any], list[tuple[Branch, nn.Module]]]
    """Branch and norm of every residual connection, in the order of execution."""
    finish: Callable[[Any, Tensor], Tensor]


LANGUAGE_MODEL = "decoder-only language model"
CASES = {
    LANGUAGE_MODEL: Case(
        LanguageModel,
        [
            SitePattern(branch="blocks.*.out", linear="blocks.*.out", norm="blocks.*.norm1"),
            SitePattern(branch="blocks.*.down", linear="blocks.*.down", norm="blocks.*.norm2"),
        ],
        lambda model, tokens: model.embedding(tokens),
        lambda model: [
            pair
            for block in model.blocks
            for pair in ((block.attention, block.norm1), (block.feed_forward, block.norm2))
        ],
        lambda model, x: x @ model.embedding.weight.T,
    ),
    "encoder-only classifier": Case(
        Classifier,
        [
            SitePattern(
                branch="encoder.*.attention",
                linear="encoder.*.attention.out_proj",
                norm="encoder.*.norms.attention",
            ),
            SitePattern(
                branch="encoder.*.mlp", linear="encoder.*.mlp.2", norm="encoder.*.norms.mlp"
            ),
        ],
        lambda model, tokens: model.embedding(tokens) + model.positions,
        lambda model: [
            pair
            for layer in model.encoder
            for pair in (
                (lambda x, a=layer.attention: a(x, x, x)[0], layer.norms["attention"]),
                (layer.mlp, layer.norms["mlp"]),
            )
        ],
        lambda model, x: model.head(x.mean(1)),
    ),
    "x-transformers encoder": Case(
        x_transformer,
        [
            SitePattern(
                branch="attn_layers.layers.*.1.to_out",
                linear="attn_layers.layers.*.1.to_out",
                norm="attn_layers.layers.*.0.2",
            ),
            SitePattern(
                branch="attn_layers.layers.*.1.ff",
                linear="attn_layers.layers.*.1.ff.2",
                norm="attn_layers.layers.*.0.2",
            ),
        ],
        lambda model, tokens: model.token_emb(tokens) + model.pos_emb(tokens),
        lambda model: [
            (lambda x, b=block: b(x)[0] if isinstance(b(x), tuple) else b(x), norms[2])
            for norms, block, _ in model.attn_layers.layers
        ],
        lambda model, x: model.to_logits(x),
    ),
}

each = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
each_row = pytest.mark.parametrize(("row", "case"), CASES.items(), ids=CASES.keys())


def tokens(seed: int = 0) -> Tensor:
    return torch.randint(0, WORDS, (4, LENGTH), generator=torch.Generator().manual_seed(seed))


def built(case: Case) -> nn.Module:
    torch.manual_seed(1)
    return case.build().double()


@torch.no_grad()
def by_hand(case: Case, model: nn.Module, batch: Tensor) -> tuple[list[float], Tensor]:
    """Run the plain model with LN(omega * x + f), omega by the rule of the released code."""
    x, omega, omegas = case.embed(model, batch), torch.ones((), dtype=torch.double), []
    for branch, norm in case.sublayers(model):
        f = branch(x)
        omegas.append(omega.item())
        following = (omega * x).var(correction=0) + f.var(correction=0)
        x, omega = norm(omega * x + f), following.sqrt()
    return omegas, case.finish(model, x)


@pytest.mark.support
@each_row
def test_omegas_are_those_of_a_forward_written_by_hand(
    row: str, case: Case, cells: Callable[..., None]
) -> None:
    model, batch = built(case), tokens()
    sites = admin_init.named_sites(model, case.sites)
    assert len(sites) == 2 * LAYERS
    profile = admin_init.profile(model, [batch], sites=sites)
    expected, _ = by_hand(case, model, batch)
    # LN(x + f / omega) is LN(omega * x + f) up to the eps of the norms before.
    assert [site.omega for site in profile.sites] == pytest.approx(expected, rel=1e-4)
    cells("Models", row, profile=f"{omegas_apart(profile, expected)} (by hand)")
    if row != LANGUAGE_MODEL:
        cells("Models", row, generate="-")


@pytest.mark.support
@each_row
def test_outputs_are_those_of_a_forward_written_by_hand(
    row: str, case: Case, cells: Callable[..., None]
) -> None:
    model, batch = built(case), tokens()
    plain = copy.deepcopy(model)
    before = model(batch)
    sites = admin_init.named_sites(model, case.sites)
    admin_init.install_(model, sites=sites)
    assert torch.equal(model(batch), before)
    admin_init.apply_(model, admin_init.profile(model, [batch], sites=sites), sites=sites)
    _, expected = by_hand(case, plain, batch)
    rescaled = model(batch)
    # The eps of the layer norms is the same, x + f / omega is smaller than omega * x + f.
    torch.testing.assert_close(rescaled, expected, rtol=0, atol=1e-4 * expected.abs().max())
    assert not torch.allclose(rescaled, before, atol=1e-2)
    admin_init.fold_(model, sites=sites)
    torch.testing.assert_close(model(batch), rescaled, rtol=1e-9, atol=1e-12)
    assert model.state_dict().keys() == plain.state_dict().keys()
    apart = f"{outputs_apart(rescaled, expected)} (by hand)"
    cells("Models", row, rescale=apart, fold=outputs_apart(model(batch), rescaled))


@pytest.mark.support
def test_generation_before_and_after_fold(cells: Callable[..., None]) -> None:
    model, patterns = built(CASES[LANGUAGE_MODEL]), CASES[LANGUAGE_MODEL].sites
    # As it is built, a model with tied embeddings repeats its last token.
    for parameter in model.blocks.parameters():  # type: ignore[union-attr]
        parameter.data.mul_(5 if parameter.dim() > 1 else 1)

    @torch.no_grad()
    def generate() -> Tensor:
        text = tokens()
        for _ in range(8):
            text = torch.cat([text, model(text)[:, -1:].argmax(-1)], dim=1)
        return text

    plain = generate()
    sites = admin_init.named_sites(model, patterns)
    admin_init.apply_(model, admin_init.profile(model, [tokens()], sites=sites), sites=sites)
    rescaled = generate()
    assert not rescaled.equal(plain)
    assert len(rescaled[:, LENGTH:].unique()) > 5
    admin_init.fold_(model, sites=sites)
    assert generate().equal(rescaled)
    cells("Models", LANGUAGE_MODEL, generate="the same tokens")


class Module(pl.LightningModule):
    """Trains a model to say its tokens, or their class."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.model = case.build()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        logits = self.model(batch[0])
        target = batch[0] if logits.dim() == 3 else batch[0][:, 0] % logits.shape[-1]
        return F.cross_entropy(logits.flatten(0, -2), target.flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.1)


@each
def test_admin_init_takes_named_sites(case: Case, tmp_path: Any) -> None:
    loader = DataLoader(TensorDataset(torch.cat([tokens(seed) for seed in range(3)])), batch_size=4)
    options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "default_root_dir": tmp_path}
    options |= {"enable_progress_bar": False, "enable_model_summary": False}
    callback = AdminInit(sites=case.sites)
    trainer = pl.Trainer(max_epochs=1, callbacks=[callback], **options)
    trainer.fit(Module(case), loader)
    profile = callback.profile
    assert profile is not None
    batch = next(iter(loader))[0]
    expected, _ = by_hand(case, Module(case).model, batch)
    assert [site.omega for site in profile.sites] == pytest.approx(expected, rel=1e-4)
    (group,) = trainer.optimizers[0].param_groups
    optimized = {id(parameter) for parameter in group["params"]}
    named = trainer.lightning_module.named_parameters()
    omegas = [p for name, p in named if name.endswith("omega")]
    assert len(omegas) == 2 * LAYERS
    assert all(id(parameter) in optimized for parameter in omegas)
    # A resumed run has the omegas, and does not profile again.
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    resumed = AdminInit(sites=case.sites)
    other = pl.Trainer(max_epochs=2, callbacks=[resumed], **options)
    other.fit(Module(case), loader, ckpt_path=tmp_path / "first.ckpt")
    assert resumed.profile == profile
