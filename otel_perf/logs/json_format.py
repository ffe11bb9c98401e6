"""One JSON line a record, by the schema of :mod:`otel_perf.logs.record`.

What is the same in every line of one place in the code is encoded once and kept; a usual line is then put together
from a few texts. Whatever is unusual (exceptions, containers, long texts, objects, secrets) takes the way of
:mod:`otel_perf.logs.json_parts`, which expects anything.
"""

from __future__ import annotations

import logging
from itertools import islice
from json.encoder import encode_basestring as quoted
from os import getpid
from threading import current_thread, get_ident
from typing import TYPE_CHECKING, Any, Final

import msgspec

from otel_perf.logs.correlation import CORRELATION_ID, SAMPLED, SERVICE_NAME, SPAN_ID, STAMPS, TRACE_ID
from otel_perf.logs.json_parts import HOISTED, Assembler, one_line
from otel_perf.logs.line_parts import FIRST, HANDED, NOISE, OWN, error_of, of_line, of_record
from otel_perf.logs.plain_values import LARGEST, SUSPECT
from otel_perf.logs.secret_keys import LABELS, VALUES
from otel_perf.logs.secret_texts import MARK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from otel_perf.logs.redaction import Redactor

SITES: Final = 4096  # places in the code, and threads, that are remembered
_SHORT: Final = 2048  # characters of an extra that a usual line may have
_LONGEST_KEY: Final = 200
_ODD_NAMES: Final = frozenset(FIRST) | HOISTED | {HANDED, NOISE}  # where others are expected, or more to be done
_FIRST: Final = len(FIRST)
_WITHOUT_EXTRAS: Final = len(vars(logging.LogRecord("", 0, "", 0, "", (), None))) + len(STAMPS)
_STAMPS: Final = len(STAMPS)
_NONE: Final = ("", "")
_NEITHER: Final = (None, "")
_BITS: Final = LARGEST.bit_length() - 1
_SIZES: Final = 16  # numbers of fields that are remembered of one place
_MANY: Final = 64  # names; the judgement of more is not remembered
_ALWAYS: Final = frozenset(FIRST) | STAMPS
_SIMPLE: Final = frozenset({float, bool, type(None)})
_OWN, _HIDDEN, _SHOWN, _UNUSUAL = "own", "hidden", "shown", "unusual"
Shape = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]  # names: shown, hidden among them, passed over
_encode: Final = msgspec.json.Encoder().encode


