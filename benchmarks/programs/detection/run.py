"""Runs the cases that a file names, one after the other, as the service that they are operations of.

    python run.py cases.json told.jsonl

Knows nothing of otel-perf: spans are made through OpenTelemetry's API or by FastAPI's instrumentor. What was injected
where is told in the second file; ``bench.case`` on the root span says which trace is which case.
"""

from __future__ import annotations

import asyncio
import gc
import http.client
import inspect
import json
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import case_calls  # noqa: F401
import case_code  # noqa: F401
import case_memory  # noqa: F401
import case_waits  # noqa: F401
import fastapi
import httpx
import requests
import trends
import uvicorn
from case import SCENARIOS, TRUST, Case, fill, places
from opentelemetry import trace

if TYPE_CHECKING:
    from collections.abc import Callable

CASE: Final = "bench.case"
TRIES: Final = 3
REHEARSALS: Final = 3  # without what the case is about: what is slow only the first times is no bottleneck
# These wait for a CPU by themselves, or find memory there the second time.
ONCE: Final = ("fan_out", "cpu_starved", "memory_growth")
DISTURBED: Final = 0.02  # seconds for which the machine kept an operation from its CPU, from which it is run again
tracer = trace.get_tracer("shop")


def sync_body(case: Case) -> None:
    """What the operation does, below its root span."""
    if case.rehearsal:
        return
    with ExitStack() as stack:
        for step in case.steps:
            stack.enter_context(tracer.start_as_current_span(step))
        if case.prefaced:
            requests.get(case.url("session", case.about(0.008)), timeout=30)
        SCENARIOS[case.scenario].run(case)


async def async_body(case: Case) -> None:
    """The same for a coroutine."""
    if case.rehearsal:
        return
    with ExitStack() as stack:
        for step in case.steps:
            stack.enter_context(tracer.start_as_current_span(step))
        if case.prefaced:
            async with httpx.AsyncClient(verify=TRUST) as client:
                await client.get(case.url("session", case.about(0.008)))
        await SCENARIOS[case.scenario].run(case)


class Service:
    """A FastAPI application under uvicorn, in a thread, to which routes are added as they are wanted."""

    def __init__(self) -> None:
        self.app = fastapi.FastAPI()
        self.paths: set[str] = set()
        self.server = uvicorn.Server(uvicorn.Config(self.app, port=0, log_level="warning"))
        threading.Thread(target=self.server.run, daemon=True).start()
        while not self.server.started:
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.app.add_api_route("/ready", lambda: "yes")
        self._get("/ready")  # the first request imports what all need

    def get(self, case: Case, body: Callable[[Case], Any]) -> None:
        """Ask for the case once; http.client has no instrumentor."""

        def endpoint() -> None:
            trace.get_current_span().set_attribute(CASE, case.mark)
            body(case)

        async def async_endpoint() -> None:
            trace.get_current_span().set_attribute(CASE, case.mark)
            await body(case)

        path = case.name.removeprefix("GET ")
        if path not in self.paths:
            self.paths.add(path)
            self.app.add_api_route(path, async_endpoint if inspect.iscoroutinefunction(body) else endpoint)
        self._get(path)

    def _get(self, path: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status}")


class Shop:
    """Runs cases where they want to be run."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.service: Service | None = None
        self.ended = 0.0  # seconds that the operation's own thread waited for a CPU, if it has ended

    def run(self, case: Case, tries: int = TRIES) -> str:
        """One operation, again if the machine disturbed it; the mark of the one that counts."""
        scenario = SCENARIOS[case.scenario]
        case.mark, case.rehearsal = f"{case.id}/rehearsal", True
        for _ in range(0 if scenario.first else REHEARSALS):
            self._run(case)
        for number in range(tries):
            case.begin(number)
            with scenario.around(case) as case.given:
                before, self.ended = run_queue(), 0.0
                self._run(case)
            if run_queue() - before + self.ended < DISTURBED or scenario.kind in ONCE:
                break
            time.sleep(0.1)
        return case.mark

    def _run(self, case: Case) -> None:
        asynchronous = inspect.iscoroutinefunction(SCENARIOS[case.scenario].run)
        if case.host == "fastapi" and self.service is None:
            self.service = Service()
        if case.host == "fastapi":
            assert self.service is not None
            self.service.get(case, async_body if asynchronous else sync_body)
        elif asynchronous:
            self.runner.run(self._root_of_coroutine(case))
        elif case.host == "thread":
            thread = threading.Thread(target=self._root_in_thread, args=(case,))
            thread.start()
            thread.join()
        else:
            self._root(case)

    def _root(self, case: Case) -> None:
        with tracer.start_as_current_span(case.name, kind=trace.SpanKind.SERVER, attributes={CASE: case.mark}):
            sync_body(case)

    def _root_in_thread(self, case: Case) -> None:
        self._root(case)
        self.ended = run_queue("thread-self")

    async def _root_of_coroutine(self, case: Case) -> None:
        with tracer.start_as_current_span(case.name, kind=trace.SpanKind.SERVER, attributes={CASE: case.mark}):
            await async_body(case)


def run_queue(threads: str = "self/task/*") -> float:
    """Seconds for which the threads of this process that are there have waited for a CPU so far."""
    waited = 0
    for stat in Path("/proc").glob(f"{threads}/schedstat"):
        with suppress(OSError):  # it has ended
            waited += int(stat.read_text().split()[1])
    return waited / 1e9


def main() -> None:
    """Run all cases."""
    asked = json.loads(Path(sys.argv[1]).read_text())
    fill()
    gc.collect()
    gc.freeze()  # of what was imported, as servers do: a full collection takes no 50 ms then
    shop = Shop()
    with Path(sys.argv[2]).open("w") as told:
        if "clean" in asked:
            trends.traffic(shop, asked["clean"], asked["server"])
            return
        cases = [Case(*wanted, asked["server"]) for wanted in asked["cases"]]
        for kind in {SCENARIOS[case.scenario].kind for case in cases} & trends.WARM_UPS.keys():
            trends.WARM_UPS[kind](cases[0])
        if asked["together"]:
            trends.together(cases)
        for case in cases:
            mark = case.id if asked["together"] else shop.run(case)
            scenario = SCENARIOS[case.scenario]
            names = [name for name in scenario.blame if isinstance(name, str)] + [case.name] * asked["together"]
            told.write(json.dumps([case.id, mark, places(scenario), names, case.host]) + "\n")


if __name__ == "__main__":
    main()
