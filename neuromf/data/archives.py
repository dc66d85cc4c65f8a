"""Safe extraction of tar archives: only files whose names match, into one flat folder, all of them or none."""

import errno
import gzip
import logging
import lzma
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from neuromf.data import download
from neuromf.data.download import FetchError, FetchFailed, file_size

logger = logging.getLogger(__name__)

DAMAGED = (tarfile.TarError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, EOFError)


def extract(archive: str | Path, folder: str | Path, *, pattern: str) -> list[str]:
    """Extract the matching files of a tar archive (plain or compressed); returns their names, sorted.

    The folders inside the archive are ignored. The output folder appears complete or not at all. If it already holds
    these files in their sizes, nothing is written.

    Arguments:
        archive: Path of the archive.
        folder: Output folder: absent, empty, or holding all of the files.
        pattern: Regular expression for a complete file name, without folders.

    Raises:
        FetchError: If the archive is damaged or truncated, holds unsafe members (absolute names, "..", links,
            devices), no match or one name twice; if the folder holds something else, or the disk is full.
    """
    archive, folder = Path(archive), Path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with download.exclusive_lock(folder.parent), tarfile.open(archive) as tar:
            members = _matching_members(tar, archive, pattern)
            if not _is_extracted(members, folder, archive):
                _extract(tar, members, folder)
    except (*DAMAGED, OSError, FetchFailed) as error:
        raise FetchError(f"{archive} cannot be unpacked{_reason(error, archive, folder)}") from error
    return sorted(members)


def _reason(error: Exception, archive: Path, folder: Path) -> str:
    if isinstance(error, DAMAGED):
        return (
            f" ({type(error).__name__}: {error}): it is truncated, damaged or no tar archive. "
            f"Remove it and its record, and run again"
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f": the disk of {folder.parent} is full; free some space and run again"
    return f": {download.describe_disk_error(error, archive) if isinstance(error, OSError) else error}"


def _matching_members(tar: tarfile.TarFile, archive: Path, pattern: str) -> dict[str, tarfile.TarInfo]:
    """Matching files by name; every member is checked, also those that do not match."""
    found: dict[str, tarfile.TarInfo] = {}
    regex, others = re.compile(pattern), []
    for member in tar:
        _require_safe(member)
        name = PurePosixPath(member.name).name
        if member.isdir():
            continue
        if not regex.fullmatch(name):
            others.append(member.name)
        elif name in found:
            raise FetchFailed(f"it holds {name} twice ({found[name].name} and {member.name})")
        else:
            found[name] = member
    _require_end(tar)
    if not found:
        raise FetchFailed(f"none of its {len(others)} files matches {pattern!r}; first ones: {others[:3]}")
    if others:
        logger.warning("%s: %d other files were not extracted, such as %s", archive.name, len(others), others[:3])
    return found


def _require_safe(member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        raise FetchFailed(f"it holds {member.name!r}, which leads out of the folder; nothing was unpacked")
    if not (member.isreg() or member.isdir()):
        kind = "a link" if member.issym() or member.islnk() else "a device or another special file"
        raise FetchFailed(f"it holds {member.name!r}, {kind}; nothing was unpacked")


def _require_end(tar: tarfile.TarFile) -> None:
    """Require the final block of zeros: a tar archive truncated between two files is read without an error."""
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise FetchFailed("its end mark is missing: it is truncated. Remove it and its record, and run again")
    while tar.fileobj.read(download.CHUNK):  # the checksum of a compressed archive is at its end
        pass


def _is_extracted(members: Mapping[str, tarfile.TarInfo], folder: Path, archive: Path) -> bool:
    """Whether the folder holds these files in their sizes; a folder with other files is refused."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    wrong = [name for name, member in members.items() if file_size(folder / name) != member.size]
    if wrong:
        raise FetchFailed(
            f"{folder} exists but does not hold the files of {archive.name}: {len(wrong)} of {len(members)} files are "
            f"missing or have another size, such as {sorted(wrong)[:3]}. Move the folder away and run again"
        )
    return True


def _extract(tar: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], folder: Path) -> None:
    """Write the members, without owners and modes, into a temporary folder, which is then renamed."""
    download.require_free_space(folder.parent, sum(member.size for member in members.values()), folder.name)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    logger.info("extracting %d files into %s", len(members), folder)
    try:
        for name, member in members.items():
            with tar.extractfile(member) as source, (part / name).open("xb") as target:  # type: ignore[union-attr]  # a file
                shutil.copyfileobj(source, target, download.CHUNK)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
