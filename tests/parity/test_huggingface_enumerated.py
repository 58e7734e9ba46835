"""Every base model of the installed transformers, found by what it computes, and by hand."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest
from _helpers.compared_by_hand import compared, short
from _helpers.enumerated_huggingface import MODEL_TYPES, NotBuiltError, build

SERVED = "Hugging Face families"
OTHERS = "Other Hugging Face families"

KINDS = [
    "bert",  # an encoder
    "bart",  # an encoder-decoder
    "opt",  # a decoder whose config says Post-LN
    "openai-gpt",  # Conv1D at the ends of its branches
    "xlnet",  # einsum there
    "squeezebert",  # channels first
    "fnet",  # no weights there
    "deberta-v2",  # a norm of its own at the start
    "wav2vec2",  # of sound
    "detr",  # queries that are zero
    "swinv2",  # norms in the branches
    "ibert",  # sums that statistics for a quantization read
    "llama",  # Pre-LN
    "albert",  # one layer at all depths
]


@pytest.fixture(autouse=True)
def _one_model_at_a_time() -> Iterator[None]:
    yield
    gc.collect()


@pytest.mark.parametrize("model_type", KINDS)
def test_a_family_of_each_kind(model_type: str) -> None:
    served, _ = compared(*build(model_type))
    assert served == (model_type not in ("llama", "albert", "swinv2", "ibert"))


@pytest.mark.slow
@pytest.mark.support
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_family(model_type: str, cells: Callable[..., None]) -> None:
    try:
        model, batch = build(model_type)
    except NotBuiltError as error:
        cells(OTHERS, model_type, outcome=f"not run: {short(error)}")
        return
    served, columns = compared(model, batch)
    cells(SERVED if served else OTHERS, model_type, **columns)
