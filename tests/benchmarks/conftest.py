"""Comparisons: ways of doing one thing, timed in turns in one process, as ratios."""

import statistics
import time

import pytest


@pytest.fixture
def speedups():
    """``speedups(ways, of, rounds)``: by what factors the others beat the way named ``of``."""

    def compare(ways, of, rounds=9):
        seconds = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                began = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - began)
        return {
            f"speedup of {kind}, {name}": round(take(seconds[of]) / take(seconds[name]), 1)
            for kind, take in (("minima", min), ("medians", statistics.median))
            for name in ways
            if name != of
        }

    return compare
