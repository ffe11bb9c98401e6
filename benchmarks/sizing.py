"""What the measured costs mean for more machines: the figures of pipeline.py and the limits in collector/.

A service makes 1,000 spans a second, four of them share a machine, and each machine has an agent: that load is the
largest that is measured. Gateways take traces of ten spans from all agents; what they can take is reckoned in a
straight line from what was measured.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final, NamedTuple

import common

if TYPE_CHECKING:
    from collections.abc import Mapping

MIB: Final = 1 << 20
SERVICE: Final = 1_000  # spans/s
ON_A_MACHINE: Final = 4  # services
SERVICES: Final = (10, 100, 1_000)
TRACE: Final = 10  # spans
OUTAGE: Final = 600  # seconds
CORES: Final = 2  # of a gateway
USED: Final = 0.7  # of cores and limits: at which collector/kubernetes/gateway.yaml asks for one more
GATEWAY: Final = "gateway.yaml"


class Cost(NamedTuple):
    """Of a process under a load."""

    rate: int  # spans/s
    cpu: float  # seconds a span
    memory: float  # bytes


class Waiting(NamedTuple):
    """A span that waits in a queue, and is sent."""

    disk: float  # bytes
    wire: float  # bytes


class Sizes:
    """Costs of one Collector alone, of an agent, of a gateway under two loads, and of their queues."""

    def __init__(
        self, alone: Cost, agent: Cost, gateways: tuple[Cost, Cost], agents_queue: Waiting, queue: Waiting
    ) -> None:
        self.alone, self.agent, self.gateway = alone, agent, gateways[1]
        self.agents_queue, self.queue = agents_queue, queue
        self.settle = limit("OTELCOL_SAMPLE_SETTLE:-(\\d+)s")
        self.share = limit("OTELCOL_SAMPLE:-(\\d+)") / 100
        low, high = gateways
        self.held = max(1.0, (high.memory - low.memory) / (high.rate - low.rate) / self.settle)
        self.base = max(0.0, low.memory - self.held * low.rate * self.settle)

    def capacities(self) -> Mapping[str, float]:
        """Spans/s that a gateway can take, by what limits it."""
        memory = (limit("limit_mib: (\\d+)") - limit("spike_limit_mib: (\\d+)")) * MIB
        return {
            f"{CORES} cores": CORES * USED / self.gateway.cpu,
            "memory_limiter": (memory * USED - self.base) / self.held / self.settle,
            "num_traces": limit("num_traces: (\\d+)") * USED * TRACE / self.settle,
        }

    def gateways(self, rate: float) -> int:
        """How many take ``rate`` spans/s; two at least, so that one may go."""
        return max(2, math.ceil(rate / min(self.capacities().values())))

    def one(self) -> list[str | float]:
        """The row of a machine that has all of it."""
        rate, cost = ON_A_MACHINE * SERVICE, self.alone
        kept = rate * self.share
        return [
            f"{ON_A_MACHINE}", rate, "1, config.yaml", rate * cost.cpu, cost.memory / MIB,
            kept * OUTAGE * self.queue.disk / 1e9, "", "", "", "", rate * cost.cpu, kept * self.queue.wire / 1e6,
        ]  # fmt: skip

    def many(self, services: int) -> list[str | float]:
        """The row of agents and gateways."""
        rate, agents = services * SERVICE, math.ceil(services / ON_A_MACHINE)
        gateways = self.gateways(rate)
        each, of_each = rate / agents, rate / gateways
        return [
            f"{services:,}", rate, f"{agents:,}", each * self.agent.cpu, self.agent.memory / MIB,
            each * OUTAGE * self.agents_queue.disk / 1e9,
            gateways, of_each * self.gateway.cpu, (self.base + of_each * self.held * self.settle) / MIB,
            of_each * self.share * OUTAGE * self.queue.disk / 1e9,
            rate * (self.agent.cpu + self.gateway.cpu),
            rate * (self.agents_queue.wire + self.share * self.queue.wire) / 1e6,
        ]  # fmt: skip

    def tables(self) -> list[common.Table]:
        """What a gateway can take, and how much of everything there has to be."""
        takes = common.Table(
            f"A gateway holds {self.held:,.0f} bytes a span for {self.settle:g} s; what it takes with {USED:.0%} of",
            ("", "spans/s"),
            [[name, rate] for name, rate in self.capacities().items()],
        )
        columns = (
            "services", "spans/s", "agents", "cores", "MiB", "queue GB", "gateways", "cores", "MiB", "queue GB",
            "cores in all", "network MB/s",
        )  # fmt: skip
        sizes = common.Table(
            f"{SERVICE:,} spans/s a service, {self.share:.0%} of traces kept, queues for {OUTAGE / 60:g} minutes; each",
            columns,
        )
        sizes.rows += [self.one(), *map(self.many, SERVICES)]
        return [takes, sizes]


def limit(pattern: str) -> float:
    """A number in gateway.yaml."""
    found = re.search(rf"\b{pattern}", (common.ROOT / "collector" / GATEWAY).read_text())
    assert found is not None, pattern
    return float(found[1])
