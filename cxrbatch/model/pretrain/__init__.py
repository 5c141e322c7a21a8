"""From an archive without labels to weights that a training starts from, on Lightning. Start at `pretrain_model`."""
