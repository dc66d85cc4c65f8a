"""Verified downloads that resume.

A download is written to `<name>.part`; `<name>.part.json` identifies the file on the server, so that a later run can
resume it. The complete, verified file is renamed to `<name>`, with `<name>.json` beside it (url, bytes, sha256). A file
that the user puts there by hand is verified and used. Neither pooch nor huggingface_hub resumes a download from any
server and checks that the file there is still the same, so this module uses requests. Sizes are bytes, times seconds.
"""

import errno
import fcntl
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError as BrokenStream

from neuromf.core import files
from neuromf.core.files import write_json

logger = logging.getLogger(__name__)

CHUNK = 2**16  # bytes per write; a broken connection loses at most one chunk
REPORT_EVERY_S = 10.0
TEMPORARY = {408, 425, 429, 500, 502, 503, 504}  # HTTP status codes that are worth another try


class FetchError(RuntimeError):
    """A file cannot be fetched; the message gives the reason and how to get the file by hand."""


class FetchFailed(Exception):
    """The reason why a fetch failed; `download` and `extract` turn it into a FetchError."""


class _ConnectionFailed(FetchFailed):
    """A broken connection or a busy server: another try may succeed."""


def download(
    url: str,
    path: str | Path,
    *,
    sha256: str | None = None,
    space_factor: float = 1.0,
    tries: int = 5,
    wait_s: float = 1.0,
    timeout_s: float = 60.0,
) -> dict[str, Any]:
    """Download a file, or verify the one that is there; returns its record: url, bytes, sha256, verified.

    Arguments:
        url: http or https address.
        path: Path of the file.
        sha256: Expected SHA-256, in hexadecimal. Without it the digest found is recorded, and expected next time.
        space_factor: Free disk space required, as a multiple of the file size: 2 if it is unpacked beside itself.
        tries: Number of consecutive connections without progress before the download fails.
        wait_s: Pause after the first failed connection; it doubles with each further one.
        timeout_s: Time without data after which a connection counts as broken.

    Raises:
        FetchError: If the file cannot be downloaded or has another digest.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(path.parent):
            if path.exists():
                return _verify_existing(url, path, sha256)
            part = path.with_name(f"{path.name}.part")
            _complete(url, part, tries, wait_s, space_factor=space_factor, timeout_s=timeout_s)
            return _accept(url, part, path, sha256)
    except (OSError, FetchFailed) as error:
        reason = describe_disk_error(error, path) if isinstance(error, OSError) else error
        raise FetchError(
            f"{path.name} could not be fetched: {reason}. By hand: download {url}, put it at {path} (SHA-256 "
            f"{sha256 or 'not known'}), and run again; a file that is there is verified and used"
        ) from error


def show_licence(name: str, address: str, forbids: str) -> None:
    """Log the licence of a download, its address, and what it forbids."""
    logger.warning("licence: %s, %s. It forbids: %s. By continuing you accept it.", name, address, forbids)


def describe_disk_error(error: OSError, path: Path) -> str:
    """An error of the file system as text."""
    if error.errno == errno.ENOSPC:
        return f"the disk of {path.parent} is full; the partial download is kept, so free some space and run again"
    return f"{error.filename or path}: {error.strerror or error}"


def _verify_existing(url: str, path: Path, sha256: str | None) -> dict[str, Any]:
    """The record of a file that exists already, after its digest was compared."""
    known = _read_json(_record_of(path))
    found, wanted = files.sha256(path), sha256 or known.get("sha256")
    if wanted and found != wanted:
        source = "expected" if sha256 else f"recorded in {_record_of(path).name}"
        raise FetchError(
            f"{path} has SHA-256 {found}, {source} is {wanted}: it is another file or damaged. Remove it"
            f"{'' if sha256 else ' and its record'}, and run again: it is downloaded from {url}"
        )
    if not path.stat().st_size:
        raise FetchError(f"{path} is empty. Remove it and run again: it is downloaded from {url}")
    logger.info("%s exists (SHA-256 %s, %s)", path, found, "as expected" if sha256 else "not compared")
    record = _record(known["url"] if known.get("sha256") == found else url, path, found, sha256)
    try:
        write_json(_record_of(path), record)
    except OSError as error:  # shared data may be read-only
        logger.info("its record was not written: %s", error)
    return record


def _accept(url: str, part: Path, path: Path, sha256: str | None) -> dict[str, Any]:
    """Rename a complete download to its final name if its digest is the expected one; returns its record."""
    found = files.sha256(part)
    if sha256 and found != sha256:
        part.unlink()
        _record_of(part).unlink(missing_ok=True)
        raise FetchFailed(
            f"the server's file has SHA-256 {found}, expected is {sha256}; it was deleted (if the publisher has "
            f"replaced the file, correct the digest in the config)"
        )
    record = _record(url, part, found, sha256)
    write_json(_record_of(path), record)
    os.replace(part, path)
    _record_of(part).unlink(missing_ok=True)
    logger.info("%s: %s, SHA-256 %s%s", path, _size(record["bytes"]), found, "" if sha256 else " (not compared)")
    return record


def _record(url: str, path: Path, found: str, wanted: str | None) -> dict[str, Any]:
    return {"url": url, "bytes": path.stat().st_size, "sha256": found, "verified": wanted is not None}


def _complete(url: str, part: Path, tries: int, wait_s: float, **settings: float) -> None:
    """Download the rest of a partial file, over as many connections as needed."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise FetchFailed(f"its address must begin with http:// or https://, got {url!r}")
    furthest, failed = file_size(part), 0
    while True:
        try:
            return _stream(url, part, **settings)
        except _ConnectionFailed as error:
            failed = failed + 1 if file_size(part) <= furthest else 1
            furthest = max(furthest, file_size(part))
            if failed >= tries:
                raise FetchFailed(f"{error} ({failed} tries in a row)") from error
            pause = wait_s * 2 ** (failed - 1)
            logger.warning("%s: %s; %s so far, next try in %.3g s", part.stem, error, _size(file_size(part)), pause)
            time.sleep(pause)


