"""Hides secrets in what is exported and in lines in our format: by the name of a field, and by what a text looks like.

The mark is always the same: it tells nothing of what it hides, not even its length.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from otel_perf.logs import secret_keys
from otel_perf.logs.plain_values import SUSPECT, fit
from otel_perf.logs.secret_texts import MARK, scrub, suspicious

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from otel_perf.core.guard import Guard
    from otel_perf.logs.settings import LogsSettings

__all__ = ["MARK", "RedactionProcessor", "Redactor", "redactor_for"]

DEPTH: Final = 12  # levels of nested values that are looked through; what lies deeper is hidden
LONGEST: Final = 1_000_000  # characters of an exported text in which there may be secrets; the rest is cut off
_KNOWN: Final = 4096  # names of fields whose judgement is remembered
_USERS: Final = frozenset({"-u", "--user"})  # of curl: before name:password
_PLAIN: Final = (int, float, bool, type(None))
_NUMBERS: Final = frozenset({int, float, bool})


class Redactor:
    """Hides secrets. Thread-safe; holds a bounded memory of field names and nothing of what it saw."""

    __slots__ = ("_more", "known", "patterns", "user_patterns")

    def __init__(
        self, keys: Iterable[str] = (), patterns: Iterable[re.Pattern[str]] = (), *, texts: bool = True
    ) -> None:
        """``keys``: more names; ``patterns``: more expressions; ``texts``: look into texts as well."""
        self.known: dict[str, bool] = {}  # names of fields, and whether they hold a secret
        self._more = [words for words in map(secret_keys.split, keys) if words]
        self.patterns = texts
        self.user_patterns = tuple(patterns)

    def is_secret(self, key: object) -> bool:
        """Whether a field of this name holds a secret. 0.1 µs for a name that was asked for before."""
        if type(key) is not str:
            if not isinstance(key, str | bytes):
                return False
            key = str.__str__(key) if isinstance(key, str) else key.decode("utf-8", "replace")
        known = self.known.get(key)
        if known is None:
            known = self._judge(key)
            if len(key) <= secret_keys.LONGEST:
                if len(self.known) >= _KNOWN:
                    self.known.clear()
                self.known[key] = known
        return known

    def _judge(self, key: str) -> bool:
        words = secret_keys.split(key)
        return secret_keys.is_secret(words) or any(secret_keys.holds(words, more) for more in self._more)

    def labels(self, items: Iterable[tuple[Any, Any]]) -> bool:
        """Whether these items of a mapping name the secret that is its value, as ``{"name": "API_KEY", "value": …}``.

        Nothing of it is remembered: a name may be anybody's.
        """
        named = valued = False
        for key, value in items:
            if type(key) is str:
                valued = valued or key in secret_keys.VALUES
                named = named or (key in secret_keys.LABELS and type(value) is str and self._judge(value))
        return named and valued

    def suspects(self, text: str) -> bool:
        """Whether :meth:`text` has to look at ``text``; ``False`` for nearly every text, after about 1 µs."""
        return bool(self.user_patterns) or (self.patterns and (suspicious(text) or self._names_more(text)))

    def gate(self) -> Callable[[str], bool]:
        """What does as :meth:`suspects`, in fewer steps if it can."""
        return suspicious if self.patterns and not (self.user_patterns or self._more) else self.suspects

    def text(self, text: str) -> str:
        """``text`` without the secrets that are found in it. 1 µs if there is nothing that could be one."""
        if self.patterns and (suspicious(text) or self._names_more(text)):
            text = scrub(text, self.is_secret)
        for pattern in self.user_patterns:
            text = pattern.sub(MARK, text)
        return text

    def _names_more(self, text: str) -> bool:
        if not self._more:
            return False
        lowered = text.lower()
        return any(words[-1] in lowered for words in self._more)

    def fields(self, fields: Mapping[Any, Any]) -> dict[Any, Any]:
        """A copy of ``fields`` without secrets, however deep they lie in mappings and sequences."""
        return self._mapping(fields, DEPTH + 1)

    def _mapping(self, fields: Mapping[Any, Any], depth: int) -> dict[Any, Any]:
        items = list(fields.items())
        labelled = self.labels(items)
        return {self._key(key): self.field(key, item, depth - 1, labelled=labelled) for key, item in items}

    def field(self, key: object, value: Any, depth: int = DEPTH, *, labelled: bool = False) -> Any:
        """``value`` as the value of ``key``: itself if there is no secret in it.

        ``labelled``: it stands in a mapping whose value is a secret, see :meth:`labels`.
        """
        if value is None or type(value) is bool:  # these hide nothing
            return value
        if self.is_secret(key) or (labelled and key in secret_keys.VALUES):
            return MARK
        return self.value(value, depth)

    def value(self, value: Any, depth: int = DEPTH) -> Any:  # noqa: PLR0911  one return a kind
        """``value`` without secrets: itself if there is none."""
        kind = type(value)
        if kind is str:
            if len(value) > LONGEST and self.suspects(value):
                return fit(value, LONGEST, self.text)  # what is not looked through is not let out
            return self.text(value)
        if kind in _PLAIN:
            return value
        if isinstance(value, str):  # of a class of its own: safe strings of templates, numpy's, members of enums
            text = str.__str__(value)
            clean = self.value(text)
            return value if clean == text else clean
        if isinstance(value, bytes):
            text = value.decode("utf-8", "surrogateescape")
            clean = self.text(text)
            return value if clean == text else clean.encode("utf-8", "surrogateescape")
        if hasattr(value, "items"):
            if depth <= 0:
                return MARK
            return self._mapping(value, depth)
        if isinstance(value, list | tuple):
            return MARK if depth <= 0 else self._items(value, depth - 1)
        return value

    def argument(self, flag: object, item: object) -> str | None:
        """What is shown of ``item`` behind ``flag`` in a list as programs are given; ``None`` for what is no secret."""
        if type(flag) is not str or flag[:1] != "-" or type(item) is not str or item[:1] == "-":
            return None
        if self.is_secret(flag):
            return MARK
        if flag in _USERS:
            clean = self.text(f"{flag} {item}")
            return clean[len(flag) + 1 :] if MARK in clean else None
        return None

    def _key(self, key: Any) -> Any:
        return self.value(key) if isinstance(key, str) and len(key) >= SUSPECT else key

    def _items(self, items: Iterable[Any], depth: int) -> list[Any]:
        made, before = [], None
        for item in items:
            hidden = self.argument(before, item)
            made.append(self._item(item, depth) if hidden is None else hidden)
            before = item
        return made

    def _item(self, item: Any, depth: int) -> Any:
        # Headers and the like: a list of pairs.
        if isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[0], str | bytes):
            return [item[0], self.field(item[0], item[1], depth - 1)]
        return self.value(item, depth)


class RedactionProcessor:
    """A log record processor; has to be the first one. A record that it fails on goes out without its texts."""

    def __init__(self, redactor: Redactor, guard: Callable[[], Guard]) -> None:
        self._redactor = redactor
        self._guard = guard
        self.on = True

    def on_emit(self, log_record: Any) -> None:
        """Hide what is secret in body and attributes. 1 to 2 µs where there is nothing."""
        if not self.on:
            return
        record = log_record.log_record
        try:
            self._redact(record)
        except Exception as error:
            record.body, record.attributes = MARK, {}
            self._guard().handle(error)

    def on_event(self, event: Any) -> None:
        """The same for an event of ours (:class:`otel_perf.logs.emit.Event`)."""
        if self.on:
            try:
                self._redact(event)
            except Exception as error:
                event.body, event.attributes = MARK, {}
                self._guard().handle(error)

    def _redact(self, record: Any) -> None:
        redactor, body, attributes = self._redactor, record.body, record.attributes
        if body is not None:
            record.body = redactor.value(body)
        if not attributes:
            return
        hidden = {}
        # The SDK's mapping takes a lock for each item, 1 µs of three: the record is nobody else's yet.
        values = getattr(attributes, "_dict", attributes)
        labelled = not secret_keys.VALUES.isdisjoint(values) and redactor.labels(values.items())
        known = redactor.known
        for key, value in values.items():
            # Most fields have a name that was judged before and a number, which hides nothing else.
            if type(value) in _NUMBERS and known.get(key) is False and not labelled:
                continue
            clean = redactor.field(key, value, labelled=labelled)
            if clean is not value and clean != value:
                hidden[key] = clean
        for key, clean in hidden.items():
            attributes[key] = clean

    def enabled(self, **_kwargs: Any) -> bool:
        """As the SDK's: a record is wanted as far as we know."""
        return True

    def shutdown(self) -> None:
        """Nothing."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing to flush."""
        return True


def redactor_for(settings: LogsSettings, say: Callable[[str], None]) -> Redactor | None:
    """What the settings ask for; a wrong expression is one line, and the others are used."""
    if settings.redact == "off":
        return None
    patterns = []
    for text in filter(None, map(str.strip, settings.redact_patterns.split(";"))):
        try:
            pattern = re.compile(text)
            reason = "matches the empty text" if pattern.match("") else ""
        except (re.error, OverflowError, RecursionError) as error:
            reason = f"is no regular expression ({error})"
        if reason:
            say(
                f"otel-perf: OTEL_PERF_LOGS_REDACT_PATTERNS has {text!r}, which {reason}; allowed: regular expressions"
                " separated by ';' (write \\x3b for one within an expression); going on without it"
            )
        else:
            patterns.append(pattern)
    return Redactor(settings.redact_keys.split(","), patterns, texts=settings.redact == "on")
