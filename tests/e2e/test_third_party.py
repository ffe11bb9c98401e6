"""Apps that nobody here wrote, under ``opentelemetry-instrument`` and nothing else.

The instrumentors are those that ``opentelemetry-bootstrap`` names. The one statement throughout: what
was asked of the app is what the store holds, once each, and the app ends as it does without us.
"""

from __future__ import annotations

import http.client
import http.cookies
import json
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import urllib.parse
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.support import Running, environment, free_port, instrumented, plain, wait_for
from tests.stored import key_of, process_of, spans
from tools.environments import CONSTRAINTS, REQUIREMENTS, cache, ensure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_perf.analysis.otlp import SpanRecord

APPS = Path(__file__).parent / "apps"
# Its control socket, by default one for all gunicorns of a user, stays in the folder of the test.
GUNICORN = ("gunicorn", "--workers", "2", "--control-socket", "gunicorn.ctl", "--bind")


@pytest.fixture(scope="session")
def env() -> Path:
    """The environment with the apps and their instrumentors."""
    return ensure("apps")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder of the test's own; its programs run beside it."""
    return tmp_path / "home"


# --- helpers -----------------------------------------------------------------------------------------


class Browser:
    """Makes requests with cookies, one connection each, follows nothing, and keeps what it asked for. Thread-safe.

    A request is over when the server has closed the connection, not when the body is there: only then has the
    server surely ended its span, and may be stopped without the last one missing by right.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.cookies: dict[str, str] = {}
        self.asked: list[tuple[str, str]] = []

    def get(self, path: str, expect: int = 200) -> str:
        """GET ``path``; the body."""
        return self._ask("GET", path, None, expect)

    def post(self, path: str, expect: int = 200, **form: str) -> str:
        """POST ``form`` to ``path``; the body."""
        return self._ask("POST", path, urllib.parse.urlencode(form), expect)

    def _ask(self, method: str, path: str, form: str | None, expect: int) -> str:
        self.asked.append((method, urllib.parse.urlsplit(path).path))
        headers = {
            "Connection": "close",
            "Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()),
        }
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        connection.connect()
        with connection.sock.dup() as wire:
            connection.request(method, path, form, headers)
            response = connection.getresponse()
            body = response.read().decode(errors="replace")
            while wire.recv(4096):
                pass
        connection.close()
        for line in response.headers.get_all("Set-Cookie") or []:
            for name, morsel in http.cookies.SimpleCookie(line).items():
                self.cookies[name] = morsel.value
        assert response.status == expect, f"{method} {path} answered {response.status}: {body[:500]}"
        return body


def once(found: Iterable[SpanRecord]) -> list[SpanRecord]:
    """``found``, none of which may be there twice."""
    kept = list(found)
    twice = [key for key, count in Counter(key_of(span) for span in kept).items() if count > 1]
    assert not twice, f"stored more than once: {twice}"
    return kept


def served(home: Path) -> list[SpanRecord]:
    """The server spans of the store."""
    return [span for span in once(spans(home)) if span.kind == "SERVER"]


def requested(found: Iterable[SpanRecord]) -> Counter[tuple[str, str]]:
    """Method and path of server spans, by the new or the old conventions (wsgiref gives no ``http.target``)."""
    asked = Counter[tuple[str, str]]()
    for span in found:
        method = span.attributes.get("http.request.method") or span.attributes["http.method"]
        where = next(
            span.attributes[name] for name in ("url.path", "http.target", "http.url") if name in span.attributes
        )
        asked[method, urllib.parse.urlsplit(where).path] += 1
    return asked


def assert_silent(process: Running) -> None:
    """Neither we nor the SDK had anything to complain about."""
    bad = [line for line in process.output().splitlines() if re.search(r"otel.perf|opentelemetry|Traceback", line)]
    assert not bad, bad


def sources(env: Path, project: str) -> Path:
    """The unpacked source distribution of the release of ``project`` in the environment, downloaded once."""
    (version,) = re.findall(rf"^{project}==(\S+)$", (REQUIREMENTS / "apps.txt").read_text(), re.MULTILINE)
    folder = cache() / "sources" / f"{project}-{version}"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        command = [str(env / "bin" / "python"), "-m", "pip", "download", "-q", "--no-binary", ":all:", "--no-deps"]
        subprocess.run([*command, "-d", scratch, f"{project}=={version}"], check=True)
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as opened:
            opened.extractall(scratch, filter="data")
        (unpacked,) = (path for path in Path(scratch).iterdir() if path.is_dir())
        try:
            unpacked.rename(folder)
        except OSError:
            assert folder.exists()  # another process was quicker
    return folder


# --- the environment ---------------------------------------------------------------------------------


def test_everything_that_bootstrap_names_is_installed(env: Path, home: Path) -> None:
    """What ``opentelemetry-bootstrap`` would install is there at the constraints' version, and nothing else."""
    with plain(env, home, "opentelemetry-bootstrap", "-a", "requirements") as bootstrap:
        assert bootstrap.wait() == 0
    named = set(bootstrap.output().split())
    listing = "import importlib.metadata as m; [print(d.name + '==' + d.version) for d in m.distributions()]"
    with plain(env, home, "python", "-c", listing) as python:
        assert python.wait() == 0
    prefix = "opentelemetry-instrumentation-"
    assert named == {line for line in python.output().split() if line.startswith(prefix)}
    assert named <= set(CONSTRAINTS.read_text().split())


