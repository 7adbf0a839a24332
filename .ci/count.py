"""Add up JUnit reports: `count.py FOLDER NAME...` reads FOLDER/NAME/junit.xml and prints one line.

Exits 1 when a report is missing or holds no test: a run that tested nothing is no pass.
"""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path


def main(folder: str, *names: str) -> int:
    """Print `N passed, N failed, N skipped` over all named reports."""
    passed = failed = skipped = 0
    incomplete = False
    for name in names:
        report = Path(folder, name, "junit.xml")
        cases = list(ET.parse(report).iter("testcase")) if report.is_file() else []  # noqa: S314 - our own
        if not cases:
            print(f"{name}: no test was executed ({report})")
            incomplete = True
        for case in cases:
            if case.find("failure") is not None or case.find("error") is not None:
                failed += 1
            elif case.find("skipped") is not None:
                skipped += 1
            else:
                passed += 1
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if incomplete or failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
