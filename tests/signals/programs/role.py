"""One agent of a team of six: ``role.py ROLE NUMBER SCOPE SEED``. Says on stdout, as JSON lines, what it does.

Ends when its stdin is closed.
"""

import asyncio
import json
import random
import sys
import time

from otel_perf.signals.api import signals

ERRORS, MEMORY, LOGGING = "ERROR_HANDLING_READY", "MEMORY_MANAGEMENT_READY", "ENHANCED_LOGGING_READY"
HEALTH, DONE = "HEALTH_MONITORING_READY", "PERFORMANCE_OPTIMIZATION_COMPLETE"
PAIR = ("1", "2")


def tell(event, **fields):
    print(json.dumps({"event": event, "at": time.monotonic_ns(), **fields}), flush=True)


class Agent:
    def __init__(self, role, number, scope, seed):
        self.number, self.scope = number, scope
        self.name = f"{role}-{number}"
        self.chance = random.Random(f"{seed} {self.name} {time.time_ns()}")

    async def work(self):
        await asyncio.sleep(self.chance.uniform(0, 0.05))

    async def emit(self, name):
        began = time.monotonic_ns()
        signal = await signals.emit_async(name, key=self.number, scope=self.scope, agent=self.name)
        tell("emitted", name=name, key=self.number, uid=signal.uid, seq=signal.seq, began=began)

    async def wait(self, *names, then=()):
        """For both of the team that emit it."""
        waits = [signals.wait(*names, key=key, scope=self.scope, timeout=60, then=then) for key in PAIR]
        for found in await asyncio.gather(*waits):
            for name, signal in found.items():
                tell("received", name=name, key=signal.key, uid=signal.uid, seq=signal.seq)

    async def errors(self):
        await self.work()
        await self.emit(ERRORS)
        await self.wait(DONE)

    async def health(self):
        await self.wait(MEMORY, LOGGING, then=[HEALTH])
        await self.work()
        await self.emit(HEALTH)
        await self.wait(DONE)

    async def performance(self):
        await self.wait(ERRORS, then=[MEMORY, LOGGING])
        await self.work()
        await self.emit(MEMORY)
        await self.emit(LOGGING)
        await self.wait(HEALTH, then=[DONE])
        await self.work()
        await self.emit(DONE)
        await self.wait(DONE)


def main():
    role, number, scope, seed = sys.argv[1:]
    agent = Agent(role, number, scope, seed)
    who = signals.join(agent.name)
    tell("joined", uid=who.uid, generation=who.generation)
    asyncio.run(getattr(agent, role)())
    tell("ready")
    sys.stdin.read()
    signals.close()


main()
