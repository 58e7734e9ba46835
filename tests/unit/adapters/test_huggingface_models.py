"""Hugging Face's models: what is refused, and what is seen to while a model is profiled."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

import admin_init
from admin_init import NotPostLNError, UnsupportedModelError
from admin_init.adapters.discovery import find_sites

SMALL = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
SEQ2SEQ = {
    "vocab_size": 20,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}
IDS = torch.arange(3, 15).view(2, 6)


def bert(**kwargs: Any) -> hf.BertModel:
    torch.manual_seed(0)
    return hf.BertModel(hf.BertConfig(**SMALL | kwargs))


def bart(**kwargs: Any) -> hf.BartModel:
    torch.manual_seed(0)
    return hf.BartModel(hf.BartConfig(**SEQ2SEQ | kwargs))


def gpt2() -> hf.GPT2Model:
    return hf.GPT2Model(
        hf.GPT2Config(
            vocab_size=20, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2
        )
    )  # fmt: skip


def t5() -> hf.T5Model:
    return hf.T5Model(
        hf.T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
    )


def m2m_100() -> hf.M2M100Model:
    return hf.M2M100Model(hf.M2M100Config(**SEQ2SEQ))


def albert(**kwargs: Any) -> hf.AlbertModel:
    return hf.AlbertModel(hf.AlbertConfig(**SMALL | {"embedding_size": 8} | kwargs))


SENTENCE_PAIR = {"input_ids": IDS, "decoder_input_ids": IDS[:, :4]}


@pytest.mark.parametrize(
    ("build", "batch", "count"),
    [(gpt2, IDS, 4), (t5, SENTENCE_PAIR, 10), (m2m_100, SENTENCE_PAIR, 10)],
)
def test_pre_ln_models_are_refused(build: Callable[[], nn.Module], batch: Any, count: int) -> None:
    with pytest.raises(NotPostLNError, match=rf"The {count} residual .* Pre-LN.*without Admin"):
        find_sites(build(), batch)


@pytest.mark.parametrize(("groups", "times"), [(1, 6), (2, 3)])
def test_albert_is_refused(groups: int, times: int) -> None:
    model = albert(num_hidden_layers=6, num_hidden_groups=groups)
    reason = rf"rescale none of the {2 * groups} .*runs {times} times in one pass"
    with pytest.raises(UnsupportedModelError, match=reason):
        find_sites(model, IDS)


class Both(nn.Module):
    def __init__(self, source: nn.Module, target: nn.Module) -> None:
        super().__init__()
        self.source, self.target = source, target

    def forward(self, ids: torch.Tensor) -> tuple[Any, Any]:
        return self.source(ids)[0], self.target(ids)[0]


def test_the_post_ln_half_of_a_model_is_served() -> None:
    names = [site.name.partition(".")[0] for site in find_sites(Both(bert(), gpt2()), IDS)]
    assert names == ["source"] * 4


def test_two_berts_are_two_stacks() -> None:
    sites = find_sites(Both(bert(), bert()), IDS)
    assert list(dict.fromkeys(site.stack for site in sites)) == ["source.encoder", "target.encoder"]


def test_a_bert_that_reads_another() -> None:
    torch.manual_seed(0)
    config = hf.BertConfig(**SMALL, is_decoder=True, add_cross_attention=True)
    model = hf.EncoderDecoderModel(encoder=bert(), decoder=hf.BertLMHeadModel(config))
    batch = {"input_ids": IDS, "decoder_input_ids": IDS[:, :4]}
    profile = admin_init.profile(model, [batch])
    ends = [site.name.partition(".layer.")[2][2:] for site in profile.sites]
    encoder = ["attention.output.dense", "output.dense"]
    assert ends == encoder * 2 + [encoder[0], "crossattention.output.dense", encoder[1]] * 2
    assert [site.omega for site in profile.sites].count(1) == 2


def test_a_linear_layer_that_does_more_is_folded_into_all_its_weights() -> None:
    class Adapted(nn.Module):
        def __init__(self, linear: nn.Linear) -> None:
            super().__init__()
            self.linear, self.adapter = linear, nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.linear(x) + self.adapter(x)
            return y

    model = bert().eval()
    output = model.encoder.layer[0].attention.output
    output.dense = Adapted(output.dense)
    admin_init.initialize_(model, IDS)
    first = find_sites(model)[0]
    assert first.omega is not None
    nn.init.uniform_(first.omega, 1, 2)
    expected = model(IDS)[0]
    admin_init.fold_(model)
    torch.testing.assert_close(model(IDS)[0], expected, rtol=1e-4, atol=1e-4)


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def test_feed_forward_in_chunks_is_profiled_in_one() -> None:
    whole, chunked = bert(**NO_DROPOUT), bert(**NO_DROPOUT, chunk_size_feed_forward=2)
    profile = admin_init.profile(chunked, [IDS])
    assert profile == admin_init.profile(whole, [IDS])
    assert [layer.chunk_size_feed_forward for layer in chunked.encoder.layer] == [2, 2]
    admin_init.apply_(chunked.eval(), profile)
    admin_init.apply_(whole.eval(), profile)
    # Rounding: a matrix product over fewer rows may add in another order.
    torch.testing.assert_close(chunked(IDS)[0], whole(IDS)[0], rtol=1e-5, atol=1e-5)


def test_layer_drop_drops_no_layer_while_profiling() -> None:
    model = bart(encoder_layerdrop=1.0, decoder_layerdrop=1.0, dropout=0.0)
    profile = admin_init.profile(model, [IDS])
    assert profile == admin_init.profile(bart(dropout=0.0), [IDS])
    assert (model.encoder.layerdrop, model.decoder.layerdrop) == (1.0, 1.0)


def test_layers_that_the_configuration_drops_are_profiled() -> None:
    small = {
        key: SMALL[key] for key in SMALL if key not in ("vocab_size", "max_position_embeddings")
    }
    convolutions = {"conv_dim": (16,), "conv_stride": (2,), "conv_kernel": (3,)}
    torch.manual_seed(0)
    config = hf.Wav2Vec2Config(
        **small,
        **convolutions,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        layerdrop=1.0,
        mask_time_prob=0.0,
    )
    model = hf.Wav2Vec2Model(config)
    profile = admin_init.profile(model, [torch.randn(2, 400)])
    assert [site.name for site in profile.sites] == [
        "encoder.pos_conv_embed.activation",
        *(
            f"encoder.layers.{i}.{end}"
            for i in range(2)
            for end in ("attention.out_proj", "feed_forward.output_dense")
        ),
    ]
    assert model.config.layerdrop == 1.0


def test_big_bird_may_change_its_attention() -> None:
    torch.manual_seed(0)
    config = hf.BigBirdConfig(**SMALL, block_size=2, num_random_blocks=1)
    model = hf.BigBirdModel(config)
    before = copy.deepcopy(model.state_dict())
    # Too short for block-sparse attention: the model exchanges its attentions, for good.
    profile = admin_init.profile(model, [IDS])
    assert model.attention_type == "block_sparse"
    assert type(model.encoder.layer[0].attention.self).__name__ == "BigBirdBlockSparseAttention"
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    admin_init.apply_(model, profile)
    model.eval()(IDS)
    assert model.attention_type == "original_full"
    assert [site.omega is not None for site in find_sites(model)] == [True] * 4


def test_autocast() -> None:
    torch.manual_seed(0)
    model = bart(dropout=0.0, init_std=0.3)

    def half(model: nn.Module, ids: torch.Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            model(ids)

    profile = admin_init.profile(model, [IDS], forward=half)
    assert profile.dtype == "bf16"
    expected = [site.omega for site in admin_init.profile(model, [IDS]).sites]
    assert [site.omega for site in profile.sites] == pytest.approx(expected, rel=0.02)
