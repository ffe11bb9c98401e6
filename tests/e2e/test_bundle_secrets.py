"""collector/config.yaml's redaction on the real Collector: what the distribution hides, and ordinary text that stays as it is."""

import pytest

from tests.e2e import otlp_json as otlp
from tests.e2e.bundle import Bundle
from tests.e2e.collector import Collector
from tests.e2e.support import wait_for
from tests.logs import corpus

# Put together here, so that nothing in this file is what scanners of repositories look for.
MIXED = "0123456789abcdefghijABCDEFGHIJ"
TOKENS = [
    *("gh" + kind + "_" + MIXED for kind in "pousr"),
    "github" + "_pat_" + MIXED,
    "glpat" + "-" + MIXED,
    "xoxb" + "-123456789012-" + MIXED,
    "xapp" + "-1-A0123456789-1234567890123-abcdef0123456789",
    *(kind + "_live_" + MIXED for kind in ("sk", "rk")),
    *(kind + "_test_" + MIXED for kind in ("sk", "rk")),
    "whsec" + "_" + MIXED,
    "AIza" + "Sy-" + MIXED,
    "ya29" + ".a0_" + MIXED,
    "GOCSPX" + "-" + MIXED,
    "npm" + "_" + MIXED,
    "pypi" + "-AgE" + MIXED,
    "hf" + "_" + MIXED,
    "dop" + "_v1_" + "0123456789abcdef" * 4,
    "SG" + "." + MIXED[:22] + "." + MIXED + MIXED[:13],
    "hvs" + "." + MIXED,
    "sk" + "-proj-" + MIXED + "T3BlbkFJ" + MIXED,
    "sk" + "-ant-api03-" + MIXED,
    "AKIA" + "0123456789ABCDEF",
    "ASIA" + "0123456789ABCDEF",
    "hooks.slack" + ".com/services/T000/B000/" + MIXED,
]
# With what is left of each.
NAMED = {
    "DB_PASS=hunter2 DB_USER=me": "DB**** DB_USER=me",
    '{"db_pass": "hunter2"}': '{"db****"}',
    "MYSQL_PWD=hunter2": "MYSQL****",
    "Uid=sa;Pwd=hunter2;Database=x": "Uid=sa;****;Database=x",
    "AccountName=me;AccountKey=hunter2==;x=1": "AccountName=me;A****;x=1",
    "SharedAccessKeyName=me;SharedAccessKey=hunter2==": "SharedAccessKeyName=me;S****",
    "'HTTP_COOKIE': 'sid=hunter2; b=hunter2', 'x': 1": "'HTTP_C****', 'x': 1",
    "HTTP_AUTHORIZATION: Digest hunter2": "HTTP_A****",
    '{"name": "DB_PASSWORD", "value": "hunter2"}': '{"name": "DB_P****"}',
    "Key (api_token)=(hunter2) already exists.": "Key (api_t**** already exists.",
    "password=Secret('hunter2'), x=1": "p****'), x=1",
    "ALTER USER me IDENTIFIED BY PASSWORD 'hunter2'": "ALTER USER me ****'",
    "got Basic bWU6aHVudGVyMg== from": "got B**** from",
    "https://a:123,me:hunter2@b/x": "https****b/x",
    "https://0123456789abcdef0123456789abcdef@sentry.example.org/1": "https****sentry.example.org/1",
    "GET /?X-Amz-Signature=0123456789abcdef0123456789abcdef&x=1": "GET /?X-Amz-****&x=1",
}
ORDINARY = [
    "basic authentication, a Basic Authentication and basic JavaScript for OpenTelemetry",
    "clearer semantics, or bearer authentication of somebody",
    '{"url":"http://a:80","to":"me@example.org"}',
    '{"body":"{\\"url\\":\\"http://a:8080\\",\\"to\\":\\"me@example.org\\"}"}',
    "http://a:80?to=me@example.org",
    "SELECT id FROM user WHERE password = %s AND token = ?",
    "task_test_runner_of_the_long_name, disk_test_performance and work_live_preview",
    "task-proj-my-very-long-name-of-a-project and risk-ant-colony-of-the-warehouse",
    "disk-0123456789abcdef0123456789abcdef01234567 mounted",
    "ricxapp-onboarder-5d9f7c6b8-abcde and xoxo-love-and-kisses",
    "0F1E2DACCA3C4B5A69788796A5B4C3D2E1F00F1E2D3C4B5A69788796A5B4C3D2",
    "first_pass=3 dkim_pass=true PASS: test_x COMPASS=north",
    "pwd=/srv/app cwd=/srv/app OLDPWD=/srv",
    "use --token to say who you are; --password is asked for",
    "POST /forgot-password 404",
    "AUTHORIZATION_MODE=oauth COOKIE_DOMAIN=example.org access_key_id=3",
    "EURASIAECONOMICUNION and asia-northeast1",
]
# What the distribution hides and patterns that begin with fixed text do not tell from other words, or from other numbers.
NOT_FOUND = {
    "curl", "os.environ[", "asking", "paid", "order", "GET /files", "verification_code", "your", "pin", "unlocked", "<pin>", "java",
    'password=hunt"er2Zq"', "SET", "INSERT", "[SQL:", "REPLACE", "(0.001)",
}  # fmt: skip
# The rest of a sentence that begins like a value, a name without quotes as in SQL and in source.
TAKEN_FOR_SECRETS = {
    "invalid token: unexpected end of file",
    "password: required",
    "token=None secret=null api_key=''",
    "SELECT * FROM users WHERE password = %s AND token = ? AND secret = :secret",
    "authorization: refused for the user-agent curl-7",
    corpus.SOURCE,
}
KEYS = [
    "password", "PASSWD", "userPassword", "db_pass", "DB_PASS", "db.pwd", "MYSQL_PWD", "clientSecret", "refreshToken", "X-Api-Key",
    "API-KEY", "http.request.header.authorization", "HTTP_AUTHORIZATION", "HTTP_COOKIE", "PRIVATE_KEY", "accountKey",
    "AWS_SECRET_ACCESS_KEY", "AWS_CREDENTIALS",
]  # fmt: skip
OTHER_KEYS = [
    "aws.access_key_id", "cache_key", "passenger", "compass", "passed", "max_tokens", "author", "cwd", "primary_key",
]  # fmt: skip


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What the Collector makes of each text, and of the keys."""
    texts = [*(f"with {token} in it" for token in TOKENS), *NAMED, *ORDINARY]
    texts += [*corpus.TEXTS, *corpus.SQL, *corpus.ALIKE_TEXTS]
    behind = Collector(tmp_path_factory.mktemp("behind"))
    bundle = Bundle(tmp_path_factory.mktemp("bundle") / "collector", behind)
    lines = [otlp.record(text, 17, attributes=otlp.attributes({"n": n})) for n, text in enumerate(texts)]
    keys = otlp.attributes(dict.fromkeys([*KEYS, *OTHER_KEYS], "hunter2"))
    with behind.running(), bundle.running():
        otlp.send(bundle.url(), "logs", [*lines, otlp.record("keys", 17, attributes=keys)])
        wait_for(lambda: len(behind.received("logs")) == len(texts) + 1, 30, "all lines arrive")
        received = behind.received("logs")
    made = {}
    for record in received:
        attributes = {item["key"]: next(iter(item["value"].values())) for item in record["attributes"]}
        if "n" in attributes:
            made[texts[int(attributes["n"])]] = record["body"]["stringValue"]
        else:
            made["keys"] = {key for key, value in attributes.items() if value == "****"}
    return made


def test_tokens_are_known_by_their_form(seen):
    assert [seen[f"with {token} in it"] for token in TOKENS] == ["with **** in it"] * len(TOKENS)


def test_what_has_a_name_is_hidden_and_nothing_beside_it(seen):
    assert {text: seen[text] for text in NAMED} == NAMED


def test_ordinary_text_is_left_alone(seen):
    assert [seen[text] for text in ORDINARY] == ORDINARY


def test_keys(seen):
    assert seen["keys"] == {*KEYS}


def test_of_what_the_distribution_hides_it_is_known_what_is_not_found(seen):
    """GIVEN the corpus of the distribution's own tests THEN what its shorter patterns leave is what is listed here."""
    leaking = [text for text in [*corpus.TEXTS, *corpus.SQL] if corpus.leaks(seen[text])]
    assert {start for start in NOT_FOUND if any(text.startswith(start) for text in leaking)} == NOT_FOUND
    assert [text for text in leaking if not text.startswith(tuple(NOT_FOUND))] == []


def test_of_what_only_looks_like_a_secret_it_is_known_what_is_hidden(seen):
    assert {text for text in corpus.ALIKE_TEXTS if seen[text] != text} == TAKEN_FOR_SECRETS
