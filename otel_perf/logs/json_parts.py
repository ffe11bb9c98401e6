"""Puts a JSON line together from its parts, whatever they are, and cuts it to its size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from json.encoder import encode_basestring as quoted  # in C; escapes ", \\ and control characters, and nothing else
from re import compile as expression
from typing import TYPE_CHECKING, Any, Final

import msgspec

from otel_perf.logs.layouts import LAYOUTS, Layout
from otel_perf.logs.line_parts import Clock, Parts
from otel_perf.logs.plain_values import LARGEST, PlainValues, cut_mark, fit, fit_ends, text_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_perf.logs.redaction import Redactor

CUT: Final = "…[cut]"
_NAME: Final = 512  # bytes of a name (logger, file, thread, …), encoded
_HEX: Final = expression(r"[0-9a-f]+")
_ODD: Final = expression("[\ud800-\udfff\x85\u2028\u2029]")  # no UTF-8, or the end of a line to some readers
_EVENT_NAMES: Final = ("event.name", "otel.event.name")
_EXCEPTION: Final = ("exception.type", "exception.message", "exception.stacktrace")
HOISTED: Final = frozenset({*_EVENT_NAMES, *_EXCEPTION})  # attributes that are fields of the line
_encode: Final = msgspec.json.Encoder().encode
_BROKEN: Final = "otel-perf: a record that could not be written"


def encoded(value: object) -> str:
    """``value``, a plain one, as JSON text. Raises ``UnicodeEncodeError`` for lone surrogates."""
    return _encode(value).decode()


def surely_encoded(value: object) -> str:
    """The same, with lone surrogates left as they are, for :func:`one_line` to replace."""
    try:
        return _encode(value).decode()
    except UnicodeEncodeError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def size_of(text: str) -> int:
    """Bytes that ``text`` takes once :func:`one_line` has seen to it."""
    return len(text) if text.isascii() else len(one_line(text).encode())


def one_line(text: str) -> str:
    """JSON text that any reader takes for one line of UTF-8."""
    return text if text.isascii() else _ODD.sub(_harmless, text)


def _harmless(found: Any) -> str:
    sign: str = found[0]
    return "\ufffd" if "\ud800" <= sign <= "\udfff" else f"\\u{ord(sign):04x}"


def clip(text: str, room: int) -> str:
    """``text`` quoted, cut to ``room`` bytes and with the mark if it takes more."""
    made = quoted(text)
    size = size_of(made)
    mark = CUT
    while size > room:
        if not text:
            if not mark:
                return made
            mark = ""
        text = text[: min(len(text) - 1, int(len(text) * room / size * 0.97))] if text else ""
        made = quoted(text + mark)
        size = size_of(made)
    return made


def shares(sizes: list[int], room: int) -> list[int]:
    """How much of ``room`` each gets: the small ones what they need, the large ones equal parts of the rest."""
    given = [0] * len(sizes)
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    for place, index in enumerate(order):
        given[index] = min(sizes[index], max(0, room) // (len(sizes) - place))
        room -= given[index]
    return given


class Assembler:
    """Makes lines of parts. Thread-safe."""

    def __init__(self, service: str, *, fields: str, limit: int, redactor: Redactor | None) -> None:
        self.layout: Layout = LAYOUTS[fields]
        self.clock = Clock()
        self._service = service
        self._limit = limit
        self._name = min(_NAME, limit // 24)
        self._redactor = redactor

    def line(self, parts: Callable[[], Parts]) -> str:
        """The line. Never raises: a record that nothing can be made of is a line that says so."""
        try:
            return self._line(parts())
        except Exception:
            layout = self.layout
            when = self.clock.sure(None)
            return (
                f'{{"{layout.time}":"{when}"{self.head("ERROR", 40)}{quoted(_BROKEN)}'
                f"{self.tail(self._service, 'otel_perf', ('', 0, ''), 40)}}}"
            )

    # --- what is the same for many lines -----------------------------------------------------------

    def name(self, value: object) -> str:
        """A name as JSON text of bounded size."""
        text = "" if value is None else text_of(value)
        return clip(text[: self._name], self._name)

    def head(self, level: object, levelno: object) -> str:
        """From behind the time to the message."""
        layout = self.layout
        made = f',"{layout.level}":{self.name(layout.level_text(text_of("" if level is None else level)))}'
        if not layout.flat:  # Elastic wants time, level and message first
            made += f',"{layout.number}":{layout.number_of(levelno)}'
        return one_line(f'{made},"{layout.body}":')

    def tail(self, service: object, logger: object, place: tuple[Any, ...], levelno: object) -> str:
        """What is known of the place in the code."""
        layout = self.layout
        file, line, function = place
        made = f',"{layout.version}":{encoded(layout.version_value)}'
        if layout.flat:
            made += f',"{layout.number}":{layout.number_of(levelno)}'
        made += f',"{layout.service}":{self.name(service)},"{layout.logger}":{self.name(logger)}'
        if file:
            made += f',"{layout.file}":{self.name(file)}'
        if type(line) is int and 0 < line < LARGEST:
            made += f',"{layout.line}":{line}'
        if function:
            made += f',"{layout.function}":{self.name(function)}'
        return one_line(made)

    def thread(self, process: object, thread: object, name: object) -> str:
        """Process and thread."""
        layout, made = self.layout, ""
        for key, value in ((layout.process, process), (layout.thread, thread)):
            if type(value) is int and 0 <= value < LARGEST:
                made += f',"{key}":{value}'
        if name:
            made += f',"{layout.thread_name}":{self.name(name)}'
        return one_line(made)

    def ids(self, trace_id: object, span_id: object, sampled: object, correlation: object) -> str:
        """The ids, as far as they are some."""
        layout, made = self.layout, ""
        if _is_id(trace_id, 32):
            made += f',"{layout.trace}":"{trace_id}"'
            if _is_id(span_id, 16):
                made += f',"{layout.span}":"{span_id}"'
            if layout.flags:
                made += f',"{layout.flags}":"{"01" if sampled is True else "00"}"'
        if correlation and correlation != "0":
            made += f',"{layout.correlation}":{self.name(correlation)}'
        return one_line(made)

    def error(self, kind: str, message: str, trace: str) -> str:
        """An exception of which nothing is too long."""
        layout = self.layout
        made = f',"{layout.error_type}":{self.name(kind)}'
        if message:
            made += f',"{layout.error_message}":{quoted(message)}'
        return f'{made},"{layout.error_trace}":{quoted(trace)}'

    # --- the line ----------------------------------------------------------------------------------

    def _line(self, parts: Parts) -> str:
        layout, limit = self.layout, self._limit
        values = PlainValues(self._redactor, limit)
        given = parts.attributes if isinstance(parts.attributes, Mapping) else {}
        attributes = values.mapping(given.items())
        event = next((name for key in _EVENT_NAMES if isinstance(name := attributes.pop(key, None), str) and name), "")
        kind, message, trace = parts.error if any(parts.error) else _exception(attributes)
        cut: list[str] = []
        texts = {
            layout.body: self._fitted(parts.message, fit, layout.body, cut),
            layout.error_message: self._fitted(message, fit, layout.error_message, cut),
            layout.error_trace: self._fitted(trace, fit_ends, layout.error_trace, cut),
            layout.stack: self._fitted(parts.stack, fit_ends, layout.stack, cut),
        }
        if values.cut:
            cut.append(layout.attributes)
        if layout.flat:
            attributes = _flat(attributes)
        front = f'{{"{layout.time}":"{self.clock.sure(parts.time)}"{self.head(parts.level, parts.levelno)}'
        back = self.ids(*parts.ids, parts.correlation)
        back += self.tail(parts.service, parts.logger, parts.place, parts.levelno)
        back += self.thread(parts.process, parts.thread, parts.thread_name)
        if event:
            back += f',"{layout.event}":{self.name(event)}'
        if kind:
            back += f',"{layout.error_type}":{self.name(kind)}'
        made = {key: quoted(text) for key, text in texts.items() if text or key == layout.body}
        if attributes:
            made[layout.attributes] = surely_encoded(attributes)
        back = one_line(back)
        self._shorten(made, texts, attributes, cut, limit - size_of(front) - size_of(back))
        body = made.pop(layout.body)
        rest = "".join(f',"{key}":{text}' for key, text in made.items())
        if cut:
            rest += f',"{layout.cut}":{encoded(layout.cut_value(sorted(set(cut))))}'
        return one_line(f"{front}{body}{back}{rest}}}")

    def _fitted(self, text: str, by: Callable[..., str], key: str, cut: list[str]) -> str:
        if not text:
            return ""
        made = by(text, self._limit, None if self._redactor is None else self._redactor.text)
        if len(text) > self._limit and cut_mark(len(text)) in made:
            cut.append(key)
        return made

    def _shorten(
        self, made: dict[str, str], texts: dict[str, str], attributes: dict[str, Any], cut: list[str], room: int
    ) -> None:
        """Cut what is in ``made`` until all of it fits into ``room`` bytes with its names."""
        sizes = [size_of(text) for text in made.values()]
        room -= sum(len(key) + 5 for key in made) + 2 + 160  # quotes, colon, comma; brackets; the list of what was cut
        if sum(sizes) <= room:
            return
        for (key, text), size, share in zip(list(made.items()), sizes, shares(sizes, room), strict=True):
            if size <= share:
                continue
            cut.append(key)
            if key == self.layout.attributes:
                made[key] = _as_many(attributes, share)
            elif key == self.layout.body or len(text) < 1024:
                made[key] = clip(texts[key], share)
            else:
                made[key] = _clip_ends(texts[key], share)


def _is_id(value: object, digits: int) -> bool:
    return type(value) is str and len(value) == digits and _HEX.fullmatch(value) is not None


def _exception(attributes: dict[str, Any]) -> tuple[str, str, str]:
    """Type, message and stack trace that somebody else has made of an exception."""
    kind, message, trace = (text_of(attributes.pop(key, None) or "") for key in _EXCEPTION)
    return kind, message, trace


def _flat(attributes: dict[str, Any]) -> dict[str, Any]:
    """As labels of ECS: scalars, names without dots."""
    return {
        key.replace(".", "_"): surely_encoded(value) if isinstance(value, dict | list) else value
        for key, value in attributes.items()
    }


def _clip_ends(text: str, room: int) -> str:
    """As :func:`clip`, but keeps the end as well."""
    share = room * 3 // 4
    while True:
        size = size_of(quoted(text))
        keep = int(len(text) * share / size)
        made = quoted(text[: keep // 4] + CUT + text[len(text) - (keep - keep // 4) :])
        if size_of(made) <= room:
            return made
        share = share * 3 // 4
        if share < 64:
            return clip(text, room)


def _as_many(attributes: dict[str, Any], room: int) -> str:
    """As many of them as fit into ``room`` bytes, as JSON text; texts are cut to fit."""
    pieces: list[str] = []
    left = room - 2
    for key, value in attributes.items():
        name = one_line(f"{quoted(key)}:")
        text = surely_encoded(value)
        size = size_of(name) + size_of(text) + 1
        if size > left and left - size_of(name) > 64 and isinstance(value, str | list | dict):
            text = clip(value if isinstance(value, str) else text, left - size_of(name) - 1)
            size = size_of(name) + size_of(text) + 1
        if size <= left:
            pieces.append(name + text)
            left -= size
    return f"{{{','.join(pieces)}}}"
