"""What every board has to keep; each board's tests give ``boards``, a way to open one and to kill who uses it."""

import json
import threading
import time
import uuid

import pytest

from otel_perf.signals.board import Wait
from otel_perf.signals.signal import Producer, Signal
from tests.e2e.support import wait_for


def producer(identity="shop", **others):
    return Producer(identity, uuid.uuid4().hex, **others)


def signal(who, name="CACHE_WARM", *, key="", scope="", state="ready", payload="null", ttl=0.0, uid=None, skew=0):
    made = time.time_ns() + skew * 10**9
    return Signal(name, key, scope, state, "", payload, who, uid or uuid.uuid4().hex, made, ttl)


class BoardContract:
    """Mixed into a class of tests that has a fixture ``boards``."""

    def test_what_was_put_is_current_for_who_comes_late(self, boards):
        board = boards.open()
        who = board.join(producer(agent="loader", agent_id="7", host="h", pid=5))
        put = board.put(signal(who, payload='{"rows":7}'))
        assert put.seq > 0
        assert boards.open().current("", ["CACHE_WARM", "OTHER"]) == [put]

    def test_numbers_are_in_the_order_in_which_signals_are_seen(self, boards):
        board = boards.open()
        who = board.join(producer())
        put = [board.put(signal(who, f"S{n % 3}")) for n in range(10)]
        assert [s.seq for s in put] == sorted({s.seq for s in put})
        assert board.since(0) == put
        assert board.since(put[3].seq) == put[4:]
        assert board.since(put[3].seq, limit=2) == put[4:6]
        assert board.current("", ["S0", "S1", "S2"]) == put[-3:]

    def test_scopes_and_keys_are_apart(self, boards):
        board = boards.open()
        who = board.join(producer())
        a, b = board.put(signal(who, key="1")), board.put(signal(who, key="2"))
        other = board.put(signal(who, scope="blue"))
        assert board.current("", ["CACHE_WARM"]) == [a, b]
        assert board.current("blue", ["CACHE_WARM"]) == [other]

    def test_what_is_put_twice_is_there_once(self, boards):
        board = boards.open()
        who = board.join(producer())
        first = board.put(signal(who, uid="u"))
        board.put(signal(who))
        assert board.put(signal(who, uid="u")).seq == first.seq
        assert len(board.since(0)) == 2

    def test_a_failure_takes_the_place_of_what_was_ready(self, boards):
        board = boards.open()
        who = board.join(producer())
        board.put(signal(who))
        failed = board.put(signal(who, state="failed"))
        assert board.current("", ["CACHE_WARM"]) == [failed]

    def test_who_left_in_peace_stays_trusted(self, boards):
        board = boards.open()
        who = board.join(producer())
        put = board.put(signal(who))
        board.leave(who)
        assert board.join(producer()).generation == 2
        assert board.current("", ["CACHE_WARM"]) == [put]

    def test_who_was_killed_is_not_trusted_once_it_is_back(self, boards):
        board = boards.open()
        boards.emit_and_die("shop", "CACHE_WARM")
        assert len(board.current("", ["CACHE_WARM"])) == 1
        again = board.join(producer())
        assert board.current("", ["CACHE_WARM"]) == []
        put = board.put(signal(again))
        assert board.current("", ["CACHE_WARM"]) == [put]

    def test_another_producers_signal_stands_where_the_newest_is_not_trusted(self, boards):
        board = boards.open()
        one = board.put(signal(board.join(producer("one"))))
        boards.emit_and_die("two", "CACHE_WARM")
        board.join(producer("two"))
        assert board.current("", ["CACHE_WARM"]) == [one]

    def test_a_second_life_beside_the_first_takes_nothing_from_it(self, boards):
        board = boards.open()
        put = board.put(signal(board.join(producer())))
        assert boards.open().join(producer()).generation == 2
        assert board.current("", ["CACHE_WARM"]) == [put]

    def test_said_again_under_the_same_uid_by_another_life_it_is_trusted(self, boards):
        board = boards.open()
        boards.emit_and_die("shop", "CACHE_WARM", uid="u")
        put = board.put(signal(board.join(producer()), uid="u"))
        assert board.current("", ["CACHE_WARM"]) == [put]

    def test_what_has_expired_is_not_current(self, boards):
        board = boards.open()
        who = board.join(producer())
        long, began = board.put(signal(who, "A", ttl=3600)), time.monotonic()
        short = board.put(signal(who, "B", ttl=0.5))
        while board.current("", ["A", "B"]) == [long, short]:
            time.sleep(0.01)
        assert time.monotonic() - began >= 0.5
        assert board.current("", ["A", "B"]) == [long]

    @pytest.mark.parametrize("skew", [-3600, 3600])
    def test_a_producers_clock_that_is_an_hour_off_changes_neither_order_nor_expiry(self, boards, skew):
        board = boards.open()
        wrong, right = board.join(producer("wrong")), board.join(producer("right"))
        long = board.put(signal(wrong, "LONG", ttl=1800, skew=skew))
        board.put(signal(wrong, "SHORT", ttl=0.1, skew=skew))
        board.put(signal(wrong, skew=skew))
        last = board.put(signal(right))
        wait_for(lambda: not board.current("", ["SHORT"]), what="it has expired")
        assert boards.open().current("", ["LONG", "CACHE_WARM"]) == [long, last]
        assert board.producers()[0].producer == right

    def test_a_producer_that_the_board_does_not_know_joins_with_its_signal(self, boards):
        board = boards.open()
        put = board.put(signal(producer("new")))
        assert [s.uid for s in board.current("", ["CACHE_WARM"])] == [put.uid]
        assert [(heard.producer.identity, heard.state) for heard in board.producers()] == [("new", "here")]

    def test_who_was_heard_of(self, boards):
        board = boards.open()
        one, two = board.join(producer("one")), board.join(producer("two"))
        board.leave(two)
        board.put(signal(one))
        assert [(heard.producer, heard.state) for heard in board.producers()] == [(one, "here"), (two, "left")]

    def test_waits_are_seen_by_others_while_their_producer_is_there(self, boards):
        board = boards.open()
        who = board.join(producer())
        wait = Wait("w", who, "", ("A", "B"), ("C",), time.time_ns())
        board.note(wait)
        assert boards.open().waits() == [wait]
        board.forget(wait)
        assert board.waits() == []
        board.note(wait)
        board.leave(who)
        assert board.waits() == []

    def test_changed_returns_as_soon_as_something_comes(self, boards):
        board, other = boards.open(), boards.open()
        who = other.join(producer())
        assert board.producers()
        mark = board.changed(None, 0)
        assert board.changed(mark, 0.05) == mark
        timer = threading.Timer(0.1, lambda: other.put(signal(who)))
        timer.start()
        assert board.changed(mark, 60) != mark
        timer.join()
        assert board.current("", ["CACHE_WARM"])

    def test_changed_returns_when_it_is_interrupted(self, boards):
        board = boards.open()
        mark = board.changed(None, 0)
        timer = threading.Timer(0.1, board.interrupt)
        timer.start()
        began = time.monotonic()
        assert board.changed(mark, 60) == mark
        assert time.monotonic() - began < 30
        timer.join()

    def test_it_keeps_what_is_current_when_it_is_full(self, boards):
        board = boards.open(kept=300)
        who = board.join(producer())
        first = board.put(signal(who, "RARE"))
        for _ in range(1_200):
            last = board.put(signal(who, "OFTEN"))
        assert board.current("", ["RARE", "OFTEN"]) == [first, last]
        assert len(board.since(0, limit=10_000)) <= 300 + 256

    def test_names_without_end_are_bounded_too(self, boards):
        board = boards.open(kept=300)
        who = board.join(producer())
        for n in range(1_200):
            last = board.put(signal(who, f"N{n}"))
        assert board.current("", [last.name]) == [last]
        assert len(board.since(0, limit=10_000)) <= 300 + 256

    def test_many_at_once_lose_nothing(self, boards):
        board = boards.open()
        put = []

        def emit(number):
            mine = boards.open()
            who = mine.join(producer(f"p{number}"))
            put.extend(mine.put(signal(who, f"N{number}")) for _ in range(50))

        threads = [threading.Thread(target=emit, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert board.since(0) == sorted(put, key=lambda s: s.seq)
        assert len({s.seq for s in put}) == 200

    def test_odd_and_long_names_keys_and_scopes_are_kept_as_they_are(self, boards):
        board = boards.open()
        who = board.join(producer("a.b*>/ ä\t" + "x" * 1_000, agent="日本", host="h.example"))
        texts = ["!", "a.b", ">", "*", "=2e", "A" * 128]
        put = [board.put(signal(who, name, key=key)) for name in texts for key in ("", "ä. *>", "🎉" * 256)]
        put += [board.put(signal(who, "N", scope=scope)) for scope in (".", "a b", "🎉" * 256)]
        other = boards.open()
        assert other.current("", texts) == put[:-3]
        assert [other.current(s.scope, ["N"]) for s in put[-3:]] == [[s] for s in put[-3:]]
        assert other.since(0) == put
        assert other.join(producer(who.identity)).generation == 2

    def test_the_largest_payload_comes_as_it_is(self, boards):
        board = boards.open()
        payload = json.dumps('"ä\\' * 10_000, ensure_ascii=False)
        put = board.put(signal(board.join(producer()), payload=payload))
        assert boards.open().current("", ["CACHE_WARM"]) == [put]

    def test_ten_thousand_signals_are_all_there(self, boards):
        self.many(boards, 10_000)

    @pytest.mark.soak
    def test_a_hundred_thousand_signals_are_all_there(self, boards):
        self.many(boards, 100_000)

    @staticmethod
    def many(boards, number):
        board = boards.open()
        who = board.join(producer())
        put = [board.put(signal(who, f"N{n % 5_000}", key=str(n // 5_000))) for n in range(number)]
        other = boards.open()
        assert len(other.current("", [f"N{n}" for n in range(5_000)])) == number
        seen = 0
        for start in range(0, number, 1_000):
            some = other.since(seen)
            assert some == put[start : start + 1_000]
            seen = some[-1].seq
        assert other.since(seen) == []

    @pytest.mark.parametrize("names", [[], ["x" * 128], [f"N{n}" for n in range(2_000)]])
    def test_any_number_of_names_can_be_asked_for(self, boards, names):
        assert boards.open().current("", names) == []
