"""Rounds of a team of six processes, two of each role, one of which is killed at some point and started again."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROLES = ("errors", "health", "performance")
PROGRAM = Path(__file__).with_name("programs") / "role.py"
PATIENCE = 60  # seconds for a round


class Member:
    """One process, and what its lives have said."""

    def __init__(self, role, number, scope, seed, environ):
        self.arguments = [sys.executable, str(PROGRAM), role, number, scope, str(seed)]
        self.name = f"{role}-{number}"
        self.environ = environ
        self.said = []
        self.begin()

    def begin(self):
        self.process = subprocess.Popen(
            self.arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.environ
        )
        self.reader = threading.Thread(target=self._read, args=(self.process.stdout,))
        self.reader.start()

    def _read(self, lines):
        with lines:
            for line in lines:
                if line.endswith("\n"):  # not what a kill has torn
                    self.said.append(json.loads(line))

    def events(self, kind):
        return [event for event in list(self.said) if event["event"] == kind]

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.stdin.close()
        self.process.wait()
        self.reader.join()

    def end(self):
        self.process.stdin.close()
        status = self.process.wait(30)
        self.reader.join()
        return status


def until(true, what):
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, what()
        time.sleep(0.002)


def play(board, scope, seed, environ, half_way=None):
    """One round on ``board``, which the processes with ``environ`` share. Raises ``AssertionError``."""
    chance = random.Random(seed)
    members = [(role, number) for role in ROLES for number in ("1", "2")]
    chance.shuffle(members)
    team = []
    victim_at = chance.uniform(0, 1.0)
    victim = chance.randrange(len(members))
    try:
        for role, number in members:
            team.append(Member(role, number, scope, seed, {**os.environ, **environ}))
            time.sleep(chance.uniform(0, 0.03))
        if half_way is not None:
            half_way()
        time.sleep(victim_at)
        _kill_and_restart(board, scope, team[victim])
        until(lambda: all(m.events("ready") for m in team), lambda: f"seed {seed}: {_state(team)}")
        statuses = {m.name: m.end() for m in team}
        assert set(statuses.values()) == {0}, (seed, statuses)
    finally:
        for member in team:
            if member.process.poll() is None:
                member.kill()
    _check(board, scope, seed, team)


def _kill_and_restart(board, scope, member):
    member.kill()
    before = list(member.said)
    old = {event["uid"] for event in before if event["event"] == "emitted"}
    lives = len(member.events("joined"))
    member.said[:] = [event for event in before if event["event"] != "ready"]
    member.begin()
    until(lambda: len(member.events("joined")) > lives, lambda: f"{member.name} did not join again: {member.said}")
    names = {event["name"] for event in before if event["event"] == "emitted"}
    current = board.current(scope, names)
    assert not [s for s in current if s.uid in old], f"{member.name}: what its killed life has said is trusted"
    generations = [event["generation"] for event in member.events("joined")]
    assert generations == sorted(set(generations)), generations


def _check(board, scope, seed, team):
    emitted = {event["uid"]: event for member in team for event in member.events("emitted")}
    received = [event for member in team for event in member.events("received")]
    stand = {}
    after = 0
    while signals := board.since(after):
        after = signals[-1].seq
        stand.update({s.uid: s for s in signals if s.scope == scope})
    missing = set(emitted) - set(stand)
    assert not missing, (seed, "lost", missing)
    for event in received:
        # A life that was killed may have emitted what it could not tell of any more.
        assert event["uid"] in stand, (seed, event)
        told = emitted.get(event["uid"])
        assert told is None or told["began"] <= event["at"], (seed, "seen before its time", event, told)
    for member in team:
        assert {event["name"] for event in member.events("received")}, member.name


def _state(team):
    return {m.name: [(e["event"], e.get("name"), e.get("key")) for e in m.said] for m in team}
