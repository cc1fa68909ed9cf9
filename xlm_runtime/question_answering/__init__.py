"""Question answering on numpy: windows of a context, the decoding of their scores, SQuAD's files and its metrics."""
