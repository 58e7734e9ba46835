from pathlib import Path

import pytest
import torch

from admin_init.nn import TransformerConfig
from admin_init.translation.data.prepared import PreparedFolder
from admin_init.translation.model import TranslationModel
from admin_init.translation.search import SearchConfig

SHAPE = {"dim": 16, "heads": 2, "ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1}


def test_it_translates_in_the_subwords_of_a_folder(data_bin: Path) -> None:
    data = PreparedFolder(data_bin, "en", "de")
    config = TransformerConfig(vocabulary_size=data.vocabulary_size, **SHAPE)
    model = TranslationModel(config, SearchConfig(beam_size=2, max_len_b=4)).eval()
    model.data = data
    source = torch.tensor([data.source_dictionary.encode(data.tokenizer.encode("the man"))])
    ((*pieces,),) = model.subwords(source)
    assert 0 < len(pieces) <= 4
    assert model.translate(source) == [data.tokenizer.decode(pieces)]
    assert model(source, source).shape == (*source.shape, data.vocabulary_size)


def test_without_data_there_are_no_subwords() -> None:
    model = TranslationModel({"vocabulary_size": 40, **SHAPE}, {"beam_size": 1, "max_len_b": 3})
    with pytest.raises(TypeError, match="from `data`, which is not set"):
        model.eval().translate(torch.tensor([[5, 6, 2]]))
