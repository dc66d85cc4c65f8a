"""Files that are there whole or not at all, whatever stops the one who writes them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to: it becomes `path` when the block ends well, and is removed when it does not."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def save_tensors(thing: object, path: Path) -> None:
    """torch.save, whole or not at all; the bytes follow from `thing` alone, and not from the name of any file.

    Raises:
        OSError: If it cannot be written, with the reason; torch alone would speak of an unexpected position.
    """
    import torch  # others write without it

    with atomic_write(path) as part, open(part, "wb") as file:
        watched = _Watched(file)
        try:
            torch.save(thing, watched)  # type: ignore[arg-type]  # which asks for write and flush alone
        except RuntimeError as error:
            raise watched.trouble or error from None
        file.flush()
        os.fsync(file.fileno())


class _Watched:
    """A file that remembers why it could not be written to."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.trouble: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.trouble = error
            raise

    def flush(self) -> None:
        self.file.flush()
