"""cxrbatch scores folders of chest radiographs: studies in, tables and reports with heatmaps out."""

__version__ = "0.1.0"
