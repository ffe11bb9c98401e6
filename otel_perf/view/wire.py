"""Looks at an OTLP request as it came, before it is parsed, and cuts it into batches of a bearable size.

A message may take two bytes on the wire, and takes many times that in memory: a body that is allowed to be large must
not be parsed before somebody counted what is in it. Only lengths are read here; what is in an item is passed over,
unless one item alone is large. The encoding: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ITEMS: Final = 50_000  # of a request: spans, log records, or points of metrics
FIELDS: Final = 200_000  # that are looked at: resources, scopes, items, and all of a large item
BYTES: Final = 2**20  # of a batch; one item may be larger
EACH: Final = 2_000  # items of a batch
HEAD: Final = 2**18  # bytes of a resource, or of a scope, without what is under it: each batch has them again
_LENGTH: Final = 2  # the wire type of messages, texts and bytes
_UNDER: Final = 2  # the field that a resource has its scopes in, and a scope its items: of all three signals
_FIXED: Final = {1: 8, 5: 4}
_VARINT: Final = 10  # bytes at most

Plan = dict[int, Any]  # of a message: the messages in its fields


class TooMuchError(Exception):
    """A request has more in it than is taken at once."""


class Part(NamedTuple):
    """A field of a message: where it begins, where its value does, and where both end."""

    number: int
    wire: int
    begin: int
    value: int
    end: int


class Cutter:
    """For one request of the message class ``kind``."""

    def __init__(self, kind: Any) -> None:
        of_resource = kind.DESCRIPTOR.fields_by_number[1].message_type
        of_scope = of_resource.fields_by_number[_UNDER].message_type
        self._item = of_scope.fields_by_number[_UNDER].message_type
        # Of a metric, its points are what counts: in the first field of each kind of data.
        self._is_metric = self._item.name == "Metric"
        self._looked = self._items = 0
        self._plans: dict[str, Plan] = {}
        self._open: list[tuple[bytes, list[tuple[bytes, list[bytes]]]]] = []
        self._bytes = self._count = 0
        self._batches: list[tuple[int, bytes]] = []

    def cut(self, body: bytes) -> list[tuple[int, bytes]]:
        """Batches, each with the number of its items. Raises ``TooMuchError``, or ``ValueError`` for no protobuf.

        Only lengths are checked: each batch has to be parsed before it is believed.
        """
        try:
            for part in self._parts(body, 0, len(body)):
                if part.number == 1 and part.wire == _LENGTH:
                    self._resource(body, part)
        except IndexError as error:
            raise ValueError("a message ends in the middle of a field") from error
        self._close()
        return self._batches

    def _resource(self, body: bytes, part: Part) -> None:
        head, scopes = self._split(body, part)
        for scope in scopes:
            scope_head, items = self._split(body, scope)
            for item in items:
                number = self._points(body, item) if self._is_metric else 1
                self._items += number
                if self._items > ITEMS:
                    raise TooMuchError(f"at most {ITEMS} items a request")
                if item.end - item.value > BYTES:
                    self._look_through(body, item)
                if number:
                    self._add(head, scope_head, body[item.begin : item.end], number)

    def _split(self, body: bytes, of: Part) -> tuple[bytes, list[Part]]:
        """What a message says itself, and what is under it."""
        head, under = [], []
        for part in self._parts(body, of.value, of.end):
            if part.number == _UNDER and part.wire == _LENGTH:
                under.append(part)
            else:
                head.append(body[part.begin : part.end])
        size = sum(map(len, head))
        if size > HEAD:
            raise TooMuchError(f"a resource or scope has {size} bytes of its own; at most {HEAD}")
        return b"".join(head), under

    def _points(self, body: bytes, metric: Part) -> int:
        kinds = self._plan(self._item)
        return sum(
            part.number == 1 and part.wire == _LENGTH
            for data in self._parts(body, metric.value, metric.end)
            if data.wire == _LENGTH and data.number in kinds
            for part in self._parts(body, data.value, data.end)
        )

    def _look_through(self, body: bytes, item: Part) -> None:
        """All of one item: it alone may have as much in it as a whole request."""
        ahead = [(item.value, item.end, self._item)]
        while ahead:
            begin, end, kind = ahead.pop()
            plan = self._plan(kind)
            for part in self._parts(body, begin, end):
                if part.wire == _LENGTH and part.number in plan:
                    ahead.append((part.value, part.end, plan[part.number]))

    def _plan(self, kind: Any) -> Plan:
        found = self._plans.get(kind.full_name)
        if found is None:
            found = {field.number: field.message_type for field in kind.fields if field.message_type is not None}
            self._plans[kind.full_name] = found
        return found

    def _parts(self, body: bytes, at: int, end: int) -> Iterator[Part]:
        """The fields of a message, each of which counts."""
        while at < end:
            self._looked += 1
            if self._looked > FIELDS:
                raise TooMuchError("more messages and fields than a request of that many items can have")
            begin = at
            tag, at = _number(body, at)
            wire = tag & 7
            if wire == _LENGTH:
                size, value = _number(body, at)
                at = value + size
            elif wire:
                if wire not in _FIXED:
                    raise ValueError(f"wire type {wire}")
                value, at = at, at + _FIXED[wire]
            else:
                value = at
                _, at = _number(body, at)
            if at > end:
                raise ValueError("a field is longer than its message")
            yield Part(tag >> 3, wire, begin, value, at)

    def _add(self, head: bytes, scope_head: bytes, item: bytes, number: int) -> None:
        if self._open and (self._bytes + len(item) > BYTES or self._count + number > EACH):
            self._close()
        if not self._open or self._open[-1][0] is not head:
            self._open.append((head, []))
            self._bytes += len(head)
        scopes = self._open[-1][1]
        if not scopes or scopes[-1][0] is not scope_head:
            scopes.append((scope_head, []))
            self._bytes += len(scope_head)
        scopes[-1][1].append(item)
        self._bytes += len(item)
        self._count += number

    def _close(self) -> None:
        """Make a batch of what was gathered."""
        if self._open:
            resources = [
                _message(1, head, *(_message(_UNDER, scope_head, *items) for scope_head, items in scopes))
                for head, scopes in self._open
            ]
            self._batches.append((self._count, b"".join(resources)))
        self._open, self._bytes, self._count = [], 0, 0


def _number(body: bytes, at: int) -> tuple[int, int]:
    """A varint, and where it ends."""
    first = body[at]
    if first < 128:
        return first, at + 1
    found = first & 127
    for more in range(1, _VARINT):
        byte = body[at + more]
        found |= (byte & 127) << 7 * more
        if byte < 128:
            return found, at + more + 1
    raise ValueError("a number has more than ten bytes")


def _message(number: int, *pieces: bytes) -> bytes:
    """A field that holds a message."""
    size = sum(map(len, pieces))
    head = bytearray([number << 3 | _LENGTH])
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    head.append(size)
    return b"".join((bytes(head), *pieces))
