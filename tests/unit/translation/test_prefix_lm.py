"""Translation with a decoder alone."""

import pytest
import torch
from torch.nn import functional as F

from admin_init.errors import AdminInitError
from admin_init.nn import LanguageModel, TransformerConfig
from admin_init.translation.backend import FairseqConfig, build_transformer, search
from admin_init.translation.prefix_lm import PrefixLanguageModel
from admin_init.translation.search import SearchConfig

PAD = 1
CONFIG = TransformerConfig(
    vocabulary_size=20, dim=16, ffn_dim=24, heads=4, encoder_layers=0, decoder_layers=2, dropout=0.0
)


@pytest.fixture
def model() -> PrefixLanguageModel:
    torch.manual_seed(0)
    built = build_transformer(CONFIG, None)
    assert isinstance(built, PrefixLanguageModel)
    return built


def test_reads_source_and_target_as_one_sequence(model: PrefixLanguageModel) -> None:
    source, target = torch.randint(4, 20, (2, 3, 5))
    logits = model(source, target)
    assert logits.shape == (3, 5, 20)
    whole = model.decoder_only(torch.cat([source, target], 1))
    torch.testing.assert_close(logits, whole[:, 5:])
    changed = source.clone()
    changed[:, 0] = 3
    assert not torch.allclose(model(changed, target), logits)


def test_sees_no_later_token(model: PrefixLanguageModel) -> None:
    source, target = torch.randint(4, 20, (2, 3, 5))
    changed = target.clone()
    changed[:, 3] = 3
    torch.testing.assert_close(model(source, changed)[:, :3], model(source, target)[:, :3])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(model: PrefixLanguageModel, side: str) -> None:
    source, target = torch.randint(4, 20, (2, 3, 5))
    padded = F.pad(source, (2, 0) if side == "left" else (0, 2), value=PAD)
    torch.testing.assert_close(model(padded, target), model(source, target))


def test_there_is_no_search(model: PrefixLanguageModel) -> None:
    with pytest.raises(AdminInitError, match="no search for a decoder-only model"):
        search(model, torch.randint(4, 20, (3, 5)), SearchConfig())


def test_what_cannot_translate_is_refused() -> None:
    encoder_only = TransformerConfig(vocabulary_size=20, dim=16, heads=4, decoder_layers=0)
    with pytest.raises(ValueError, match="must have layers in both stacks"):
        build_transformer(encoder_only, None)
    with pytest.raises(ValueError, match="fairseq's Transformer must have layers in both"):
        build_transformer(CONFIG, FairseqConfig())
    with pytest.raises(ValueError, match="`encoder_layers` must be 0 in a decoder-only model"):
        LanguageModel(TransformerConfig(vocabulary_size=20, dim=16, heads=4))
