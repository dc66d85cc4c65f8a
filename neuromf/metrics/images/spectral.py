"""Power spectra of volumes: how much of the image lives at which length.

Frequencies are in cycles/mm, from the voxel spacing in mm, so that volumes of any shape share one
axis. Power is |FFT|² / n_voxels: its sum over all voxels is the sum of the squared intensities
(Parseval). No window is applied, because skull-stripped volumes are zero at their borders.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft


def as_volumes(volumes: ArrayLike, name: str = "volumes") -> NDArray:
    """Volumes as a finite (N, I, J, K) float array."""
    x = np.asarray(volumes)
    if x.ndim != 4 or x.size == 0:
        raise ValueError(f"{name} must have shape (N, I, J, K), one channel and no channel axis; got {x.shape}")
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).any(axis=(1, 2, 3)).sum())
        raise ValueError(
            f"{name} must be finite; got NaN or infinity in {bad} of {len(x)} volumes: look at the model that made them"
        )
    return x


def as_spacing(spacing_mm: ArrayLike) -> NDArray:
    """Three positive voxel lengths in mm, from one or three."""
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if spacing.shape not in [(), (3,)] or not (spacing > 0).all():
        raise ValueError(f"spacing_mm must be one or three positive lengths in mm; got {spacing_mm}")  # type: ignore[str-bytes-safe]  # no bytes
    return np.broadcast_to(spacing, (3,))


def nyquist(spacing_mm: ArrayLike) -> float:
    """Highest frequency that all three axes resolve, in cycles/mm."""
    return float(0.5 / as_spacing(spacing_mm).max())


def power(volume: NDArray) -> NDArray:
    """Power at each frequency of one (I, J, K) volume, in scipy.fft's order."""
    return np.abs(fft.fftn(np.asarray(volume, dtype=np.float64), norm="ortho")) ** 2


def frequencies(shape: tuple[int, ...], spacing_mm: ArrayLike) -> NDArray:
    """Length of the frequency vector in cycles/mm, with the given shape, in scipy.fft's order."""
    axes = [fft.fftfreq(n, d=d) for n, d in zip(shape, as_spacing(spacing_mm), strict=True)]
    return np.sqrt(sum(f**2 for f in np.meshgrid(*axes, indexing="ij", sparse=True)))


def shells(shape: tuple[int, ...], spacing_mm: ArrayLike) -> tuple[NDArray, NDArray]:
    """Centres of the radial bins in cycles/mm, and each voxel's bin.

    Bins are as wide as the coarsest frequency step, one over the shortest side of the volume in
    mm, so none is empty. They are centred on its multiples from 0 up to the Nyquist frequency.

    Returns:
        Frequencies with shape (K,), and bins of the given shape, K for the corners beyond.
    """
    step = 1 / (np.array(shape) * as_spacing(spacing_mm)).min()
    n_bins = int(nyquist(spacing_mm) / step + 1e-6) + 1
    bins = np.floor(frequencies(shape, spacing_mm) / step + 0.5).astype(int)
    return step * np.arange(n_bins), np.minimum(bins, n_bins)


def radial_spectrum(volumes: ArrayLike, spacing_mm: ArrayLike) -> tuple[NDArray, NDArray]:
    """Mean power in shells of equal frequency.

    Arguments:
        volumes: Volumes in [0, 1], with shape (N, I, J, K).
        spacing_mm: Voxel length in mm, one or one per axis.

    Returns:
        Frequencies in cycles/mm, with shape (K,), and mean power with shape (N, K).
    """
    volumes = as_volumes(volumes)
    frequency, bins = shells(volumes.shape[1:], spacing_mm)
    counts = np.bincount(bins.ravel(), minlength=len(frequency) + 1)[: len(frequency)]
    sums = [np.bincount(bins.ravel(), weights=power(x).ravel())[: len(frequency)] for x in volumes]
    return frequency, np.stack(sums) / counts


def high_frequency_ratio(volumes: ArrayLike, spacing_mm: ArrayLike, cutoff: float = 0.5) -> NDArray:
    """Share of the power (mean intensity left out) at or above a fraction of Nyquist, in [0, 1].

    Frequencies beyond Nyquist, in the corners of the grid, count neither above nor below. A
    volume without any other power gives NaN.

    Arguments:
        volumes: Volumes in [0, 1], with shape (N, I, J, K).
        spacing_mm: Voxel length in mm, one or one per axis.
        cutoff: Where high begins, as a fraction of the Nyquist frequency.

    Returns:
        Shares with shape (N,).
    """
    volumes = as_volumes(volumes)
    if not 0 < cutoff < 1:
        raise ValueError(f"cutoff must be a fraction of Nyquist between 0 and 1; got {cutoff}")
    f = frequencies(volumes.shape[1:], spacing_mm) / nyquist(spacing_mm)
    inside = (f > 0) & (f <= 1 + 1e-9)
    high = inside & (f >= cutoff - 1e-9)
    sums = np.array([(p[high].sum(), p[inside].sum()) for p in map(power, volumes)])
    return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)
