"""A fingerprint tells statements apart, can be read, and has nobody's data in it."""

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from otel_perf.bottlenecks.sql import LONGEST, LONGEST_STATEMENT, STATEMENTS, _fingerprint, fingerprint


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT a FROM b WHERE c = 'x' AND d = 12", "SELECT a FROM b WHERE c = ? AND d = ?"),
        ("select a\n  from b -- why\n where /* c */ d > -1.5e3", "SELECT a FROM b WHERE d > ?"),
        ("SELECT a FROM b WHERE c IN (1, 2, 3)", "SELECT a FROM b WHERE c IN (?)"),
        ("SELECT a FROM b WHERE c IN (%s, %s)", "SELECT a FROM b WHERE c IN (?)"),
        ("SELECT a FROM b WHERE c = :name", "SELECT a FROM b WHERE c = ?"),
        ("SELECT a FROM b WHERE c = %(name)s", "SELECT a FROM b WHERE c = ?"),
        ("SELECT a FROM b WHERE c = $1", "SELECT a FROM b WHERE c = ?"),
        ("SELECT a FROM b WHERE c = @p1", "SELECT a FROM b WHERE c = ?"),
        ("SELECT a FROM b WHERE c = 0xDEADBEEF", "SELECT a FROM b WHERE c = ?"),
        ("SELECT a FROM b WHERE c = 'it''s'", "SELECT a FROM b WHERE c = ?"),
        ("SELECT a FROM b WHERE c = $$it's$$", "SELECT a FROM b WHERE c = ?"),
        ("SELECT a FROM b WHERE c = $tag$it's$tag$", "SELECT a FROM b WHERE c = ?"),
        ("SELECT a FROM b WHERE c = 'x'::text", "SELECT a FROM b WHERE c = ?::text"),
        ('SELECT "a" FROM "b"', 'SELECT ? FROM "b"'),
        ('SELECT "b"."a" FROM "b"', 'SELECT "b"."a" FROM "b"'),
        ('SELECT a FROM b WHERE c = "x"', "SELECT a FROM b WHERE c = ?"),
        ("SELECT a, b, c FROM d", "SELECT a, b, c FROM d"),
        ("SELECT a, b, c, d FROM e", "SELECT … FROM e"),
        ("SELECT count(*) FROM a", "SELECT count(*) FROM a"),
        ("INSERT INTO a (b, c) VALUES (1, 'x'), (2, 'y'), (3, 'z')", "INSERT INTO a(b, c) VALUES (?)"),
        ("UPDATE a SET b = 'x' WHERE c = 3", "UPDATE a SET b = ? WHERE c = ?"),
        ("DELETE FROM a WHERE b = 3;", "DELETE FROM a WHERE b = ?;"),
        ("PRAGMA table_info('x')", "PRAGMA table_info(?)"),
        ("BEGIN", "BEGIN"),
        ("SELECT 'not closed", "SELECT …"),
    ],
)
def test_literals_parameters_and_comments_go(statement, expected):
    assert fingerprint(statement) == expected


def test_a_batch_is_the_same_statement_whatever_its_size():
    made = {fingerprint(f"INSERT INTO a VALUES {', '.join(['(1, 2)'] * number)}") for number in (1, 2, 50)}
    assert len(made) == 1


def test_other_tables_are_other_statements():
    assert len({fingerprint(f"SELECT a FROM {table} WHERE b = 1") for table in ("x", "y", "z")}) == 3


@pytest.mark.parametrize("system", ["mysql", "mariadb", "sqlite", "gcp.bigquery", "hive", "databricks"])
@pytest.mark.parametrize(
    "statement",
    [
        'SELECT a FROM b WHERE c = "hunter2"',
        'SELECT a FROM b WHERE c IN ("hunter2", "hunter3")',
        'INSERT INTO a (b) VALUES ("hunter2")',
        'SELECT a FROM b WHERE c LIKE "hunter2%"',
        'SELECT concat("hunter2", a) FROM b',
    ],
)
def test_strings_in_double_quotes_are_literals_where_the_database_takes_them_for_such(system, statement):
    assert "hunter" not in fingerprint(statement, system)


