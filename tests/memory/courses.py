"""Courses of resident memory over hours, made of random numbers: 12 that are healthy, and leaks.

A container of 512 MiB, of which the app uses 150 when it has started. A course gives MiB at each second it is asked for.
"""

import math
import random

LIMIT, START = 512, 150  # MiB
HOURS = 8
EVERY = 5  # seconds between samples
HEALTHY, LEAKING = {}, {}


def healthy(function):
    HEALTHY[function.__name__] = function
    return function


def course(function, seed):
    """(seconds, MiB) over the hours; with a noise of requests on top."""
    chance = random.Random(f"{getattr(function, '__name__', function)} {seed}")
    level = function(chance)
    for second in range(0, HOURS * 3600, EVERY):
        yield second, START + level(second) + abs(chance.gauss(0, 3))


@healthy
def flat(chance):
    return lambda t: 0


@healthy
def sawtooth_of_the_collector(chance):
    period, size = chance.uniform(20, 1500), chance.uniform(10, 120)
    return lambda t: size * (t % period) / period


@healthy
def warm_up_that_saturates(chance):
    size, tau, kind = chance.uniform(40, 200), chance.uniform(600, 5400), chance.random()
    if kind < 0.5:
        return lambda t: size * (1 - math.exp(-t / tau))
    return lambda t: 30 * math.log1p(t / tau)


@healthy
def cache_that_fills_evenly_and_is_full(chance):
    """For up to two hours; up to 30 % of what is free."""
    until, size = chance.uniform(1200, 7200), chance.uniform(30, 108)
    begins = chance.uniform(0, 7200)
    return lambda t: size * min(max(t - begins, 0) / until, 1)


@healthy
def load_of_the_day(chance):
    period, size, phase = chance.choice((8, 12, 24)) * 3600, chance.uniform(20, 80), chance.uniform(0, 2 * math.pi)
    return lambda t: size * (1 + math.sin(2 * math.pi * t / period + phase)) / 2


@healthy
def steps(chance):
    times = [(chance.uniform(0, HOURS * 3600), chance.uniform(5, 40)) for _ in range(chance.randint(1, 5))]
    return lambda t: sum(size for when, size in times if t >= when)


@healthy
def walk_that_returns(chance):
    state, pull, jolt = [0.0], chance.uniform(0.001, 0.01), chance.uniform(0.5, 2)

    def level(t):
        state[0] += -pull * state[0] * EVERY + chance.gauss(0, jolt)
        return 50 + max(state[0], -50)

    return level


@healthy
def spikes(chance):
    often = chance.uniform(0.001, 0.02)
    return lambda t: min(chance.expovariate(1 / 80), 300) if chance.random() < often else 0


@healthy
def burst_each_hour(chance):
    length, size, phase = chance.uniform(60, 1200), chance.uniform(30, 200), chance.uniform(0, 3600)

    def level(t):
        inside = (t + phase) % 3600
        return size * min(inside / length * 4, 1) if inside < length else 0

    return level


@healthy
def batch_each_two_hours(chance):
    length, size, phase = chance.uniform(600, 3600), chance.uniform(30, 100), chance.uniform(0, 7200)

    def level(t):
        inside = (t + phase) % 7200
        return size * inside / length if inside < length else 0

    return level


@healthy
def fragments_that_saturate(chance):
    size, tau = chance.uniform(20, 120), chance.uniform(1800, 3 * 3600)
    return lambda t: size * t / (t + tau) + chance.uniform(0, 5)


@healthy
def wave_as_long_as_a_window_with_heavy_tails(chance):
    period, size = chance.uniform(90, 110), chance.uniform(5, 60)
    falls = chance.uniform(0, 5) / 3600

    def level(t):
        wave = size * (1 + math.sin(2 * math.pi * t / period)) / 2
        return wave + min(chance.paretovariate(1.5), 100) - falls * t

    return level


def leak(rate, *, lumps=0.0, beside=None):
    """So many MiB a minute from some minute on, in lumps of so many seconds, beside something healthy."""

    def make(chance):
        begins = chance.uniform(0, 1800)
        other = HEALTHY[beside](chance) if beside else lambda t: 0

        def level(t):
            since = max(t - begins, 0)
            if lumps:
                since -= since % lumps
            return rate / 60 * since + other(t)

        make.begins = begins
        return level

    make.__name__ = f"leak {rate} {lumps} {beside}"
    return make