def _stream(url: str, part: Path, *, space_factor: float, timeout_s: float) -> None:
    """One connection: download the rest of a partial file, or the whole file if the server's file has changed."""
    known, have = _read_json(_record_of(part)), file_size(part)
    if known.get("url") != url:
        known, have = {}, 0
    if have and have == known.get("bytes"):
        return
    timeout = (min(20, timeout_s), timeout_s)
    try:
        with requests.get(url, stream=True, headers=_request_headers(known, have), timeout=timeout) as response:
            start = _start_of_body(response, known, have)
            if start is not None:
                return _append(response, url, part, start, space_factor)
    except (requests.exceptions.SSLError, requests.exceptions.TooManyRedirects) as error:
        raise FetchFailed(f"{type(error).__name__}: {error}") from error
    except (requests.ConnectionError, requests.Timeout, BrokenStream) as error:
        raise _ConnectionFailed(f"no connection, or a broken one ({type(error).__name__}: {error})") from error
    except requests.RequestException as error:
        raise FetchFailed(f"{type(error).__name__}: {error}") from error
    logger.warning("%s: the file on the server has changed; the download starts again", part.stem)
    part.unlink()
    return _stream(url, part, space_factor=space_factor, timeout_s=timeout_s)


def _request_headers(known: Mapping[str, Any], have: int) -> dict[str, str]:
    """Headers that request the bytes from `have` on; If-Range requests the whole file if it has changed."""
    headers = {"Accept-Encoding": "identity"}
    if have:
        tag = known.get("etag") or ""
        same = known.get("modified") if not tag or tag.startswith("W/") else tag
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": same} if same else {})
    return headers


def _start_of_body(response: requests.Response, known: Mapping[str, Any], have: int) -> int | None:
    """Position in the file of the first byte of a response; None if the partial file belongs to another file."""
    status = response.status_code
    if status == 416 and have:
        return None
    if status != 200 and not (status == 206 and have):
        kind = _ConnectionFailed if status in TEMPORARY else FetchFailed
        raise kind(f"the server answered {status} {response.reason}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise FetchFailed("the server answered with a web page (a login, a licence to accept, or an error)")
    if status == 200:
        return 0
    start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    now = _identity(response, have)
    same = all(known.get(key) == now[key] for key in now if known.get(key) and now[key])
    return have if start and int(start[1]) == have and same else None


def _identity(response: requests.Response, have: int) -> dict[str, Any]:
    """Tag, date and size of a file on the server; None where the server does not send them."""
    length = response.headers.get("Content-Length", "")
    total = have + int(length) if length.isdecimal() else None
    return {"etag": response.headers.get("ETag"), "modified": response.headers.get("Last-Modified"), "bytes": total}


def _append(response: requests.Response, url: str, part: Path, have: int, space_factor: float) -> None:
    """Append the body of a response to the first `have` bytes of a partial file."""
    identity = _identity(response, have)
    total = identity["bytes"]
    if total is not None:
        require_free_space(part.parent, int(space_factor * total) - have, part.stem)
    if not have:
        part.unlink(missing_ok=True)  # before its record: a record must never describe bytes of another file
        write_json(_record_of(part), {"url": url, **identity})
    logger.info("%s: %s from %s, starting at %s", part.stem, _size(total), url, _size(have))
    with part.open("ab") as file:
        for chunk in _report_progress(response.raw.stream(CHUNK, decode_content=False), part.stem, have, total):
            file.write(chunk)
    if total is not None and file_size(part) != total:
        raise _ConnectionFailed(f"the connection closed at {file_size(part)} of {total} bytes")


def _report_progress(chunks: Iterator[bytes], name: str, have: int, total: int | None) -> Iterator[bytes]:
    """The same chunks; logs the rate and the time left every `REPORT_EVERY_S` seconds."""
    began = reported = time.monotonic()
    got = 0
    for chunk in chunks:
        yield chunk
        got += len(chunk)
        if (now := time.monotonic()) - reported >= REPORT_EVERY_S:
            reported, rate = now, got / (now - began)
            left = f", {(total - have - got) / rate:.0f} s left" if total else ""
            logger.info("%s: %s of %s, %s/s%s", name, _size(have + got), _size(total), _size(int(rate)), left)


def require_free_space(folder: Path, needed: int, name: str) -> None:
    """Raise FetchFailed if the disk of a folder has less than `needed` bytes free."""
    if (free := shutil.disk_usage(folder).free) < needed:
        raise FetchFailed(
            f"{name} needs {_size(needed)} more on the disk of {folder}, where {_size(free)} are free; free some space "
            f"or choose another folder"
        )


def _size(n: int | None) -> str:
    if n is None:
        return "unknown size"
    return f"{n / 1e9:.2f} GB" if n >= 1e8 else f"{n / 1e6:.2f} MB" if n >= 1e5 else f"{n} bytes"


def file_size(path: Path) -> int:
    """Size of a file; 0 if it does not exist."""
    return path.stat().st_size if path.exists() else 0


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Let one process at a time fetch into a folder; a second one waits, and then finds the files there."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting: another process fetches into %s", folder)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:  # network file systems without locks
            logger.info("%s cannot be locked (%s): do not fetch into it from two processes at once", folder, error)
        yield
    finally:
        os.close(handle)
