"""From labelled data to a checkpoint, on Lightning, and the report of how that went. Start at `train_model`."""
