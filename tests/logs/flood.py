"""A program that floods its logs, in threads and in a forked child, and says what it made and what came out.

Arguments: identical lines, different lines, threads. Each process prints a line of JSON.
"""

import json
import logging
import os
import sys
import threading
from collections import Counter
from pathlib import Path

import otel_perf

same, different, threads = map(int, sys.argv[1:])
out, lock = Counter(), threading.Lock()


class Count(logging.Handler):
    """The app's own handler: what it gets was kept."""

    def emit(self, record):
        fields = record.__dict__
        self.format(record)
        with lock:
            if record.name == "otel_perf":
                out.update({key: value for key, value in fields.items() if key.startswith("perf.log.")})
            elif "perf.log.repeated" in fields:
                out["repeats"] += fields["perf.log.repeated"]
            else:
                out["kept"] += 1
                out["errors"] += record.levelno >= logging.ERROR
                out["audits"] += record.name == "shop.audit"


logging.basicConfig(level=logging.DEBUG, handlers=[Count()])
shop, audit, noisy = (logging.getLogger(name) for name in ("shop", "shop.audit", "shop.noisy"))
made, sizes = Counter(), []


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def work(number):
    """One thread's share."""
    counted = Counter()
    every = max(1, same // different)
    for turn in range(same // threads):
        shop.warning("no answer from the database")
        counted["made"] += 1
        if turn % every == 0:
            shop.warning(f"order {number}-{turn} is late")
            counted["made"] += 1
            if turn % (every * 10) == 0:
                shop.error("order %d failed", turn)
                audit.info("role of user %d changed", turn)
                noisy.info("x")
                counted.update(made=3, errors=1, audits=1)
        if number == 0 and turn % max(1, same // threads // 20) == 0:
            sizes.append(resident())
    with lock:
        made.update(counted)


def flood():
    running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def tell(who):
    otel_perf.shutdown()
    with lock:
        print(json.dumps({"who": who, "made": made, "out": out, "sizes": sizes}), flush=True)


child = None
if hasattr(os, "fork"):
    shop.warning("no answer from the database")
    made["made"] += 1
    child = os.fork()
if child == 0:
    made.clear(), out.clear()
    flood()
    tell("child")
    os._exit(0)
flood()
if child:
    os.waitpid(child, 0)
tell("parent")
