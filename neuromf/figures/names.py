"""Display names of arms, metrics and sets of volumes, for figures and tables alike."""

ARMS = {"meanflow": "MeanFlow", "rectified": "Rectified Flow", "x": "$x$-prediction", "u": "$u$-prediction"}
METRICS = {
    "frechet": "Fréchet distance",
    "kid": "KID",
    "mmd2": "MMD squared",
    "sliced_wasserstein": "sliced Wasserstein",
    "c2st_logistic": "C2ST AUC, logistic regression",
    "c2st_svm": "C2ST AUC, RBF-SVM",
    "c2st_logistic_reconstruction": "C2ST AUC against autoencoded, logistic regression",
    "c2st_svm_reconstruction": "C2ST AUC against autoencoded, RBF-SVM",
    "pair_ms_ssim": "MS-SSIM of pairs",
}
FACTORS = {"mmd2": 1000}  # of printed values
TEST = "test participants"
GENERATED = "generated, NFE 1"
SETS = {"test": TEST, "samples": GENERATED}


def arm(name: str) -> str:
    """Name of an arm in figures, with mathematics in dollar signs."""
    return ARMS.get(name, name)


def plain_arm(name: str) -> str:
    """Name of an arm in tables, without mathematics."""
    return arm(name).replace("$", "")


def metric(name: str) -> str:
    """Name of a metric."""
    return METRICS.get(name, name.replace("_", " "))


def header(name: str) -> tuple[str, float]:
    """Table header of a metric, and the factor of its printed values."""
    factor = FACTORS.get(name, 1)
    return metric(name) + f" x {factor}" * (factor != 1), factor