@pytest.mark.parametrize(
    "statement", ['MATCH (n {name: "hunter2"}) RETURN n', '{"find": "users", "filter": {"a": "hunter2"}}']
)
@pytest.mark.parametrize("system", ["neo4j", "cosmosdb", "couchbase", ""])
def test_what_is_not_sql_keeps_no_strings(system, statement):
    assert "hunter" not in fingerprint(statement, system)


@pytest.mark.parametrize(
    "start", ["SELECT 'hunter ", "SELECT $$ hunter ", "SELECT $t$ hunter ", "SELECT /* hunter ", "SELECT E'\\' hunter "]
)
def test_a_literal_that_is_cut_with_a_long_statement_does_not_get_through(start):
    assert "hunter" not in fingerprint(start + "hunter " * LONGEST_STATEMENT)


names = st.sampled_from(["alpha", "beta", "gamma", "delta"])
content = st.text(st.sampled_from("q'\\%_ -;()\n\"$é"), max_size=6)


@st.composite
def literals(draw):
    """A literal, and the mark in it that nothing else has."""
    kind = draw(st.sampled_from(["string", "national", "integer", "decimal", "exponent", "hex", "dollar", "blob"]))
    digits = str(draw(st.integers(7_000_000, 9_999_999)))
    if kind in {"string", "national"}:
        mark = f"zq{digits}"
        text = (draw(content) + mark + draw(content)).replace("'", "''")
        return ("N" if kind == "national" else "") + f"'{text}'", mark
    mark = digits
    return {
        "integer": digits, "decimal": f"{digits}.5", "exponent": f"{digits}e-2", "hex": f"0x{digits}",
        "dollar": f"$b${draw(content).replace('$', '')} {digits}$b$", "blob": f"X'{digits}'",
    }[kind], mark  # fmt: skip


@st.composite
def statements(draw):
    table, one, two = draw(names), draw(names), draw(names)
    values = [draw(literals()) for _ in range(draw(st.integers(1, 5)))]
    texts = [text for text, _ in values]
    statement = draw(
        st.sampled_from([
            f"SELECT {one} FROM {table} WHERE {two} IN ({', '.join(texts)})",
            f"SELECT {one} FROM {table} WHERE {f' OR {two} = '.join(['1=1', *texts])} LIMIT 5",
            f"INSERT INTO {table} ({one}) VALUES {', '.join(f'({text})' for text in texts)}",
            f"UPDATE {table} SET {', '.join(f'{one} = {text}' for text in texts)} WHERE {two} = {texts[0]}",
            f"SELECT f({', '.join(texts)}) AS {one}, {texts[0]} FROM {table}",
            f"CALL {table}({','.join(texts)})",
            f"SELECT {one} FROM {table} WHERE {two}->>{texts[0]} = {texts[-1]} -- {one}",
            f"WITH {one} AS (SELECT {texts[0]}) SELECT * FROM {one} WHERE {two} BETWEEN {texts[0]} AND {texts[-1]}",
        ])
    )  # fmt: skip
    return statement, [mark for _, mark in values]


@settings(max_examples=300, deadline=None)
@given(statements(), st.sampled_from(["", "postgresql", "mysql", "sqlite", "microsoft.sql_server"]))
@example(("SELECT a FROM b WHERE c = 'x\\' AND d = 'zq1234567' AND e = 'y\\'", ["zq1234567"]), "postgresql")
def test_no_literal_gets_through(made, system):
    statement, marks = made
    found = fingerprint(statement, system)
    for mark in marks:
        assert mark not in found
        assert not any(part and part in found for part in re.findall(r"\d{7}", mark))
    assert len(found) <= LONGEST


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=300) | st.text(st.sampled_from("'\"`$-/*;() ?:@[]{}\\nNxX0123456789abSELECT\n"), max_size=200))
def test_no_text_breaks_it(text):
    found = fingerprint(text)
    assert isinstance(found, str)
    assert len(found) <= LONGEST


def test_so_many_statements_are_remembered_and_no_more():
    for number in range(STATEMENTS + 500):
        fingerprint(f"SELECT a{number}")
    assert _fingerprint.cache_info().currsize <= STATEMENTS


def test_a_long_statement_takes_little_time():
    statement = "INSERT INTO a VALUES " + ", ".join(f"({number}, 'x')" for number in range(100_000))
    before = time.process_time()
    assert fingerprint(statement) == "INSERT …"
    assert time.process_time() - before < 2
