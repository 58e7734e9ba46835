"""A ramp of the learning rate, against the same updates written out by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F

from admin_init.lab.diagnosis.ramp import largest_stable_rate
from admin_init.nn import TransformerConfig
from admin_init.translation.data.batching import TranslationBatch
from admin_init.translation.module import TranslationModule
from admin_init.translation.optimization import OptimizationConfig


def module(**optimization: object) -> TranslationModule:
    torch.manual_seed(0)
    return TranslationModule(
        TransformerConfig(
            vocabulary_size=20,
            dim=16,
            ffn_dim=32,
            heads=2,
            encoder_layers=1,
            decoder_layers=1,
            residual="admin",
            dropout=0.0,
        ),
        OptimizationConfig(**optimization),  # type: ignore[arg-type]
    )


def batches(count: int) -> list[TranslationBatch]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(count):
        source = torch.randint(4, 20, (4, 6), generator=generator)
        made.append(TranslationBatch(source, source.roll(1, 1), source, torch.arange(4)))
    return made


def test_the_updates_are_those_of_adam_at_a_growing_rate() -> None:
    given = module(betas=(0.8, 0.9), weight_decay=0.5)
    by_hand = copy.deepcopy(given)
    named = dict(by_hand.named_parameters())
    omegas = [p for name, p in named.items() if name.endswith("omega")]
    others = [p for name, p in named.items() if not name.endswith("omega")]
    optimizer = torch.optim.AdamW(
        [{"params": others, "weight_decay": 0.5}, {"params": omegas, "weight_decay": 0.0}],
        betas=(0.8, 0.9),
    )
    expected = []
    for rate, batch in zip((0.01, 0.02, 0.03, 0.04), 2 * batches(2), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        logits = by_hand(batch.source, batch.target_input)
        loss = F.cross_entropy(logits.transpose(1, 2), batch.target, label_smoothing=0.1)
        expected.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ramp = largest_stable_rate(given, batches(2), steps=4, peak=0.04, restore=False)
    assert ramp.rates == pytest.approx([0.01, 0.02, 0.03, 0.04])
    assert ramp.losses == pytest.approx(expected, rel=1e-5)
    for name, parameter in given.named_parameters():
        if not name.endswith("_proj.bias"):  # those of keys have gradients of rounding alone
            torch.testing.assert_close(parameter, named[name], rtol=1e-3, atol=1e-4)
    assert (ramp.rate, ramp.diverged_at, ramp.reason) == (pytest.approx(0.04), None, None)


def test_it_stops_where_the_loss_breaks_and_puts_everything_back() -> None:
    given = module().eval()
    before = copy.deepcopy(given.state_dict())
    random_state = torch.get_rng_state()
    # At such a rate the first updates already overflow.
    ramp = largest_stable_rate(given, batches(3), steps=100, peak=1e38)
    assert ramp.diverged_at is not None
    assert ramp.reason is not None
    assert "the loss is" in ramp.reason
    assert len(ramp.losses) == ramp.diverged_at + 1 < 100
    assert ramp.rate == (ramp.rates[ramp.diverged_at - 1] if ramp.diverged_at else 0)
    assert ramp.to_dict()["rate"] == ramp.rate
    for key, value in given.state_dict().items():
        assert torch.equal(value, before[key])
    assert not given.training
    assert all(parameter.grad is None for parameter in given.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"`steps` must be at least 1 .* they are 0 and 0\.05"):
        largest_stable_rate(module(), batches(1), steps=0)
    with pytest.raises(ValueError, match="`peak` positive"):
        largest_stable_rate(module(), batches(1), peak=0.0)
    with pytest.raises(ValueError, match="`batches` ran out"):
        largest_stable_rate(module(), iter(batches(2)), steps=3)
