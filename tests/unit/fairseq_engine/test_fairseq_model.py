"""fairseq's Transformer behind our interface."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.models.transformer import TransformerModel

from admin_init.errors import AdminInitError
from admin_init.fairseq.model import FairseqTransformer
from admin_init.nn import TransformerConfig
from admin_init.translation.backend import FairseqConfig, build_transformer, search
from admin_init.translation.data.batching import collate
from admin_init.translation.search import SearchConfig

CONFIG = TransformerConfig(
    vocabulary_size=40, dim=16, ffn_dim=32, heads=2, encoder_layers=2, decoder_layers=3
)
SOURCE = torch.tensor([[5, 6, 7, 2], [1, 8, 9, 2]])
TARGET = torch.tensor([[2, 10, 11], [2, 12, 1]])


def test_the_shape_is_that_of_the_configuration() -> None:
    model = FairseqTransformer(
        replace(CONFIG, dropout=0.2, attention_dropout=0.3, activation_dropout=0.4)
    )
    assert isinstance(model.model, TransformerModel)
    assert model.config == replace(
        CONFIG, dropout=0.2, attention_dropout=0.3, activation_dropout=0.4
    )
    assert len(model.model.encoder.layers) == 2
    assert len(model.model.decoder.layers) == 3
    layer = model.model.encoder.layers[0]
    assert layer.dropout_module.p == 0.2
    assert layer.self_attn.dropout_module.p == 0.3
    assert layer.activation_dropout_module.p == 0.4
    assert model(SOURCE, TARGET).shape == (2, 3, 40)


def test_an_architecture_and_overrides_give_the_shape() -> None:
    model = FairseqTransformer(CONFIG, "transformer_iwslt_de_en", {"encoder_layers": 1})
    assert model.config == replace(
        CONFIG,
        dim=512,
        ffn_dim=1024,
        heads=4,
        encoder_layers=1,
        decoder_layers=6,
        share_embeddings="none",
    )


@pytest.mark.parametrize("residual", ["post", "pre", "admin"])
@pytest.mark.parametrize("sharing", ["all", "target", "none"])
def test_residual_styles_and_shared_embeddings(residual: str, sharing: Any) -> None:
    model = FairseqTransformer(replace(CONFIG, residual=residual, share_embeddings=sharing))
    assert model.config.residual == residual
    assert model.config.share_embeddings == sharing
    assert model.model.encoder.layers[0].normalize_before == (residual == "pre")
    encoder, decoder = model.model.encoder, model.model.decoder
    assert (encoder.embed_tokens.weight is decoder.embed_tokens.weight) == (sharing == "all")
    output = decoder.output_projection.weight
    assert (output is decoder.embed_tokens.weight) == (sharing != "none")


BUILT = "fairseq's transformer cannot be built with these options: "


@pytest.mark.parametrize(
    ("changes", "arch", "overrides", "message"),
    [
        ({}, "transformer_iwslt", {}, "`arch` must be one of .*transformer_iwslt_de_en"),
        ({}, "bart_large", {}, "`arch` must be one of .* but is 'bart_large'"),
        (
            {},
            None,
            {"dropuot": 0.1},
            "no option 'dropuot'. Did you mean 'dropout'.* encoder_layers",
        ),
        ({}, None, {"adaptive_softmax_cutoff": "10"}, "must not have 'adaptive_softmax_cutoff': "),
        ({}, None, {"encoder_embed_path": "a.txt"}, "must not have 'encoder_embed_path': "),
        ({}, None, {"encoder_layers": "two"}, f"{BUILT}'str' object"),
        ({}, None, {"encoder_attention_heads": 3}, f"{BUILT}embed_dim must be divisible"),
        ({}, None, {"decoder_embed_dim": 8}, f"{BUILT}--share-all-embeddings requires"),
        ({}, None, {"dropout": 1.5}, f"{BUILT}.*`dropout` must be"),
        (
            {"residual": "admin-closed"},
            None,
            {},
            "admin-share, pre, but `residual` is 'admin-closed",
        ),
        ({"residual": "admin-closed"}, "transformer_tiny", {}, "but `residual` is 'admin-closed'"),
        # Otherwise one half of a comparison would silently be the other.
        ({"residual": "pre"}, "transformer_tiny", {}, "`residual` is 'pre', but `encoder_normal"),
        ({"residual": "admin"}, "transformer_wmt_en_de_big_t2t", {}, "`residual` is 'admin', but"),
        (
            {"initialization": "gpt2"},
            None,
            {},
            "have .*, but `initialization` is 'gpt2'. Leave out",
        ),
        ({"input_scale": 3.0}, "transformer_tiny", {}, "have .*, but `input_scale` is 3.0. Leave"),
        ({"padding_idx": 0}, None, {}, "`padding_idx` is 1 in fairseq, but is 0"),
    ],
)
def test_what_fairseq_does_not_have(
    changes: Any, arch: str | None, overrides: Any, message: str
) -> None:
    with pytest.raises(AdminInitError, match=message):
        FairseqTransformer(replace(CONFIG, **changes), arch, overrides)


def test_the_architecture_decides_on_pre_ln() -> None:
    pre = dict.fromkeys(("encoder_normalize_before", "decoder_normalize_before"), True)
    for config in (CONFIG, replace(CONFIG, residual="pre")):
        model = FairseqTransformer(config, "transformer_tiny", pre | {"relu_dropout": 0.2})
        assert model.config.residual == "pre"
        assert model.config.activation_dropout == 0.2
        assert isinstance(model.model.decoder.layer_norm, torch.nn.LayerNorm)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_a_sequence_beyond_the_positions(positions: Any) -> None:
    model = FairseqTransformer(replace(CONFIG, max_positions=3, positions=positions))
    short = SOURCE[:, 1:]
    assert model(short, TARGET).shape == (2, 3, 40)
    for source, target in ((SOURCE, TARGET), (short, SOURCE)):
        with pytest.raises(ValueError, match="at most `max_positions` = 3 tokens, but has 4"):
            model(source, target)
    with pytest.raises(ValueError, match="at most `max_positions` = 3 tokens, but has 4"):
        model.beam_search(SOURCE)


def test_searches_that_make_no_sense() -> None:
    model = FairseqTransformer(CONFIG)
    with pytest.raises(ValueError, match="`beam_size` must be at least 1, but is 0"):
        model.beam_search(SOURCE, beam_size=0)
    with pytest.raises(ValueError, match="must have room for at least one token"):
        model.beam_search(SOURCE, max_len_b=0)
    with torch.no_grad():
        model.model.decoder.layers[0].fc1.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="no finite score"):
        model.beam_search(SOURCE, max_len_b=5)
    assert all(module.training for module in model.modules())


def test_a_model_needs_a_vocabulary() -> None:
    with pytest.raises(ValueError, match="vocabulary_size"):
        FairseqTransformer(replace(CONFIG, vocabulary_size=None))


def test_every_parameter_that_trains_gets_a_gradient() -> None:
    # One that does not stops DistributedDataParallel.
    model = FairseqTransformer(CONFIG)
    model(SOURCE, TARGET).sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_padding_on_either_side_changes_nothing() -> None:
    model = FairseqTransformer(CONFIG).eval()
    right = torch.tensor([[5, 6, 7, 2], [8, 9, 2, 1]])
    torch.testing.assert_close(model(SOURCE, TARGET), model(right, TARGET), rtol=0, atol=1e-6)


def test_a_search_leaves_the_model_as_it_was() -> None:
    model = FairseqTransformer(replace(CONFIG, dropout=0.5))
    model.model.decoder.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    keys = model.state_dict().keys()
    found = model.beam_search(SOURCE, beam_size=3, max_len_b=8)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert model.state_dict().keys() == keys
    assert [len(hypotheses) for hypotheses in found] == [3, 3]
    for hypothesis in found[0]:
        assert hypothesis.tokens[-1] == 2
        assert len(hypothesis.tokens) <= 9


def test_a_score_is_the_log_probability_over_a_power_of_the_length() -> None:
    model = FairseqTransformer(CONFIG).eval()
    best = model.beam_search(SOURCE, beam_size=2, length_penalty=0.6, max_len_b=8)[0][0]
    shifted = torch.cat([torch.tensor([2]), best.tokens[:-1]])
    log_probs = model(SOURCE[:1], shifted[None])[0].log_softmax(dim=-1)
    total = log_probs.gather(1, best.tokens[:, None]).sum().item()
    assert best.score == pytest.approx(total / len(best.tokens) ** 0.6, abs=1e-4)


LENGTHS = (1, 2, 3, 6, 10, 1, 13, 4)


@pytest.mark.parametrize("vocabulary_size", [6, 40])  # of 6, a wide beam finds too few
@pytest.mark.parametrize("fairseq", [None, FairseqConfig()], ids=["ours", "fairseq"])
def test_a_sentence_has_the_same_hypotheses_alone_and_in_any_batch(
    fairseq: FairseqConfig | None, vocabulary_size: int
) -> None:
    torch.manual_seed(0)
    model: Any = build_transformer(replace(CONFIG, vocabulary_size=vocabulary_size), fairseq).eval()
    rows = [torch.randint(3, vocabulary_size, (length,)) for length in LENGTHS]
    for row in rows:
        row[-1] = 2
    batches = [collate(range(8), rows, rows, left_pad_source=left).source for left in (False, True)]
    reached = 0
    for max_len_a, max_len_b in ((0, 6), (1.5, 2), (0.3, 1)):
        for beam_size in (1, 4):
            config = SearchConfig(beam_size=beam_size, max_len_a=max_len_a, max_len_b=max_len_b)
            alone = [search(model, row[None], config)[0] for row in rows]
            for found, row in zip(alone, rows, strict=True):
                limit = int(max_len_a * len(row) + max_len_b)
                longest = max(len(hypothesis.tokens) - 1 for hypothesis in found)
                assert longest <= limit
                reached += longest == limit
            for batch in batches:
                for one, other in zip(search(model, batch, config), alone, strict=True):
                    assert [h.tokens.tolist() for h in one] == [h.tokens.tolist() for h in other]
                    scores = [h.score for h in other]
                    assert [h.score for h in one] == pytest.approx(scores, abs=1e-5)
    assert reached > 10


def test_the_engine_chooses_the_library(tmp_path: Path) -> None:
    ours = build_transformer(CONFIG, None)
    theirs = build_transformer(CONFIG, FairseqConfig())
    assert not isinstance(ours, FairseqTransformer)
    assert isinstance(theirs, FairseqTransformer)
    settings = SearchConfig(beam_size=2, max_len_b=5)
    for model in (ours, theirs):
        found = search(model, SOURCE, settings)
        assert [len(hypotheses) for hypotheses in found] == [2, 2]
    limited = search(theirs, SOURCE, SearchConfig(beam_size=1, max_len_b=2))
    assert max(len(hypotheses[0].tokens) for hypotheses in limited) <= 3
