"""Files below a folder that match a glob pattern; links are followed, results and hidden files are left out.

`Path.glob` neither follows links in `**` nor reports folders that it cannot read: both would lose scans silently.
"""

import fnmatch
import logging
import os
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger(__name__)

RESULTS = "results"  # folder of results, in the working directory of a run
STATE = ".snakemake"  # folder beside the results of any run
ANNEX = ".git/annex/"  # part of the targets of links that git-annex makes
MAGIC = frozenset("*?[")
Identity = tuple[int, int]  # device and inode


def find_scans(root: str | Path, *patterns: str) -> list[Path]:
    """Files below root that match one of the patterns, sorted.

    Broken links, and folders that cannot be read, are listed: they become rows with a problem. Links to folders are
    followed; with `**`, each folder is listed once. Names that begin with a dot (`.git`, `._*` of a Mac) and results of
    this workflow, of this run or of another one, are not listed; a warning counts them.

    Arguments:
        root: Path of a folder.
        patterns: Glob patterns relative to root: * ? [] in names, ** for folders of any depth.

    Raises:
        ValueError: If a pattern is an absolute path.
    """
    walk = _Walk()
    for pattern in patterns:
        if pattern.startswith("/"):
            raise ValueError(f'the pattern "{pattern}" is an absolute path; write it relative to {root}')
        walk.seen.clear()
        walk.match(Path(root), [part for part in pattern.split("/") if part not in ("", ".")])
    if any(walk.skipped.values()):
        counts = ", ".join(f"{len(paths)} {kind}" for kind, paths in walk.skipped.items() if paths)
        logger.warning("%s: not listed: %s", root, counts)
    for folder in sorted(walk.unreadable):
        logger.warning("%s cannot be read, so its scans are missing from the study; change its mode", folder)
    return sorted(walk.found | walk.unreadable)


class _Walk:
    """Files found, folders that cannot be read, and what is left out, by kind."""

    def __init__(self) -> None:
        self.results = _identity(RESULTS)
        self.found: set[Path] = set()
        self.unreadable: set[Path] = set()
        self.seen: set[tuple[Identity | None, int]] = set()  # folders in which ** was followed
        self.hidden: set[Path] = set()
        self.own: set[Path] = set()
        self.again: set[Path] = set()
        self.skipped = {
            "with a name that begins with a dot": self.hidden,
            "folders of results": self.own,
            "links to folders that are listed already": self.again,
        }

    def match(self, folder: Path, parts: Sequence[str]) -> None:
        """Record the files in a folder that match the parts of a pattern."""
        first, rest = parts[0], parts[1:]
        if first == "**":
            self._match_any_depth(folder, parts)
        elif not MAGIC & set(first):
            if os.path.lexists(folder / first):
                self._match_path(folder / first, rest)
        else:
            for path in self._children(folder):
                if fnmatch.fnmatchcase(path.name, first):
                    self._match_path(path, rest)

    def _match_any_depth(self, folder: Path, parts: Sequence[str]) -> None:
        """Match the rest of a pattern here and in all folders below; each folder once, so that loops of links end."""
        key = _identity(folder), len(parts)
        if key in self.seen:
            self.again.add(folder)
            return
        self.seen.add(key)
        self.match(folder, parts[1:] or ["*"])
        folders = [path for path in self._children(folder) if os.path.isdir(path)]
        for path in sorted(folders, key=Path.is_symlink):  # real folders first
            if self._enters(path):
                self._match_any_depth(path, parts)

    def _match_path(self, path: Path, rest: Sequence[str]) -> None:
        """Follow a folder that matches a part of a pattern, or record a file that matches the last part."""
        is_folder = os.path.isdir(path)
        if rest and is_folder and self._enters(path):
            self.match(path, rest)
        elif not rest and not is_folder:
            (self.hidden if path.name.startswith(".") else self.found).add(path)

    def _enters(self, folder: Path) -> bool:
        """Whether the files of a folder are listed; records a folder that is left out."""
        if folder.name.startswith(".") and folder.name != "..":
            self.hidden.add(folder)
        elif self._is_results(folder):
            self.own.add(folder)
        else:
            return True
        return False

    def _is_results(self, folder: Path) -> bool:
        """Whether a folder holds results of this run, or of another run of this workflow."""
        if folder.name == RESULTS and os.path.isdir(folder.parent / STATE):
            return True
        if self.results is None:
            return False
        inside = folder.is_symlink() and folder.resolve().is_relative_to(Path(RESULTS).resolve())
        return inside or _identity(folder) == self.results

    def _children(self, folder: Path) -> list[Path]:
        """Entries of a folder, sorted; none if it cannot be read, which is recorded."""
        try:
            return sorted(folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError:
            self.unreadable.add(folder)
            return []


def _identity(folder: str | Path) -> Identity | None:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def missing_reason(path: str | Path, what: str) -> str:
    """Why a file cannot be found, "kind: explanation and way out"; "" if it exists.

    Arguments:
        path: Path of the file.
        what: Kind of file for the message: file or mask.
    """
    try:
        os.stat(path)
    except PermissionError:
        return f"no permission: {path} cannot be reached; change the mode of its folder"
    except OSError:
        if not os.path.islink(path):
            return f"missing {what}: {path} does not exist"
        if ANNEX in os.readlink(path):
            return f"missing {what}: the content of {path} is not on this machine; run: datalad get {path}"
        return f"missing {what}: {path} is a broken link"
    return ""
