"""Shards: the studies of an output folder, worked on by processes that know nothing of each other. See `divide`."""