class Encoder:
    """Makes lines. Thread-safe; remembers at most :data:`SITES` places in the code."""

    def __init__(
        self, service: str, *, fields: str = "otel", limit: int = 65_536, redactor: Redactor | None = None
    ) -> None:
        """``fields``: ``otel`` or ``ecs``; ``limit``: the largest line, in bytes of UTF-8 without its line break."""
        self._service = service
        self._assembler = Assembler(service, fields=fields, limit=limit, redactor=redactor)
        self._redactor = redactor
        self._limit = limit
        layout = self._assembler.layout
        self._flat = layout.flat
        self._open = f'{{{quoted(layout.time)}:"'
        self._attributes = f",{quoted(layout.attributes)}:"
        self._looks = redactor is not None and bool(redactor.patterns or redactor.user_patterns)
        self._suspects: Callable[[str], bool] = redactor.gate() if redactor is not None else bool
        self._time = self._assembler.clock.text
        self._verdicts: dict[str, str] = {}
        self._sites: dict[tuple[Any, ...], tuple[str, str, dict[int, Shape]]] = {}
        self._added: dict[tuple[str, ...], Shape] = {}  # to records, by the names
        self._given: dict[tuple[str, ...], Shape] = {}  # by other libraries
        self._threads: dict[tuple[Any, ...], str] = {}
        self._ids: tuple[tuple[Any, ...], str] = ((), "")
        self._who: tuple[tuple[Any, ...], str, str] = ((), "", "")  # the last line's ids, process and thread

    def line(self, record: logging.LogRecord) -> str:
        """``record`` as one line of JSON, without a line break. About 2 µs. Never raises."""
        try:
            made = self._usual(record)
            if made is not None:
                return made
        except Exception:  # whatever is odd about it, the sure way copes
            pass
        return self._surely(record)

    def _surely(self, record: logging.LogRecord) -> str:
        return self._assembler.line(lambda: of_record(record, self._service))

    def compose(  # noqa: PLR0913  an interface of keywords
        self,
        *,
        time: float,
        level: str,
        levelno: int,
        logger: str,
        message: str,
        attributes: Mapping[str, object],
        error: BaseException | None = None,
        ids: tuple[str, str, bool] = ("", "", False),
        correlation: str = "",
        place: tuple[str, int, str] = ("", 0, ""),
    ) -> str:
        """A line that is no record of the standard library's; ``ids``: trace id, span id, sampled. Never raises.

        Of ``attributes``, ``event.name`` and ``exception.*`` become the fields of these names.
        """
        if error is None:
            try:
                made = self._join(
                    time, (logger, level, levelno, *place, self._service), (*ids, correlation),
                    (getpid(), get_ident(), current_thread().name), message,
                    self._scalars(attributes, self._shape(tuple(attributes), self._given)) if attributes else _NONE,
                )  # fmt: skip
                if made is not None:
                    return made
            except Exception:
                pass
        return self._assembler.line(
            lambda: of_line(
                time=time,
                level=level,
                levelno=levelno,
                logger=logger,
                message=message,
                attributes=attributes,
                error=error,
                ids=ids,
                correlation=correlation,
                place=place,
                service=self._service,
            )
        )

    def _usual(self, record: Any) -> str | None:  # noqa: C901, PLR0911, PLR0912
        """The line, or ``None`` if there is anything unusual about the record.

        The same as :meth:`_join`, in one piece: calls and tuples would be a fifth of what it costs.
        """
        fields = record.__dict__
        message = record.msg
        is_plain = type(record) is logging.LogRecord
        if type(message) is str and is_plain:
            if record.args:
                message = message % record.args
        elif type(message) is dict:
            return None
        else:
            message = record.getMessage()
        if type(message) is not str or len(message) > self._limit:
            return None
        site = (
            record.name, record.levelname, record.levelno, record.pathname, record.lineno, record.funcName,
            fields[SERVICE_NAME],
        )  # fmt: skip
        head, tail, shapes = self._sites.get(site) or self._site(site)
        more, texts = "", message
        size, correlation = len(fields), fields.get(CORRELATION_ID)
        if size > _WITHOUT_EXTRAS or correlation is None or not is_plain:
            if correlation is None:  # stamped by somebody else
                size = -size
            try:
                extras, said = self._scalars(fields, shapes[size])
            except KeyError:  # the first line of this place, or one with as many others
                shape = self._shape_of(fields, is_plain=is_plain)
                extras, said = self._scalars(fields, shape)
                if shape is not None:
                    if len(shapes) >= _SIZES:
                        shapes.clear()
                    shapes[size] = shape
            if extras is None:
                return None
            more, texts = extras, texts + said
        if record.exc_info or record.exc_text or record.stack_info:
            error = error_of(record.exc_info, None)
            if record.stack_info or not error[2] or len(error[1]) + len(error[2]) > self._limit // 2:
                return None
            more, texts = self._assembler.error(*error) + more, "\n".join([texts, *error[1:]])
        if self._looks and self._suspects(texts):
            return None
        who = (
            fields[TRACE_ID], fields[SPAN_ID], fields[SAMPLED], correlation,
            record.process, record.thread, record.threadName,
        )  # fmt: skip
        last = self._who
        if last[0] != who:
            thread = who[4:]
            self._who = last = (who, self._assembler.ids(*who[:4]), self._threads.get(thread) or self._thread(thread))
        stamp = self._time(record.created)
        line = f'{self._open}{stamp}"{head}{quoted(message)}{last[1]}{tail}{last[2]}{more}}}'
        if line.isascii():
            return line if len(line) <= self._limit else None
        return one_line(line) if len(line) * 6 <= self._limit else None

    def _join(
        self, time: float, site: tuple[Any, ...], ids: tuple[Any, ...], thread: tuple[Any, ...], message: Any,
        scalars: tuple[str | None, str],
    ) -> str | None:  # fmt: skip
        extras, texts = scalars
        if extras is None or type(message) is not str or len(message) > self._limit:
            return None
        if self._looks and self._suspects(message + texts):
            return None
        last = self._ids
        if last[0] != ids:
            self._ids = last = (ids, self._assembler.ids(*ids))
        head, tail, _ = self._sites.get(site) or self._site(site)
        threads = self._threads.get(thread) or self._thread(thread)
        line = f'{self._open}{self._time(time)}"{head}{quoted(message)}{last[1]}{tail}{threads}{extras}}}'
        if line.isascii():
            return line if len(line) <= self._limit else None
        return one_line(line) if len(line) * 6 <= self._limit else None

    def _scalars(  # noqa: C901
        self, fields: Mapping[str, Any], shape: Shape | None
    ) -> tuple[str | None, str]:
        """The field with those of ``shape``, if they are short texts, numbers, truth values and ``None``.

        And the texts among them, where these are looked at. Raises ``KeyError`` if ``fields`` have others.
        """
        if shape is None:
            return _NEITHER
        texts, looks = "", self._looks
        made: dict[str, Any] = {}
        for key in shape[0]:
            value = fields[key]
            kind = type(value)
            if kind is int:
                if value.bit_length() > _BITS:
                    return _NEITHER
            elif kind is str:
                if len(value) > _SHORT:
                    return _NEITHER
                if looks:
                    texts = f"{texts}\n{value}"
            elif kind not in _SIMPLE:
                return _NEITHER
            made[key] = value
        for key in shape[1]:
            if made[key] is not None and type(made[key]) is not bool:
                made[key] = MARK
        for key in shape[2]:
            fields[key]
        # One call for all: msgspec writes a number in a third of the time that Python takes.
        return (self._attributes + _encode(made).decode() if made else ""), texts

    def _shape_of(self, fields: dict[str, Any], *, is_plain: bool) -> Shape | None:
        """What a record has beside its own fields.

        To be remembered by the number of all its fields, so that the next one's need not be looked for among them: if
        there are as many, and these are there, no others are.
        """
        size = len(fields)
        if not is_plain:  # a class of the app's may make others before
            names = tuple(name for name in fields if name not in _ALWAYS)
        elif next(reversed(fields)) == CORRELATION_ID:  # LogRecord makes its own first; the last ones are the ids
            names = tuple(islice(reversed(fields), _STAMPS, size - _FIRST))[::-1]
        else:
            names = tuple(islice(fields, _FIRST, size))
        return self._shape(names, self._added)

    def _shape(self, names: tuple[str, ...], known: dict[tuple[str, ...], Shape]) -> Shape | None:
        """Which of ``names`` are shown, which of them are hidden, and which are passed over as a record's own.

        ``None`` if any is unusual, as a record's own is among what is given (``known`` is ``self._given``).
        """
        shape = known.get(names)
        if shape is None:
            verdicts = {name: self._verdicts.get(name) or self._judge(name) for name in names}
            found = set(verdicts.values())
            if _UNUSUAL in found or (_OWN in found and known is self._given):
                return None
            if self._redactor is not None and not LABELS.isdisjoint(names) and not VALUES.isdisjoint(names):
                return None  # one may say that the other is a secret
            shape = (
                tuple(name for name in names if verdicts[name] is not _OWN),
                tuple(name for name in names if verdicts[name] is _HIDDEN),
                tuple(name for name in names if verdicts[name] is _OWN and name not in _ALWAYS),
            )
            if len(names) <= _MANY:
                if len(known) >= SITES:
                    known.clear()
                known[names] = shape
        return shape

    def _judge(self, key: Any) -> str:
        """What an extra of that name is: a field of every record, hidden, shown, or to be left to the sure way."""
        if type(key) is not str or len(key) > _LONGEST_KEY or key in _ODD_NAMES or (self._flat and "." in key):
            return _UNUSUAL
        if self._looks and len(key) >= SUSPECT and self._suspects(key):
            return _UNUSUAL
        if key in OWN:
            verdict = _OWN
        else:
            verdict = _HIDDEN if self._redactor is not None and self._redactor.is_secret(key) else _SHOWN
        if len(self._verdicts) >= SITES:
            self._verdicts.clear()
        self._verdicts[key] = verdict
        return verdict

    def _site(self, site: tuple[Any, ...]) -> tuple[str, str, dict[int, Shape]]:
        name, level, levelno, *place, service = site
        assembler = self._assembler
        shapes: dict[int, Shape] = {}
        made = (assembler.head(level, levelno), assembler.tail(service, name, tuple(place), levelno), shapes)
        if len(self._sites) >= SITES:
            self._sites.clear()  # a logger for every request, or code that is made anew
        self._sites[site] = made
        return made

    def _thread(self, thread: tuple[Any, ...]) -> str:
        made = self._assembler.thread(*thread)
        if len(self._threads) >= SITES:
            self._threads.clear()
        self._threads[thread] = made
        return made
