"""The site: ``make site`` builds it into build/site, and fails on any warning."""

project = "otel-perf"
copyright = "the otel-perf authors"  # noqa: A001 - Sphinx's name
extensions = ["myst_parser"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
exclude_patterns = ["pictures"]
html_theme = "furo"
html_title = "otel-perf"
