"""Run the verification tests of one phase and keep their verdicts, test by test."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from neuromf.workflow.digests import ROOT
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "phase:int", "tests:paths", "out")
    report = args.out.with_suffix(".xml").absolute()
    options = ["-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}", f"--junitxml={report}"]
    tests = ["-k", f"P{args.phase}_T", *map(str, args.tests)]
    subprocess.run([sys.executable, "-m", "pytest", *options, *tests], check=False, cwd=ROOT)
    args.out.write_text(json.dumps(verdicts(report), indent=1))
    report.unlink()


def verdicts(report: Path) -> dict[str, bool]:
    """Whether each test of a JUnit report passed, by name; skipped ones are left out."""
    cases = ElementTree.parse(report).iter("testcase")
    return {case.get("name", ""): not len(case) for case in cases if case.find("skipped") is None}


if __name__ == "__main__":
    main()
