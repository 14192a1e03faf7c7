"""Checks Autobahn's report: judge.py INDEX.JSON CASES. All cases must have run with the result OK or INFORMATIONAL."""

import collections
import json
import sys

GOOD = ("OK", "INFORMATIONAL")


def main():
    path, expected = sys.argv[1], int(sys.argv[2])
    with open(path, encoding="utf-8") as file:
        (cases,) = json.load(file).values()
    bad = {
        case: result
        for case, result in cases.items()
        if result["behavior"] not in GOOD or result["behaviorClose"] not in GOOD
    }
    for key in ("behavior", "behaviorClose"):
        counts = collections.Counter(result[key] for result in cases.values())
        print(f"  {key}: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    for case, result in bad.items():
        print(f"  case {case}: {result['behavior']}, closing {result['behaviorClose']}")
    if len(cases) != expected:
        print(f"  {len(cases)} cases have run instead of {expected}")
    print(f"{len(cases) - len(bad)} passed, {len(bad) + abs(expected - len(cases))} failed")
    return bool(bad) or len(cases) != expected


if __name__ == "__main__":
    sys.exit(main())
