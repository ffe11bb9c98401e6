"""OTEL_EXPORTER_OTLP_* variables: where a signal goes, and one line for each that cannot be used."""

import pytest

from otel_perf.store.destination import mark, resolve


def told(environ, signal="traces", **more):
    lines = []
    variables = {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in environ.items()} | more
    return resolve(variables, signal, lines.append), lines


@pytest.mark.parametrize(
    ("environ", "protocol", "url"),
    [
        ({"ENDPOINT": "http://c:4318"}, "http/protobuf", "http://c:4318/v1/traces"),
        ({"ENDPOINT": "https://c/base/"}, "http/protobuf", "https://c/base/v1/traces"),
        ({"ENDPOINT": "http://c:4317"}, "grpc", "http://c:4317"),
        ({"ENDPOINT": "c:4317"}, "grpc", "https://c:4317"),
        ({"ENDPOINT": "c:4317", "INSECURE": "true"}, "grpc", "http://c:4317"),
        ({"ENDPOINT": "http://c:4317", "PROTOCOL": "http/protobuf"}, "http/protobuf", "http://c:4317/v1/traces"),
        ({"ENDPOINT": "http://c:1", "TRACES_PROTOCOL": "grpc"}, "grpc", "http://c:1"),
        ({"TRACES_ENDPOINT": "http://c/own", "ENDPOINT": "http://other"}, "http/protobuf", "http://c/own"),
    ],
)
def test_the_endpoint_and_its_protocol(environ, protocol, url):
    found, lines = told(environ)
    assert (found.protocol, found.url, lines) == (protocol, url, [])


def test_the_exporters_name_decides_the_protocol():
    environ = {"ENDPOINT": "http://c:4317"}
    assert told(environ, OTEL_TRACES_EXPORTER="otlp_proto_http")[0].protocol == "http/protobuf"
    assert told({"ENDPOINT": "http://c:1"}, OTEL_TRACES_EXPORTER="otlp_proto_grpc")[0].protocol == "grpc"


def test_nothing_named_is_nowhere():
    assert told({}) == (None, [])
    assert resolve({}, "logs", print, local=True).url == "http://localhost:4318/v1/logs"
    grpc = {"OTEL_LOGS_EXPORTER": "otlp_proto_grpc"}
    assert resolve(grpc, "logs", print, local=True).url == "http://localhost:4317"


def test_beside_a_signal_with_an_endpoint_the_others_have_the_specifications_default():
    found, lines = told({"METRICS_ENDPOINT": "http://c"})
    assert (found.url, lines) == ("http://localhost:4318/v1/traces", [])


@pytest.mark.parametrize(
    ("endpoint", "line"),
    [
        ("https://user:pa/ss@host", "'https://host' is no endpoint"),
        ("user:s3cret@collector:4318", "'collector:4318' has no scheme; using http://collector:4318"),
        ("ftp://c?api-key=s3cret", "'ftp://c' is no endpoint"),
    ],
)
def test_no_line_shows_a_secret_of_the_address(endpoint, line):
    _, lines = told({"ENDPOINT": endpoint})
    assert line in lines[0]
    assert "s3cret" not in lines[0]
    assert "pa/ss" not in lines[0]
    found, _ = told({"ENDPOINT": "http://user:s3cret@c:1/p?api-key=s3cret#s3cret"})
    assert found.place == "http://c:1/p"


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"ENDPOINT": "ftp://c"}, "OTEL_EXPORTER_OTLP_ENDPOINT='ftp://c' is no endpoint; allowed: http://host:port"),
        ({"ENDPOINT": "http://c:port"}, "is no endpoint"),
        ({"ENDPOINT": "http://"}, "is no endpoint"),
        (
            {"ENDPOINT": "https://c", "CERTIFICATE": "/none/such"},
            "OTEL_EXPORTER_OTLP_CERTIFICATE='/none/such' cannot be",
        ),
        ({"ENDPOINT": "https://c", "TRACES_CLIENT_KEY": "/none/such"}, "TRACES_CLIENT_KEY='/none/such' cannot be read"),
        ({"ENDPOINT": "c:4317", "PROTOCOL": "grpc", "CERTIFICATE": "/none/such"}, "CERTIFICATE='/none/such' cannot be"),
    ],
)
def test_what_cannot_be_used_is_not_sent_to(environ, line):
    found, lines = told(environ)
    assert found is None
    assert line in lines[0]


