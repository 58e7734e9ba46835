"""Machine translation: data, training, beam search and scoring."""
