"""``python -m otel_perf``: the same as the command ``otel-perf``."""

import sys

from otel_perf.cli import main

sys.exit(main())
