"""Which library a translation module's Transformer comes from."""

from dataclasses import replace
from importlib.metadata import version

import pytest
import torch

from admin_init._utils.checkpoints import read_checkpoint
from admin_init.errors import AdminInitError
from admin_init.nn import Transformer, TransformerConfig
from admin_init.translation.backend import FairseqConfig, build_transformer, search
from admin_init.translation.checkpoint import load_module
from admin_init.translation.module import TranslationModule
from admin_init.translation.search import SearchConfig, beam_search

CONFIG = TransformerConfig(
    vocabulary_size=40, dim=16, ffn_dim=32, heads=2, encoder_layers=1, decoder_layers=1
)
SOURCE = torch.tensor([[5, 6, 7, 2], [8, 9, 2, 1]])
TARGET = torch.tensor([[2, 10, 11], [2, 12, 1]])


def test_our_own_is_the_default() -> None:
    model = build_transformer(CONFIG, None)
    assert isinstance(model, Transformer)
    found = search(model, SOURCE, SearchConfig(beam_size=2, max_len_b=5))
    expected = beam_search(model, SOURCE, beam_size=2, max_len_b=5)
    assert [[h.tokens.tolist() for h in one] for one in found] == [
        [h.tokens.tolist() for h in one] for one in expected
    ]
    assert [h.score for h in found[1]] == [h.score for h in expected[1]]


def test_a_compiled_model_is_searched_too() -> None:
    compiled = torch.compile(build_transformer(CONFIG, None), backend="eager")
    assert not isinstance(compiled, Transformer)
    found = search(compiled, SOURCE, SearchConfig(beam_size=2, max_len_b=5))  # type: ignore[arg-type]
    assert len(found) == 2


def save(path: str, module: TranslationModule) -> None:
    checkpoint = {
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
        "pytorch-lightning_version": version("pytorch-lightning"),
    }
    torch.save(checkpoint, path)


@pytest.mark.parametrize(
    "fairseq",
    [
        FairseqConfig(),
        FairseqConfig(arch="transformer_tiny", overrides={"dropout": 0.2, "decoder_layers": 1}),
    ],
)
def test_a_module_remembers_it(fairseq: FairseqConfig) -> None:
    module = TranslationModule(CONFIG, fairseq=fairseq)
    save("model.ckpt", module)
    saved = torch.load("model.ckpt", weights_only=True)
    assert saved["hyper_parameters"]["fairseq"] == {
        "arch": fairseq.arch,
        "overrides": fairseq.overrides,
    }
    for again in (
        load_module(read_checkpoint("model.ckpt")),
        TranslationModule.load_from_checkpoint("model.ckpt").eval(),
    ):
        assert again.fairseq == fairseq
        assert again.config == module.config
        assert again.config.dropout == (0.1 if fairseq.arch is None else 0.2)
        logits = again(SOURCE, TARGET)
        assert torch.equal(logits, module.eval()(SOURCE, TARGET))


def test_what_fairseq_lacks_is_refused_before_the_vocabulary_is_known() -> None:
    config = replace(CONFIG, vocabulary_size=None, branch_scale=4.0, input_scale=3.0)
    assert TranslationModule(config).config == config
    with pytest.raises(AdminInitError, match=r"`branch_scale` is 4\.0, `input_scale` is 3\.0\."):
        TranslationModule(config, fairseq=FairseqConfig())


def test_a_checkpoint_from_before_a_model_could_be_scaled() -> None:
    module = TranslationModule(CONFIG)
    save("model.ckpt", module)
    saved = read_checkpoint("model.ckpt")
    for name in ("initialization", "branch_scale", "input_scale"):
        del saved["hyper_parameters"]["transformer"][name]
    assert torch.equal(load_module(saved)(SOURCE, TARGET), module.eval()(SOURCE, TARGET))


def test_a_checkpoint_of_a_scaled_model() -> None:
    module = TranslationModule(replace(CONFIG, branch_scale=4.0, input_scale=3.0))
    save("model.ckpt", module)
    again = load_module(read_checkpoint("model.ckpt"))
    assert again.config == module.config
    assert torch.equal(again(SOURCE, TARGET), module.eval()(SOURCE, TARGET))


def test_a_checkpoint_from_before_there_was_a_choice() -> None:
    module = TranslationModule(CONFIG)
    save("model.ckpt", module)
    saved = read_checkpoint("model.ckpt")
    del saved["hyper_parameters"]["fairseq"]
    assert isinstance(load_module(saved).transformer, Transformer)


def test_weights_of_another_shape_are_refused() -> None:
    save("model.ckpt", TranslationModule(CONFIG, fairseq=FairseqConfig()))
    saved = read_checkpoint("model.ckpt")
    saved["hyper_parameters"]["transformer"]["encoder_layers"] = 2
    with pytest.raises(ValueError, match=r"not a checkpoint of a translation model: .*layers\.1"):
        load_module(saved)
