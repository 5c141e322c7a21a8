"""Trained models side by side, as a table and a page. Start at `compare`."""
