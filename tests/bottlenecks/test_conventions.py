"""Calls are described by the conventions' names, old and new, without anybody's data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import ReadableSpan

from otel_perf.bottlenecks.conventions import LONGEST, describe, is_database, is_http, raw


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"db.statement": "SELECT 1", "db.system": "sqlite"}, "SELECT ?"),
        ({"db.query.text": "SELECT 1", "db.system.name": "sqlite"}, "SELECT ?"),
        ({"db.query.text": "SELECT 1", "db.query.summary": "SELECT users"}, "SELECT users"),
        ({"db.statement": 'SELECT "x y"', "db.system": "mysql"}, "SELECT ?"),
        ({"db.statement": "GET user:42", "db.system": "redis"}, "redis GET ?"),
        ({"db.query.text": "set user:42 hunter2", "db.system.name": "redis"}, "redis SET ? ?"),
        ({"db.statement": "find users", "db.system": "mongodb"}, "mongodb FIND ?"),
        ({"db.system": "mongodb", "db.mongodb.collection": "users"}, "call users"),
        ({"db.system.name": "mongodb", "db.collection.name": "users"}, "call users"),
        ({"http.method": "GET", "http.url": "https://a.example/users/42?key=hunter2"}, "GET a.example/users/{}"),
        ({"http.request.method": "GET", "url.full": "https://a.example/users/42"}, "GET a.example/users/{}"),
        ({"http.request.method": "PUT", "url.full": "https://me:hunter2@a.example:8443/x#hunter2"}, "PUT a.example/x"),
        (
            {"http.request.method": "GET", "server.address": "b.example", "url.template": "/u/{id}"},
            "GET b.example/u/{id}",
        ),
        ({"http.request.method": "GET", "url.full": "http://a/x/1", "url.template": "/x/{id}"}, "GET a/x/{id}"),
        ({"http.method": "GET", "net.peer.name": "c.example"}, "GET c.example"),
        ({"http.method": "GET", "http.host": "d.example"}, "GET d.example"),
        ({"http.method": "GET", "http.url": "http://[broken"}, "GET "),
        ({}, "call"),
    ],
)
def test_a_call_is_described(attributes, expected):
    assert describe(ReadableSpan("call", attributes=attributes)) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/users/42/orders/7", "/users/{}/orders/{}"),
        ("/u/3fa85f64-5717-4562-b3fc-2c963f66afa6", "/u/{}"),
        ("/commit/deadbeefcafe", "/commit/{}"),
        ("/v2/items", "/{}/items"),
        ("/files/report-2024.pdf", "/files/{}"),
        ("/health", "/health"),
        ("/", "/"),
        ("", ""),
    ],
)
def test_what_varies_in_a_path_is_cut(path, expected):
    assert (
        describe(ReadableSpan("x", attributes={"http.method": "GET", "http.url": f"http://h{path}"}))
        == f"GET h{expected}"
    )


def test_what_a_call_is_to():
    assert is_database({"db.system.name": "x"})
    assert is_database({"db.statement": "x"})
    assert not is_database({"http.method": "GET"})
    assert not is_database(None)
    assert is_http({"http.request.method": "GET"})
    assert not is_http({"db.system": "x"})


@pytest.mark.parametrize(
    "attributes", [None, {}, {"db.statement": "S"}, BoundedAttributes(attributes={"db.statement": "S"})]
)
def test_the_statement_as_it_was_sent(attributes):
    assert raw(ReadableSpan("x", attributes=attributes)) == ("S" if attributes else "")


marks = st.integers(10**8, 10**9).map(lambda number: f"hunter{number}")


@given(
    marks,
    marks,
    marks,
    st.sampled_from(["http.url", "url.full"]),
    st.sampled_from(["http.method", "http.request.method"]),
)
def test_no_credential_and_no_query_gets_through(user, password, query, url, method):
    address = f"https://{user}:{password}@shop.example/a/{query}/b?{query}={query}&t={password}#{query}"
    found = describe(ReadableSpan("GET", attributes={method: "GET", url: address}))
    assert "hunter" not in found
    assert found == "GET shop.example/a/{}/b"


@pytest.mark.parametrize("system", ["redis", "mongodb", "memcached", "elasticsearch", "opensearch", "dynamodb"])
@pytest.mark.parametrize(
    "statement",
    [
        "GET hunter2", "find {'name': 'hunter2'}", '{"query":{"match":{"name":"hunter2"}}}', "SET a hunter2\nGET hunter3",
        "{'query': {'match': {'name': 'hunter2'}}}",
    ],
)  # fmt: skip
def test_keys_and_values_of_other_stores_do_not_get_through(system, statement):
    assert (
        "hunter" not in describe(ReadableSpan("x", attributes={"db.system": system, "db.statement": statement})).lower()
    )


@pytest.mark.parametrize("statement", [" ", "\n\t", "\u3000"])
@pytest.mark.parametrize("system", ["redis", "sqlite", ""])
def test_a_statement_of_nothing_breaks_nothing(system, statement):
    assert isinstance(describe(ReadableSpan("x", attributes={"db.system": system, "db.statement": statement})), str)


values = st.text(max_size=60) | st.integers() | st.booleans() | st.lists(st.text(max_size=5), max_size=3)
keys = st.sampled_from([
    "db.statement", "db.query.text", "db.query.summary", "db.system", "db.system.name", "http.url", "url.full",
    "http.method", "http.request.method", "server.address", "net.peer.name", "url.template", "db.collection.name",
])  # fmt: skip


@given(st.dictionaries(keys, values, max_size=6), st.text(max_size=300))
def test_no_attribute_breaks_it(attributes, name):
    found = describe(ReadableSpan(name, attributes=attributes))
    assert isinstance(found, str)
    assert len(found) <= max(LONGEST, 160)