# --- httpbin -----------------------------------------------------------------------------------------


def test_httpbin_under_gunicorn(env: Path, home: Path) -> None:
    """Two preloaded workers store every request, each as its own process, and the exit status stays."""
    port = free_port()
    with instrumented(env, home, *GUNICORN, f"127.0.0.1:{port}", "--preload", "httpbin:app") as server:
        server.wait_until_listening(port)
        browser = Browser(port)
        with ThreadPoolExecutor(2) as two:  # both workers at once, then one after the other
            list(two.map(browser.get, ["/delay/0.3"] * 4))
        for number in range(20):
            browser.get(f"/get?number={number}")
            browser.post("/post", number=str(number))
        browser.get("/status/500", expect=500)
        browser.get("/status/404", expect=404)
        browser.get("/no/such/route", expect=404)
        browser.get("/stream/5")
        browser.get("/gzip")
        status = server.stop(signal.SIGTERM)

    found = served(home)
    assert requested(found) == Counter(browser.asked)
    assert len({process_of(span) for span in found}) == 2
    assert_silent(server)

    port = free_port()
    with plain(env, home, *GUNICORN, f"127.0.0.1:{port}", "--preload", "httpbin:app") as without:
        without.wait_until_listening(port)
        # gunicorn by itself may hang at an end that comes while it starts a worker.
        wait_for(lambda: without.output().count("Booting worker") == 2, what="two workers")
        Browser(port).get("/get")
        assert status == without.stop(signal.SIGTERM) == 0


# --- Flask -------------------------------------------------------------------------------------------


def use_flaskr(browser: Browser) -> None:
    """Register, log in, write a post, read it, as the tutorial describes."""
    browser.get("/auth/register")
    browser.post("/auth/register", expect=302, username="ada", password="engine")
    browser.get("/auth/login")
    browser.post("/auth/login", username="ada", password="wrong")
    browser.post("/auth/login", expect=302, username="ada", password="engine")
    browser.get("/create")
    browser.post("/create", expect=302, title="Note G", body="Bernoulli numbers")
    assert "Note G" in browser.get("/")
    browser.get("/static/style.css")
    browser.get("/auth/logout", expect=302)
    browser.get("/create", expect=302)
    browser.get("/7/update", expect=302)


