"""A name server on the loopback interface, which says of every name the addresses that it was given."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_A = 1  # the type of an IPv4 address; of anything else there is nothing


class Names:
    """Its address, and what it answers, which may change while it runs."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])

    @contextmanager
    def running(self) -> Iterator[None]:
        """While it answers."""
        thread = threading.Thread(target=self._serve, name="names", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._socket.sendto(b"", ("127.0.0.1", self.port))
            thread.join()
            self._socket.close()

    def _serve(self) -> None:
        while True:
            question, sender = self._socket.recvfrom(1024)
            if not question:
                return
            self._socket.sendto(self._answer(question), sender)

    def _answer(self, question: bytes) -> bytes:
        end = 12
        while question[end]:  # the labels of the name, each after its length
            end += question[end] + 1
        (kind,) = struct.unpack(">H", question[end + 1 : end + 3])
        addresses = self.addresses if kind == _A else []
        header = question[:2] + struct.pack(">HHHHH", 0x8580, 1, len(addresses), 0, 0)
        records = [
            struct.pack(">HHHIH", 0xC00C, _A, 1, 0, 4) + socket.inet_aton(address)  # 0xC00C: the name asked for
            for address in addresses
        ]
        return header + question[12 : end + 5] + b"".join(records)
