"""What the app does not import is not imported for it, and what it imports later is found."""

import ast
import subprocess
import sys

PROGRAM = """
import sys
from contextlib import ExitStack
from otel_perf.memory import found
undo = ExitStack()
sources = found.install(undo)
names = ("cachebox", "cachetools", "django", "redis")
print([name for name in names if name in sys.modules or f"otel_perf.memory.found.{name}" in sys.modules])
from cachebox import cached, LRUCache
from cachetools import TTLCache
from django.conf import settings
from django.core.cache import caches
from redis.client import Redis
settings.configure(CACHES={"pages": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}})
@cached(LRUCache(5))
def price(x):
    return x
price(1), TTLCache(5, 60).get(1), caches["pages"].get("x")
client, ttl = Redis(), TTLCache(5, 60)
print([watched.name for source in sources for watched in source()])
undo.close()
caches["pages"].get("x"), Redis(host="other")
print([watched.numbers().misses for source in sources for watched in source()])
"""


def test_libraries_are_found_when_the_app_imports_them(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)
    nothing, names, misses = map(ast.literal_eval, done.stdout.splitlines())
    assert nothing == []
    assert set(names) == {"__main__.price", "__main__:19", "django.pages", "redis.localhost:6379/0"}
    assert sorted(misses) == [0, 0, 1, 1]
