"""Downloads and archives: complete and verified, or an error that explains the manual download."""

import errno
import functools
import hashlib
import io
import json
import logging
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from neuromf.data import archives
from neuromf.data import download as fetch
from neuromf.vae import maisi
from neuromf.vae.weights import load, save_weights
from workflow_scripts import maisi as maisi_script

download = functools.partial(fetch.download, wait_s=0.001, timeout_s=5)
BODY = bytes(range(256)) * 2000  # half a megabyte, eight chunks
NOBODY = 65534


def sha(data):
    return hashlib.sha256(data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        site = self.server.site
        site.ranges_requested.append(self.headers.get("Range"))
        fault = site.faults.pop(0) if site.faults else None
        if self.path in site.redirects:
            self.answer(302, {"Location": site.redirects[self.path]})
        elif isinstance(fault, int):
            self.answer(fault)
        elif self.path not in site.files:
            self.answer(404)
        else:
            self.send(site.files[self.path], fault)

    def answer(self, status, headers=()):
        self.send_response(status)
        for name, value in {"Content-Length": "0", **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()

    def send(self, body, fault):
        """Send the file, or its rest for a valid range; close the connection after fault["drop"] bytes."""
        site, start = self.server.site, 0
        tag = f'"{sha(body)[:8]}"'
        asked = self.headers.get("Range")
        same = site.ignores_if_range or self.headers.get("If-Range", tag) == tag
        if asked and site.ranges and same:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        headers = {"Content-Length": str(len(body) - start), "Content-Type": site.kind}
        if start >= len(body) > 0 and start:
            return self.answer(416, {"Content-Range": f"bytes */{len(body)}"})
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        if site.tags:
            headers["ETag"] = tag
        self.answer(206 if start else 200, headers)
        self.wfile.write(body[start : start + fault["drop"]] if fault else body[start:])
        self.close_connection = bool(fault)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def site():
    """Files and behaviour of the server; `ranges_requested` holds the Range header of each request."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.site = SimpleNamespace(
            files={"/brain.tar": BODY}, redirects={}, faults=[], ranges_requested=[], ranges=True
        )
        server.site.__dict__.update(tags=True, ignores_if_range=False, kind="application/octet-stream")
        server.site.url = f"http://127.0.0.1:{server.server_port}/brain.tar"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server.site
        server.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "brain.tar"


def names(folder):
    return sorted(item.name for item in folder.iterdir())


def refusal(function, *arguments, **options):
    with pytest.raises(fetch.FetchError) as error:
        function(*arguments, **options)
    return str(error.value)


def by_hand(url, path, digest="not known"):
    return (
        f". By hand: download {url}, put it at {path} (SHA-256 {digest}), and run again; a file that is there is "
        f"verified and used"
    )


@pytest.mark.parametrize("digest", [None, sha(BODY)])
def test_a_download_writes_the_file_and_its_record(site, path, digest):
    record = download(site.url, path, sha256=digest)
    assert path.read_bytes() == BODY and names(path.parent) == ["brain.tar", "brain.tar.json"]
    assert record == {"url": site.url, "bytes": len(BODY), "sha256": sha(BODY), "verified": digest is not None}
    assert json.loads((path.parent / "brain.tar.json").read_text()) == record
    assert site.ranges_requested == [None]


def test_a_second_call_sends_no_request(site, path):
    first = download(site.url, path)
    assert download(site.url, path) == first and site.ranges_requested == [None]


def test_parallel_downloads_send_one_request(site, path):
    threads = [threading.Thread(target=download, args=(site.url, path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() == BODY and site.ranges_requested == [None]


def test_an_empty_file_is_downloaded(site, path):
    site.files["/brain.tar"] = b""
    assert download(site.url, path)["bytes"] == 0


def test_progress_reports_rate_and_time_left(site, path, monkeypatch, caplog):
    monkeypatch.setattr(fetch, "REPORT_EVERY_S", 0.0)
    caplog.set_level(logging.INFO, logger="neuromf.data.download")
    download(site.url, path)
    lines = [record.getMessage() for record in caplog.records if "/s, " in record.getMessage()]
    assert len(lines) == 8  # one per chunk
    assert lines[0].startswith("brain.tar: 65536 bytes of 0.51 MB, ") and lines[-1].endswith("/s, 0 s left")


def test_a_file_put_there_by_hand_is_verified_without_a_network(path):
    path.parent.mkdir()
    path.write_bytes(BODY)
    record = download("https://nowhere.invalid/brain.tar", path, sha256=sha(BODY))
    assert record["verified"] and record["bytes"] == len(BODY)


def test_a_file_with_another_digest_is_refused_and_kept(path):
    path.parent.mkdir()
    path.write_bytes(b"other")
    url = "https://nowhere.invalid/brain.tar"
    assert refusal(download, url, path, sha256=sha(BODY)) == (
        f"{path} has SHA-256 {sha(b'other')}, expected is {sha(BODY)}: it is another file or damaged. Remove it, "
        f"and run again: it is downloaded from {url}"
    )
    assert path.read_bytes() == b"other"


def test_a_file_that_differs_from_its_record_is_refused(site, path):
    download(site.url, path)
    path.write_bytes(BODY[:-1])
    message = refusal(download, site.url, path)
    assert f"recorded in brain.tar.json is {sha(BODY)}" in message and "Remove it and its record" in message


def test_an_existing_empty_file_is_refused(path):
    path.parent.mkdir()
    path.touch()
    assert refusal(download, "https://nowhere.invalid/x", path).startswith(f"{path} is empty. Remove it")


def test_a_folder_at_the_path_of_the_file_is_refused(path):
    path.mkdir(parents=True)
    assert f"{path}: Is a directory" in refusal(download, "https://nowhere.invalid/x", path)


def test_a_dropped_connection_resumes(site, path):
    site.faults = [{"drop": 200_000}, {"drop": 100_000}]
    download(site.url, path, sha256=sha(BODY), tries=2)
    assert path.read_bytes() == BODY
    starts = [int(asked.strip("bytes=-")) for asked in site.ranges_requested[1:]]
    assert site.ranges_requested[0] is None and 0 < starts[0] <= 200_000 < starts[1] <= 300_000


def test_a_killed_download_resumes_in_the_next_run(site, path):
    site.faults = [{"drop": 200_000}]
    refusal(download, site.url, path, tries=1)
    assert names(path.parent) == ["brain.tar.part", "brain.tar.part.json"]
    size = Path(f"{path}.part").stat().st_size
    download(site.url, path)
    assert path.read_bytes() == BODY and size > 130_000 and site.ranges_requested == [None, f"bytes={size}-"]


def test_a_complete_partial_file_needs_no_request(site, path):
    path.parent.mkdir()
    Path(f"{path}.part").write_bytes(BODY)
    Path(f"{path}.part.json").write_text(json.dumps({"url": site.url, "etag": '"x"', "bytes": len(BODY)}))
    download(site.url, path, sha256=sha(BODY))
    assert path.read_bytes() == BODY and site.ranges_requested == []


@pytest.mark.parametrize("record", [None, "not json", '{"url": "http://other/brain.tar", "bytes": 9}', "[]"])
def test_a_partial_file_without_a_valid_record_is_discarded(site, path, record):
    path.parent.mkdir()
    Path(f"{path}.part").write_bytes(b"garbage" * 1000)
    if record:
        Path(f"{path}.part.json").write_text(record)
    download(site.url, path)
    assert path.read_bytes() == BODY and site.ranges_requested == [None]


def test_a_server_without_ranges_restarts_the_download(site, path):
    site.ranges, site.faults = False, [{"drop": 200_000}]
    download(site.url, path, tries=2)
    assert path.read_bytes() == BODY and len(site.ranges_requested) == 2 and site.ranges_requested[1] is not None


@pytest.mark.parametrize("ignores_if_range", [False, True])
@pytest.mark.parametrize("tags", [False, True])
@pytest.mark.parametrize("after", [BODY[::-1] + b"longer", BODY[:100_000]], ids=["longer", "shorter"])
def test_a_file_that_changes_on_the_server_is_never_mixed(site, path, tags, ignores_if_range, after):
    site.tags, site.ignores_if_range, site.faults = tags, ignores_if_range, [{"drop": 200_000}]
    refusal(download, site.url, path, tries=1)
    site.files["/brain.tar"] = after
    download(site.url, path)
    assert path.read_bytes() == after and names(path.parent) == ["brain.tar", "brain.tar.json"]
    if tags and not ignores_if_range:
        assert len(site.ranges_requested) == 2  # If-Range makes the server send the whole file


def test_a_changed_file_of_the_same_size_is_detected_by_its_tag(site, path):
    site.ignores_if_range, site.faults = True, [{"drop": 200_000}]
    refusal(download, site.url, path, tries=1)
    site.files["/brain.tar"] = BODY[::-1]
    download(site.url, path)
    assert path.read_bytes() == BODY[::-1]


def test_a_busy_server_is_retried_and_a_missing_file_is_not(site, path):
    site.faults = [503, 429]
    download(site.url, path)
    assert path.read_bytes() == BODY and len(site.ranges_requested) == 3
    gone = site.url.replace("brain", "gone")
    message = refusal(download, gone, path.with_name("gone.tar"), sha256="0" * 64)
    reason = "gone.tar could not be fetched: the server answered 404 Not Found"
    assert message == reason + by_hand(gone, path.with_name("gone.tar"), "0" * 64)
    assert len(site.ranges_requested) == 4


def test_consecutive_tries_without_progress_end_the_download(site, path):
    site.faults = [503] * 9
    assert "the server answered 503 Service Unavailable (3 tries in a row)" in refusal(
        download, site.url, path, tries=3
    )
    assert len(site.ranges_requested) == 3


def test_without_a_network_the_error_explains_the_manual_download(path):
    url = "http://127.0.0.1:9/brain.tar"
    message = refusal(download, url, path, sha256="1" * 64, tries=2)
    assert message.startswith("brain.tar could not be fetched: no connection, or a broken one (ConnectionError: ")
    assert message.endswith("(2 tries in a row)" + by_hand(url, path, "1" * 64))
    assert names(path.parent) == []


def test_a_wrong_digest_leaves_no_file(site, path):
    message = refusal(download, site.url, path, sha256="0" * 64)
    assert f"the server's file has SHA-256 {sha(BODY)}, expected is {'0' * 64}; it was deleted" in message
    assert names(path.parent) == []


def test_a_web_page_instead_of_the_file_is_refused(site, path):
    site.kind = "text/html; charset=utf-8"
    assert "answered with a web page (a login, a licence to accept, or an error)" in refusal(download, site.url, path)
    assert names(path.parent) == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/brain.tar", "brain.tar"])
def test_only_http_is_fetched(path, url):
    assert f"its address must begin with http:// or https://, got {url!r}" in refusal(download, url, path)


def test_redirects_are_followed_within_http_only(site, path):
    site.redirects = {"/old.tar": site.url, "/bad.tar": "file:///etc/passwd", "/loop.tar": "/loop.tar"}
    download(site.url.replace("brain", "old"), path)
    assert path.read_bytes() == BODY
    assert "InvalidSchema" in refusal(download, site.url.replace("brain", "bad"), path.with_name("bad.tar"))
    assert "TooManyRedirects" in refusal(download, site.url.replace("brain", "loop"), path.with_name("loop.tar"))
    assert names(path.parent) == ["brain.tar", "brain.tar.json"]


def test_free_space_is_checked_before_writing(site, path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=600_000))
    message = refusal(download, site.url, path, space_factor=2)
    assert (
        f"brain.tar needs 1.02 MB more on the disk of {path.parent}, where 0.60 MB are free; free some space" in message
    )
    assert names(path.parent) == []
    assert download(site.url, path, space_factor=1)["bytes"] == len(BODY)


def test_a_resumed_download_needs_space_for_the_rest_only(site, path, monkeypatch):
    site.faults = [{"drop": 200_000}]
    refusal(download, site.url, path, tries=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=len(BODY) - 190_000))
    assert download(site.url, path)["bytes"] == len(BODY)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 0.4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_named_and_the_download_resumes_later(site, small_disk, monkeypatch):
    monkeypatch.setattr(fetch, "require_free_space", lambda *arguments: None)  # another process took the room meanwhile
    path = small_disk / "brain.tar"
    message = refusal(download, site.url, path)
    assert (
        f"the disk of {small_disk} is full; the partial download is kept, so free some space and run again" in message
    )
    size = Path(f"{path}.part").stat().st_size
    assert size > 200_000
    subprocess.run(["mount", "-o", "remount,size=2m", str(small_disk)], check=True)
    download(site.url, path, sha256=sha(BODY))
    assert site.ranges_requested[-1] == f"bytes={size}-"


def test_a_full_disk_is_recognised_by_its_error_number(site, path, monkeypatch):
    def full(chunks, *arguments):
        yield next(chunks)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetch, "_report_progress", full)
    assert "is full; the partial download is kept" in refusal(download, site.url, path)
    assert names(path.parent) == ["brain.tar.part", "brain.tar.part.json"]


@pytest.fixture
def shut_folder():
    """A read-only folder with a file, even if tests run as root."""
    folder = Path(tempfile.mkdtemp(prefix="neuromf-shut-"))
    (folder / "brain.tar").write_bytes(BODY)
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    yield folder
    if root:
        os.seteuid(0)
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_read_only_folder_is_named(site, shut_folder):
    message = refusal(download, site.url, shut_folder / "other.tar")
    assert f"other.tar could not be fetched: {shut_folder}/" in message and "Permission denied" in message
    assert "Permission denied" in refusal(download, site.url, shut_folder / "sub" / "brain.tar")


def test_a_file_in_a_read_only_folder_is_verified(shut_folder):
    assert download("https://nowhere.invalid/x", shut_folder / "brain.tar", sha256=sha(BODY))["verified"]
    assert names(shut_folder) == ["brain.tar"]


SCANS = {f"IXI{k:03d}-HH-{k}-T1.nii.gz": bytes([k]) * (700 + 300 * k) for k in range(1, 6)}
T1 = r"IXI\d{3}-.*-T1\.nii\.gz"


def member(name, kind=tarfile.REGTYPE, size=0, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname, info.mode, info.uid = kind, size, link, 0o4777, 12345
    return info


@pytest.fixture
def pack(tmp_path):
    """Write an archive of these files and further members; returns its path."""

    def make(files=SCANS, *others, mode="w", name="IXI-T1.tar"):
        with tarfile.open(tmp_path / name, mode) as tar:
            for key, data in files.items():
                tar.addfile(member(key, size=len(data)), io.BytesIO(data))
            for info in others:
                tar.addfile(info, io.BytesIO(bytes(info.size)))
        return tmp_path / name

    return make


def contents(folder):
    return {item.name: item.read_bytes() for item in folder.iterdir()}


def everything(folder):
    return sorted(str(item.relative_to(folder)) for item in folder.rglob("*"))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
@pytest.mark.parametrize("prefix", ["", "./", "IXI-T1/"])
def test_matching_files_are_extracted_into_one_flat_folder(pack, tmp_path, mode, prefix):
    notes = {f"{prefix}._IXI001-HH-1-T1.nii.gz": b"mac", f"{prefix}readme.txt": b"hello"}
    files = {**{prefix + name: data for name, data in SCANS.items()}, **notes}
    archive = pack(files, member("sub", tarfile.DIRTYPE), mode=mode)
    assert archives.extract(archive, tmp_path / "ixi" / "T1", pattern=T1) == sorted(SCANS)
    assert contents(tmp_path / "ixi" / "T1") == SCANS
    assert everything(tmp_path / "ixi") == ["T1", *(f"T1/{name}" for name in sorted(SCANS))]
    found = (tmp_path / "ixi" / "T1" / min(SCANS)).stat()
    assert found.st_uid == os.geteuid() and not found.st_mode & 0o7111  # neither owner nor rights of the archive


def test_a_second_extraction_writes_nothing(pack, tmp_path):
    archive, folder = pack(), tmp_path / "T1"
    archives.extract(archive, folder, pattern=T1)
    before = {item.name: item.stat().st_mtime_ns for item in [folder, *folder.iterdir()]}
    time.sleep(0.01)
    assert archives.extract(archive, folder, pattern=T1) == sorted(SCANS)
    assert {item.name: item.stat().st_mtime_ns for item in [folder, *folder.iterdir()]} == before


def test_a_folder_with_other_files_is_refused(pack, tmp_path):
    archive, folder = pack(), tmp_path / "T1"
    archives.extract(archive, folder, pattern=T1)
    first, second = sorted(SCANS)[:2]
    (folder / first).unlink()
    (folder / second).write_bytes(b"mine")
    assert refusal(archives.extract, archive, folder, pattern=T1) == (
        f"{archive} cannot be unpacked: {folder} exists but does not hold the files of IXI-T1.tar: 2 of 5 files are "
        f"missing or have another size, such as {[first, second]}. Move the folder away and run again"
    )
    assert (folder / second).read_bytes() == b"mine" and not (folder / first).exists()


def test_an_empty_folder_is_filled(pack, tmp_path):
    (tmp_path / "T1").mkdir()
    assert len(archives.extract(pack(), tmp_path / "T1", pattern=T1)) == 5
    assert contents(tmp_path / "T1") == SCANS


SCAN = "IXI009-HH-9-T1.nii.gz"
EVIL = {
    "up": member(f"../{SCAN}", size=3),
    "up within": member(f"a/../../{SCAN}", size=3),
    "up without a match": member("../../etc/cron.d/x", size=3),
    "absolute": member(f"/tmp/{SCAN}", size=3),
    "backslash": member(f"..\\{SCAN}", size=3),
    "link": member(SCAN, tarfile.SYMTYPE, link="/etc/passwd"),
    "hard link": member(SCAN, tarfile.LNKTYPE, link=min(SCANS)),
    "link to a folder": member("folder", tarfile.SYMTYPE, link="/etc"),
    "pipe": member(SCAN, tarfile.FIFOTYPE),
    "device": member(SCAN, tarfile.CHRTYPE),
}


@pytest.mark.parametrize("info", EVIL.values(), ids=EVIL)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_with_an_unsafe_member_is_refused(pack, tmp_path, info, mode):
    archive = pack(SCANS, info, mode=mode)
    message = refusal(archives.extract, archive, tmp_path / "a" / "b" / "T1", pattern=T1)
    assert message.startswith(f"{archive} cannot be unpacked: it holds {info.name!r}, ")
    assert message.endswith("; nothing was unpacked")
    assert everything(tmp_path) == ["IXI-T1.tar", "a", "a/b"]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
@pytest.mark.parametrize("keep", [0, 100, 512, 600, 0.4, 0.6])
def test_a_truncated_archive_leaves_nothing(pack, tmp_path, mode, keep):
    archive = pack({name: os.urandom(2000) for name in SCANS}, mode=mode)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else keep])
    message = refusal(archives.extract, archive, tmp_path / "T1", pattern=T1)
    assert message.startswith(f"{archive} cannot be unpacked") and "truncated" in message
    assert everything(tmp_path) == ["IXI-T1.tar"]


def test_an_archive_truncated_between_two_files_is_detected(pack, tmp_path):
    archive = pack({name: bytes(1024) for name in SCANS})
    archive.write_bytes(archive.read_bytes()[: 3 * (512 + 1024)])
    assert "its end mark is missing: it is truncated" in refusal(archives.extract, archive, tmp_path / "T1", pattern=T1)
    assert everything(tmp_path) == ["IXI-T1.tar"]


def test_a_damaged_archive_leaves_nothing(pack, tmp_path):
    archive = pack({name: os.urandom(20_000) for name in SCANS}, mode="w:gz")
    damaged = bytearray(archive.read_bytes())
    damaged[-6000:-5000] = bytes(1000)
    archive.write_bytes(damaged)
    assert "damaged" in refusal(archives.extract, archive, tmp_path / "T1", pattern=T1)
    assert everything(tmp_path) == ["IXI-T1.tar"]


def test_files_without_a_usable_archive_are_refused(pack, tmp_path):
    folder, page = tmp_path / "T1", tmp_path / "page.tar"
    page.write_text("<!doctype html>" * 100)
    assert "it is truncated, damaged or no tar archive" in refusal(archives.extract, page, folder, pattern=T1)
    assert f"{tmp_path / 'no.tar'}: No such file" in refusal(archives.extract, tmp_path / "no.tar", folder, pattern=T1)
    other = pack({"a.txt": b"1", "b.txt": b"2"}, name="other.tar")
    assert "none of its 2 files matches" in refusal(archives.extract, other, folder, pattern=T1)
    twice = pack({f"{a}/{SCAN}": b"1" for a in "ab"}, name="twice.tar")
    assert f"it holds {SCAN} twice (a/{SCAN} and b/{SCAN})" in refusal(archives.extract, twice, folder, pattern=T1)
    assert not folder.exists()


def test_a_full_disk_is_detected_before_and_during_extraction(pack, small_disk, monkeypatch):
    archive = pack({name: bytes(150_000) for name in SCANS})
    message = refusal(archives.extract, archive, small_disk / "T1", pattern=T1)
    assert f"T1 needs 0.75 MB more on the disk of {small_disk}" in message
    monkeypatch.setattr(fetch, "require_free_space", lambda *arguments: None)
    message = refusal(archives.extract, archive, small_disk / "T1", pattern=T1)
    assert message == f"{archive} cannot be unpacked: the disk of {small_disk} is full; free some space and run again"
    assert everything(small_disk) == []


def test_the_run_after_a_kill_removes_its_partial_folder(pack, tmp_path, monkeypatch):
    archive = pack()

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", killed)
        patch.setattr(shutil, "rmtree", lambda *arguments, **options: None)  # as a kill that asks nobody
        with pytest.raises(KeyboardInterrupt):
            archives.extract(archive, tmp_path / "T1", pattern=T1)
    assert (tmp_path / ".T1.part").exists() and not (tmp_path / "T1").exists()
    archives.extract(archive, tmp_path / "T1", pattern=T1)
    assert contents(tmp_path / "T1") == SCANS and names(tmp_path) == ["IXI-T1.tar", "T1"]


LICENCE = {"name": "NVIDIA Open Model License", "address": "https://nvidia.example/licence", "forbids": "this and that"}


def test_the_script_logs_the_licence_then_downloads(site, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("workflow_scripts._cli.log_to_terminal", lambda: None)
    config = {"autoencoder": {"url": site.url, "sha256": sha(BODY), "licence": LICENCE}}
    out = tmp_path / "maisi" / "autoencoder_v1.pt"
    maisi_script.main(["--config", json.dumps(config), "--out", str(out)])
    assert out.read_bytes() == BODY
    assert caplog.messages[0] == (
        "licence: NVIDIA Open Model License, https://nvidia.example/licence. It forbids: this and that. "
        "By continuing you accept it."
    )
    out.unlink()
    with pytest.raises(SystemExit, match=r"autoencoder_v1.pt could not be fetched: .* By hand: download "):
        maisi_script.main(
            ["--config", json.dumps({"autoencoder": {**config["autoencoder"], "sha256": "0" * 64}}), "--out", str(out)]
        )


@pytest.fixture(scope="module")
def published():
    return maisi.MAISIVAEWrapper(maisi.PUBLISHED)


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("was-run"),))


def not_weights(path, error_of=load):
    with pytest.raises(ValueError) as error:
        error_of(path)
    return str(error.value)


@pytest.mark.parametrize("name", ["autoencoder_v1.pt", "vae.safetensors"])
@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "(it is empty; download it again)"),
        (b"\n <!DOCTYPE html><html><body>Sign in</body></html>", "(it is a web page; download "),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1f8a\nsize 83831868\n",
            "(it is a git-lfs pointer; run git lfs pull, or download the file itself)",
        ),
    ],
    ids=["empty", "page", "pointer"],
)
def test_a_file_without_weights_is_described(tmp_path, name, data, named):
    (tmp_path / name).write_bytes(data)
    assert not_weights(tmp_path / name).startswith(f"{tmp_path / name} cannot be read as weights {named}")


def test_a_pickle_with_code_is_described_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.ones(2), "note": Payload()}, "code.pt")
    assert not_weights(Path("code.pt")).endswith(", which can run code, and was not loaded; save only tensors)")
    torch.save(nn.Linear(2, 2), "model.pt")
    assert "(it is a pickle with torch.nn.modules.linear.Linear, which can run code" in not_weights(Path("model.pt"))
    torch.save({"note": Payload()}, "old.pt", _use_new_zipfile_serialization=False)
    assert "cannot be read as weights (it " in not_weights(Path("old.pt"))
    assert not Path("was-run").exists()


def test_a_torchscript_program_is_described(tmp_path):
    with pytest.warns():
        torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "program.pt")
        assert "(it is a TorchScript program;" in not_weights(tmp_path / "program.pt")


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ({"time_embed.0.weight": (8, 4), "conv_in.conv.weight": (8, 4, 3, 3, 3)}, "a diffusion UNet, published beside"),
        ({"controlnet_cond_embedding.conv_in.conv.weight": (8, 1, 3, 3, 3)}, "a ControlNet; "),
        ({"encoder.conv_in.weight": (8, 3, 3, 3), "encoder.conv_in.bias": (8,)}, "a 2D network; "),
        ({"encoder.blocks.0.conv.weight": (8, 1, 3, 3, 3)}, "a plain MONAI autoencoder, not MAISI's; "),
    ],
    ids=["unet", "controlnet", "2d", "plain"],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_of_another_network_are_described(tmp_path, state, kind, wrapped):
    weights = {name: torch.ones(shape) for name, shape in state.items()}
    torch.save({"epoch": 3, "unet_state_dict": weights} if wrapped else weights, tmp_path / "other.pt")
    message = not_weights(tmp_path / "other.pt")
    assert message.startswith(f"{tmp_path / 'other.pt'} is not this autoencoder: it is {kind}")
    assert f"expected 130 tensors, got {len(state)}" in message


def test_a_2d_autoencoder_with_the_right_names_is_described(published, tmp_path):
    state = published.net.state_dict()
    flat = {name: weight[..., 0].clone() if weight.ndim == 5 else weight for name, weight in state.items()}
    torch.save(flat, tmp_path / "flat.pt")
    assert "is not this autoencoder: it is a 2D network; " in not_weights(tmp_path / "flat.pt")


def test_only_published_weights_log_their_licence(published, tmp_path, caplog):
    torch.save({"unet_state_dict": published.net.state_dict(), "epoch": 273}, tmp_path / "autoencoder_v2.pt")
    load(tmp_path / "autoencoder_v2.pt")
    (line,) = caplog.messages
    assert line.startswith("autoencoder_v2.pt holds published weights and is bound to their licence: ")
    assert "NVIDIA Open Model License" in line and "research and evaluation only" in line
    caplog.clear()
    save_weights(published, tmp_path / "vae.safetensors")
    load(tmp_path / "vae.safetensors")
    assert caplog.messages == []
