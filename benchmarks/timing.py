"""Timing side by side: rivals take turns in one process, so that a slow moment meets both."""

import statistics
import time
from collections.abc import Callable, Mapping


def race(
    runners: Mapping[str, Callable[[], object]], calls: int = 20, rounds: int = 15
) -> dict[str, float]:
    """Seconds a call of each runner: the median over rounds of the mean over calls.

    In each round every runner has its turn; the first round is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in runners}
    for round_ in range(rounds + 1):
        for name, run in runners.items():
            start = time.perf_counter()
            for _ in range(calls):
                run()
            if round_:
                times[name].append((time.perf_counter() - start) / calls)
    return {name: statistics.median(values) for name, values in times.items()}


def table(rows: list[list[str]]) -> str:
    """Rows as a Markdown table, the first its head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |" for r in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)
