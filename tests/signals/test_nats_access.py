"""How a NATS server is found and lets us in, and what is said when it does not."""

import base64
import json
import os
import sys
import time
import uuid

import nkeys
import pytest
import trustme

from otel_perf.core.errors import MissingExtraError, SettingError, SignalError
from otel_perf.signals import nats_link
from otel_perf.signals.api import Signals
from otel_perf.signals.nats_address import address_of, without_password
from otel_perf.signals.settings import SignalsSettings
from tests.e2e.support import free_port
from tests.signals import nats_server
from tests.signals.contract import BoardContract, producer, signal
from tests.signals.nats_boards import Boards, opened


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name in ("server", "client"):
        made = authority.issue_cert("127.0.0.1", common_name=name)
        made.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
        made.private_key_pem.write_to_path(str(folder / f"{name}.key"))
    return folder


def works(board):
    put = board.put(signal(board.join(producer())))
    found = board.current("", ["CACHE_WARM"])
    board.close()
    return found == [put]


def test_tls_with_a_certificate_of_the_client_user_and_password(certificates, tmp_path, monkeypatch):
    monkeypatch.setattr(nats_link, "PATIENCE", 3.0)
    files = [f"--tlscert={certificates}/server.pem", f"--tlskey={certificates}/server.key"]
    options = [*files, f"--tlscacert={certificates}/ca.pem", "--tlsverify", "--user", "joe", "--pass", "p@ss/wort"]
    ours = {
        "certificate": f"{certificates}/ca.pem",
        "client_certificate": f"{certificates}/client.pem",
        "client_key": f"{certificates}/client.key",
    }
    with nats_server.running(tmp_path, *options) as server:
        url = f"tls://joe:p%40ss%2Fwort@{server.address}"
        assert works(opened(url, **ours))
        with pytest.raises(SignalError, match=rf"tls://{server.address} cannot be used: .*certificate"):
            opened(url)  # whose authority is not trusted
        began = time.monotonic()
        with pytest.raises(SignalError, match=r"(?i)authorization violation") as caught:
            opened(f"tls://joe:falsch@{server.address}", **ours)
        assert time.monotonic() - began < 2  # not tried again
        assert "falsch" not in str(caught.value)


def test_a_token_or_an_nkey(tmp_path):
    with nats_server.running(tmp_path, "--auth", "geheim") as server:
        assert works(opened(f"nats://geheim@{server.address}"))
        with pytest.raises(SignalError, match=r"(?i)authorization violation"):
            opened(server.url)
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    (tmp_path / "seed").write_bytes(bytes(seed))
    public = nkeys.from_seed(bytearray(seed)).public_key.decode()
    (tmp_path / "nats.conf").write_text(f'authorization {{ users = [{{nkey: "{public}"}}] }}')
    with nats_server.running(tmp_path, "-c", str(tmp_path / "nats.conf")) as server:
        assert works(opened(server.url, nkey=str(tmp_path / "seed")))


def keys(prefix):
    """A new pair; its public key."""
    seed = bytes(nkeys.encode_seed(os.urandom(32), prefix))
    pair = nkeys.from_seed(bytearray(seed))
    return pair, pair.public_key.decode(), seed.decode()


def token(issuer, subject, name, claims):
    """A JWT as nsc makes it."""

    def encoded(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    header = {"typ": "JWT", "alg": "ed25519-nkey"}
    body = {"iss": issuer.public_key.decode(), "sub": subject, "name": name, "iat": 0, "nats": {**claims, "version": 2}}
    signed = ".".join(encoded(json.dumps(part).encode()) for part in (header, body))
    return f"{signed}.{encoded(issuer.sign(signed.encode()))}"


def test_a_credentials_file(tmp_path):
    operator, operator_key, _ = keys(nkeys.PREFIX_BYTE_OPERATOR)
    account, account_key, _ = keys(nkeys.PREFIX_BYTE_ACCOUNT)
    _, user_key, user_seed = keys(nkeys.PREFIX_BYTE_USER)
    no_limit = dict.fromkeys(("subs", "data", "payload"), -1)
    limits = {**no_limit, **dict.fromkeys(("conn", "leaf", "mem_storage", "disk_storage", "streams", "consumer"), -1)}
    _, system, _ = keys(nkeys.PREFIX_BYTE_ACCOUNT)
    account_token = token(operator, account_key, "A", {"type": "account", "limits": limits})
    system_token = token(operator, system, "SYS", {"type": "account", "limits": no_limit})
    (tmp_path / "nats.conf").write_text(
        f"operator: {token(operator, operator_key, 'O', {'type': 'operator'})}\n"
        f"resolver: MEMORY\nresolver_preload: {{{account_key}: {account_token}, {system}: {system_token}}}\n"
        f"system_account: {system}\n"
    )
    user_token = token(account, user_key, "U", {"type": "user", **no_limit})
    (tmp_path / "user.creds").write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user_seed}\n------END USER NKEY SEED------\n"
    )
    with nats_server.running(tmp_path, "-c", str(tmp_path / "nats.conf")) as server:
        assert works(opened(server.url, credentials=str(tmp_path / "user.creds")))
        with pytest.raises(SignalError, match=r"(?i)authorization violation"):
            opened(server.url)


