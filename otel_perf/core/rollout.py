"""Which features are on: kill switch, environment, flag file, OpenFeature provider, default.

A feature is ``on``, ``off`` or on for a percentage of instances (a hash of service name and instance id, so
that an instance keeps its answer). Answers are resolved at start and on reload, never per call.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.records import record
from otel_perf.core.settings import PREFIX, Problem, Switch, allowed_values, parse_switch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

ENABLED_VARIABLE: Final = f"{PREFIX}_ENABLED"
FLAGS_VARIABLE: Final = f"{PREFIX}_FLAGS_FILE"
FLAG_PREFIX: Final = "perf."  # flag perf.logs, perf.store, …; perf.enabled is the kill switch
BROKEN: Final = 60.0  # seconds that a provider is left alone, for which OpenFeature logs a traceback a question
_ANSWERS: Final = {"", "FLAG_NOT_FOUND", "TYPE_MISMATCH"}  # other errors say nothing of the flag
_ALLOWED: Final = allowed_values(Switch)


@record
class Decision:
    """The share of roll-out of one feature and where it came from."""

    share: float
    source: str

    def applies_to(self, identity: str) -> bool:
        """Whether ``identity`` (service name and instance id) is in the share."""
        if self.share >= 1.0:
            return True
        return self.share > 0.0 and _position(identity) < self.share


def _position(identity: str) -> float:
    """A number in [0, 1), spread evenly over identities and the same in every process."""
    from hashlib import blake2b

    return int.from_bytes(blake2b(identity.encode(), digest_size=8).digest(), "big") / 2**64


def _if_off(decision: Decision | None) -> Decision | None:
    """The kill switch's: that it is not off says nothing."""
    return decision if decision is not None and decision.share == 0.0 else None


@contextmanager
def _untraced() -> Iterator[None]:
    """A provider that asks another machine makes no spans by our questions."""
    from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, detach, set_value

    token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
    try:
        yield
    finally:
        detach(token)


def _path(text: str) -> Path:
    from pathlib import Path

    return Path(text).absolute()


class Rollout:
    """Resolves decisions. Problems with values are collected, each once, in ``problems``."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._flags: dict[str, Any] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._reported: set[str] = set()
        self._answers: dict[str, object] = {}  # of the OpenFeature provider
        self._ask_again = 0.0  # when it may be asked
        self.problems: list[Problem] = []
        path = environ.get(FLAGS_VARIABLE, "").strip()
        self.path = _path(path) if path else None
        self.reload()

    def reload(self) -> bool:
        """Ask the provider again, which may take long, and read the flag file if it changed; ``True`` if it did.

        Keeps the last good content. Not under a lock that others wait for.
        """
        self._ask_provider(list(self._answers))
        if self.path is None:
            return False
        import json

        try:
            stat = self.path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp == self._stamp:
                return False
            self._stamp = stamp
            content = json.loads(self.path.read_text(encoding="utf-8"))
            flags = content["flags"]
            if not isinstance(flags, dict):
                raise TypeError("'flags' is not an object")
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._complain(
                FLAGS_VARIABLE, str(self.path), f"cannot be read ({error})", "a flagd JSON file", "no change"
            )
            return False
        self._reported.discard(FLAGS_VARIABLE)
        self._flags = flags
        return True

    def decide(self, feature: str) -> Decision:
        """The decision for ``feature`` now."""
        killed = self._read(ENABLED_VARIABLE, self._environ.get(ENABLED_VARIABLE, ""), ENABLED_VARIABLE)
        if killed is not None and killed.share == 0.0:
            return killed
        name = f"{PREFIX}_{feature.upper()}"
        return (
            self._read(name, self._environ.get(name, ""), name)
            or _if_off(self._from_flag("enabled"))
            or self._from_flag(feature)
            or _if_off(self._from_provider("enabled"))
            or self._from_provider(feature)
            or Decision(1.0, "default")
        )

    def text(self, name: str) -> tuple[str, str] | None:
        """The value of flag ``perf.<name>`` as text, and its source; ``None`` where nobody has one."""
        key = FLAG_PREFIX + name
        value = self._variant(key)
        source = f"flag file, {key}"
        if value is None or value == "":
            value, source = self._of_provider(key), f"OpenFeature, {key}"
        return None if value is None or value == "" else (str(value), source)

    def complain(self, problem: Problem) -> None:
        """Have a wrong value said, once."""
        said = f"{problem.variable}={problem.value}"
        if said not in self._reported:
            self._reported.add(said)
            self.problems.append(problem)

    def _from_flag(self, feature: str) -> Decision | None:
        key = FLAG_PREFIX + feature
        return self._read(key, self._variant(key), f"flag file, {key}")

    def _variant(self, key: str) -> object:
        """The value of a flag of the file; ``None`` without one that is on."""
        flag = self._flags.get(key)
        if not isinstance(flag, dict) or flag.get("state") == "DISABLED":
            return None
        variant = flag.get("defaultVariant")
        variants = flag.get("variants")
        if not isinstance(variants, dict) or not isinstance(variant, str) or variant not in variants:
            self._complain(
                key, str(variant), "is not one of its variants", "a defaultVariant of the flag", "the default"
            )
            return None
        value: object = variants[variant]
        return value

    def _from_provider(self, feature: str) -> Decision | None:
        key = FLAG_PREFIX + feature
        return self._read(key, self._of_provider(key), f"OpenFeature, {key}")

    def _of_provider(self, key: str) -> object:
        if key not in self._answers:
            self._ask_provider([key])
        return self._answers.get(key)

    def _ask_provider(self, keys: Iterable[str]) -> None:
        # Only if the app itself uses OpenFeature: importing it here would cost every start.
        api = sys.modules.get("openfeature.api")
        for key in keys if api is not None and monotonic() >= self._ask_again else ():
            try:
                self._answers[key] = self._ask(api, key)
            except Exception as error:  # a provider is somebody else's code
                self._ask_again = monotonic() + BROKEN
                reason = f"could not be asked of the OpenFeature provider ({error})"
                self._complain(key, "", reason, _ALLOWED, "what it was")
                return

    def _ask(self, api: Any, key: str) -> object:
        with _untraced():
            client = api.get_client()
            details = client.get_string_details(key, "")
            code = getattr(details.error_code, "name", "")
            if code == "GENERAL":
                raise RuntimeError(details.error_message)
            if code == "TYPE_MISMATCH" and details.value == "":
                return client.get_boolean_details(key, None).value  # to some providers a boolean is no text
            value: object = details.value
            return value if code in _ANSWERS else self._answers.get(key)

    def _read(self, name: str, value: object, source: str) -> Decision | None:
        if value is None or value == "":
            return None
        try:
            return Decision(parse_switch(value), source)
        except ValueError as error:
            reason = str(error) if str(error).startswith("is ") else "is not on, off or a percentage"
            self._complain(name, str(value), reason, _ALLOWED, "the default")
            return None

    def _complain(self, name: str, value: str, reason: str, allowed: str, used: str) -> None:
        if name not in self._reported:
            self._reported.add(name)
            self.problems.append(Problem(name, value, reason, allowed, used))
