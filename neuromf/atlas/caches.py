"""Caches of maps and points by study id: LMDB for maps, HDF5 for points; both are made from the studies.

An LMDB environment does not survive a fork: a reader closes it before a fork, and each process opens its own. Writers
are single processes.
"""

import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuromf.atlas.kernel_maps import Combine, kernel_maps
from neuromf.atlas.studies import Studies, read_studies
from neuromf.data.brain_grid import BrainGrid, brain_grid

if TYPE_CHECKING:
    import lmdb

INDEX = b"__index__"  # key of the description: ids, kernels, number of voxels
BATCH = 256  # studies per transaction


def write_map_cache(
    studies: Studies, path: str | Path, grid: BrainGrid, fwhm_mm: Sequence[float], combine: Combine = "noisy_or"
) -> None:
    """Write an LMDB file with one record per study: float16 maps of all kernels, with their CRC-32.

    Arguments:
        path: File to write; an existing one is replaced.
        fwhm_mm: Kernels, in the order of the records' rows.
    """
    lmdb, msgpack = _packages()
    Path(path).unlink(missing_ok=True)
    size = 2 * len(studies) * len(fwhm_mm) * grid.n_voxels
    with lmdb.open(str(path), subdir=False, map_size=2 * size + 2**24, lock=False) as env:
        for first in range(0, len(studies), BATCH):
            part = studies.take(np.arange(first, min(first + BATCH, len(studies))))
            maps = np.stack([kernel_maps(part, grid, fwhm, combine) for fwhm in fwhm_mm], 1)
            with env.begin(write=True) as transaction:
                for name, values in zip(part.table["id"], maps, strict=True):
                    transaction.put(name.encode(), msgpack.packb(_record(values)))
        index = {"ids": studies.table["id"].tolist(), "fwhm_mm": list(fwhm_mm), "scale": studies.scale,
                 "n_voxels": grid.n_voxels, "grid": grid.name, "combine": combine}  # fmt: skip
        with env.begin(write=True) as transaction:
            transaction.put(INDEX, msgpack.packb(index))


def _record(values: NDArray) -> dict[str, Any]:
    import zlib

    data = np.ascontiguousarray(values, np.float16).tobytes()
    return {"shape": list(values.shape), "data": data, "crc": zlib.crc32(data)}


class MapCache:
    """Maps (n_kernels, n_voxels) by study id; safe to use in the workers of a DataLoader.

    Raises:
        ValueError: If the file is missing or no map cache.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._env: lmdb.Environment | None = None
        close = weakref.WeakMethod(self.close)
        os.register_at_fork(before=lambda: (method := close()) and method())
        self.index: dict[str, Any] = self._unpack(INDEX)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_env": None}  # a spawned worker opens its own environment

    def __len__(self) -> int:
        return len(self.index["ids"])

    def __getitem__(self, name: str) -> NDArray[np.float16]:
        """Maps of a study, shape (n_kernels, n_voxels).

        Raises:
            KeyError: If the study is not in the cache.
            ValueError: If its record is damaged.
        """
        import zlib

        record = self._unpack(name.encode())
        shape = (len(self.index["fwhm_mm"]), self.index["n_voxels"])
        if not isinstance(record, dict) or record.get("crc") != zlib.crc32(record.get("data", b"")):
            raise ValueError(f"study {name} is damaged in {self.path}: remove the file, it is made again")
        if tuple(record["shape"]) != shape:
            raise ValueError(f"study {name} has maps of shape {record['shape']}, expected {list(shape)}")
        return np.frombuffer(record["data"], np.float16).reshape(shape)

    def close(self) -> None:
        """Close the environment; the next access opens it again."""
        if self._env is not None:
            self._env.close()
            self._env = None

    def _unpack(self, key: bytes) -> Any:  # noqa: ANN401  # any value of msgpack
        msgpack = _packages()[1]
        with self._environment().begin() as transaction:
            if (data := transaction.get(key)) is None:
                raise KeyError(f"{key.decode()} is not in {self.path}")
            try:
                return msgpack.unpackb(data)
            except ValueError as error:
                raise ValueError(f"study {key.decode()} is damaged in {self.path}: {error}") from error

    def _environment(self) -> "lmdb.Environment":
        """The environment of this process."""
        if self._env is None:
            if not Path(self.path).is_file():
                raise ValueError(f"{self.path} is missing: write it with write_map_cache")
            self._env = _packages()[0].open(self.path, subdir=False, readonly=True, lock=False, readahead=False)
        return self._env


def write_caches(
    folder: str | Path, maps: str | Path, points: str | Path, *, grid: str, kernels: Sequence[float], combine: Combine
) -> None:
    """Write the map cache and the point cache of the studies in a folder."""
    studies = read_studies(folder)
    write_map_cache(studies, maps, brain_grid(grid), kernels, combine)
    write_point_cache(studies, points)


def write_point_cache(studies: Studies, path: str | Path) -> None:
    """Write an HDF5 file with the foci of each study, float32 (n, 3) in mm, by id, and the scale as an attribute."""
    h5py = _h5py()
    with h5py.File(path, "w") as file:
        file.attrs["scale"] = studies.scale
        for k, name in enumerate(studies.table["id"]):
            file.create_dataset(name, data=studies.foci(k).astype(np.float32))


def read_point_cache(path: str | Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Id and foci (n, 3) in mm of every study in an HDF5 file.

    Raises:
        ValueError: If an entry is no finite (n, 3) array of float32.
    """
    with _h5py().File(path, "r") as file:
        for name, data in file.items():
            points = data[()]
            if points.ndim != 2 or points.shape[1] != 3 or points.dtype != np.float32 or not np.isfinite(points).all():
                raise ValueError(
                    f"study {name} of {path} must be finite float32 (n, 3); got {points.dtype} {points.shape}"
                )
            yield name, points


def _packages() -> tuple[Any, Any]:
    try:
        import lmdb
        import msgpack
    except ImportError as error:
        raise ImportError(f"{error}; map caches need it: pip install 'neuromf[atlas]'") from error
    return lmdb, msgpack


def _h5py() -> Any:  # noqa: ANN401  # a module
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{error}; point caches need it: pip install 'neuromf[atlas]'") from error
    return h5py
