import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from _helpers.perturb import perturb_, train_omegas_
from torch import Tensor

import admin_init
from admin_init import NotPostLNError, find_sites
from admin_init.nn import Transformer, TransformerConfig
from admin_init.nn.dropout import dropout as drop
from admin_init.nn.residual import PostResidual
from admin_init.scaled_skip import ScaledSkip


def build(residual: str = "post", **changed: Any) -> Transformer:
    tiny: dict[str, Any] = {
        "vocabulary_size": 40,
        "dim": 16,
        "ffn_dim": 32,
        "heads": 2,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "dropout": 0.0,
        "residual": residual,
    }
    torch.manual_seed(0)
    return Transformer(TransformerConfig(**tiny | changed))


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    source, target = torch.randint(4, 40, (2, 3, 7), generator=generator)
    source[1, 4:] = source[2, :2] = target[0, 5:] = 1
    return source, target


NAMES = {
    "encoder": [f"encoder.layers.{i}.{place}" for i in range(2) for place in ("self_attn", "ffn")],
    "decoder": [
        f"decoder.layers.{i}.{place}"
        for i in range(2)
        for place in ("self_attn", "cross_attn", "ffn")
    ],
}


def test_sites_are_found_in_the_order_of_execution() -> None:
    sites = find_sites(build())
    assert [site.name for site in sites] == NAMES["encoder"] + NAMES["decoder"]
    assert [site.stack for site in sites] == ["encoder"] * 4 + ["decoder"] * 6
    assert all(site.width == 16 and not site.installed for site in sites)


def test_install_changes_no_output(batch: tuple[Tensor, Tensor]) -> None:
    model = perturb_(build()).eval()
    before, keys = model(*batch), list(model.state_dict())
    admin_init.install_(model)
    assert torch.equal(model(*batch), before)
    added = [key for key in model.state_dict() if key not in keys]
    sites = NAMES["encoder"] + NAMES["decoder"]
    assert added == [f"{name}_residual.skip.omega" for name in sites]
    trained = [site.omega.requires_grad for site in find_sites(model) if site.omega is not None]
    assert trained == [False] + [True] * 3 + [False] + [True] * 5


def test_an_installed_post_model_is_the_style_admin(batch: tuple[Tensor, Tensor]) -> None:
    installed, admin = admin_init.install_(build("post")), build("admin")
    ours, theirs = installed.state_dict(), admin.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    trained = [{n: p.requires_grad for n, p in m.named_parameters()} for m in (installed, admin)]
    assert trained[0] == trained[1]
    profiles = [admin_init.profile(model, [batch]) for model in (installed, admin, build("post"))]
    assert profiles[0] == profiles[1] == profiles[2]
    train_omegas_(perturb_(admin))
    installed.load_state_dict(admin.state_dict(), strict=True)
    assert torch.equal(installed.eval()(*batch), admin.eval()(*batch))


def branch(layer: Any, place: str, x: Tensor, memory: Tensor, masks: Any, p: float) -> Tensor:
    """A sub-layer from its weights, by hand; dropout on its output."""
    if place == "ffn":
        x = F.linear(x, layer.ffn.fc1.weight, layer.ffn.fc1.bias).clamp(min=0)
        out = F.linear(x, layer.ffn.fc2.weight, layer.ffn.fc2.bias)
        return drop(out, p, training=True)
    attention = getattr(layer, place)
    if place == "self_attn":
        q, k, v = F.linear(x, attention.in_proj.weight, attention.in_proj.bias).chunk(3, dim=-1)
    else:
        q = F.linear(x, attention.q_proj.weight, attention.q_proj.bias)
        k, v = F.linear(memory, attention.kv_proj.weight, attention.kv_proj.bias).chunk(2, dim=-1)
    heads = [t.view(*t.shape[:2], 2, 8).transpose(1, 2) for t in (q, k, v)]
    logits = heads[0] @ heads[1].transpose(-1, -2) / math.sqrt(8)
    weights = logits.masked_fill(masks[place], -math.inf).softmax(dim=-1)
    x = (weights @ heads[2]).transpose(1, 2).flatten(2)
    out = F.linear(x, attention.out_proj.weight, attention.out_proj.bias)
    return drop(out, p, training=True)


