"""The end of a test with a timer that is a signal."""

import signal


def restore(before):
    """Have ``SIGALRM`` handled as ``before``, but never as a program's default.

    Another thread may have got the last signal, and tell of it only now: Python then says that the signal was "ignored due
    to race condition", in whatever runs next.
    """
    signal.signal(signal.SIGALRM, before if callable(before) else _ignore)


def _ignore(_number, _frame):
    pass
