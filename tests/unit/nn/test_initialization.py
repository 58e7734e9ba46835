"""`initialization`, `branch_scale` and `input_scale` of a Transformer."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from admin_init.nn import LanguageModel, MaskedLanguageModel, Transformer, TransformerConfig
from admin_init.nn.attention import Attention
from admin_init.nn.feed_forward import FeedForward
from admin_init.translation.prefix_lm import PrefixLanguageModel
from admin_init.translation.search import beam_search

D, INNER = 64, 96
KINDS = {
    Transformer: (2, 3),
    LanguageModel: (0, 3),
    MaskedLanguageModel: (2, 0),
    PrefixLanguageModel: (0, 3),
}
TOKENS = torch.tensor([[5, 6, 7, 8, 2], [9, 10, 2, 1, 1]])


def build(kind: Any = Transformer, **options: Any) -> Any:
    torch.manual_seed(0)
    encoder, decoder = KINDS[kind]
    shape = {"vocabulary_size": 40, "dim": D, "ffn_dim": INNER, "heads": 4, "dropout": 0.0}
    layers = {"encoder_layers": encoder, "decoder_layers": decoder}
    return kind(TransformerConfig(**shape | layers | options)).eval()


def run(model: nn.Module) -> Tensor:
    two = isinstance(model, Transformer | PrefixLanguageModel)
    logits: Tensor = model(TOKENS, TOKENS) if two else model(TOKENS)
    return logits


def linears(module: nn.Module, *, last: bool) -> list[nn.Linear]:
    """The matrices of all sub-layers that are the last of their branch, or are not."""
    return [
        layer
        for sublayer in module.modules()
        if isinstance(sublayer, Attention | FeedForward)
        for name, layer in sublayer.named_children()
        if isinstance(layer, nn.Linear) and (name in ("out_proj", "fc2")) == last
    ]


def rest(model: nn.Module) -> dict[str, Tensor]:
    """Embeddings, norms and the output projection."""
    return {
        name: weight
        for name, weight in model.state_dict().items()
        if "_proj." not in name.replace("output_proj", "") and ".fc" not in name
    }


@pytest.mark.parametrize("kind", KINDS)
def test_torch_is_that_of_a_linear_layer(kind: Any) -> None:
    model = build(kind, initialization="torch")
    for layer in [*linears(model, last=True), *linears(model, last=False)]:
        bound = layer.in_features**-0.5  # uniform, as in nn.Linear's documentation
        assert 0.98 * bound < layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)
        assert 0.8 * bound < layer.bias.abs().max() <= bound


@pytest.mark.parametrize("kind", KINDS)
def test_normal_is_that_of_bert(kind: Any) -> None:
    model = build(kind, initialization="normal")
    for layer in [*linears(model, last=True), *linears(model, last=False)]:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert layer.weight.abs().max() > 3 * 0.02
        assert not layer.bias.any()


@pytest.mark.parametrize(
    ("kind", "sublayers"),
    [
        (Transformer, {"encoder": 2 * 2, "decoder": 3 * 3}),
        (LanguageModel, {"decoder": 2 * 3}),
        (MaskedLanguageModel, {"encoder": 2 * 2}),
    ],
)
def test_gpt2_divides_what_ends_a_branch(kind: Any, sublayers: dict[str, int]) -> None:
    normal, gpt2 = (build(kind, initialization=name) for name in ("normal", "gpt2"))
    for stack, count in sublayers.items():
        ours, plain = gpt2.get_submodule(stack), normal.get_submodule(stack)
        assert len(linears(ours, last=True)) == count
        for scaled, whole in zip(linears(ours, last=True), linears(plain, last=True), strict=True):
            assert scaled.weight.std().item() == pytest.approx(0.02 * count**-0.5, rel=0.05)
            torch.testing.assert_close(scaled.weight * count**0.5, whole.weight)
            assert not scaled.bias.any()
        for same, whole in zip(linears(ours, last=False), linears(plain, last=False), strict=True):
            assert torch.equal(same.weight, whole.weight)


@pytest.mark.parametrize("initialization", ["torch", "normal", "gpt2"])
def test_embeddings_norms_and_output_are_as_ever(initialization: str) -> None:
    options = {"share_embeddings": "none", "positions": "learned", "vocabulary_size": 300}
    model = build(residual="pre", initialization=initialization, **options)
    found = rest(model)
    assert len(found) == 5 + 2 * (2 * 2 + 3 * 3 + 2)
    for name, weight in found.items():
        if name.endswith("norm.weight"):
            assert (weight == 1).all()
        elif name.endswith("norm.bias"):
            assert not weight.any()
        else:
            assert weight[2:].std().item() == pytest.approx(D**-0.5, rel=0.03), name
    assert not model.encoder_embedding.tokens.weight[1].any()


def test_a_style_that_draws_its_weights_has_the_last_word() -> None:
    torch_, normal = (build(residual="deepnorm", initialization=i) for i in ("torch", "normal"))
    for model in (torch_, normal):
        beta = 0.87 * (2**4 * 3) ** -0.0625  # Wang et al. 2022, figure 2
        for layer in linears(model.encoder, last=True):
            expected = beta * (2 / (layer.in_features + layer.out_features)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)
    assert linears(torch_, last=True)[0].bias.any()


def test_a_style_that_scales_its_weights_scales_those() -> None:
    scaled = build(residual="b2t-scaled", initialization="normal").encoder
    for layer in [*linears(scaled, last=True), *linears(scaled, last=False)]:
        assert layer.weight.std().item() == pytest.approx(0.02 * 2**-0.5, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("residual", ["post", "pre", "admin", "deepnorm", "t-fixup", "sub-ln"])
@pytest.mark.parametrize("initialization", ["xavier", "torch", "gpt2"])
def test_branches_are_scaled_by_their_last_matrix(
    kind: Any, residual: str, initialization: str
) -> None:
    options = {"residual": residual, "initialization": initialization}
    plain, scaled = build(kind, **options), build(kind, **options, branch_scale=4)
    weights = {name: 4.0 * w for name, w in plain.state_dict().items() if is_last(name)}
    assert len(weights) == 2 * len(linears(plain, last=True))
    for name, weight in scaled.state_dict().items():
        assert torch.equal(weight, weights.get(name, plain.state_dict()[name])), name


def is_last(name: str) -> bool:
    return ".out_proj." in name or ".fc2." in name


def test_branches_are_four_times_as_large() -> None:
    plain, scaled = (
        build(initialization="torch", branch_scale=g).encoder.layers[0].ffn for g in (1, 4)
    )
    x = torch.randn(2, 5, D)
    torch.testing.assert_close(scaled(x), 4 * plain(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("residual", ["post", "pre"])
@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_the_input_is_scaled_as_a_hook_would(kind: Any, residual: str, positions: str) -> None:
    plain, scaled = (
        build(kind, residual=residual, positions=positions, input_scale=s) for s in (1.0, 3.0)
    )
    for name, weight in scaled.state_dict().items():
        assert torch.equal(weight, plain.state_dict()[name])
    before = run(plain)
    embeddings = [m for n, m in plain.named_modules() if n.endswith("embedding")]
    assert len(embeddings) == (2 if kind is Transformer else 1)
    for embedding in embeddings:
        embedding.register_forward_hook(lambda _module, _inputs, output: 3 * output)
    assert torch.equal(run(scaled), run(plain))
    assert not torch.allclose(run(scaled), before, atol=1e-2)


def test_the_input_is_scaled_with_dropout_too() -> None:
    plain, scaled = (
        build(dropout=0.5, input_scale=s).train().encoder_embedding for s in (1.0, 3.0)
    )
    torch.manual_seed(1)
    expected = 3 * plain(TOKENS)
    torch.manual_seed(1)
    torch.testing.assert_close(scaled(TOKENS), expected)


@pytest.mark.parametrize("residual", ["post", "pre", "admin-closed"])
def test_the_input_is_scaled_token_by_token(residual: str) -> None:
    model = build(residual=residual, input_scale=3.0)
    encoded, cache = model.encode(TOKENS), model.new_cache()
    target = torch.tensor([[2, 9, 8, 7], [2, 4, 5, 6]])
    steps = [model.decode(target[:, t : t + 1], encoded, cache) for t in range(4)]
    whole = model.decode(target, encoded)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, rtol=0, atol=1e-5)


def test_the_score_of_a_translation_is_that_of_the_whole_model() -> None:
    model = build(residual="pre", input_scale=3.0)
    for row, (best, *_) in zip(TOKENS, beam_search(model, TOKENS, max_len_b=6), strict=True):
        target_input = torch.cat([torch.tensor([2]), best.tokens[:-1]])
        logits = model(row[None], target_input[None])[0].log_softmax(-1)
        total = logits.gather(1, best.tokens[:, None]).sum() / len(best.tokens)
        assert best.score == pytest.approx(total.item(), abs=1e-4)


def test_a_model_from_the_meta_device() -> None:
    options = {"initialization": "gpt2", "branch_scale": 2.0, "input_scale": 3.0}
    with torch.device("meta"):
        model = build(**options)
    model.to_empty(device="cpu")
    for one in (model, reference := build(**options)):
        torch.manual_seed(3)
        one.reset_parameters()
    assert torch.equal(run(model), run(reference))
