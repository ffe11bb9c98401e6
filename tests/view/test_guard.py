"""Who may ask, and what a browser may do with the answer."""

import asyncio

import pytest

from otel_perf.view import guard
from otel_perf.view.guard import Guard, addresses_of, is_loopback, names_of
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


def test_the_token_leaves_the_address_also_where_the_cookie_is_known():
    """GIVEN a visitor who opens the printed address a second time THEN it is not in what they keep, copy and show."""
    app = Guard(inner, token=TOKEN)
    headers = {"cookie": f"otel-perf-view-4319={TOKEN}"}
    assert request(app, headers=headers).status == 200
    for query in (f"token={TOKEN}", "token=of-yesterday"):
        found = request(app, query=query, headers=headers)
        assert (found.status, found.headers["location"]) == (303, "/")


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


def test_a_piece_of_a_stream_that_is_not_taken_ends_it(monkeypatch):
    """GIVEN a stream WHEN its client takes nothing any more THEN it ends, however long it may last otherwise."""
    monkeypatch.setattr(guard, "ANSWER", 0.05)

    async def stream(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(4):
            await asyncio.sleep(0.03)  # longer than an answer may take, all together
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    async def scene(takes):
        sent = []

        async def send(message):
            sent.append(message)
            if len(sent) > takes:
                await asyncio.Event().wait()

        scope = {
            "type": "http", "path": guard.STREAM, "method": "GET", "headers": [(b"host", b"127.0.0.1")], "query_string": b"",
        }  # fmt: skip
        await Guard(stream)(scope, None, send)
        return len(sent)

    assert asyncio.run(scene(takes=9)) == 5
    with pytest.raises(TimeoutError):
        asyncio.run(scene(takes=2))


@pytest.mark.parametrize("host", ["192.168.0.7:4319", "10.1.2.3", "[fd00::7]:4319", "127.0.0.1:4319"])
def test_where_others_reach_it_any_address_of_numbers_is_answered(host):
    """Nobody else can make an address of numbers point here, and behind a forwarded port it is any."""
    assert request(Guard(inner, hosts=names_of("0.0.0.0"), by_address=True), headers={"host": host}).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "view:4319", "192.168.0.7.evil.example", "192.168.0", "[fd00::7", "1e3"]
)
def test_where_others_reach_it_names_have_to_be_allowed(host):
    refused = request(Guard(inner, hosts=names_of("0.0.0.0"), by_address=True), headers={"host": host})
    assert refused.status == 421
    assert b"--allow-host" in refused.body
    assert host.partition(":")[0].encode() in refused.body
    known = {*names_of("0.0.0.0"), "view"}
    assert request(Guard(inner, hosts=known, by_address=True), headers={"host": "view:4319"}).status == 200


def test_the_address_that_was_given_is_always_one_of_its_names():
    assert "127.0.0.2" in names_of("127.0.0.2")
    assert "192.168.0.7" in names_of("192.168.0.7")
    assert "[fe80::1]" in names_of("fe80::1")
    assert "host.example" in names_of("HOST.example")


def test_of_a_wildcard_every_address_of_this_machine_is_named():
    import psutil

    assert addresses_of("127.0.0.2") == ["127.0.0.2"]
    found = addresses_of("0.0.0.0")
    assert found[0] == "127.0.0.1"
    every = {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
    assert set(found) <= every | {"127.0.0.1"}
    assert set(found) <= set(addresses_of("::"))


def test_addresses():
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("192.168.0.7")
    assert not is_loopback("host.example")
