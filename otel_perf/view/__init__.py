"""``otel-perf view``: a page on this machine that shows what the stores hold, live. Needs the extra ``view``.

``reading`` and its neighbours answer from the index, ``server`` serves them and the page, ``receiver`` takes OTLP.
"""
