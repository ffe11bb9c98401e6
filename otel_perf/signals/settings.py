"""Where the board is, and as whom this process signs."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

from otel_perf.core.records import record
from otel_perf.core.sequence import NAMES
from otel_perf.core.settings import Parsed


def _names(value: object) -> tuple[str, ...]:
    if isinstance(value, tuple):
        return value
    names = tuple(name.strip() for name in str(value).split(",") if name.strip())
    for name in names:
        if name not in NAMES:
            raise ValueError(f"is not understood: {name!r} is none of the signals")
    return names


@record
class SignalsSettings:
    """The board, its scope, and who we are on it."""

    url: str = field(
        default="",
        metadata={
            "doc": "The board: empty for `signals.db` in the home folder (all processes that share it), `memory:` for"
            " this process alone, `nats://user:password@host:4222/bucket` or `tls://…` for all machines that reach a"
            " NATS server with JetStream (extra `nats`; a token instead of user and password, several servers with"
            " commas between; the bucket is `otel_perf_signals` where none is named)."
        },
    )
    scope: str = field(
        default="",
        metadata={"doc": "Signals of other scopes are not seen: tells deployments apart that share a board."},
    )
    key: str = field(
        default="",
        metadata={"doc": "A secret: signals are marked with it (HMAC-SHA256), and those without its mark are refused."},
    )
    agent: str = field(
        default="",
        metadata={"doc": "Who emits, `gen_ai.agent.name`; stays the same when the process is restarted."},
    )
    agent_id: str = field(default="", metadata={"doc": "The agent's id, `gen_ai.agent.id`."})
    external: Annotated[tuple[str, ...], Parsed(_names, f"names with commas, of {', '.join(NAMES)}")] = field(
        default=(),
        metadata={
            "doc": "Signals of the start that somebody else emits, on this board and without a key; features that wait"
            " for them are turned on when they come."
        },
    )
    credentials: str = field(default="", metadata={"doc": "A credentials file for NATS (JWT and seed)."})
    nkey: str = field(default="", metadata={"doc": "A file with an nkey's seed for NATS."})
    certificate: str = field(
        default="", metadata={"doc": "A PEM file with the authorities that a NATS server's certificate is trusted by."}
    )
    client_certificate: str = field(
        default="", metadata={"doc": "A PEM file with the certificate that is shown to a NATS server."}
    )
    client_key: str = field(default="", metadata={"doc": "A PEM file with the key of that certificate."})
