import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from admin_init.nn import Transformer, TransformerConfig
from admin_init.nn.attention import Attention
from admin_init.nn.cache import DecoderCache
from admin_init.nn.transformer import EncoderOutput

BOS, PAD, EOS = 0, 1, 2


def build(**options: Any) -> Transformer:
    torch.manual_seed(0)
    defaults = {
        "vocabulary_size": 20,
        "dim": 16,
        "ffn_dim": 24,
        "heads": 4,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "dropout": 0.0,
    }
    return Transformer(TransformerConfig(**defaults | options))


def reorder_(cache: DecoderCache, index: Tensor) -> None:
    """Reorder hypotheses that share no source rows."""
    cache.reorder_target_(index)
    cache.reorder_source_(index)


def sentences(
    rows: int = 3, source_length: int = 6, target_length: int = 5
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(4, 20, (rows, source_length), generator=generator)
    target = torch.randint(4, 20, (rows, target_length), generator=generator)
    source[:, -1] = EOS
    target[:, 0] = EOS
    return source, target


def pad(tokens: Tensor, left: int = 0, right: int = 0) -> Tensor:
    return F.pad(tokens, (left, right), value=PAD)


class TestInitialization:
    def test_attention(self) -> None:
        model = build(dim=64, heads=4)
        bound = math.sqrt(6 / (64 + 64))
        for module in model.modules():
            if isinstance(module, Attention):
                for name, weight in module.projections().items():
                    expected = bound * (1 if name == "output" else 2**-0.5)
                    assert 0.98 * expected < weight.abs().max() <= expected
                    assert weight.std().item() == pytest.approx(expected / math.sqrt(3), rel=0.05)

    def test_feed_forward(self) -> None:
        ffn = build(dim=64, ffn_dim=96).encoder.layers[0].ffn
        bound = math.sqrt(6 / (64 + 96))
        for weight in (ffn.fc1.weight, ffn.fc2.weight):
            assert 0.98 * bound < weight.abs().max() <= bound

    @pytest.mark.parametrize("sharing", ["all", "none"])
    def test_embeddings(self, sharing: str) -> None:
        model = build(dim=64, vocabulary_size=300, share_embeddings=sharing, positions="learned")
        for embedding in (model.encoder_embedding, model.decoder_embedding):
            for weight in (embedding.tokens.weight, embedding.positions.weight):
                assert weight[2:].std().item() == pytest.approx(64**-0.5, rel=0.03)
                assert not weight[PAD].any()
        assert model.output_proj.weight.std().item() == pytest.approx(64**-0.5, rel=0.03)

    def test_biases_and_norms(self) -> None:
        model = build(residual="pre")
        assert all(not p.any() for n, p in model.named_parameters() if n.endswith("bias"))
        norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
        assert len(norms) == 2 * 2 + 2 * 3 + 2
        assert all((norm.weight == 1).all() for norm in norms)

    @pytest.mark.parametrize("residual", ["post", "admin-closed"])
    @pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
    def test_a_model_from_the_meta_device(self, residual: str, positions: str) -> None:
        with torch.device("meta"):
            model = build(residual=residual, positions=positions)
        model.to_empty(device="cpu")
        torch.manual_seed(3)
        model.reset_parameters()
        reference = build(residual=residual, positions=positions)
        torch.manual_seed(3)
        reference.reset_parameters()
        assert model.output_proj.weight is model.encoder_embedding.tokens.weight
        torch.testing.assert_close(model(*sentences()), reference(*sentences()), rtol=0, atol=0)


class TestSharing:
    def test_all(self) -> None:
        model = build(share_embeddings="all")
        assert model.encoder_embedding.tokens is model.decoder_embedding.tokens
        assert model.output_proj.weight is model.decoder_embedding.tokens.weight

    def test_target(self) -> None:
        model = build(share_embeddings="target")
        assert model.encoder_embedding.tokens is not model.decoder_embedding.tokens
        assert model.output_proj.weight is model.decoder_embedding.tokens.weight

    def test_none(self) -> None:
        model = build(share_embeddings="none")
        assert model.encoder_embedding.tokens is not model.decoder_embedding.tokens
        assert model.output_proj.weight is not model.decoder_embedding.tokens.weight

    @pytest.mark.parametrize(("sharing", "matrices"), [("all", 1), ("target", 2), ("none", 3)])
    def test_number_of_parameters(self, sharing: str, matrices: int) -> None:
        def count(model: Transformer) -> int:
            return sum(p.numel() for p in model.parameters())

        base = count(build(share_embeddings="all"))
        assert count(build(share_embeddings=sharing)) == base + (matrices - 1) * 20 * 16


class TestMasks:
    def test_a_position_does_not_see_the_future(self) -> None:
        model = build()
        source, target = sentences()
        changed = target.clone()
        changed[:, 3] = (target[:, 3] - 3) % 16 + 4
        before, after = model(source, target), model(source, changed)
        torch.testing.assert_close(before[:, :3], after[:, :3], rtol=0, atol=1e-6)
        assert not torch.allclose(before[:, 3:], after[:, 3:], atol=1e-3)

    @pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
    @pytest.mark.parametrize("residual", ["post", "pre"])
    def test_padding_has_no_influence_on_either_side(self, positions: str, residual: str) -> None:
        model = build(positions=positions, residual=residual)
        source, target = sentences()
        logits = model(source, target)
        right = model(pad(source, right=3), pad(target, right=2))
        left = model(pad(source, left=3), pad(target, left=2))
        torch.testing.assert_close(right[:, :5], logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(left[:, 2:], logits, rtol=0, atol=1e-5)

    def test_a_sentence_is_the_same_in_any_batch(self) -> None:
        model = build()
        source, target = sentences()
        short = torch.cat([source[:1, 2:], source.new_full((1, 2), PAD)], dim=1)
        together = model(torch.cat([short, source[1:]]), target)
        torch.testing.assert_close(
            together[:1], model(source[:1, 2:], target[:1]), rtol=0, atol=1e-5
        )

    def test_gradients_are_finite_with_left_padding(self) -> None:
        model = build()
        source, target = sentences()
        model(pad(source, left=3), pad(target, left=2))[:, 2:].square().mean().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())

    def test_encode_gives_a_padding_mask_only_where_something_is_padded(self) -> None:
        model = build()
        source, _ = sentences()
        assert model.encode(source).padding is None
        padded = pad(source, right=1)
        assert torch.equal(model.encode(padded).padding, padded == PAD)


class TestCache:
    def steps(
        self, model: Transformer, encoded: EncoderOutput, target: Tensor, cache: DecoderCache
    ) -> Tensor:
        return torch.cat(
            [model.decode(target[:, t : t + 1], encoded, cache) for t in range(target.shape[1])],
            dim=1,
        )

    @pytest.mark.parametrize("residual", ["post", "pre", "admin-closed"])
    @pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
    def test_every_step_equals_the_full_forward(self, residual: str, positions: str) -> None:
        model = build(residual=residual, positions=positions).eval()
        source, target = sentences()
        encoded = model.encode(pad(source, left=1, right=1))
        stepwise = self.steps(model, encoded, target, model.new_cache())
        torch.testing.assert_close(stepwise, model.decode(target, encoded), rtol=0, atol=1e-5)

    def test_after_reorder_the_rows_go_on_as_those_they_were(self) -> None:
        model = build().eval()
        source, target = sentences()
        source[1, 3:] = PAD
        encoded, cache = model.encode(source), model.new_cache()
        self.steps(model, encoded, target[:, :3], cache)
        index = torch.tensor([2, 0, 2, 1])  # rows are repeated, moved, and none is left out
        reorder_(cache, index)
        continued = target[index]
        continued[0, 3] = 4  # rows 0 and 2 were the same until here
        stepwise = self.steps(model, encoded, continued[:, 3:], cache)
        full = model(source[index], continued)
        torch.testing.assert_close(stepwise, full[:, 3:], rtol=0, atol=1e-5)

    def test_hypotheses_can_share_the_rows_of_their_sentence(self) -> None:
        model = build().eval()
        source, target = sentences()
        encoded, cache = model.encode(source), model.new_cache()
        self.steps(model, encoded, target[:, :1], cache)
        cache.reorder_target_(torch.tensor([0, 0, 1, 1, 2, 2]))
        continued = torch.randint(4, 20, (6, 2))
        self.steps(model, encoded, continued, cache)
        keep = torch.tensor([0, 2])  # sentence 1 is done
        cache.reorder_target_(torch.tensor([1, 0, 5, 4]))
        cache.reorder_source_(keep)
        rows = torch.cat([target[:, :1].repeat_interleave(2, 0), continued], dim=1)[[1, 0, 5, 4]]
        newest = torch.randint(4, 20, (4, 1))
        full = model(source[keep].repeat_interleave(2, 0), torch.cat([rows, newest], dim=1))
        step = model.decode(newest, encoded, cache)
        torch.testing.assert_close(step[:, 0], full[:, -1], rtol=0, atol=1e-5)

    def test_reordered_after_every_token_and_longer_than_its_buffers(self) -> None:
        model = build().eval()
        source, _ = sentences()
        encoded, cache = model.encode(source), model.new_cache()
        generator = torch.Generator().manual_seed(2)
        rows, sentence = torch.empty(3, 0, dtype=torch.int64), torch.arange(3)
        for t in range(40):
            newest = torch.randint(4, 20, (len(rows), 1), generator=generator)
            rows = torch.cat([rows, newest], dim=1)
            step = model.decode(newest, encoded, cache)
            if t in (0, 15, 16, 17, 31, 32, 39):
                full = model(source[sentence], rows)
                torch.testing.assert_close(step[:, 0], full[:, -1], rtol=0, atol=1e-5)
            # More rows at first, then fewer, then again more.
            size = {0: 6, 20: 2, 33: 5}.get(t, len(rows))
            index = torch.randint(0, len(rows), (size,), generator=generator)
            rows, sentence = rows[index], sentence[index]
            reorder_(cache, index)
            if t % 7 == 0:
                reorder_(cache, torch.arange(size))  # twice in a row, to no effect

    def test_no_gradients_flow_through_it(self) -> None:
        model = build()
        source, target = sentences()
        logits = model.decode(target[:, :1], model.encode(source), model.new_cache())
        assert not logits.requires_grad

    def test_the_encoder_states_are_projected_once(self) -> None:
        model = build().eval()
        source, target = sentences()
        calls = []
        projection = model.decoder.layers[0].cross_attn.kv_proj
        projection.register_forward_hook(lambda *args: calls.append(args))
        self.steps(model, model.encode(source), target, model.new_cache())
        assert len(calls) == 1

    def test_several_tokens_at_once_are_refused(self) -> None:
        model = build().eval()
        source, target = sentences()
        with pytest.raises(ValueError, match=r"shape \(N, 1\).*\(3, 5\)"):
            model.decode(target, model.encode(source), model.new_cache())


class TestCopies:
    @pytest.mark.parametrize("residual", ["post", "pre", "admin", "admin-closed"])
    @pytest.mark.parametrize(
        "duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]
    )
    def test_deepcopy_and_pickle(
        self, residual: str, duplicate: Callable[[nn.Module], nn.Module]
    ) -> None:
        model = build(residual=residual)
        twin = duplicate(model)
        assert torch.equal(twin(*sentences()), model(*sentences()))
        assert twin.output_proj.weight is twin.encoder_embedding.tokens.weight
        assert twin.output_proj.weight is not model.output_proj.weight
        assert [p.requires_grad for p in twin.parameters()] == [
            p.requires_grad for p in model.parameters()
        ]

    @pytest.mark.parametrize("residual", ["post", "pre", "admin", "admin-closed"])
    def test_state_dict(self, residual: str) -> None:
        model, other = build(residual=residual), build(residual=residual)
        other.reset_parameters()
        assert not torch.equal(other(*sentences()), model(*sentences()))
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(*sentences()), model(*sentences()))


