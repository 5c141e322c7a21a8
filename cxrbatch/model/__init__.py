"""The workshop, which makes checkpoints and engines of labelled data. torch lives here only."""
