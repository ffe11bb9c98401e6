"""``python talk.py PORT NUMBER ID``: talk to the socket; prints the header of the answer, and the trace id."""

import sys

from websockets.sync.client import connect

port, number, given = sys.argv[1:]
with connect(f"ws://127.0.0.1:{port}/socket?n={number}", additional_headers={"X-Correlation-ID": given}) as socket:
    socket.send(number)
    print(socket.response.headers["X-Correlation-ID"], socket.recv(), flush=True)
    socket.send("on")
    try:
        socket.recv()
    except Exception as closed:
        print(type(closed).__name__)
