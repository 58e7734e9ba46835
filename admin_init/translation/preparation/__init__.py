"""From a corpus to a data-bin: cleaning, subwords, binarization."""
