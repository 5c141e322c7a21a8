"""What a result becomes for a PACS: a structured report, overlays of its radiographs, the report as a document."""
