"""From a checkpoint to an installed engine, past the gate. Start at `build`."""
