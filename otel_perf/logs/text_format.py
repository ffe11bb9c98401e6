"""One line for people, with the ids; a traceback follows on lines of its own, as logging has it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from otel_perf.logs.line_parts import Clock, Parts, of_line, of_record
from otel_perf.logs.plain_values import PlainValues, fit, fit_ends, text_of

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from otel_perf.logs.redaction import Redactor

_CUT: Final = "…[cut]".encode()
_BARE: Final = frozenset(" \t\r\n\"'=")  # signs that put quotes around a value


class TextEncoder:
    """Makes lines, with the interface of :class:`otel_perf.logs.json_format.Encoder`. Thread-safe."""

    def __init__(self, service: str, *, limit: int = 65_536, redactor: Redactor | None = None) -> None:
        """``limit``: the largest line, in bytes of UTF-8, its traceback included."""
        self._service = service
        self._limit = limit
        self._redactor = redactor
        self._scrub = None if redactor is None else redactor.text
        self._clock = Clock()

    def line(self, record: logging.LogRecord) -> str:
        """``record`` as text, without a line break at its end. About 10 µs. Never raises."""
        return self._surely(lambda: of_record(record, self._service))

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
        """A line that is no record of the standard library's. Never raises."""
        return self._surely(
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

    def _surely(self, parts: Callable[[], Parts]) -> str:
        try:
            return self._line(parts())
        except Exception:
            return f"{self._clock.sure(None)} ERROR [otel_perf] a record that could not be written"

    def _line(self, parts: Parts) -> str:
        limit = self._limit // 4  # a sign takes up to four bytes
        values = PlainValues(self._redactor, limit // 4)
        given = parts.attributes if isinstance(parts.attributes, Mapping) else {}
        attributes = values.mapping(given.items())
        trace_id, span_id, _ = parts.ids
        if trace_id and trace_id != "0":
            attributes["trace_id"] = trace_id
            if span_id and span_id != "0":
                attributes["span_id"] = span_id
        if parts.correlation and parts.correlation not in {trace_id, "0"}:
            attributes["correlation_id"] = parts.correlation
        level, logger = text_of(parts.level)[:64], text_of(parts.logger or "")[:256]
        message = fit(parts.message, limit // 4, self._scrub)
        said = "".join(f" {_name(key)}={_value(value)}" for key, value in attributes.items())
        line = f"{self._clock.sure(parts.time)} {level:<8} [{logger}] {message}{_fitted(said, limit // 3)}"
        for text in (parts.error[2] or ": ".join(filter(None, parts.error[:2])), parts.stack):
            if text:
                line += "\n" + fit_ends(text, limit // 5, self._scrub).rstrip("\n")
        data = line.encode("utf-8", "replace")
        if len(data) > self._limit:  # of signs that take four bytes each, nearly all that may be long is
            return data[: self._limit - len(_CUT)].decode("utf-8", "ignore") + _CUT.decode()
        return data.decode()


def _name(key: str) -> str:
    return key if key.isidentifier() else "".join(sign if sign.isalnum() or sign in "._-" else "_" for sign in key)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if not value or not _BARE.isdisjoint(value) else value
    return json.dumps(value, ensure_ascii=False)


def _fitted(text: str, limit: int) -> str:
    return fit(text, limit, None)
