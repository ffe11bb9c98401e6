"""``otel-perf view``: the page, live, until it is interrupted. 1 if it cannot be served, 2 wrong usage."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from otel_perf.cli import BAD, GOOD, USAGE, options
from otel_perf.core.errors import SettingError, StoreError
from otel_perf.core.home import STORE_FILE

if TYPE_CHECKING:
    from collections.abc import Sequence

PORT: Final = 4319  # beside OTLP's own 4317 and 4318
OTLP: Final = 4318
_NEEDS: Final = "otel-perf view needs an extra: pip install 'otel-perf[view]'"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the subcommand."""
    parser.add_argument(
        "homes",
        nargs="*",
        type=Path,
        metavar="DIR",
        help="home folders, shown together (default: $OTEL_PERF_HOME or .otel-perf)",
    )
    options.add_home(parser)
    parser.add_argument("--port", type=_port, help=f"port of the page (default {PORT}, or a free one if that is taken)")
    parser.add_argument(
        "--listen", default="127.0.0.1", metavar="ADDRESS",
        help="address to listen on (default 127.0.0.1); any that others reach needs a token, which is made and printed",
    )  # fmt: skip
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="ask for the token that is in this file, on any address"
    )
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME",
        help="another name that the page and the receiver are reached by, as that of a Compose or Kubernetes service",
    )  # fmt: skip
    parser.add_argument(
        "--receive", nargs="?", type=_port, const=OTLP, metavar="PORT",
        help=f"take OTLP over HTTP from any program, on this port (default {OTLP}), into a store of its own",
    )  # fmt: skip
    parser.add_argument(
        "--source", action="append", default=[], type=Path, metavar="DIR",
        help="folder from which lines of Python are shown (default: the working folder, if only this machine can ask)",
    )  # fmt: skip
    options.add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl+C or SIGTERM."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name not in {"starlette", "uvicorn", "anyio"}:
            raise
        print(_NEEDS, file=sys.stderr)
        return BAD
    import asyncio

    try:
        return asyncio.run(_serve(arguments))
    except SettingError as error:
        print(f"otel-perf view: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        return GOOD


def _port(text: str) -> int:
    if text.isdecimal() and int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port; use a number up to 65535")


def _homes(arguments: argparse.Namespace) -> list[Path]:
    """Those that are named; of one that is not there yet only when there will be something to show."""
    named = [Path(os.path.abspath(home)) for home in arguments.homes]
    homes = named or [options.home_of(arguments).with_file(STORE_FILE)]
    for home in homes:
        is_there = (home / STORE_FILE).exists() or (home.is_dir() and not named)
        if not is_there and arguments.receive is None:
            raise StoreError(f"no store at {home / STORE_FILE}: run the program under opentelemetry-instrument first")
    return list(dict.fromkeys(homes))


async def _serve(arguments: argparse.Namespace) -> int:
    import asyncio
    import gc

    from otel_perf.core.home import make_private
    from otel_perf.view import guard, server, serving
    from otel_perf.view.live import Live
    from otel_perf.view.reading import index_path
    from otel_perf.view.receiver import FOLDER, Receiver

    homes, address = _homes(arguments), str(arguments.listen).strip("[]")
    token = _token(address, arguments.token_file)
    known: dict[str, Any] = {
        "hosts": guard.names_of(address) | {name.lower() for name in arguments.allow_host}, "token": token,
        "by_address": not guard.is_loopback(address),
    }  # fmt: skip
    port = PORT if arguments.port is None else arguments.port
    listener = serving.listen(address, port, "--port", or_another=arguments.port is None)
    apps: list[tuple[Any, Any]] = []
    receiver = None
    if arguments.receive is not None:
        make_private(homes[0])
        receiver = Receiver(homes[0] / FOLDER, limit=_limit())
        make_private(receiver.home)
        homes.append(receiver.home)
        taking = serving.listen(address, arguments.receive, "--receive")
        apps.append((guard.Guard(receiver, **known, methods=("POST",)), taking))
    elif (homes[0] / FOLDER / STORE_FILE).exists():
        homes.append(homes[0] / FOLDER)  # from before
    sources: Sequence[Path] = arguments.source or ([Path.cwd()] if guard.is_loopback(address) else [])
    index = index_path(homes)
    stop = asyncio.Event()
    live = Live(index, homes)
    about = {"homes": [str(home) for home in homes], "receive": _urls(address, apps[0][1])[-1] if apps else ""}
    page = server.application(index, homes, live, sources=sources, about=about)
    apps.append((guard.Guard(page, **known), listener))
    _stop_by_signal(stop)
    _say(arguments, [f"{url}{token and f'?token={token}'}" for url in _urls(address, listener)], about, token)
    # An answer is ten thousand small objects and no cycles: looking for them in it would take a fifth of its time.
    gc.freeze()
    gc.set_threshold(100_000)
    looking = asyncio.create_task(live.run(stop))
    try:
        await serving.serve(apps, stop)
    finally:
        stop.set()
        await looking
        if receiver is not None:
            receiver.close()
    return GOOD


def _token(address: str, file: Path | None) -> str:
    """What a visitor has to show; nothing on this machine, unless a file has one."""
    import re
    import secrets

    from otel_perf.view.guard import is_loopback

    if file is None:
        return "" if is_loopback(address) else secrets.token_urlsafe(24)
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"--token-file {file} cannot be read: {error}") from error
    if not re.fullmatch(r"[A-Za-z0-9_-]{16,200}", token):
        raise SettingError(f"--token-file {file}: a token has 16 or more letters, digits, - and _")
    return token


def _limit() -> int:
    from otel_perf.core.settings import load
    from otel_perf.store import StoreSettings

    settings, _ = load(StoreSettings, "store", os.environ)
    return settings.limit


def _stop_by_signal(stop: Any) -> None:
    """End the page by Ctrl+C and SIGTERM."""
    import asyncio
    import signal

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))


def _urls(address: str, listener: Any) -> list[str]:
    """Where it is reached, this machine's own address first."""
    from otel_perf.view.guard import addresses_of

    port = listener.getsockname()[1]
    return [f"http://{f'[{host}]' if ':' in host else host}:{port}/" for host in addresses_of(address)]


def _say(arguments: argparse.Namespace, urls: list[str], about: dict[str, Any], token: str) -> None:
    from otel_perf.view.guard import is_loopback

    if arguments.json:
        print(json.dumps({"url": urls[0], "urls": urls, **about}), flush=True)
        return
    print(f"otel-perf view: {urls[0]}  (Ctrl+C ends it)", flush=True)
    for url in urls[1:]:
        print(f"  also {url}", flush=True)
    print(f"  shows {', '.join(about['homes'])}", flush=True)
    if about["receive"]:
        headers = f" OTEL_EXPORTER_OTLP_HEADERS='authorization=Bearer%20{token}'" if token else ""
        print(f"  takes OTLP: OTEL_EXPORTER_OTLP_ENDPOINT={about['receive'].rstrip('/')}{headers}", flush=True)
    if not is_loopback(str(arguments.listen)):
        print(
            "  nothing is encrypted on the way, the token neither: in a network that you do not trust, leave --listen"
        )
        print("  out and use a tunnel (ssh -L), or put a proxy with TLS before it", flush=True)
