"""What a client span says of its call, by semantic-convention attributes old and new."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.sdk.trace import ReadableSpan

TEXT: Final = ("db.query.text", "db.statement")
SUMMARY: Final = "db.query.summary"
SYSTEM: Final = ("db.system.name", "db.system")
URL: Final = ("url.full", "http.url")
METHOD: Final = ("http.request.method", "http.method")
HOST: Final = ("server.address", "net.peer.name", "http.host")
TEMPLATE: Final = ("url.template",)
RAW: Final = ("db.statement", "db.query.text", "http.url", "url.full")
LONGEST_KEY: Final = 1_000  # characters by which calls are told apart
LONGEST: Final = 120  # characters of a call in a sentence
_SQL: Final = frozenset(
    [
        "postgresql",
        "mysql",
        "mariadb",
        "sqlite",
        "mssql",
        "microsoft.sql_server",
        "oracle",
        "oracle.db",
        "cockroachdb",
        "db2",
        "ibm.db2",
        "clickhouse",
        "redshift",
        "aws.redshift",
        "snowflake",
        "trino",
        "presto",
        "hive",
        "bigquery",
        "gcp.bigquery",
        "spanner",
        "gcp.spanner",
        "duckdb",
        "firebird",
        "firebirdsql",
        "teradata",
        "vertica",
        "sybase",
        "databricks",
        "cassandra",
        "sap.hana",
        "hanadb",
        "tidb",
        "informix",
        "ingres",
        "other_sql",
    ]
)


@cache
def _verb() -> re.Pattern[str]:
    return re.compile(
        r"\s*(select|insert|update|delete|with|merge|create|alter|drop|begin|commit|rollback)\b", re.IGNORECASE
    )


@cache
def _command() -> re.Pattern[str]:
    return re.compile(r"[A-Za-z][A-Za-z_.]{0,29}")


@cache
def _variable_part() -> re.Pattern[str]:
    # A segment of a path that is data: with a digit or a sign of data in it, very long, or mixed like a token.
    return re.compile(
        r"(?<=/)(?:[^/]*[\d@%;=~:+][^/]*|[0-9a-fA-F]{8,}|[^/]{25,}|(?=[^/]*[a-z])(?=[^/]*[A-Z])[^/]{12,})(?=/|$)"
    )


def first(attributes: Mapping[str, Any] | None, names: tuple[str, ...]) -> str:
    """The first of ``names`` that is there, as text; empty if none is."""
    if attributes:
        for name in names:
            value = attributes.get(name)
            if value:
                return str(value)
    return ""


def raw(span: Any) -> str:
    """What tells calls of one name apart cheaply: the statement or the address as it was sent, or nothing."""
    try:
        get = span._attributes._dict.get  # the SDK's mapping itself takes three times as long
    except AttributeError:
        get = (span.attributes or {}).get
    text = get(RAW[0]) or get(RAW[1]) or get(RAW[2]) or get(RAW[3]) or ""
    return text[:LONGEST_KEY] if isinstance(text, str) else ""


def is_url(text: str) -> bool:
    """Whether what :func:`raw` gave is an address."""
    return text.startswith(("http://", "https://"))


def endpoint(span: ReadableSpan) -> str:
    """Method, host and path of an HTTP request, with what varies in the path as ``{}``."""
    attributes = span.attributes
    return f"{first(attributes, METHOD)} {_address(attributes)}"


def is_database(attributes: Mapping[str, Any] | None) -> bool:
    """Whether the call went to a database."""
    return bool(first(attributes, (*SYSTEM, *TEXT)))


def is_http(attributes: Mapping[str, Any] | None) -> bool:
    """Whether the call was an HTTP request."""
    return bool(first(attributes, METHOD))


def describe(span: ReadableSpan) -> str:
    """The call without its literals, for people and to tell calls apart.

    The first SQL statement imports sqlparse (20 ms); a known one is remembered.
    """
    attributes = span.attributes
    summary = first(attributes, (SUMMARY,))
    if summary:
        return summary[:LONGEST]
    text, system = first(attributes, TEXT), first(attributes, SYSTEM)
    if text:
        if system not in _SQL and not _verb().match(text):
            return f"{system} {_words(text)}".strip()[:LONGEST]
        from otel_perf.bottlenecks.sql import fingerprint

        return fingerprint(text, system)
    if first(attributes, METHOD):
        return endpoint(span)[:LONGEST]
    collection = first(attributes, ("db.collection.name", "db.mongodb.collection", "db.sql.table"))
    return f"{span.name} {collection}".strip()[:LONGEST]


def _words(text: str) -> str:
    """The command of a key-value or document store: what follows may be anybody's data."""
    command, *arguments = text.split(None, 8) or [""]
    known = command if _command().fullmatch(command) else "…"
    return " ".join([known.upper(), *("?" for _ in arguments)])


def _address(attributes: Mapping[str, Any] | None) -> str:
    template = first(attributes, TEMPLATE)
    try:
        parts = urlsplit(first(attributes, URL))
        host, path = parts.hostname or "", parts.path
    except ValueError:  # not a URL
        host, path = "", ""
    host = host or first(attributes, HOST)
    return host + (template or _variable_part().sub("{}", path))
