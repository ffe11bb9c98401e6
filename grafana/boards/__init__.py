"""One module for each dashboard; each has ``make()``."""
