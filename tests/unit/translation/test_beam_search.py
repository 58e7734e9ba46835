import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from admin_init.errors import AdminInitError
from admin_init.nn import Transformer, TransformerConfig
from admin_init.translation.search import Hypothesis, SearchConfig, beam_search, length_limits

BOS, PAD, EOS, UNK = 0, 1, 2, 3


def build(
    vocabulary_size: int = 12, seed: int = 0, spread: float = 3.0, **options: Any
) -> Transformer:
    torch.manual_seed(seed)
    config = TransformerConfig(
        vocabulary_size=vocabulary_size,
        dim=16,
        ffn_dim=32,
        heads=2,
        encoder_layers=1,
        decoder_layers=2,
        share_embeddings="none",
        **options,
    )
    model = Transformer(config)
    with torch.no_grad():  # spread the probabilities, so that no two are nearly equal
        model.output_proj.weight.mul_(spread)
    return model


def sentences(lengths: list[int], vocabulary_size: int = 12, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    source = torch.full((len(lengths), max(lengths)), PAD)
    for row, length in zip(source, lengths, strict=True):
        row[:length] = torch.randint(4, vocabulary_size, (length,), generator=generator)
        row[length - 1] = EOS
    return source


@torch.no_grad()
def log_probs(model: Transformer, source: Tensor, target: list[int]) -> Tensor:
    """Log-probabilities of all tokens at every position of ``target``, without a cache."""
    was_training = model.training
    model.eval()
    logits = model(source[None], torch.tensor([[EOS, *target[:-1]]]))[0]
    model.train(was_training)
    return logits.log_softmax(-1)


def score(
    model: Transformer, source: Tensor, target: list[int], length_penalty: float = 1.0
) -> float:
    total = sum(
        row[token].item()
        for row, token in zip(log_probs(model, source, target), target, strict=True)
    )
    return total / len(target) ** length_penalty


def plain(hypotheses: list[Hypothesis]) -> list[list[int]]:
    return [hypothesis.tokens.tolist() for hypothesis in hypotheses]


def test_a_beam_of_one_is_greedy_search() -> None:
    model = build()
    source = sentences([6, 4, 3, 5])
    found = beam_search(model, source, beam_size=1, max_len_b=8)
    for row, hypotheses in zip(source, found, strict=True):
        words = []
        while not words or words[-1] != EOS:
            newest = log_probs(model, row, [*words, EOS])[-1]
            newest[[BOS, PAD]] = -torch.inf
            if not words:
                newest[EOS] = -torch.inf
            words.append(EOS if len(words) == 8 else int(newest.argmax()))
        assert plain(hypotheses) == [words]
        assert hypotheses[0].score == pytest.approx(score(model, row, words), abs=1e-4)


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 2.0])
def test_a_wide_beam_is_exhaustive_search(length_penalty: float) -> None:
    model = build(vocabulary_size=7)
    source = sentences([4, 3], vocabulary_size=7)
    words = [UNK, 4, 5, 6]
    targets = [[*t, EOS] for n in (1, 2, 3) for t in itertools.product(words, repeat=n)]
    found = beam_search(model, source, beam_size=100, length_penalty=length_penalty, max_len_b=3)
    for row, hypotheses in zip(source, found, strict=True):
        scores = {tuple(t): score(model, row, t, length_penalty) for t in targets}
        expected = sorted(scores, key=scores.__getitem__, reverse=True)
        assert len(hypotheses) == len(targets) == 4 + 16 + 64
        assert {tuple(h.tokens.tolist()): pytest.approx(h.score, abs=1e-4) for h in hypotheses} == (
            scores
        )
        assert tuple(hypotheses[0].tokens.tolist()) == expected[0]
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)


