"""Who may ask, and what a browser may do with the answer."""

import asyncio

import pytest

from otel_perf.view import guard
from otel_perf.view.guard import Guard, is_loopback, names_of
from tests.view.conftest import request

TOKEN = "a-token-of-24-letters-xx"


async def inner(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"secret"})


@pytest.mark.parametrize("host", ["127.0.0.1:4319", "localhost:4319", "LOCALHOST", "[::1]:4319", "127.0.0.1"])
def test_this_machines_names_are_answered(host):
    assert request(Guard(inner), headers={"host": host}).body == b"secret"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:4319", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "127.0.0.1@evil", "[::2]", "127.0.0.1:x", None],
)  # fmt: skip
def test_a_foreign_host_is_refused(host):
    answered = request(Guard(inner), headers={"host": host})
    assert answered.status in {400, 421}
    assert b"secret" not in answered.body


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "https://localhost:4319"])
def test_another_origin_is_refused(origin):
    answered = request(Guard(inner), headers={"origin": origin})
    assert answered.status == 403
    assert b"secret" not in answered.body


def test_its_own_origin_is_answered_without_sharing_it():
    answered = request(Guard(inner), headers={"origin": "http://127.0.0.1:4319"})
    assert answered.status == 200
    assert not any(name.startswith("access-control") for name in answered.headers)


def test_what_another_site_embeds_is_refused_but_a_link_to_the_page_is_not():
    cross = {"sec-fetch-site": "cross-site"}
    assert request(Guard(inner), "/api/state", headers=cross).status == 403
    assert request(Guard(inner), "/", headers=cross).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_nothing_can_be_changed(method):
    assert request(Guard(inner), method=method).status == 405


def test_every_answer_forbids_inline_and_outside_resources():
    for answered in (request(Guard(inner)), request(Guard(inner), headers={"host": "evil.example"})):
        policy = answered.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answered.headers["x-content-type-options"] == "nosniff"


def test_a_token_is_asked_for_and_becomes_a_cookie():
    app = Guard(inner, token=TOKEN)
    assert request(app).status == 401
    assert request(app, query="token=wrong").status == 401
    assert request(app, "/api/state", query=f"token={TOKEN}").status == 401  # only the page's own address has it
    let_in = request(app, query=f"token={TOKEN}")
    assert let_in.status == 303
    cookie = let_in.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert request(app, headers={"cookie": cookie.partition(";")[0]}).body == b"secret"
    assert request(app, headers={"authorization": f"Bearer {TOKEN}"}).body == b"secret"
    for wrong in (f"otel-perf-view-4319={TOKEN}x", "otel-perf-view-4319=", "=;=", "ä=ö"):
        assert request(app, headers={"cookie": wrong}).status == 401


def test_an_answer_that_is_not_taken_ends(monkeypatch):
    monkeypatch.setattr(guard, "ANSWER", 0.05)

    async def stuck(scope, receive, send):
        await asyncio.Event().wait()

    with pytest.raises(ConnectionAbortedError):
        request(Guard(stuck))


def test_addresses():
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("192.168.0.7")
    assert not is_loopback("host.example")
    assert "192.168.0.7" in names_of("192.168.0.7")
    assert "[fe80::1]" in names_of("fe80::1")
