"""What researchers take out of an output folder: tidy scores, annotations, maps. Start at `export`."""
