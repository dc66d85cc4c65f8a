"""Evaluate the stage gate of the hierarchy, and write the Hierarchy Explorer and figure F6."""

from collections.abc import Sequence

from neuromf.atlas.hierarchy import write_hierarchy
from neuromf.figures import atlas_hierarchy
from neuromf.report.atlas.explorers import write_hierarchy_page
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "run", "studies", "schema", "table", "tree", "page", "out", "config:json")
    study = args.config.pop("study")
    write_hierarchy(run=args.run.parent, studies=args.studies, schema=args.schema, out=args.table, tree=args.tree,
                    **args.config)  # fmt: skip
    write_hierarchy_page(gate=args.table, tree=args.tree, out=args.page, code=args.code)
    atlas_hierarchy.render(gate=args.table, tree=args.tree, out=args.out, study=study)


if __name__ == "__main__":
    main()
