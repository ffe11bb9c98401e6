"""Events are held back until what takes them away is there, and none is lost on the way."""

import threading

from otel_perf.core.events import Event
from otel_perf.emitter import Emitter

ODD = Event("odd", "An event of the tests")


class Logger:
    def __init__(self):
        self.bodies = []

    def emit(self, record):
        if record.body == "broken":
            raise RuntimeError("cannot emit")
        self.bodies.append(record.body)


def emit(emitter, body):
    emitter.emit(ODD, {}, body, "INFO", None)


def test_what_is_held_comes_in_order_when_it_is_released():
    emitter = Emitter()
    emitter.logger = logger = Logger()
    for body in ("1", "broken", "2"):
        emit(emitter, body)
    assert logger.bodies == []
    emitter.release()
    assert logger.bodies == ["1", "2"]
    emit(emitter, "3")
    emitter.hold()
    emit(emitter, "4")
    assert logger.bodies == ["1", "2", "3"]
    emitter.release()
    assert logger.bodies == ["1", "2", "3", "4"]


def test_without_a_logger_nothing_is_emitted():
    emitter = Emitter()
    emit(emitter, "1")
    emitter.logger = Logger()
    emitter.release()
    assert emitter.logger.bodies == []


def test_nothing_is_lost_while_others_hold_and_release():
    emitter = Emitter()
    emitter.logger = logger = Logger()
    ended = threading.Event()

    def turn():
        while not ended.is_set():
            emitter.hold()
            emitter.release()

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        for number in range(5_000):
            emit(emitter, str(number))
    finally:
        ended.set()
        thread.join()
    assert sorted(logger.bodies, key=int) == [str(number) for number in range(5_000)]
