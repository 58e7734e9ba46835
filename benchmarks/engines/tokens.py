"""The ids of the special tokens in a prepared folder, which are fairseq's."""

BOS, PAD, EOS = range(3)
