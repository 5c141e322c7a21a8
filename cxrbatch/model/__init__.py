"""The workshop: labelled data in, checkpoints and engine bundles out. torch lives here only."""
