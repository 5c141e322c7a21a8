"""The run: index, read, score, print, record. Start at `batch`, which shows the whole data flow."""
