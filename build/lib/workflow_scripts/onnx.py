"""Write the one-evaluation generator as an ONNX file, and how far onnxruntime is from torch on it."""

from collections.abc import Sequence

from neuromf import generate, onnx, vae
from workflow_scripts._cli import arguments

BOUND = 1e-4  # largest difference of an intensity in [0, 1]


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "model", "weights", "config:json", "out", "check")
    onnx.require_packages()
    run, autoencoder, cfg = generate.load_run(args.model), vae.load(args.weights), args.config
    about = {"study": cfg["study"], "run": cfg["run"], "weights": generate.digest(run.u, autoencoder)}
    onnx.write(run, autoencoder, args.out, about)
    found = onnx.check(args.out, run, autoencoder, seed=cfg["seed"], numbers=range(cfg["n"]))
    onnx.write_check(found, args.check, BOUND)


if __name__ == "__main__":
    main()