def test_a_user_with_few_rights(tmp_path):
    rights = ["$JS.API.>", "$JS.FC.>", "_INBOX.>", *(f"{pre}few{n}.>" for pre in ("", "$KV.") for n in (1, 2))]
    allowed = f"permissions: {{publish: {json.dumps(rights)}, subscribe: {json.dumps(rights)}}}"
    (tmp_path / "nats.conf").write_text(f'authorization {{ users = [{{user: joe, password: "geheim", {allowed}}}] }}')
    with nats_server.running(tmp_path, "-c", str(tmp_path / "nats.conf")) as server:
        few = Boards(server, tmp_path)
        few.url = f"nats://joe:geheim@{server.address}/few1"
        BoardContract().test_who_was_killed_is_not_trusted_once_it_is_back(few)
        few.url = f"nats://joe:geheim@{server.address}/few2"
        BoardContract().test_a_second_life_beside_the_first_takes_nothing_from_it(few)
        other = opened(f"nats://joe:geheim@{server.address}/other")
        with pytest.raises(SignalError, match=r"/other cannot be used: .*(?i:permissions violation)"):
            other.join(producer())
        other.close()
        few.close()


def test_the_second_server_is_used_where_the_first_does_not_run(nats_of_all):
    board = opened(f"nats://127.0.0.1:{free_port()},{nats_of_all.address}/t{uuid.uuid4().hex}")
    assert works(board)


def test_a_server_without_jetstream_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(nats_link, "PATIENCE", 3.0)  # the server has to have said so by then
    with nats_server.running(tmp_path, jetstream=False) as server, pytest.raises(SignalError, match="JetStream"):
        opened(server.url)


@pytest.mark.parametrize(
    ("url", "servers", "bucket", "place", "login"),
    [
        ("nats://h", ("nats://h:4222",), "otel_perf_signals", "nats://h:4222", {}),
        ("tls://u:p%40@h:1/b", ("tls://h:1",), "b", "tls://h:1/b", {"user": "u", "password": "p@"}),
        ("nats://t@h:1,[::1]:2", ("nats://h:1", "nats://[::1]:2"), "otel_perf_signals", "nats://h:1,nats://[::1]:2",
         {"token": "t"}),
    ],
)  # fmt: skip
def test_urls(url, servers, bucket, place, login):
    address = address_of(SignalsSettings(url=url))
    assert (address.servers, address.bucket, address.place, address.options) == (servers, bucket, place, login)


@pytest.mark.parametrize(
    "url", ["nats://", "nats://u:geheim@", "nats://u:geheim@h:x", "nats://u:geheim@h/a.b", "redis://u:geheim@h",
            "nats://u:geheim@h,redis://h", "nats://u:ge,heim@h:x", "/some/where"],
)  # fmt: skip
def test_a_wrong_url_is_a_clear_error_without_its_password(url):
    signals = Signals({"OTEL_PERF_SIGNALS_URL": url})
    with pytest.raises(SettingError, match="OTEL_PERF_SIGNALS_URL=") as caught:
        signals.emit("A")
    assert "heim" not in str(caught.value)
    assert "heim" not in without_password(url)


@pytest.mark.parametrize("name", ["credentials", "nkey", "certificate", "client_certificate"])
def test_a_file_that_is_not_there_is_a_clear_error(name, tmp_path):
    with pytest.raises(SettingError, match=rf"OTEL_PERF_SIGNALS_{name.upper()}='.*': No such file"):
        address_of(SignalsSettings(url="nats://h", **{name: str(tmp_path / "none")}))


def test_an_nkey_that_is_none_is_a_clear_error(nats_of_all, tmp_path):
    (tmp_path / "seed").write_text("geheim")
    with pytest.raises(SignalError, match=r"the credentials or the nkey cannot be used \(") as caught:
        opened(nats_of_all.url, nkey=str(tmp_path / "seed"))
    assert "geheim" not in str(caught.value)


def test_credentials_that_are_none_are_a_clear_error(tmp_path):
    (tmp_path / "creds").write_text("geheim\n-----BEGIN NATS USER JWT-----\n")
    with pytest.raises(SettingError, match=r"OTEL_PERF_SIGNALS_CREDENTIALS='.*creds': it has no user JWT") as caught:
        opened("nats://h", credentials=str(tmp_path / "creds"))
    assert "geheim" not in str(caught.value)


def test_a_certificate_that_is_none_is_a_clear_error(tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(SettingError, match=r"OTEL_PERF_SIGNALS_CERTIFICATE='.*ca.pem'.*they cannot be used"):
        address_of(SignalsSettings(url="nats://h", certificate=str(tmp_path / "ca.pem")))


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("nats", "otel_perf.signals.nats_"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nats", None)
    signals = Signals({"OTEL_PERF_SIGNALS_URL": "nats://joe:geheim@h"})
    with pytest.raises(MissingExtraError, match=r"OTEL_PERF_SIGNALS_URL=nats://h:4222 needs an extra: pip install"):
        signals.emit("A")