def profile_by_hand(
    model: Transformer, source: Tensor, target: Tensor, p: float
) -> dict[str, list[float]]:
    """Source: arXiv 2004.08249 and its released code, one stack after the other."""
    omegas: dict[str, list[float]] = {}
    padding = source.eq(1)[:, None, None]
    causal = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
    memory = torch.empty(0)
    for stack, tokens, places in (
        ("encoder", source, ("self_attn", "ffn")),
        ("decoder", target, ("self_attn", "cross_attn", "ffn")),
    ):
        x = model.get_submodule(f"{stack}_embedding")(tokens)
        masks = {"self_attn": padding if stack == "encoder" else causal, "cross_attn": padding}
        omega = 1.0
        omegas[stack] = []
        for layer in model.get_submodule(stack).layers:  # type: ignore[union-attr]
            for place in places:
                f = branch(layer, place, x, memory, masks, p)
                omegas[stack].append(omega)
                scaled = omega * x
                omega = math.sqrt(scaled.var(correction=0).item() + f.var(correction=0).item())
                x = F.layer_norm(scaled + f, (16,))
        memory = x
    return omegas


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_profile_by_hand(batch: tuple[Tensor, Tensor], dropout: float) -> None:
    """The variance is that of the branch after its dropout, in one pass with that dropout."""
    model = build(dropout=dropout, encoder_layers=3)
    source, target = batch
    target = target.masked_fill(target.eq(1), 5)
    torch.manual_seed(7)
    profile = admin_init.profile(model, [(source, target)])
    torch.manual_seed(7)
    with torch.no_grad():
        expected = profile_by_hand(model.train(), source, target, dropout)
    for stack, omegas in expected.items():
        measured = [site.omega for site in profile.sites if site.stack == stack]
        assert measured == pytest.approx(omegas, rel=1e-5)
    assert profile.sites[1].elements == source.numel() * 16


def test_dropout_shows_in_the_profile(batch: tuple[Tensor, Tensor]) -> None:
    # Var[f] / (1 - p), but for the mean, which is near 0: so that the test above can fail.
    profiles = [admin_init.profile(build(dropout=p), [batch]) for p in (0.0, 0.5)]
    plain, dropped = (profile.sites[3].variance for profile in profiles)
    assert dropped > 1.2 * plain


def test_apply_sets_the_omegas_of_the_profile(batch: tuple[Tensor, Tensor]) -> None:
    model = build()
    before = model(*batch)
    profile = admin_init.profile(model, [batch])
    assert torch.equal(model(*batch), before)
    admin_init.apply_(model, profile)
    for site, measured in zip(find_sites(model), profile.sites, strict=True):
        assert site.omega is not None
        assert torch.equal(site.omega, torch.full((16,), measured.omega))
    assert (model(*batch) - before).abs().max() > 1e-2


def test_the_skip_multiplies_the_shortcut() -> None:
    residual = PostResidual(16, ScaledSkip(16))
    x, f = torch.randn(2, 3, 5, 16)
    omega = torch.rand(16) + 0.5
    with torch.no_grad():
        residual.skip.get_parameter("omega").copy_(omega)
        out = residual(x, lambda _: f, {})
    torch.testing.assert_close(out, F.layer_norm(omega * x + f, (16,)))


@pytest.mark.parametrize("share", ["all", "target", "none"])
@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_folded_with_trained_omegas(
    batch: tuple[Tensor, Tensor], share: Any, positions: Any
) -> None:
    """Omegas that differ from channel to channel, of both signs."""
    model = admin_init.install_(build(share_embeddings=share, positions=positions))
    train_omegas_(perturb_(model)).eval()
    plain = build(share_embeddings=share, positions=positions).eval()
    before = model(*batch)
    folded = admin_init.fold_(copy.deepcopy(model))
    assert torch.equal(model(*batch), before)
    scale = before.abs().max().item()
    torch.testing.assert_close(folded(*batch), before, rtol=0, atol=1e-5 * scale)
    assert list(folded.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(folded.state_dict(), strict=True)
    assert torch.equal(plain(*batch), folded(*batch))
    # And cached decoding, which reads the folded weights by another way.
    with torch.no_grad():
        encoded, cache = plain.encode(batch[0]), plain.new_cache()
        target = batch[1].masked_fill(batch[1].eq(1), 5)
        steps = [plain.decode(target[:, t : t + 1], encoded, cache) for t in range(7)]
        expected = model(batch[0], target)
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, rtol=0, atol=2e-5 * scale)


def test_a_folded_model_may_get_omegas_again(batch: tuple[Tensor, Tensor]) -> None:
    model = admin_init.install_(build())
    train_omegas_(perturb_(model)).eval()
    before = model(*batch)
    admin_init.install_(admin_init.fold_(model))
    assert all(site.installed for site in find_sites(model))
    torch.testing.assert_close(model(*batch), before, rtol=0, atol=1e-4)


@pytest.mark.parametrize("call", ["install_", "profile", "fold_", "find_sites"])
def test_pre_ln_is_refused(call: str, batch: tuple[Tensor, Tensor]) -> None:
    model = build("pre")
    keys = list(model.state_dict())
    arguments: list[Any] = [model, [batch]] if call == "profile" else [model]
    with pytest.raises(NotPostLNError, match=r"layers\.0\.self_attn` is connected by PreResidual"):
        getattr(admin_init, call)(*arguments)
    assert list(model.state_dict()) == keys
