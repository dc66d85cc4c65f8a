"""Power spectra of volumes.

Frequencies are in cycles/mm, from the voxel size in mm, so that volumes of different shapes share one axis. Power is
|FFT|² / n_voxels: its sum over all voxels is the sum of the squared intensities (Parseval). No window is applied,
because skull-stripped volumes are zero at their borders.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft


def as_volumes(volumes: ArrayLike, name: str = "volumes") -> NDArray:
    """Volumes as a finite (N, I, J, K) float array."""
    x = np.asarray(volumes)
    if x.ndim != 4 or x.size == 0:
        raise ValueError(f"{name} must have shape (N, I, J, K), without a channel axis; got {x.shape}")
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).any(axis=(1, 2, 3)).sum())
        raise ValueError(f"{name} must be finite; got NaN or infinity in {bad} of {len(x)} volumes: check the model")
    return x


def as_spacing(spacing_mm: ArrayLike) -> NDArray:
    """Voxel size along three axes in mm, from one or three numbers."""
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if spacing.shape not in [(), (3,)] or not (spacing > 0).all():
        raise ValueError(f"spacing_mm must be one or three positive numbers in mm; got {spacing_mm}")  # type: ignore[str-bytes-safe]  # no bytes
    return np.broadcast_to(spacing, (3,))


def nyquist(spacing_mm: ArrayLike) -> float:
    """Highest frequency that is resolved along all three axes, in cycles/mm."""
    return float(0.5 / as_spacing(spacing_mm).max())


def power(volume: NDArray) -> NDArray:
    """Power at each frequency of one (I, J, K) volume, in the order of scipy.fft."""
    return np.abs(fft.fftn(np.asarray(volume, dtype=np.float64), norm="ortho")) ** 2


def frequencies(shape: tuple[int, ...], spacing_mm: ArrayLike) -> NDArray:
    """Length of the frequency vector in cycles/mm, of the given shape, in the order of scipy.fft."""
    axes = [fft.fftfreq(n, d=d) for n, d in zip(shape, as_spacing(spacing_mm), strict=True)]
    return np.sqrt(sum(f**2 for f in np.meshgrid(*axes, indexing="ij", sparse=True)))


def shells(shape: tuple[int, ...], spacing_mm: ArrayLike) -> tuple[NDArray, NDArray]:
    """Centres of radial frequency bins in cycles/mm, and the bin of each voxel.

    The width of a bin is the coarsest frequency step, one over the shortest side of the volume in mm, so no bin is
    empty. Centres are its multiples from 0 to the Nyquist frequency.

    Returns:
        Centres, shape (K,), and bins of the given shape; frequencies above Nyquist have bin K.
    """
    step = 1 / (np.array(shape) * as_spacing(spacing_mm)).min()
    n_bins = int(nyquist(spacing_mm) / step + 1e-6) + 1
    bins = np.floor(frequencies(shape, spacing_mm) / step + 0.5).astype(int)
    return step * np.arange(n_bins), np.minimum(bins, n_bins)


def radial_spectrum(volumes: ArrayLike, spacing_mm: ArrayLike) -> tuple[NDArray, NDArray]:
    """Mean power per radial frequency bin.

    Arguments:
        volumes: Volumes in [0, 1], shape (N, I, J, K).
        spacing_mm: Voxel size in mm, one number or one per axis.

    Returns:
        Frequencies in cycles/mm, shape (K,), and mean power, shape (N, K).
    """
    volumes = as_volumes(volumes)
    frequency, bins = shells(volumes.shape[1:], spacing_mm)
    counts = np.bincount(bins.ravel(), minlength=len(frequency) + 1)[: len(frequency)]
    sums = [np.bincount(bins.ravel(), weights=power(x).ravel())[: len(frequency)] for x in volumes]
    return frequency, np.stack(sums) / counts


def high_frequency_ratio(volumes: ArrayLike, spacing_mm: ArrayLike, cutoff: float = 0.5) -> NDArray:
    """Fraction of the power at or above a cutoff frequency, in [0, 1].

    Frequency 0 and frequencies above Nyquist are left out. A volume without other power gives NaN.

    Arguments:
        volumes: Volumes in [0, 1], shape (N, I, J, K).
        spacing_mm: Voxel size in mm, one number or one per axis.
        cutoff: Cutoff as a fraction of the Nyquist frequency.

    Returns:
        Fractions, shape (N,).
    """
    volumes = as_volumes(volumes)
    if not 0 < cutoff < 1:
        raise ValueError(f"cutoff must lie between 0 and 1, a fraction of Nyquist; got {cutoff}")
    f = frequencies(volumes.shape[1:], spacing_mm) / nyquist(spacing_mm)
    inside = (f > 0) & (f <= 1 + 1e-9)
    high = inside & (f >= cutoff - 1e-9)
    sums = np.array([(p[high].sum(), p[inside].sum()) for p in map(power, volumes)])
    return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)
