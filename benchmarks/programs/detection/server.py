"""An HTTP server of its own process: answers after ``?ms=``, and serves ``&room=`` requests of one path at a time.

Prints its port. An answer names what may be asked next, so that a caller can depend on it.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from urllib.parse import parse_qs, urlsplit

rooms: dict[tuple[str, int], asyncio.Semaphore] = {}
asked: defaultdict[str, int] = defaultdict(int)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection until its client closes it."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            parts = urlsplit(head.split(b" ", 2)[1].decode())
            query = parse_qs(parts.query)
            delay, room = float(query.get("ms", ["0"])[0]) / 1000, int(query.get("room", ["0"])[0])
            if room:
                place = parts.path.rpartition("/")[0], room
                async with rooms.setdefault(place, asyncio.Semaphore(room)):
                    await asyncio.sleep(delay)
            else:
                await asyncio.sleep(delay)
            asked[parts.path] += 1
            body = json.dumps({"next": f"part-{asked[parts.path]}", "items": list(range(20))}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body))
            writer.write(body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the client is done
    finally:
        writer.close()


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
