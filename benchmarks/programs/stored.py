"""Prints what is in the store of the home folder that is its argument, as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from counting import count

from otel_perf.store.database import StoreReader

if __name__ == "__main__":
    reader = StoreReader(Path(sys.argv[1]))
    print(json.dumps(count((batch.signal, batch.body) for batch in reader.batches())))
