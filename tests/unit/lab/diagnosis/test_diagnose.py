"""A diagnosis, against figures that are computed by hand from the weights."""

import copy
import json
import math

import pytest
import torch
from torch import Tensor, nn

from admin_init.errors import AdminInitError
from admin_init.lab.diagnosis.diagnosis import Diagnosis, Sublayer, mean_diagnosis
from admin_init.lab.diagnosis.measured import diagnose_module
from admin_init.nn import TransformerConfig
from admin_init.translation.data.batching import TranslationBatch
from admin_init.translation.module import TranslationModule


def module(encoder: int = 2, decoder: int = 2, residual: str = "post") -> TranslationModule:
    torch.manual_seed(0)
    return TranslationModule(
        TransformerConfig(
            vocabulary_size=20,
            dim=16,
            ffn_dim=32,
            heads=2,
            encoder_layers=encoder,
            decoder_layers=decoder,
            residual=residual,
            dropout=0.3,
        )
    )


def batch(seed: int = 1) -> TranslationBatch:
    generator = torch.Generator().manual_seed(seed)
    source, target = (torch.randint(4, 20, (3, n), generator=generator) for n in (5, 6))
    source[0, -2:] = target[1, -2:] = 1
    shifted = torch.cat([torch.full((3, 1), 2), target[:, :-1]], dim=1)
    return TranslationBatch(source, shifted, target, torch.arange(3))


@pytest.fixture(scope="module")
def diagnosis() -> Diagnosis:
    return diagnose_module(module(), batch(), deltas=(1e-4, 1e-3), seed=7)


@pytest.fixture(scope="module")
def model() -> TranslationModule:
    """The same, without dropout, to compute with."""
    return module().eval()


def test_the_whole_model(diagnosis: Diagnosis, model: TranslationModule) -> None:
    given = batch()
    logits = model(given.source, given.target_input)
    log_z = logits.exp().sum(-1).log()
    tokens = given.target != 1
    chosen = logits.gather(-1, given.target[..., None])[..., 0]
    nll = (log_z - chosen)[tokens].mean()
    # Smoothing moves a tenth of the mass to the mean over the vocabulary.
    loss = 0.9 * nll + 0.1 * (log_z - logits.mean(-1))[tokens].mean()
    assert diagnosis.nll == pytest.approx(nll.item(), rel=1e-5)
    assert diagnosis.loss == pytest.approx(loss.item(), rel=1e-5)
    assert diagnosis.output_log_z == pytest.approx(log_z.mean().item(), rel=1e-5)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    total = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
    assert diagnosis.gradient_norm() == pytest.approx(total, rel=1e-4)
    assert (diagnosis.residual, diagnosis.layers) == ("post", "2-2")


def last_states(model: TranslationModule, given: TranslationBatch) -> tuple[Tensor, Tensor]:
    encoded = model.transformer.encode(given.source)
    padding = given.target_input == 1
    x = model.transformer.decoder_embedding(given.target_input)
    return encoded.states, model.transformer.decoder(x, *encoded, padding)


@torch.no_grad()
def test_the_output_change(diagnosis: Diagnosis, model: TranslationModule) -> None:
    given, changed = batch(), copy.deepcopy(model)
    generator = torch.Generator().manual_seed(7)
    for parameter in changed.parameters():
        if parameter.dim() == 2:
            parameter.add_(1e-3 * torch.randn(parameter.shape, generator=generator).sign())
    before, after = (last_states(one, given) for one in (model, changed))
    for name, tokens, x, y in zip(
        ("encoder output", "decoder output"),
        (given.source != 1, given.target != 1),
        before,
        after,
        strict=True,
    ):
        expected = (x - y).square().sum(-1)[tokens].mean().item()
        assert diagnosis.output_change[name]["0.001"] == pytest.approx(expected, rel=1e-4)
        assert diagnosis.output_change[name]["0.0001"] < expected / 50


def test_the_change_after_a_step_of_the_gradient(diagnosis: Diagnosis) -> None:
    """In float64, where such a small difference of outputs is exact."""
    given, model = batch(), module().eval().double()
    changed = copy.deepcopy(model)
    logits = changed(given.source, given.target_input)
    loss = nn.functional.cross_entropy(
        logits.transpose(1, 2), given.target, ignore_index=1, label_smoothing=0.1
    )
    loss.backward()
    with torch.no_grad():
        for parameter in changed.parameters():
            if parameter.dim() == 2 and parameter.grad is not None:
                parameter.sub_(1e-6 * parameter.grad.sign())
        moved = last_states(model, given)[1] - last_states(changed, given)[1]
    expected = moved.square().sum(-1)[given.target != 1].mean().item()
    assert diagnosis.gradient_step_change == pytest.approx(expected, rel=0.05)


