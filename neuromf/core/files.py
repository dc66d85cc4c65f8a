"""Files: atomic writes, JSON and SHA-256. A file is complete or absent, whenever a run is killed."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it is renamed to `path` on success and deleted on failure."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any, *, indent: int | None = 1, sort_keys: bool = True) -> None:  # noqa: ANN401 - JSON
    """Write JSON as UTF-8 with a final newline, atomically."""
    write_text(path, json.dumps(value, indent=indent, sort_keys=sort_keys) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8, atomically."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_tensors(value: object, path: Path) -> None:
    """torch.save, atomically; the bytes depend on `value` only, not on the file name.

    Raises:
        OSError: If the file cannot be written. torch alone raises a RuntimeError that hides the reason.
    """
    import torch  # not needed by light scripts

    with atomic_write(path) as part, open(part, "wb") as file:
        recorder = _ErrorRecorder(file)
        try:
            torch.save(value, recorder)  # type: ignore[arg-type]  # torch only calls write and flush
        except RuntimeError as error:
            raise recorder.error or error from None
        file.flush()
        os.fsync(file.fileno())


class _ErrorRecorder:
    """A writable file that records the OSError of a failed write."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()
