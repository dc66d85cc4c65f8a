"""Draw figure 3: held-out people beside one-step and many-step samples from the same noise."""

from collections.abc import Sequence

from neuromf.cohort import read_table
from neuromf.figures import style
from neuromf.figures.fig_3 import fig_3
from neuromf.volumes import of_split, read_volume
from workflow_scripts._cli import arguments

COLUMNS = 8


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "qc", "samples:paths", "config:json", "out")
    files = {"real, held out": of_split(read_table(args.qc), "test")}
    for folder in args.samples:
        steps = int(folder.name.removeprefix("nfe-"))
        name = "generated, 1 evaluation" if steps == 1 else f"same noise, {steps} evaluations"
        files[name] = read_table(folder / "samples.tsv")["file"].tolist()
    columns = min(COLUMNS, *map(len, files.values()))
    sets = {name: [read_volume(file)[0] for file in some[:columns]] for name, some in files.items()}
    style.save(fig_3(sets, args.config["spacing_mm"], columns), args.out, args.config)


if __name__ == "__main__":
    main()