@pytest.fixture(scope="session")
def flaskr(env: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tutorial from Flask's source distribution, its database made by its own command."""
    folder = tmp_path_factory.mktemp("flask")
    shutil.copytree(sources(env, "flask") / "examples" / "tutorial", folder / "tutorial")
    command = ("flask", "--app", "flaskr", "init-db")
    with instrumented(env, folder / "home", *command, cwd=folder / "tutorial") as init:
        assert init.wait() == 0
    assert [span.name for span in spans(folder / "home") if span.kind == "INTERNAL"] == ["init-db"]
    return folder / "tutorial"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)], ids=["SIGINT", "SIGTERM"]
)
def test_flask_tutorial(
    env: Path, home: Path, tmp_path: Path, flaskr: Path, number: signal.Signals, status: int
) -> None:
    """Flask's own tutorial under ``flask run``: every request is stored, whichever signal ends it."""
    folder = shutil.copytree(flaskr, tmp_path / "tutorial")
    port = free_port()
    command = ("flask", "--app", "flaskr", "run", "--port", str(port))
    with instrumented(env, home, *command, cwd=folder) as server:
        server.wait_until_listening(port)
        browser = Browser(port)
        use_flaskr(browser)
        assert server.stop(number) == status
    found = served(home)
    assert requested(found) == Counter(browser.asked)
    assert len({process_of(span) for span in found}) == 1
    assert_silent(server)


# --- Django ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def django_project(env: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``startproject`` makes, migrated, with one user for its admin site."""
    folder = tmp_path_factory.mktemp("django")
    variables = environment(env, folder / "home", {"DJANGO_SUPERUSER_PASSWORD": "engine"})
    manage = (str(env / "bin" / "python"), "manage.py")
    for command in (
        (str(env / "bin" / "django-admin"), "startproject", "library", "."),
        (*manage, "migrate", "-v", "0"),
        (*manage, "createsuperuser", "--noinput", "--username", "ada", "--email", "ada@example.com"),
    ):
        subprocess.run(command, cwd=folder, env=variables, check=True, stdout=subprocess.DEVNULL)
    return folder


def use_admin(browser: Browser) -> None:
    """Log in to the admin site, look around, log out."""
    browser.get("/")
    browser.get("/admin/", expect=302)
    browser.get("/admin/login/")
    token = browser.cookies["csrftoken"]
    browser.post("/admin/login/", username="ada", password="wrong", csrfmiddlewaretoken=token)
    browser.post("/admin/login/", expect=403, username="ada", password="engine")
    browser.post("/admin/login/?next=/admin/", expect=302, username="ada", password="engine", csrfmiddlewaretoken=token)
    assert "Site administration" in browser.get("/admin/")
    browser.get("/admin/auth/user/")
    browser.get("/admin/auth/user/1/change/")
    browser.get("/no/such/page", expect=404)
    browser.post("/admin/logout/", csrfmiddlewaretoken=browser.cookies["csrftoken"])


# Upstream's instrumentor wants the variable exported. The files that startproject makes set it themselves, so that
# an app with "nothing but opentelemetry-instrument" comes without it.
NAMED = {"DJANGO_SETTINGS_MODULE": "library.settings"}
UNNAMED: dict[str, str] = {}


@pytest.mark.parametrize("variables", [pytest.param(NAMED, id="named"), pytest.param(UNNAMED, id="unnamed")])
def test_django_under_gunicorn(env: Path, home: Path, django_project: Path, variables: dict[str, str]) -> None:
    """A fresh Django project with its admin site and two workers: every request is stored."""
    port = free_port()
    command = (*GUNICORN, f"127.0.0.1:{port}", "library.wsgi")
    with instrumented(env, home, *command, cwd=django_project, variables=variables) as server:
        server.wait_until_listening(port)
        browser = Browser(port)
        use_admin(browser)
        with ThreadPoolExecutor(4) as four:
            list(four.map(browser.get, ["/admin/login/"] * 40))
        assert server.stop(signal.SIGTERM) == 0
    assert requested(served(home)) == Counter(browser.asked)
    assert_silent(server)


