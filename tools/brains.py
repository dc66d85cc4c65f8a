"""Generate brains with the packaged generator, and draw a contact sheet of them (make brains)."""

import argparse
from pathlib import Path

import numpy as np

from neuromf.figures import samples
from neuromf.meanflow.generate import generate
from neuromf.meanflow.packaged import PACKAGED, spacing_of

ROW = 8  # volumes per row of the contact sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the volumes; the contact sheet is written beside it")
    parser.add_argument("--n", type=int, default=16, help="number of volumes")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    args = parser.parse_args()
    volumes = generate(args.n, args.out, seed=args.seed)
    columns = min(ROW, args.n)
    empty = [np.zeros_like(volumes[0])] * (-args.n % columns)
    filled = [*volumes, *empty]
    rows = {f"from {first}": filled[first : first + columns] for first in range(0, args.n, columns)}
    sheet = args.out.with_suffix(".png")
    samples.draw(rows, spacing_of(PACKAGED), columns).savefig(sheet, dpi=200)
    print(f"{args.n} volumes in {args.out}, contact sheet {sheet}")


if __name__ == "__main__":
    main()
