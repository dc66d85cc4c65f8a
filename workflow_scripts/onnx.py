"""Write the one-evaluation generator as an ONNX file, and how far onnxruntime is from torch on it."""

from collections.abc import Sequence

from neuromf.meanflow import sample
from neuromf.meanflow.run import load_run
from neuromf.report.release import onnx
from neuromf.vae import weights
from workflow_scripts._cli import arguments

BOUND = 1e-4  # largest difference of an intensity in [0, 1]


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "model", "weights", "config:json", "out", "check")
    onnx.require_packages()
    run, autoencoder, cfg = load_run(args.model), weights.load(args.weights), args.config
    about = {"study": cfg["study"], "run": cfg["run"], "weights": sample.digest(run.u, autoencoder)}
    onnx.write(run, autoencoder, args.out, about)
    found = onnx.check(args.out, run, autoencoder, seed=cfg["seed"], numbers=range(cfg["n"]))
    onnx.write_check(found, args.check, BOUND)


if __name__ == "__main__":
    main()