def test_no_certificate_is_looked_at_for_what_is_not_encrypted():
    """As with upstream's exporters: one that is not there does no harm."""
    files = {"CERTIFICATE": "/none/such", "CLIENT_CERTIFICATE": "/none/such", "TRACES_CLIENT_KEY": "/none/such"}
    for plain in ({"ENDPOINT": "http://c"}, {"ENDPOINT": "c:4317", "PROTOCOL": "grpc", "INSECURE": "true"}):
        found, lines = told(plain | files)
        assert (found.certificate, found.client_certificate, found.client_key) == (None, None, None)
        assert [line for line in lines if "CERTIFICATE" in line or "KEY" in line] == []


def test_half_of_a_pair_of_certificate_and_key(tmp_path):
    """gRPC's core ends the process where it gets only one of them."""
    (tmp_path / "pem").write_text("both")
    for protocol, key in (("grpc", str(tmp_path / "pem")), ("http/protobuf", None)):
        found, lines = told(
            {"ENDPOINT": "https://c", "PROTOCOL": protocol, "CLIENT_CERTIFICATE": str(tmp_path / "pem")}
        )
        assert (found.client_certificate, found.client_key, lines) == (str(tmp_path / "pem"), key, [])
        found, (line,) = told({"ENDPOINT": "https://c", "PROTOCOL": protocol, "CLIENT_KEY": str(tmp_path / "pem")})
        assert (found.client_certificate, found.client_key) == (None, None)
        assert line == (
            "OTEL_EXPORTER_OTLP_CLIENT_KEY is without effect: OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE is not set"
        )


@pytest.mark.parametrize(
    ("environ", "attribute", "used", "line"),
    [
        ({"TIMEOUT": "soon"}, "timeout", 10.0, "TIMEOUT='soon' is not a timeout"),
        ({"TIMEOUT": "-1"}, "timeout", 10.0, "is not a timeout"),
        ({"TRACES_TIMEOUT": "2.5", "TIMEOUT": "3"}, "timeout", 2.5, None),
        ({"TIMEOUT": "10000"}, "timeout", 10.0, None),
        ({"COMPRESSION": "brotli"}, "compression", "none", "COMPRESSION='brotli' is not a compression"),
        ({"COMPRESSION": "GZIP"}, "compression", "gzip", None),
        ({"PROTOCOL": "http/json"}, "protocol", "http/protobuf", "PROTOCOL='http/json' is not supported"),
        ({"HEADERS": "api-key=a%20b, x=y=z"}, "headers", {"api-key": "a b", "x": "y=z"}, None),
        ({"HEADERS": "secret,a=1"}, "headers", {"a": "1"}, "OTEL_EXPORTER_OTLP_HEADERS: entry 1 is malformed"),
        ({"HEADERS": "a=1%0d%0aevil: 1"}, "headers", {}, "entry 1 is malformed"),
    ],
)
def test_a_wrong_value_is_one_line_and_the_default(environ, attribute, used, line):
    found, lines = told({"ENDPOINT": "http://c", **environ})
    assert getattr(found, attribute) == used
    assert ([line in text for text in lines] or [line is None]) == [True]
    assert not any("secret" in text for text in lines)


def test_an_http_endpoint_without_a_scheme_is_mended():
    found, lines = told({"ENDPOINT": "collector:4318"})
    assert found.url == "http://collector:4318/v1/traces"
    assert "has no scheme" in lines[0]


def test_no_password_is_shown(tmp_path):
    found, _ = told({"ENDPOINT": "http://user:pass@c:1", "HEADERS": "api-key=hidden"})
    assert found.place == "http://c:1/v1/traces"
    assert "hidden" not in repr(found)


def test_the_mark_changes_with_what_decides_where_it_goes():
    base = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}
    assert mark({}) == ""
    assert mark({"OTEL_EXPORTER_OTLP_HEADERS": "a=1"}) == ""
    assert mark(base) == mark(base | {"OTEL_EXPORTER_OTLP_TIMEOUT": "3", "HOME": "/x"})
    assert (
        len(
            {
                mark(base),
                mark(base | {"OTEL_EXPORTER_OTLP_HEADERS": "a=1"}),
                mark({**base, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://d"}),
            }
        )
        == 3
    )
