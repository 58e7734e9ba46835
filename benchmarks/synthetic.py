"""A corpus of random words whose sentences are as long as those of news."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from admin_init.translation.data.databin import IndexedDatasetBuilder

EOS = 2


def write_synthetic(folder: Path, *, pairs: int, vocabulary: int, seed: int) -> None:
    """Write the training split of a data-bin: lengths log-normal, 26 tokens on average."""
    rng = np.random.default_rng(seed)
    source = np.clip(rng.lognormal(3.1, 0.6, pairs), 2, 250).astype(np.int32)
    target = np.clip(source * rng.lognormal(0.05, 0.2, pairs), 2, 250).astype(np.int32)
    for language, sizes in (("en", source), ("de", target)):
        words = "".join(f"w{i} 1\n" for i in range(vocabulary - 4))
        (folder / f"dict.{language}.txt").write_text(words)
        with IndexedDatasetBuilder(folder / f"train.en-de.{language}", vocabulary) as builder:
            for part in np.array_split(sizes, 50):
                ids = rng.integers(4, vocabulary, int(part.sum()))
                ids[part.cumsum() - 1] = EOS
                builder.extend(ids, part)
