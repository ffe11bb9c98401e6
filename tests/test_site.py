"""The examples of the documents do what stands beside them."""

import re
from pathlib import Path

import pytest

from otel_perf.core.events import BOTTLENECK
from tests.e2e import programs
from tests.stored import events, spans

DOCS = Path(__file__).resolve().parents[1] / "docs"
RUN = """
import asyncio, gc, importlib, sys
from opentelemetry import trace

for name in sys.argv[1:]:
    module = importlib.import_module(name)
    function = [value for value in vars(module).values() if getattr(value, "__module__", "") == name][-1]
    start = trace.get_tracer("site").start_as_current_span

    async def answer():
        with start(name, kind=trace.SpanKind.SERVER):
            await function()

    if asyncio.iscoroutinefunction(function):
        asyncio.run(answer())
    else:
        with start(name, kind=trace.SpanKind.SERVER):
            function()
    del sys.modules[name], module, function
    gc.collect()
"""


def blocks(page):
    """Python blocks of a page, by the heading they are under."""
    found = {}
    for part in re.split(r"^## ", (DOCS / page).read_text(), flags=re.MULTILINE):
        found[part.partition("\n")[0]] = re.findall(r"```python\n(.*?)```", part, re.DOTALL)
    return found


PAGE = blocks("detectors.md")
KINDS = [heading for heading, found in PAGE.items() if len(found) == 2]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The kinds found in each example: one program runs them all, one after the other."""
    folder = tmp_path_factory.mktemp("site")
    (beginning,) = next(iter(PAGE.values()))
    examples = []
    for kind in KINDS:
        for which, code in zip(("bad", "mended"), PAGE[kind], strict=True):
            examples.append(f"{kind}_{which}")
            (folder / f"{kind}_{which}.py").write_text(f"{beginning}\n{code}")
    done = programs.run(RUN, folder / "home", *examples, cwd=folder, timeout=120, OTEL_PERF_GC_TUNING="off")
    assert done.status == 0, done.err
    names = {span.trace_id: span.name for span in spans(folder / "home") if not span.parent_id}
    kinds = {name: set() for name in names.values()}
    for event in events(folder / "home", BOTTLENECK.name):
        kinds[names[event.trace_id]].add(event.attributes[f"{BOTTLENECK.name}.kind"])
    return kinds


@pytest.mark.alone  # it judges what is slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_bad_code_has_the_finding_and_the_mended_has_not(kind, found):
    assert kind in found[f"{kind}_bad"]
    assert kind not in found[f"{kind}_mended"]


@pytest.mark.parametrize("page", ["recipes/agents.md", "recipes/notebooks.md"])
def test_the_programs_of_the_recipes_run(page, home, tmp_path):
    (code,) = [code for found in blocks(page).values() for code in found]
    done = programs.run(code, home, cwd=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert spans(home)


def test_every_page_is_in_the_site():
    listed = set()
    for index in ("index.md", "recipes/index.md"):
        folder = (DOCS / index).parent
        for entry in re.search(r"```{toctree}\n(?::.*\n)*\n(.*?)```", (DOCS / index).read_text(), re.DOTALL)[1].split():
            listed.add((folder / f"{entry}.md").relative_to(DOCS).as_posix())
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} - {"index.md"}
    assert there == listed


def test_no_figure_of_the_peers_is_typed():
    """Numbers stand in tables that a benchmark printed, and those are taken from the README."""
    text = re.sub(r"```.*?```", "", (DOCS / "peers.md").read_text(), flags=re.DOTALL)
    assert not re.search(r"\d", text.replace("`--compare`", ""))