def test_a_sublayer(diagnosis: Diagnosis, model: TranslationModule) -> None:
    given = batch()
    x = model.transformer.encoder_embedding(given.source)
    layer = model.transformer.encoder.layers[0]
    query, key, _ = (
        projected.view(3, 5, 2, 8).transpose(1, 2)
        for projected in layer.self_attn.in_proj(x).chunk(3, dim=-1)
    )
    logits = query @ key.transpose(2, 3) / math.sqrt(8)
    logits = logits.masked_fill((given.source == 1)[:, None, None], -math.inf)
    weights = logits.softmax(-1)
    entropy = -(weights * weights.clamp_min(1e-30).log()).sum(-1).mean()
    first, second, *_ = diagnosis.sublayers
    assert first.name == "encoder.layers.0.self_attn"
    assert first.largest_attention_logit == pytest.approx(logits.max().item(), rel=1e-5)
    assert first.attention_entropy == pytest.approx(entropy.item(), rel=1e-5)
    assert first.shortcut_variance == pytest.approx(x.var(correction=0).item(), rel=1e-5)
    assert second.name == "encoder.layers.0.ffn"
    assert second.largest_attention_logit is None
    assert [s.stack for s in diagnosis.sublayers] == 4 * ["encoder"] + 6 * ["decoder"]
    assert all(s.output_change > 0 and s.output_gradient_norm > 0 for s in diagnosis.sublayers)


def test_the_dependency_is_of_both_stacks_and_goes_into_json(diagnosis: Diagnosis) -> None:
    values = json.loads(json.dumps(diagnosis.to_dict()))
    share = diagnosis.sublayers[0]
    by_hand = math.sqrt(share.branch_variance / (share.branch_variance + share.shortcut_variance))
    assert values["sublayers"][0]["branch_share"] == pytest.approx(by_hand)
    assert values["layer_dependency"]["encoder"][0][:2] == pytest.approx(
        [math.sqrt(1 - by_hand**2), by_hand]
    )
    assert [len(rows) for rows in values["layer_dependency"].values()] == [4, 6]


def test_it_leaves_no_trace() -> None:
    given = module()
    before, random_state = copy.deepcopy(given.state_dict()), torch.get_rng_state()
    diagnose_module(given, batch())
    for key, value in given.state_dict().items():
        assert torch.equal(value, before[key])
    assert given.training
    assert all(parameter.grad is None for parameter in given.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
    hooks = [m._forward_hooks or m._forward_pre_hooks for m in given.modules()]
    assert not any(hooks)


@pytest.mark.parametrize("residual", ["pre", "admin", "rezero", "resi-dual"])
def test_a_decoder_alone(residual: str) -> None:
    found = diagnose_module(module(0, 2, residual), batch())
    assert list(found.output_change) == ["decoder output"]
    assert [s.stack for s in found.sublayers] == 4 * ["decoder"]
    assert found.layers == "0-2"


@pytest.mark.parametrize("left", [False, True])
def test_padding_does_not_count_in_a_sublayers_change(left: bool) -> None:
    """With two tokens of padding more, the shortest sentences are what they were."""
    given = batch()
    padding = torch.ones(3, 2, dtype=torch.int64)
    full = given._replace(source=torch.where(given.source == 1, 5, given.source))
    sides = [padding, full.source] if left else [full.source, padding]
    padded = full._replace(source=torch.cat(sides, dim=1))
    changes = [
        [s.output_change for s in diagnose_module(module(residual="pre"), one).sublayers][:4]
        for one in (full, padded)
    ]
    assert changes[1] == pytest.approx(changes[0])


def test_batches_are_averaged() -> None:
    given = module()
    one, two = (diagnose_module(given, batch(seed)) for seed in (1, 2))
    both = mean_diagnosis([one, two])
    assert both.nll == pytest.approx((one.nll + two.nll) / 2)
    change = [d.output_change["decoder output"]["0.001"] for d in (one, two, both)]
    assert change[2] == pytest.approx((change[0] + change[1]) / 2)
    first: list[Sublayer] = [d.sublayers[0] for d in (one, two, both)]
    assert first[2].largest_attention_logit == max(
        s.largest_attention_logit or 0 for s in first[:2]
    )
    assert first[2].branch_variance == pytest.approx(
        (first[0].branch_variance + first[1].branch_variance) / 2
    )
    assert mean_diagnosis([one]) is one


def test_refusals() -> None:
    for deltas, fault in (
        ((0,), "positive, but is 0"),
        ((), r"a list of at least one number, but is \(\)"),
    ):
        with pytest.raises(ValueError, match=f"`deltas` must be {fault}"):
            diagnose_module(module(), batch(), deltas=deltas)
    with pytest.raises(AdminInitError, match="is not built"):
        diagnose_module(TranslationModule(), batch())
    other = module()
    other.transformer = nn.Linear(2, 2)
    with pytest.raises(AdminInitError, match="sub-layers of Linear cannot be observed"):
        diagnose_module(other, batch())
