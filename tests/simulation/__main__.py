"""Runs histories, or one of them again: `python -m tests.simulation --seed N`."""

import argparse
import sys
import traceback

from tests.simulation.story import fails, smallest, tell


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="the history to run again, and to make smaller if it fails")
    parser.add_argument("--first", type=int, default=0, help="the first seed of many")
    parser.add_argument("--histories", type=int, default=2000, help="how many")
    chosen = parser.parse_args()
    seeds = range(chosen.first, chosen.first + chosen.histories) if chosen.seed is None else [chosen.seed]
    for seed in seeds:
        failure = fails(seed)
        if failure is not None:
            traceback.print_exception(failure)
            print(tell(*smallest(seed, failure)))
            return 1
    print(f"{len(seeds)} histories held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
