"""A run on many machines: studies go to nodes in chunks, what became of them comes back. Start at `processor`."""
