"""cxrbatch scores folders of chest radiographs and leaves tables and reports with heatmaps."""

__version__ = "0.1.0"
