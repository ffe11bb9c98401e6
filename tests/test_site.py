"""The examples of the documents do what stands beside them."""

import itertools
import json
import re
import shlex
import subprocess
import urllib.request
from pathlib import Path

import pytest

from otel_perf.core.events import BOTTLENECK
from tests.e2e import programs
from tests.e2e.support import environment, free_port, instrumented, wait_for
from tests.stored import events, spans
from tools import environments

DOCS = Path(__file__).resolve().parents[1] / "docs"
RUN = """
import asyncio, gc, importlib, sys
from concurrent.futures import ThreadPoolExecutor
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
    elif hasattr(module, "requests"):
        def request(number):
            with start(name, kind=trace.SpanKind.SERVER):
                function()

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(request, range(module.requests)))
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


# What the last line of a recipe starts: the environment with its libraries, and how it is told the port.
SERVERS = {
    "fastapi": ("shop", "--port {port}"),
    "flask": ("apps", "--port {port}"),
    "django": ("apps", "{port}"),
    "gunicorn": ("apps", "--bind 127.0.0.1:{port} --control-socket gunicorn.ctl"),
}


def lay(recipe, folder):
    """The files of a recipe, each named in its first line; the variables and the command of its last line."""
    page = DOCS / "recipes" / f"{recipe}.md"
    for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        file = folder / code.splitlines()[0].removeprefix("# ")
        file.parent.mkdir(exist_ok=True)
        file.write_text(code)
    *_, line = re.search(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)[1].splitlines()
    words = shlex.split(line)
    variables = dict(word.split("=", 1) for word in itertools.takewhile(lambda word: "=" in word, words))
    return variables, words[len(variables) :]


@pytest.mark.parametrize("recipe", SERVERS)
def test_the_app_of_a_recipe_answers_and_its_request_is_stored(recipe, home, tmp_path):
    name, to_port = SERVERS[recipe]
    folder, port = environments.ensure(name), free_port()
    variables, (start, *command) = lay(recipe, tmp_path)
    assert start == "opentelemetry-instrument"
    command += to_port.format(port=port).split()
    with instrumented(folder, home, *command, cwd=tmp_path, variables=variables) as server:
        server.wait_until_listening(port, timeout=60)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/products/7", timeout=20) as answer:
            assert json.load(answer) == {"number": 7}
        if recipe == "gunicorn":  # one that begins while its master ends is waited for, for 30 s
            wait_for(lambda: server.output().count("Booting worker") == 4, what="all workers run")
        server.stop()
    (served,) = [span for span in spans(home) if span.kind == "SERVER"]
    assert served.resource["service.name"] == "shop"


def test_the_worker_of_the_celery_recipe_answers_and_its_task_is_stored(home, tmp_path):
    folder, (variables, (_, *command)) = environments.ensure("apps"), lay("celery", tmp_path)
    for name in ("queue", "control"):
        (tmp_path / name).mkdir()
    # A broker of files in place of Redis.
    (tmp_path / "files.py").write_text(
        "broker_transport_options = {'data_folder_in': 'queue', 'data_folder_out': 'queue', 'control_folder': 'control'}"
    )
    variables |= {"CELERY_BROKER_URL": "filesystem://", "CELERY_CONFIG_MODULE": "files"}
    with instrumented(folder, home, *command, cwd=tmp_path, variables=variables) as worker:
        send = [str(folder / "bin" / "python"), "-c", "import shop; shop.confirm.delay(7)"]
        subprocess.run(send, cwd=tmp_path, env=environment(folder, home, variables), check=True, timeout=60)
        wait_for(lambda: spans(home), 60, "the task's span in the store")
        worker.stop()
    assert [span.name for span in spans(home) if span.kind == "CONSUMER"] == ["run/shop.confirm"]


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
