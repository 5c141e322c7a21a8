"""The sheet of a run: the night on one page, in OUT/runs. Start at `write_sheet`."""
