"""Write the Zeitgeist timeline: its frames, its page and figure F7."""

from collections.abc import Sequence

from neuromf.atlas.timeline import write_timeline
from neuromf.figures import atlas_timeline
from neuromf.report.atlas.explorers import write_timeline_page
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "checkpoint", "studies", "table", "page", "out", "config:json")
    study = args.config.pop("study")
    write_timeline(args.checkpoint, args.studies, args.table, **args.config)
    write_timeline_page(timeline=args.table, out=args.page, code=args.code)
    atlas_timeline.render(timeline=args.table, out=args.out, study=study)


if __name__ == "__main__":
    main()
