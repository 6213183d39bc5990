"""How long a change of a menu of the tour takes until its picture is there.

``python benchmarks/explorer.py [PROFILE [DATASET]]``. Needs finished runs of that study, more than one a network. Every move is
to something not seen before, so that networks, looks and maps are read and computed; the first two moves are not counted. Wall
time is what a reader waits, CPU time hardly depends on what else the machine does. The target is 2 seconds on two cores.
"""

import statistics
import sys
import time

from segkd.study.lab.explorer import explore
from segkd.study.numbers.study import open_study

TARGET, MOVES = 2.0, 5


def values(menu) -> list:
    """What a menu offers beside what is chosen, MOVES of them at most."""
    options = [entry[1] if isinstance(entry, tuple) else entry for entry in getattr(menu, "options", range(20, 20 + MOVES))]
    return [value for value in options if value != menu.value][:MOVES]


def main(profile: str = "quick", dataset: str = "scenes") -> None:
    """Time each menu and print a line."""
    found = explore(open_study("all", profile, dataset))
    if not hasattr(found, "sides"):
        raise SystemExit(str(found))
    for index in (2, 3):
        found.image.value = index
    right, slowest = found.sides[1], 0.0
    for name, menu in (("image", found.image), ("LayerCAM of", found.target), ("method", right.row), ("network", right.network)):
        times, works = [], []
        for value in values(menu):
            begin, used = time.perf_counter(), time.process_time()
            menu.value = value
            times.append(time.perf_counter() - begin)
            works.append(time.process_time() - used)
        slowest = max(slowest, *times) if times else slowest
        if times:
            middle = f"{statistics.median(times):.2f} s (CPU {statistics.median(works):.2f} s)"
            print(f"{name:12} {middle}, {len(times)} moves, {max(times):.2f} s at most")
    print(f"slowest {slowest:.2f} s, target {TARGET:.1f} s: {'met' if slowest < TARGET else 'missed'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
