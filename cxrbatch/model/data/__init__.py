"""Labelled data on disk, in any of the usual layouts: found, split, checked, decoded once. Start at `dataset`."""
