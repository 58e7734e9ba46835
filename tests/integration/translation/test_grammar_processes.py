"""The embedded corpus in several processes."""

import os
import subprocess
import sys

from admin_init.translation.corpora.synthetic.grammar import (
    embedded_corpus,
)


def test_a_seed_gives_the_same_corpus_in_every_process() -> None:
    program = (
        "from admin_init.translation.corpora.synthetic.grammar import embedded_corpus;"
        "print(embedded_corpus('large', seed=3, train=50, valid=5, test=5))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONUTF8": "1"},
            capture_output=True,
            check=True,
            encoding="utf-8",
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert printed == {str(embedded_corpus("large", seed=3, train=50, valid=5, test=5))}
    assert embedded_corpus(seed=1, train=50) != embedded_corpus(seed=2, train=50)
