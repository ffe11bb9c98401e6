"""Secrets as they turn up in logs, and what only looks like one."""

import base64

WORD = "hunter2Zq"  # in most of the secrets; what is asserted is that no piece of any is left
CARD = "4111 1111 1111 1111"
JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEAhunter2Zq\nq83vZq+1/xyzabc==\n-----END RSA PRIVATE KEY-----"
BASIC = base64.b64encode(f"bob:{WORD}".encode()).decode()
# Put together here, so that nothing in this file is what scanners of repositories look for.
GITHUB = "ghp" + "_16C7e42F292c6912E7710c838347Ae178B4a"
AWS = "AKIA" + "IOSFODNN7EXAMPLE"
SLACK = "xoxb" + "-17653672481-19874698323-pdFZKVeTuE8sk7oOcHrzqqgy"
STRIPE = "sk" + "_live_4eC39HqLyjWDarjtT1zdp7dc"
GOOGLE = "AIza" + "SyDaGmWKa4JsXZ-HjGw7ISLn_3namBGewQe"
OPENAI = "sk" + "-proj-abcDEF1234567890abcdEF12"

# name, value: as extra={name: value}
KEYS = [
    ("password", WORD),
    ("PASSWD", WORD),
    ("userPassword", WORD),
    ("db_pass", WORD),
    ("new_password_confirmation", WORD),
    ("client_secret", WORD),
    ("access_token", WORD),
    ("refreshToken", WORD),
    ("csrftoken", WORD),
    ("api_key", WORD),
    ("X-Api-Key", WORD),
    ("apikey", WORD),
    ("Authorization", f"Digest {WORD}"),
    ("cookie", f"sid={WORD}"),
    ("Set-Cookie", f"sid={WORD}; HttpOnly"),
    ("private_key", WORD),
    ("credentials", {"user": "bob", "code": WORD}),
    ("session_id", WORD),
    ("AWS_SECRET_ACCESS_KEY", WORD),
    ("PGPASSWORD", WORD),
    ("request", {"headers": {"authorization": f"Bearer {WORD}"}, "path": "/"}),
    ("header_list", [("host", "shop"), ("cookie", f"a={WORD}")]),
    ("asgi_headers", [(b"authorization", f"Bearer {WORD}".encode())]),
    ("environment", [{"name": "DB_PASSWORD", "value": WORD}, {"name": "PORT", "value": "80"}]),
    ("tags", {"Key": "ApiKey", "Value": WORD}),
    ("pin", 73519000427),
    ("argv", ["mysql", "--user", "bob", "--password", WORD, "shop"]),
    ("argv", ["curl", "-u", f"bob:{WORD}", "https://shop.example"]),
    ("by_token", {GITHUB: "bob"}),
    ("by_address", {f"postgres://bob:{WORD}@db/shop": True}),
]
TEXTS = [
    f"login failed: password={WORD}",
    f"login failed for bob, password: {WORD}",
    f'body was {{"user": "bob", "password": "{WORD}", "age": 3}}',
    f"body was {{'user': 'bob', 'password': '{WORD}', 'age': 3}}",
    f'payload "{{\\"token\\": \\"{WORD}\\"}}"',
    f"started with --token {WORD} --verbose",
    f"started with --db-password={WORD}",
    f"Command '['mysql', '--password', '{WORD}', 'shop']' returned non-zero exit status 1.",
    f"curl -u bob:{WORD} https://shop.example",
    f"api_key={WORD}&page=2",
    f"Config(host='db', password='{WORD}', port=5432)",
    f"os.environ['STRIPE_SECRET'] = '{WORD}'",
    f"<user><password>{WORD}</password></user>",
    f"token=>{WORD}",
    f"Server=db;User Id=sa;Pwd={WORD};Encrypt=yes",
    f"AccountName=shop;AccountKey={WORD}abc==;EndpointSuffix=core",
    f"key is {PEM}",
    f"got {JWT} from the client",
    f"pushed with {GITHUB}",
    f"uploading as {AWS}",
    f"posting with {SLACK}",
    f"charged with {STRIPE}",
    f"geocoding with {GOOGLE}",
    f"asking with {OPENAI}",
    f"paid with {CARD}",
    "paid with 5555555555554444, thanks",
    "order 1234 378282246310005 declined",
    # URLs
    f"connecting to postgres://bob:{WORD}@db:5432/shop",
    f"connecting to redis://:{WORD}@cache/0",
    f"cloning https://{GITHUB}@github.com/shop/shop.git",
    f"GET https://api.example/v1?access_token={WORD}&page=2",
    f"GET /files?sig={WORD}%2Babc%3D&se=2026",
    # headers
    f"Authorization: Bearer {WORD}",
    f"> authorization: Basic {BASIC}",
    f"headers {{'Authorization': 'Token {WORD}', 'Accept': '*/*'}}",
    f"Cookie: session={WORD}; theme=dark",
    f"[(b'host', b'shop'), (b'authorization', b'Bearer {WORD}')]",
    f"X-Auth-Token: {WORD}",
    f"sent Bearer {WORD}.abc",
    f'  File "/srv/db.py", line 9, in f\n    raise ValueError("token={WORD}")\nValueError: token={WORD}',
    "verification_code=73519000427",
    "your security code: 73519000427",
    "pin = 73519000427",
    "unlocked with --pin 73519000427",
    "<pin>73519000427</pin>",
    f"java -password {WORD} -jar app.jar",
    f'password={WORD[:4]}"{WORD[4:]}"{WORD} and so on',
    f'<input name="password" value="{WORD}">',
    f'{{"name": "DB_PASSWORD", "value": "{WORD}"}}',
    f"cloning https://{WORD}{WORD}{WORD}:x-oauth-basic@github.com/shop/shop.git",
    f"Authorization: SSWS 00{WORD}",
    f"Authorization: DeepL-Auth-Key {WORD}:fx",
    f'  File "/srv/db.py", line 12, in connect\n    connect(password="{WORD}", token=Secret("{WORD}"))\nValueError',
]
SQL = [
    f"SET PASSWORD FOR 'bob'@'%' = '{WORD}'",
    f"SET PASSWORD = PASSWORD('{WORD}')",
    f"CREATE USER bob IDENTIFIED BY '{WORD}'",
    f"ALTER USER bob IDENTIFIED BY {WORD}",
    f"ALTER ROLE bob WITH ENCRYPTED PASSWORD '{WORD}'",
    f"UPDATE users SET password = '{WORD}' WHERE id = 7",
    f"SELECT id FROM sessions WHERE session_token='{WORD}'",
    f"INSERT INTO users (name, password) VALUES ('bob', '{WORD}'), ('eve', 'x{WORD}')",
    f"[SQL: UPDATE users SET password=? WHERE id=?]\n[parameters: ('{WORD}', 7)]\n(Background on this error)",
    f"Key (api_token)=({WORD}) already exists.",
    f"UPDATE users SET password = E'{WORD}' WHERE id = 7",
    f"ALTER LOGIN bob WITH PASSWORD = N'{WORD}'",
    f'INSERT INTO users (name, password) VALUES ("bob", "{WORD}")',
    f"INSERT OR REPLACE INTO users (name, password) VALUES ('bob', '{WORD}')",
    f"REPLACE INTO users (name, password) VALUES ('bob', '{WORD}')",
    f"INSERT IGNORE INTO users (name, pin, password) VALUES ('bob', 73519000427, '{WORD}')",
    f"(0.001) UPDATE users SET password = %s WHERE id = %s; args=('{WORD}', 7); alias=default",
]
SHOWN = (
    WORD,
    *JWT.split("."),
    "MIIEow",
    "q83vZq",
    BASIC,
    GITHUB[4:],
    AWS,
    SLACK[5:],
    STRIPE[8:],
    GOOGLE[5:],
    OPENAI[3:],
)
DIGITS = ("73519000427", "4111 1111", "5555555555554444", "378282246310005")


