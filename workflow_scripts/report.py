"""Make the page of the study from what is in its results."""

from collections.abc import Sequence

from neuromf.core.files import atomic_write
from neuromf.report.page.build import page
from neuromf.report.results import Results
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "results", "look", "viewer", "licences", "config:json", "out")
    results = Results(args.results, args.config["run"], args.config.pop("partial"))
    html = page(results, args.look, args.viewer, args.licences, **args.config)
    with atomic_write(args.out) as part:
        part.write_text(html, encoding="utf-8")


if __name__ == "__main__":
    main()
