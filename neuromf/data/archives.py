"""Archives unpacked without trusting them: only files that match, side by side, whole or not at all.

Sizes are bytes.
"""

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

from neuromf.data.download import CHUNK, Broken, FetchError, alone, disk_trouble, length, require_room

logger = logging.getLogger(__name__)


def extract(archive: str | Path, folder: str | Path, *, pattern: str) -> list[str]:
    """Unpack the files of a tar (plain or compressed) whose names match, and give their names, sorted.

    They lie side by side in the folder, whatever folders the archive has; nothing else is written. The folder appears
    whole or not at all; where it already holds these files in their sizes, nothing is done.

    Arguments:
        archive: The tar file.
        folder: Must be absent or empty, or hold all of the files.
        pattern: A regular expression for the whole of a file's name, without its folders.

    Raises:
        FetchError: If the archive is damaged, cut short, holds what it must not (absolute names, "..", links, devices),
            nothing that matches or the same name twice; if the folder holds something else, or the disk is full.
    """
    archive, folder = Path(archive), Path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with alone(folder.parent), tarfile.open(archive) as tar:
            members = _members(tar, archive, pattern)
            if not _is_unpacked(members, folder, archive):
                _unpack(tar, members, folder)
    except (tarfile.TarError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, EOFError) as error:
        raise FetchError(
            f"{archive} cannot be unpacked ({type(error).__name__}: {error}): it is cut short, damaged or no tar. "
            f"Remove it and its record, and run again"
        ) from error
    except OSError as error:
        full = f"the disk of {folder.parent} is full; make room and run again" if error.errno == errno.ENOSPC else ""
        raise FetchError(f"{archive} cannot be unpacked: {full or disk_trouble(error, archive)}") from error
    except Broken as error:
        raise FetchError(f"{archive} cannot be unpacked: {error}") from error
    return sorted(members)


def _members(tar: tarfile.TarFile, archive: Path, pattern: str) -> dict[str, tarfile.TarInfo]:
    """Files that match, by name; every member is looked at, those that do not match too."""
    found: dict[str, tarfile.TarInfo] = {}
    regex, others = re.compile(pattern), []
    for member in tar:
        _require_harmless(member)
        name = PurePosixPath(member.name).name
        if member.isdir():
            continue
        if not regex.fullmatch(name):
            others.append(member.name)
        elif name in found:
            raise Broken(f"it holds {name} twice ({found[name].name} and {member.name})")
        else:
            found[name] = member
    _require_end(tar)
    if not found:
        raise Broken(f"none of its {len(others)} files matches {pattern!r}; first ones: {others[:3]}")
    if others:
        logger.warning("%s: %d other files left out, such as %s", archive.name, len(others), others[:3])
    return found


def _require_harmless(member: tarfile.TarInfo) -> None:
    """Refuse what a file of an archive of scans never is: a way out of the folder, a link, a device."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        raise Broken(f"it holds {member.name!r}, which leads out of the folder; nothing was unpacked")
    if not (member.isreg() or member.isdir()):
        kind = "a link" if member.issym() or member.islnk() else "a device or another special file"
        raise Broken(f"it holds {member.name!r}, {kind}; nothing was unpacked")


def _require_end(tar: tarfile.TarFile) -> None:
    """A tar cut between two files reads without complaint; only its end mark, a block of zeros, is missing."""
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise Broken("its end mark is missing: it is cut short. Remove it and its record, and run again")
    while tar.fileobj.read(CHUNK):  # a compressed one has its checksum at the end
        pass


def _is_unpacked(members: Mapping[str, tarfile.TarInfo], folder: Path, archive: Path) -> bool:
    """Whether a folder holds these files in their sizes; one with something else in their place is refused."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    wrong = [name for name, member in members.items() if length(folder / name) != member.size]
    if wrong:
        raise Broken(
            f"{folder} is there and not what {archive.name} holds: {len(wrong)} of {len(members)} files are missing or "
            f"of another size, such as {sorted(wrong)[:3]}. Move the folder away and run again"
        )
    return True


def _unpack(tar: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], folder: Path) -> None:
    """Write members into a folder beside, without their owners and rights, and move it in place."""
    require_room(folder.parent, sum(member.size for member in members.values()), folder.name)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    logger.info("unpacking %d files into %s", len(members), folder)
    try:
        for name, member in members.items():
            with tar.extractfile(member) as source, (part / name).open("xb") as target:  # type: ignore[union-attr]  # a file
                shutil.copyfileobj(source, target, CHUNK)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