def leaks(text: str) -> list[str]:
    """The pieces of secrets in ``text``, which may be JSON."""
    return [piece for piece in (*SHOWN, *DIGITS) if piece in text]


SOURCE = """Traceback (most recent call last):
  File "/srv/db.py", line 12, in connect
    conn = connect(host=host, password=self.password, token=token)
  File "/srv/db.py", line 13, in of_environment
    secret = os.environ[name]
KeyError: 'DB_PASSWORD'
"""
ALIKE_KEYS = [
    ("author", "bob"),
    ("settings", [{"name": "token_count", "value": 3}, {"key": "author", "value": "bob"}, {"name": "token"}]),
    ("authority", "shop.example"),
    ("authenticated", "yes"),
    ("auth_method", "oidc"),
    ("session_count", 5),
    ("session", "open"),
    ("tokenize", "words"),
    ("tokenizer", "bpe"),
    ("tokens_used", 512),
    ("tokens", 512),
    ("max_tokens", 100),
    ("prompt_tokens", 17),
    ("token_count", 3),
    ("token_type", "bearer-like"),
    ("secretary", "eve"),
    ("passenger", "bob"),
    ("passed", 3),
    ("compass", "north"),
    ("bypass", "road"),
    ("keyboard", "qwerty"),
    ("monkey", "george"),
    ("primary_key", "id"),
    ("cache_key", "user:7"),
    ("public_key_id", "k1"),
    ("foreign_keys", "on"),
    ("password_changed_at", "2026-01-01"),
    ("password_length", 12),
    ("has_password", "yes"),
    ("cookie_consent", "given"),
    ("cookies_enabled", "true"),
    ("credit", 5),
    ("accredited", "yes"),
    ("pinned", "top"),
    ("shipping", "express"),
    ("opinion", "good"),
    ("discard", "all"),
    ("trace", "4111111111111111111111111111111a"),
    ("order_ns", 1764123456789012345),
]
ALIKE_TEXTS = [
    "author: bob wrote the secretary a letter about the keyboard",
    "session_count=5 tokens_used=17 max_tokens=512",
    "invalid token: unexpected end of file",
    "Unexpected token '<' in JSON at position 0",
    "password: required",
    "password must be at least 8 characters",
    "the password was changed for bob",
    "token=None secret=null api_key=''",
    "SELECT * FROM users WHERE password = %s AND token = ? AND secret = :secret",
    "duplicate key value violates unique constraint 'users_token_key'",
    "KeyError: 'token'",
    "GET http://host:8080/users/a@b?page=2",
    "GET http://host:80?to=bob@example.org",
    "mail to bob@example.org at 10:30:15",
    "an object identified by name",
    "basic authentication is on",
    "Bearer token missing",
    "use --password to log in",
    "order 1764123456789012 done in 1764123456789 ms",
    "uuid 12345678-4111-1111-1111-111111111111",
    "phone 4111-1111",
    "amount 4111111111111111.5",
    "12 of 4000 0000 0000 0000 done",
    "tokenizing 3 passages, 2 passengers, 1 compass",
    "auth: login failed for bob",
    "https://docs.example/reset-password/how-to",
    "sk-learn is no key and neither is task-force-of-the-northern-region",
    SOURCE,
    "-----BEGIN CERTIFICATE----- abc -----END CERTIFICATE-----",
    'invalid field "password", expected "x"',
    "fields 'password' and 'email' differ",
    "authorization: refused for the user-agent curl-7",
    "country_code=49 status_code=200 zip code: 12345",
    "shipping=yes pinned=1 typing=no opinion='good'",
    "INSERT INTO orders (id, note) VALUES (7, 'hello')",
    "(0.001) SELECT * FROM orders WHERE id = %s; args=(7,); alias=default",
]
