"""The daemon: which studies are all there, and how it fares. Start at `daemon`."""
