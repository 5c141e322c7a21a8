"""Scores in, what people and PACS read out."""
