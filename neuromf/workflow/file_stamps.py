"""Sizes and times of the files that jobs read: a file that is replaced under its name makes its jobs stale.

A file is not opened. Only the process that schedules jobs looks at files: see `neuromf.workflow.listing.plan_scans`.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from neuromf.data.sources.table import path_on_disk

THREADS = 16  # on a network disk, the answers are waited for, not computed
CHUNK = 500  # rows per task
PAIRED = {".img": ".hdr", ".hdr": ".img"}  # NIfTI in two files


def file_stamps(rows: Sequence[Sequence[str]]) -> list[str]:
    """Size and modification time of the files of each row, as one text per row; "missing" for a file that is not there.

    Arguments:
        rows: Paths of the files that are read for one scan; "" is left out.
    """
    chunks = [rows[k : k + CHUNK] for k in range(0, len(rows), CHUNK)]
    with ThreadPoolExecutor(THREADS) as pool:
        return [stamp for stamps in pool.map(_stamps, chunks) for stamp in stamps]


def _stamps(rows: Sequence[Sequence[str]]) -> list[str]:
    return [" ".join(_stamp(file) for path in row if path for file in _files(path)) for row in rows]


def _files(path: str) -> Iterator[str]:
    """The file, and its header or voxels if they are a second file."""
    yield path
    stem, end = os.path.splitext(path)
    if end in PAIRED:
        yield stem + PAIRED[end]


def _stamp(path: str) -> str:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        other = None if path.isascii() else path_on_disk(path)
        if other is None:
            return "missing"
        found = os.stat(other)
    return f"{found.st_size}:{found.st_mtime_ns}"
