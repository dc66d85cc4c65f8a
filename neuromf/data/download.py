"""Files from elsewhere: downloaded whole, verified, taken once.

A download grows in `<name>.part`, and `<name>.part.json` says which file of the server it is a part of, so that a
broken one goes on where it was. Whole and verified it becomes `<name>`, with `<name>.json` beside it (url, bytes,
sha256). A file put there by hand is verified and taken. Sizes are bytes, GB are 10^9, times seconds.
"""

import errno
import fcntl
import hashlib
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

logger = logging.getLogger(__name__)

CHUNK = 2**16  # a broken connection loses what it had of one
REPORT_EVERY_S = 10.0
PASSING = {408, 425, 429, 500, 502, 503, 504}  # answers of a server that may be another one a moment later


class FetchError(RuntimeError):
    """What could not be had, why, and how to get it by hand."""


class Broken(Exception):
    """Why something could not be had, before anyone has said what to do about it."""


class _Passing(Broken):
    """A connection that broke, or a server that was busy: the next try may succeed."""


# --- download ----------------------------------------------------------------------------------------


def download(
    url: str,
    path: str | Path,
    *,
    sha256: str | None = None,
    room: float = 1.0,
    tries: int = 5,
    wait_s: float = 1.0,
    timeout_s: float = 60.0,
) -> dict[str, Any]:
    """Have the file of an address at a path, verified, and say what it is (url, bytes, sha256, verified).

    Arguments:
        url: An http or https address; redirects stay within the two.
        path: Where the file goes, or already lies.
        sha256: Digest that the file must have, in hexadecimal. Without one the digest is recorded, and asked for when
            the file is met again.
        room: Free space wanted, in sizes of the file: 2 where it will be unpacked beside itself.
        tries: Connections in a row that may break without a byte gained.
        wait_s: Pause after the first of them; it doubles with each.
        timeout_s: Silence of the server that counts as a broken connection.

    Raises:
        FetchError: If the file cannot be had, or is another; the message says how to get it by hand.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(path.parent):
            if not path.exists():
                part = path.with_name(f"{path.name}.part")
                _complete(url, part, room=room, tries=tries, wait_s=wait_s, timeout_s=timeout_s)
                return _accept(url, part, path, sha256)
            return _take(url, path, sha256)
    except OSError as error:
        raise FetchError(_by_hand(disk_trouble(error, path), url, path, sha256)) from error
    except Broken as error:
        raise FetchError(_by_hand(str(error), url, path, sha256)) from error


def digest(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def show_licence(name: str, address: str, forbids: str) -> None:
    """Say under which licence something is used, where it stands, and what it forbids."""
    logger.warning("licence: %s, %s. It forbids: %s. Who goes on accepts it.", name, address, forbids)


def _by_hand(reason: str, url: str, path: Path, sha256: str | None) -> str:
    return (
        f"{path.name} could not be fetched: {reason}. By hand: download {url}, put it at {path} (SHA-256 "
        f"{sha256 or 'not known'}), and run again; a file that is there is verified and taken"
    )


def disk_trouble(error: OSError, path: Path) -> str:
    """What the file system refused, in words."""
    if error.errno == errno.ENOSPC:
        return f"the disk of {path.parent} is full; what was downloaded stays, so make room and run again"
    return f"{error.filename or path}: {error.strerror or error}"


def _take(url: str, path: Path, sha256: str | None) -> dict[str, Any]:
    """The record of a file that is already there, after a look at its digest."""
    known = _read_json(_beside(path))
    found, wanted = digest(path), sha256 or known.get("sha256")
    if wanted and found != wanted:
        source = "asked for" if sha256 else f"recorded in {_beside(path).name}"
        raise FetchError(
            f"{path} has SHA-256 {found}, {source} is {wanted}: it is another file or damaged. Remove it"
            f"{'' if sha256 else ' and its record'}, and run again: it is downloaded from {url}"
        )
    if not path.stat().st_size:
        raise FetchError(f"{path} is empty. Remove it and run again: it is downloaded from {url}")
    logger.info("%s is there (SHA-256 %s, %s)", path, found, "as asked for" if sha256 else "not compared with any")
    record = _record(known["url"] if known.get("sha256") == found else url, path, found, sha256)
    try:
        _write_json(_beside(path), record)
    except OSError as error:  # shared data may be read-only
        logger.info("no record of it was written: %s", error)
    return record


def _accept(url: str, part: Path, path: Path, sha256: str | None) -> dict[str, Any]:
    """The record of a finished download, which takes its name only if it is what was asked for."""
    found = digest(part)
    if sha256 and found != sha256:
        part.unlink()
        _beside(part).unlink(missing_ok=True)
        raise Broken(
            f"the server's file has SHA-256 {found}, asked for is {sha256}; it was not kept (where the "
            f"publisher has replaced it, correct the digest in the config)"
        )
    record = _record(url, part, found, sha256)
    _write_json(_beside(path), record)
    os.replace(part, path)
    _beside(part).unlink(missing_ok=True)
    logger.info("%s: %s, SHA-256 %s%s", path, _size(record["bytes"]), found, "" if sha256 else " (not compared)")
    return record


def _record(url: str, path: Path, found: str, wanted: str | None) -> dict[str, Any]:
    return {"url": url, "bytes": path.stat().st_size, "sha256": found, "verified": wanted is not None}


def _complete(url: str, part: Path, *, room: float, tries: int, wait_s: float, timeout_s: float) -> None:
    """Bring a part to its full length, over as many connections as that takes."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise Broken(f"its address must begin with http:// or https://, got {url!r}")
    furthest, failed = length(part), 0
    while True:
        try:
            return _stream(url, part, room=room, timeout_s=timeout_s)
        except _Passing as error:
            failed = failed + 1 if length(part) <= furthest else 1
            furthest = max(furthest, length(part))
            if failed >= tries:
                raise Broken(f"{error} ({failed} tries in a row)") from error
            pause = wait_s * 2 ** (failed - 1)
            logger.warning("%s: %s; at %s, again in %.3g s", part.stem, error, _size(length(part)), pause)
            time.sleep(pause)


