"""Run the verification tests of one phase, and write the result of each as a measured criterion."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from neuromf.core.files import write_json
from neuromf.workflow.digests import ROOT
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "phase:int", "tests:paths", "out")
    report = args.out.with_suffix(".xml").absolute()
    options = ["-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}", f"--junitxml={report}"]
    tests = ["-k", f"P{args.phase}_T", *map(str, args.tests)]
    subprocess.run([sys.executable, "-m", "pytest", *options, *tests], check=False, cwd=ROOT)
    write_json(args.out, results(report, args.phase))
    report.unlink()


def results(report: Path, phase: int) -> list[dict]:
    """One row per test of a JUnit report, 1 if it passed. Skipped tests have no row; no test at all is a failure."""
    cases = [case for case in ElementTree.parse(report).iter("testcase") if case.find("skipped") is None]
    passed = {case.get("name", ""): not len(case) for case in cases}
    passed = passed or {f"test_P{phase}_T1_no_verification_test_was_found": False}
    return [
        {"id": "-".join(name.split("_")[1:3]), "what": name, "value": float(ok), "source": "tests"}
        for name, ok in passed.items()
    ]


if __name__ == "__main__":
    main()
