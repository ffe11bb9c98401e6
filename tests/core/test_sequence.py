"""The start as signals: who has answered, what is missing, and what several say together."""

from otel_perf.core.sequence import (
    ERROR_HANDLING,
    HEALTH_MONITORING,
    NAMES,
    PERFORMANCE_OPTIMIZATION,
    Answer,
    Sequence,
)


def made(*external):
    sequence = Sequence()
    sequence.leave_to_others(external)
    heard = []
    sequence.listeners.append(heard.append)
    return sequence, heard


def test_what_is_answered_is_not_missing_and_listeners_hear_of_changes_only():
    sequence, heard = made()
    sequence.expect(ERROR_HANDLING, "errors")
    assert sequence.missing(NAMES) == [ERROR_HANDLING]  # what nobody emits is not waited for
    sequence.answer(ERROR_HANDLING, "errors")
    sequence.answer(ERROR_HANDLING, "errors")
    assert sequence.missing(NAMES) == []
    assert heard == [Answer(ERROR_HANDLING, "")]
    sequence.answer(ERROR_HANDLING, "errors", "off by OTEL_PERF_ERRORS")
    assert sequence.missing(NAMES) == []
    assert [answer.ready for answer in heard] == [True, False]


def test_a_signal_of_several_is_settled_by_the_last_of_them():
    sequence, heard = made()
    for name in ("bottlenecks", "cleanup", "gc_tuning"):
        sequence.expect(PERFORMANCE_OPTIMIZATION, name)
    sequence.answer(PERFORMANCE_OPTIMIZATION, "bottlenecks", "off by the flag file")
    sequence.answer(PERFORMANCE_OPTIMIZATION, "cleanup")
    assert sequence.missing(NAMES) == [PERFORMANCE_OPTIMIZATION]
    sequence.answer(PERFORMANCE_OPTIMIZATION, "gc_tuning")
    assert heard == [Answer(PERFORMANCE_OPTIMIZATION, "")]  # one that is off is no failure of the others
    sequence.answer(PERFORMANCE_OPTIMIZATION, "gc_tuning", "could not be installed: KeyError()")
    assert heard[-1].reason == "gc_tuning: could not be installed: KeyError()"
    for name in ("cleanup", "gc_tuning"):
        sequence.answer(PERFORMANCE_OPTIMIZATION, name, "off by the flag file")
    assert heard[-1].reason == "off by the flag file"


def test_what_is_left_to_others_is_answered_by_them_alone():
    sequence, heard = made(HEALTH_MONITORING)
    sequence.expect(HEALTH_MONITORING, "health")
    sequence.answer(HEALTH_MONITORING, "health")
    assert sequence.missing(NAMES) == [HEALTH_MONITORING]
    sequence.answer_from_outside(HEALTH_MONITORING, "no probe")
    assert (sequence.missing(NAMES), heard) == ([], [Answer(HEALTH_MONITORING, "no probe")])
    assert sequence.answers() == {HEALTH_MONITORING: heard[0]}


def test_a_listener_may_answer_itself():
    sequence, heard = made()
    sequence.expect(ERROR_HANDLING, "errors")
    sequence.expect(HEALTH_MONITORING, "health")
    sequence.listeners.insert(0, lambda answer: sequence.answer(HEALTH_MONITORING, "health"))
    sequence.answer(ERROR_HANDLING, "errors")
    assert {answer.name for answer in heard} == {ERROR_HANDLING, HEALTH_MONITORING}