def by_hand(
    model: Transformer, source: Tensor, beam_size: int, max_len: int, length_penalty: float = 1.0
) -> list[tuple[list[int], float]]:
    """fairseq's search for one sentence, hypothesis after hypothesis, without a cache."""
    beam, finished = [([], 0.0)], []
    for length in range(1, max_len + 2):
        candidates = []
        for words, total in beam:
            newest = log_probs(model, source, [*words, EOS])[-1]
            for token in range(len(newest)):
                at_end = token == EOS
                allowed = token not in (BOS, PAD) and not (at_end and length == 1)
                if allowed and (at_end or length <= max_len):
                    candidates.append(([*words, token], total + newest[token].item()))
        candidates.sort(key=lambda candidate: candidate[1], reverse=True)
        candidates = candidates[: 2 * beam_size]
        for words, total in candidates[:beam_size]:
            if words[-1] == EOS and len(finished) < beam_size:
                finished.append((words, total / length**length_penalty))
        if len(finished) == beam_size:
            break
        beam = [candidate for candidate in candidates if candidate[0][-1] != EOS][:beam_size]
    return sorted(finished, key=lambda hypothesis: hypothesis[1], reverse=True)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("beam_size", "length_penalty"), [(2, 1.0), (3, 0.6), (5, 1.4)])
def test_beam_search_by_hand(seed: int, beam_size: int, length_penalty: float) -> None:
    model = build(seed=seed, residual="admin-closed")
    source = sentences([5, 3, 7], seed=seed)
    found = beam_search(
        model, source, beam_size=beam_size, length_penalty=length_penalty, max_len_b=7
    )
    for row, hypotheses in zip(source, found, strict=True):
        expected = by_hand(model, row, beam_size, 7, length_penalty)
        assert plain(hypotheses) == [words for words, _ in expected]
        for hypothesis, (_, expected_score) in zip(hypotheses, expected, strict=True):
            assert hypothesis.score == pytest.approx(expected_score, abs=1e-4)


def test_a_sentence_is_translated_alike_alone_and_in_any_batch() -> None:
    model = build()
    source = sentences([9, 3, 6, 4])
    options = {"beam_size": 4, "max_len_a": 1.0, "max_len_b": 2}
    together = beam_search(model, source, **options)
    left_padded = torch.stack([torch.cat([row[row == PAD], row[row != PAD]]) for row in source])
    from_the_left = beam_search(model, left_padded, **options)
    for row, in_batch, left in zip(source, together, from_the_left, strict=True):
        alone = beam_search(model, row[row != PAD][None], **options)[0]
        assert plain(in_batch) == plain(alone) == plain(left)
        for a, b in zip(in_batch, alone, strict=True):
            assert a.score == pytest.approx(b.score, abs=1e-5)


def test_length_is_bounded_by_the_source_and_by_the_model() -> None:
    model = build(max_positions=10, spread=0.01)  # hardly ever ends by itself
    with torch.no_grad():
        model.output_proj.weight[EOS] = 0
    source = sentences([3, 5, 8])
    found = beam_search(model, source, beam_size=2, max_len_a=1.5, max_len_b=1, length_penalty=2)
    longest = [max(len(h.tokens) - 1 for h in hypotheses) for hypotheses in found]
    assert longest == [5, 8, 9]  # int(1.5 * S) + 1, and max_positions - 1


def test_padding_bos_and_empty_translations_are_never_produced() -> None:
    model = build()
    with torch.no_grad():
        model.output_proj.weight.zero_()  # all tokens are equally probable
    found = beam_search(model, sentences([4, 5]), beam_size=6, max_len_b=4)
    for hypothesis in itertools.chain(*found):
        words = hypothesis.tokens.tolist()
        assert words[-1] == EOS
        assert len(words) > 1
        assert not {BOS, PAD, EOS} & set(words[:-1])


def test_forbidden_tokens_are_the_callers_choice() -> None:
    model = build()
    with torch.no_grad():
        model.output_proj.bias = torch.nn.Parameter(torch.tensor([9.0] + [0.0] * 11))
    source = sentences([4])
    without = beam_search(model, source, max_len_b=4)
    allowed = beam_search(model, source, max_len_b=4, forbidden=())
    assert all(BOS not in words for words in plain(without[0]))
    assert BOS in plain(allowed[0])[0]