@pytest.mark.parametrize(
    ("variables", "number", "status"),
    [
        pytest.param(NAMED, signal.SIGINT, 0, id="named-SIGINT"),
        pytest.param(NAMED, signal.SIGTERM, -signal.SIGTERM, id="named-SIGTERM"),
        pytest.param(UNNAMED, signal.SIGINT, 0, id="unnamed-SIGINT"),
    ],
)
def test_django_runserver(
    env: Path, home: Path, django_project: Path, variables: dict[str, str], number: signal.Signals, status: int
) -> None:
    """``manage.py runserver --noreload``: every request is stored, whichever signal ends it."""
    port = free_port()
    command = ("python", "manage.py", "runserver", "--noreload", f"127.0.0.1:{port}")
    with instrumented(env, home, *command, cwd=django_project, variables=variables) as server:
        server.wait_until_listening(port)
        browser = Browser(port)
        use_admin(browser)
        assert server.stop(number) == status
    assert requested(served(home)) == Counter(browser.asked)
    assert_silent(server)


# --- celery ------------------------------------------------------------------------------------------

_SEND = "import sys, tasks; [tasks.add.delay(number, number) for number in range(int(sys.argv[1]))]"
_BROKER = """
broker_transport_options = {"data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"}
"""


def test_celery_prefork_worker(env: Path, home: Path, tmp_path: Path) -> None:
    """Celery's own tutorial: as many tasks run as were sent, in two forked processes, and each is stored."""
    count = 150  # one of two busy processes may take dozens in a row
    folder = tmp_path / "tutorial"
    shutil.copytree(sources(env, "celery") / "examples" / "tutorial", folder)
    (folder / "file_broker.py").write_text(_BROKER)
    for name in ("queue", "control"):
        (folder / name).mkdir()
    variables = {"CELERY_BROKER_URL": "filesystem://", "CELERY_CONFIG_MODULE": "file_broker", "PYTHONPATH": str(folder)}

    def sent() -> list[SpanRecord]:
        return [span for span in spans(home) if span.kind == "PRODUCER"]

    command = ("celery", "-A", "tasks", "worker", "--concurrency", "2", "--loglevel", "INFO")
    with instrumented(env, home, *command, cwd=folder, variables=variables) as worker:
        with instrumented(env, home, "python", "-c", _SEND, str(count), cwd=folder, variables=variables) as sender:
            assert sender.wait() == 0
        wait_for(lambda: worker.output().count("succeeded in") == count, what=f"{count} tasks have run")
        assert worker.stop(signal.SIGTERM) == 0  # warm

    found = [span for span in once(spans(home)) if span.kind == "CONSUMER"]
    assert [span.name for span in found] == ["run/tasks.add"] * count
    parents = {key_of(span) for span in sent()}
    assert len(parents) == count
    assert {(span.trace_id, span.parent_id) for span in found} == parents
    assert len({process_of(span) for span in found}) == 2
    assert not {process_of(span) for span in found} & {process_of(span) for span in sent()}
    assert_silent(sender)


# --- multiprocessing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(env: Path, home: Path, method: str) -> None:
    """Each span of each child is stored once, as the child's own, however children start and end."""
    with instrumented(env, home, "python", str(APPS / "children.py"), method) as script:
        assert script.wait(60) == 0
    made: dict[str, list[int]] = json.loads(script.output())
    found = once(spans(home))
    pids = {name: Counter(span.attributes["test.pid"] for span in found if span.name == name) for name in made}
    assert pids == {name: Counter(expected) for name, expected in made.items()}
    assert len(found) == sum(len(expected) for expected in made.values())
    processes = {(span.attributes["test.pid"], process_of(span)) for span in found}
    assert len({pid for pid, _ in processes}) == len({process for _, process in processes}) == len(processes)
