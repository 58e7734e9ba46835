import math
import re
from typing import Any

import numpy as np
import pytest

from admin_init.lab.comparison.criteria import Criteria, unigram_entropy

NAN, INF = math.nan, math.inf


def judge(nlls: list[float], gain: float = 1.0, entropy: float = 6.0, **criteria: Any) -> Any:
    return Criteria(**criteria).judge(nlls, gain, entropy)


def test_a_run_that_trained_says_with_what() -> None:
    verdict = judge([6.0, 3.5, 3.2], gain=0.75)
    assert verdict.trained
    for figure in ("3.20", "6.00", "0.75"):
        assert figure in verdict.reason


@pytest.mark.parametrize(
    ("nlls", "gain", "reason"),
    [
        ([4.0, NAN], 1.0, "validation NLL is nan"),
        ([NAN, INF], 1.0, "validation NLL is inf"),
        ([NAN], NAN, "validation NLL is nan"),
        ([6.0, 5.0], 1.0, "5.00 is not below 80% of the target's unigram entropy 6.00"),
        ([6.0, 4.9], 1.0, "4.90 is not below 80% of the target's unigram entropy 6.00"),
        ([4.0], 0.0999, "does not use its source yet: .* 4.00 rises by 0.100, less than 0.1"),
        ([4.0], -2.0, "does not use its source yet: .* rises by -2.000"),
        ([4.0], NAN, "does not use its source yet: .* rises by nan"),
        ([3.0, 3.6], 1.0, "diverged: its NLL rose from 3.00 at best to 3.60"),
        ([NAN, 3.0, 3.6], 1.0, "diverged: its NLL rose from 3.00 at best to 3.60"),
    ],
)
def test_failures(nlls: list[float], gain: float, reason: str) -> None:
    verdict = judge(nlls, gain)
    assert not verdict.trained
    assert re.search(reason, verdict.reason)


def test_the_margins_can_be_set() -> None:
    assert judge([4.0], gain=0.05, source_gain=0.05).trained
    assert not judge([4.0], gain=0.15, source_gain=0.2).trained
    assert judge([3.0, 3.6], relapse=0.7).trained
    assert judge([3.0, 3.5]).trained
    assert judge([4.9], entropy_share=0.9).trained
    assert judge([NAN, 4.0]).trained


def test_a_decent_language_model_that_translates_nothing_has_failed() -> None:
    # As seen on a small grammar: NLL 3.41 under an entropy of 3.98, BLEU .15.
    assert not judge([3.9, 3.41], gain=0.01, entropy=3.98).trained
    assert not judge([3.9, 3.41], gain=0.01, entropy=3.98, entropy_share=1.0).trained


def test_unigram_entropy_by_hand() -> None:
    tokens = np.array([4, 4, 4, 4, 7, 7, 2, 9])
    expected = -(0.5 * math.log(0.5) + 0.25 * math.log(0.25) + 2 * 0.125 * math.log(0.125))
    assert unigram_entropy(tokens) == pytest.approx(expected)
    assert unigram_entropy(tokens.reshape(2, 4).astype(np.uint16)) == pytest.approx(expected)
    assert unigram_entropy(np.arange(100)) == pytest.approx(math.log(100))
    assert unigram_entropy(np.array([3, 3, 3])) == 0