def _stream(url: str, part: Path, *, room: float, timeout_s: float) -> None:
    """One connection: what is missing of a part, or all of it where the server's file is another now."""
    known, have = _read_json(_beside(part)), length(part)
    if known.get("url") != url:
        known, have = {}, 0
    if have and have == known.get("bytes"):
        return
    headers, timeout = _headers(known, have), (min(20, timeout_s), timeout_s)
    try:
        with requests.get(url, stream=True, headers=headers, timeout=timeout) as response:
            start = _continues_at(response, known, have)
            if start is not None:
                return _append(response, url, part, start, room)
    except (requests.exceptions.SSLError, requests.exceptions.TooManyRedirects) as error:
        raise Broken(f"{type(error).__name__}: {error}") from error
    except (requests.ConnectionError, requests.Timeout, BrokenStream) as error:
        raise _Passing(f"no connection, or a broken one ({type(error).__name__}: {error})") from error
    except requests.RequestException as error:
        raise Broken(f"{type(error).__name__}: {error}") from error
    logger.warning("%s: the server's file is another than the one begun; starting over", part.stem)
    part.unlink()
    return _stream(url, part, room=room, timeout_s=timeout_s)


def _headers(known: Mapping[str, Any], have: int) -> dict[str, str]:
    """What is asked for; If-Range makes the server send all of a file that has changed."""
    headers = {"Accept-Encoding": "identity"}
    if have:
        tag = known.get("etag") or ""
        same = known.get("modified") if not tag or tag.startswith("W/") else tag
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": same} if same else {})
    return headers


def _continues_at(response: requests.Response, known: Mapping[str, Any], have: int) -> int | None:
    """Where the body of an answer belongs in the file; None if what we have is of another file."""
    status = response.status_code
    if status in PASSING:
        raise _Passing(f"the server answered {status} {response.reason}")
    if status == 416 and have:
        return None
    if status != 200 and not (status == 206 and have):
        raise Broken(f"the server answered {status} {response.reason}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise Broken("the server answered with a web page (a login, a licence to accept, or an error)")
    if status == 200:
        return 0
    start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    now = _identity(response, have)
    same = all(known.get(key) == now[key] for key in now if known.get(key) and now[key])
    return have if start and int(start[1]) == have and same else None


def _identity(response: requests.Response, have: int) -> dict[str, Any]:
    """By what a file of a server is known: its tag, its date, its length (None where it does not say)."""
    length = response.headers.get("Content-Length", "")
    total = have + int(length) if length.isdecimal() else None
    return {"etag": response.headers.get("ETag"), "modified": response.headers.get("Last-Modified"), "bytes": total}


def _append(response: requests.Response, url: str, part: Path, have: int, room: float) -> None:
    """Write the body of an answer behind the first bytes of a part."""
    identity = _identity(response, have)
    total = identity["bytes"]
    if total is not None:
        require_room(part.parent, int(room * total) - have, part.stem)
    if not have:
        part.unlink(missing_ok=True)  # before its record: bytes of one file must never lie under the name of another
        _write_json(_beside(part), {"url": url, **identity})
    logger.info("%s: %s from %s, at %s", part.stem, _size(total), url, _size(have))
    with part.open("ab") as file:
        for chunk in _reported(response.raw.stream(CHUNK, decode_content=False), part.stem, have, total):
            file.write(chunk)
    if total is not None and length(part) != total:
        raise _Passing(f"the connection closed at {length(part)} of {total} bytes")


def _reported(chunks: Iterator[bytes], name: str, have: int, total: int | None) -> Iterator[bytes]:
    """The same chunks, with a line on rate and time left now and then."""
    began = shown = time.monotonic()
    got = 0
    for chunk in chunks:
        yield chunk
        got += len(chunk)
        if (now := time.monotonic()) - shown >= REPORT_EVERY_S:
            shown, rate = now, got / (now - began)
            left = f", {(total - have - got) / rate:.0f} s left" if total else ""
            logger.info("%s: %s of %s, %s/s%s", name, _size(have + got), _size(total), _size(int(rate)), left)


def require_room(folder: Path, needed: int, name: str) -> None:
    if (free := shutil.disk_usage(folder).free) < needed:
        raise Broken(
            f"{name} needs {_size(needed)} more on the disk of {folder}, where {_size(free)} are free; make room, or "
            f"choose a folder elsewhere"
        )


def _size(n: int | None) -> str:
    if n is None:
        return "unknown size"
    return f"{n / 1e9:.2f} GB" if n >= 1e8 else f"{n / 1e6:.2f} MB" if n >= 1e5 else f"{n} bytes"


def length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time fetches into a folder; a second one waits, and then finds the file there."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process fetches into %s: waiting for it", folder)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:  # network file systems without locks
            logger.info("%s cannot be locked (%s): fetch into it from one process at a time", folder, error)
        yield
    finally:
        os.close(handle)