def test_forward_is_encode_and_decode() -> None:
    model = build()
    source, target = sentences()
    logits = model(source, target)
    assert logits.shape == (3, 5, 20)
    assert torch.equal(logits, model.decode(target, model.encode(source)))


def test_dropout_only_in_training() -> None:
    model = build(dropout=0.2, attention_dropout=0.1, activation_dropout=0.1)
    assert not torch.equal(model(*sentences()), model(*sentences()))
    model.eval()
    assert torch.equal(model(*sentences()), model(*sentences()))


@pytest.mark.parametrize("option", ["dropout", "attention_dropout", "activation_dropout"])
def test_every_dropout_reaches_every_layer(option: str) -> None:
    model = build(**{option: 0.3})
    for layer in [*model.encoder.layers, *model.decoder.layers]:
        sublayers = [module for name, module in layer.named_children() if "residual" not in name]
        rates = {getattr(sublayer, option) for sublayer in sublayers if hasattr(sublayer, option)}
        assert rates == {0.3}


def test_half_precision_masks_follow_the_activations() -> None:
    model = build()
    source, target = sentences()
    reference = model(pad(source, left=2), pad(target, left=1))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(pad(source, left=2), pad(target, left=1))
    half = model.bfloat16()(pad(source, left=2), pad(target, left=1))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), reference, rtol=0.1, atol=0.1)
    torch.testing.assert_close(half.float(), reference, rtol=0.1, atol=0.1)


def test_too_long_a_sentence_is_refused() -> None:
    model = build(max_positions=5)
    with pytest.raises(ValueError, match="at most `max_positions` = 5 tokens, but has 6"):
        model(*sentences(source_length=6))