def test_forbidden_tokens_need_not_be_in_the_vocabulary() -> None:
    model, source = build(), sentences([4, 6])
    found = beam_search(model, source, max_len_b=4, forbidden=(BOS, 12, 99, -1))
    assert list(map(plain, found)) == list(map(plain, beam_search(model, source, max_len_b=4)))


def test_long_translations_by_hand() -> None:
    model = build(seed=1)
    bias = torch.zeros(12)
    bias[EOS] = -9
    model.output_proj.bias = torch.nn.Parameter(bias)
    source = sentences([5, 7])
    found = beam_search(model, source, beam_size=3, max_len_b=36)
    for row, hypotheses in zip(source, found, strict=True):
        expected = by_hand(model, row, 3, 36)
        assert plain(hypotheses) == [words for words, _ in expected]
        assert len(expected[0][0]) > 32  # than the cache has room for at first


def test_the_model_is_in_eval_mode_meanwhile_and_as_before_afterwards() -> None:
    model = build(dropout=0.5)
    model.train()
    model.encoder.layers[0].ffn.eval()
    modes = [module.training for module in model.modules()]
    seen = []
    model.decoder.register_forward_hook(
        lambda module, args, out: seen.append((module.training, out.requires_grad))
    )
    source = sentences([4, 5])
    first, second = (beam_search(model, source, max_len_b=4) for _ in range(2))
    assert [plain(h) for h in first] == [plain(h) for h in second]
    assert set(seen) == {(False, False)}
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()


def test_hypotheses_are_plain_tuples() -> None:
    hypothesis = beam_search(build(), sentences([4]), beam_size=1, max_len_b=4)[0][0]
    assert isinstance(hypothesis, Hypothesis)
    assert hypothesis.tokens.dtype == torch.int64
    assert isinstance(hypothesis.score, float)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "`beam_size` must be at least 1, but is 0"),
        ({"max_len_b": 0}, "source of 3 tokens, .*`max_len_b` = 0 "),
        ({"max_len_a": 0.5, "max_len_b": -1}, "has none for a source of 3 tokens"),
        ({"forbidden": (0, 2)}, "`forbidden` must not hold `eos` = 2"),
        ({"source": torch.tensor([4, 5, 2])}, r"`source` must have the shape \(N, S\), .*\(3,\)"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    arguments = {"source": sentences([3, 5])} | options
    with pytest.raises(ValueError, match=message):
        beam_search(build(), **arguments)


def test_a_model_that_diverged_is_refused() -> None:
    model = build()
    with torch.no_grad():
        model.output_proj.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="Sentence 0 of the batch has no finite score"):
        beam_search(model, sentences([3, 5]), max_len_b=3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("beam_size", 0),
        ("beam_size", -3),
        ("length_penalty", math.nan),
        ("length_penalty", 1e9),
        ("length_penalty", -10.5),
        ("max_len_a", -0.1),
        ("max_len_a", math.inf),
        ("max_len_b", -1),
    ],
)
def test_settings_that_make_no_search(field: str, value: float) -> None:
    with pytest.raises(AdminInitError, match=f"`{field}` must be .*, but is {value}"):
        SearchConfig(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"max_len_a": 1e300}, {"max_len_b": 10**20}])
def test_lengths_beyond_all_positions_are_cut_to_them(settings: dict[str, Any]) -> None:
    config = TransformerConfig(max_positions=50)
    source = torch.tensor([[5, 2], [2, 1]])
    bounds = {"max_len_a": 0.0, "max_len_b": 200} | settings
    assert length_limits(config, source, **bounds).tolist() == [49, 49]


@pytest.mark.parametrize("length_penalty", [-10.0, 10.0])
def test_scores_stay_finite_at_the_bounds_of_the_length_penalty(length_penalty: float) -> None:
    length = torch.tensor(float(TransformerConfig().max_positions))
    score = torch.tensor(-1e4) / length**length_penalty
    assert score.isfinite()
    assert score < 0
