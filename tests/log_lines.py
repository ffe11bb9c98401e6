"""JSON log lines against the published schema."""

import functools
import json

import jsonschema

from otel_perf.logs.json_format import Encoder
from otel_perf.logs.record import MODELS, schema

LIMIT = 65_536
VALIDATORS = {fields: jsonschema.Draft202012Validator(schema(fields)) for fields in MODELS}
failed = []  # lines that an encoder made in this process and that are not as they have to be


def check(line, fields="otel", limit=LIMIT):
    """The line, taken apart; raises if it is not one valid line."""
    assert len(line.splitlines()) == 1, repr(line[:500])
    assert len(line.encode()) <= limit
    found = json.loads(line, parse_constant=lambda name: 1 / 0)  # NaN and the like are no JSON
    VALIDATORS[fields].validate(found)
    MODELS[fields].model_validate(found)
    return found


def check_all(text, fields="otel"):
    """What each line of a program's output says."""
    return [check(line, fields) for line in text.splitlines()]


def watch():
    """From now on, every line that is made in this process is checked; an error would be swallowed by the handler."""

    def checked(make):
        @functools.wraps(make)
        def checking(self, *args, **kwargs):
            line = make(self, *args, **kwargs)
            try:
                check(line, "ecs" if self._flat else "otel", self._limit)
            except Exception as error:
                failed.append((error, line[:2000]))
            return line

        return checking

    Encoder.line, Encoder.compose = checked(Encoder.line), checked(Encoder.compose)
