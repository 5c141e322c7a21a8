"""What labelled data is, before anything is trained on it, as a page and tables. Start at `describe`."""
