"""How good a model is on labelled data, for whom, and what else would explain it. Start at `evaluate`."""
