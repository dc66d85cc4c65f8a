"""Table of all features of the atlas with their tests and outcomes, as Markdown.

pytest tests/atlas -m "slow or not slow" --junitxml work/atlas.xml
python -m tools.atlas_rows work/atlas.xml > docs/atlas_rows.md

Features are the rows of docs/atlas_criteria.md, tests are the functions of tests/atlas whose name carries an id,
outcomes are those of the JUnit files: passed, failed, skipped with the reason, or not run. Several files may be given:
the last outcome of a test counts.
"""

import argparse
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/atlas_criteria.md"
ROW = re.compile(r"^\| (A\d\d) \| ([ci]) \| (.*?) \| .* \| (.*) \|$", re.M)
TEST = re.compile(r"^(?:async )?def (test(?:_A\d\d)+_\w+)", re.M)
NOT_RUN = "not run"
REASON = 110  # most characters of a reason


class Test(NamedTuple):
    """A test function: file from the root of the repository, and name."""

    file: str
    name: str


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("junit", nargs="*", type=Path, help="JUnit files of pytest")
    args = parser.parse_args(argv)
    print("\n".join(page(PAGE.read_text(encoding="utf-8"), tests(ROOT), outcomes(args.junit))))


def features(text: str) -> dict[str, tuple[str, str]]:
    """Name and planned or test column of each feature, by id."""
    return {found[0]: (found[2], found[3]) for found in ROW.findall(text)}


def tests(root: Path) -> dict[str, list[Test]]:
    """Tests of each feature, by id; a test of several features belongs to each."""
    found: dict[str, list[Test]] = {}
    for path in sorted(root.glob("tests/atlas/test_*.py")):
        for name in TEST.findall(path.read_text(encoding="utf-8")):
            for feature in re.findall(r"A\d\d(?=_)", name.split("_", 1)[1] + "_"):
                found.setdefault(feature, []).append(Test(path.relative_to(root).as_posix(), name))
    return found


def outcomes(junit: Iterable[Path]) -> dict[Test, list[str]]:
    """Outcomes of the cases of each test function, parameters apart."""
    cases: dict[tuple[Test, str], str] = {}
    for path in junit:
        for case in ET.parse(path).iter("testcase"):
            file = case.get("file") or case.get("classname", "").replace(".", "/") + ".py"
            name = case.get("name", "")
            cases[Test(file, name.split("[")[0]), name] = outcome(case)
    found: dict[Test, list[str]] = {}
    for (test, _), text in cases.items():
        found.setdefault(test, []).append(text)
    return found


def outcome(case: ET.Element) -> str:
    """Outcome of one case: passed, failed, or skipped with its reason."""
    if case.find("failure") is not None or case.find("error") is not None:
        return "FAILED"
    if (skipped := case.find("skipped")) is not None:
        return f"skipped: {(skipped.get('message') or 'no reason')[:REASON]}"
    return "passed"


def joined(results: Sequence[str]) -> str:
    """One outcome of all cases of a test: the worst."""
    for first in ("FAILED", "skipped"):
        if bad := [text for text in results if text.startswith(first)]:
            return bad[0] if len(results) == 1 else f"{bad[0]} ({len(bad)} of {len(results)} cases)"
    return "passed" if results else NOT_RUN


def state(results: Sequence[str]) -> str:
    """State of a feature from the outcomes of its tests: pass if at least one passed and none failed or was not run."""
    if not results:
        return "no test"
    if any(text.startswith("FAILED") for text in results):
        return "FAIL"
    if NOT_RUN in results:
        return f"{results.count('passed')} of {len(results)} run"
    return "pass" if "passed" in results else "skipped"


def page(text: str, of: Mapping[str, Sequence[Test]], ran: Mapping[Test, Sequence[str]]) -> Iterator[str]:
    """Lines of the page: counts, then one row per test, grouped by feature."""
    rows = {name: [joined(ran.get(test, ())) for test in of.get(name, ())] for name in features(text)}
    states = {name: state(results) for name, results in rows.items()}
    yield "# Features of the atlas and their tests\n"
    yield "Written by `python -m tools.atlas_rows` from [atlas_criteria.md](atlas_criteria.md), names of tests and"
    yield "JUnit files of pytest; do not edit. A feature passes if one of its tests passed, none failed and all ran.\n"
    counts = {one: list(states.values()).count(one) for one in sorted(set(states.values()))}
    yield f"{len(states)} features: {', '.join(f'{count} {one}' for one, count in counts.items())}.\n"
    yield "| id | feature | state | test | outcome |"
    yield "|---|---|---|---|---|"
    for name, (what, planned) in features(text).items():
        if not of.get(name):
            yield f"| {name} | {what} | {states[name]} | {'planned' if planned == 'planned' else 'see criteria'} | |"
        for k, (test, result) in enumerate(zip(of.get(name, ()), rows[name], strict=True)):
            first = (name, what, states[name]) if not k else (name, "", "")
            yield f"| {' | '.join(first)} | `{test.file.removeprefix('tests/atlas/')}::{test.name}` | {result} |"


if __name__ == "__main__":
    main()
