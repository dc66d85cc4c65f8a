"""IXI: demographics, archive, and a folder that the cohort reads."""

import base64
import io
import json
import logging
import tarfile
import threading
import zlib
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest

from neuromf.core.files import sha256
from neuromf.data import download, ixi, participants
from neuromf.workflow import listing
from workflow_scripts import cohort as cohort_script
from workflow_scripts import ixi as ixi_script

pytestmark = pytest.mark.filterwarnings("ignore:The xlrd engine is deprecated")

# A workbook like IXI.xls: two sheets, its columns, dates as dates. The participants are invented.
XLS = (
    "eNrtWF1oHFUU/u7szuzOdnezE9NiI5alYG1rirRC8CXZTHY3yUiy+emmSSQYk2ZLY2sqISAtUmtrHoVSQVB8qdQHFeof+NuKgg99EFoqKAhCkoIP"
    "9UlQEWmznnvmZ2c3m9AFDUT2LHPmnHPvPd+955x7Z3ZuXDcWL37YvIQKakcAK0Udms8m6NJdJQFqLxal6N7DdBXrtKlID1MiNRVfxr4LyRzKfC9B"
    "wQfBb4gDy3SN4znkTswWkhtInTyHSSHn0CaCVHsK3qQrju08r0bmh5nfx/x97nuFeQdbXmHeRn0XxZO4nsrtfdyp41FlJ7fFiQt8ymN+Yst+bMU1"
    "Wccvnhd2XxXm3Mzk8U3WsCMYxSVQSrsLs4U5qTfgbUSAMaJ9fX37MplFNFG6L+GPYhL43d3XXyfr9o21C5D9r3J7aA17mJJYaX9VCQJnUHxayGJe"
    "gIGPguCjOjt/dHbm8Mz8yQXE0MVHuYr85NTxwh18jAZS5UVlb2WoMZvvyVlpFRg5OjNfIIM1ak1YGQM4mB0lIbl7f9uzLckDbUf2UGNP1uruyZMw"
    "woLujqeOVGV95pCVN3tJiQH96fTwgJm3+nOk03EzOGz2Wl1W2jUFgEx/Z5y4mc9OmIdMq9fs7M2Sm4P54czYhDRTH7NbmmCfWImyEyvG+zhKfJqW"
    "JGWDd3OCAnbnnd9u9k0NpCbYcoafUvaz7CEZOBTxkhxBg+Pconh8L/NHmJ9lrw+w3My8iWJJ910DWx2h6xz3eZlbdxHOY0zfpx72ybtJXvh18LMd"
    "C7dSe0i+3L10qunyj6mL2EkJm6bx8ncOLaJFvPG6pM9T7l04p97PzLevOgHDSsKZe9F5YDfgrtzzRAZzW5PREU5/UdH/tBJhm8Fxlf2FF812pRGf"
    "cHg6fG8FG5ETew3RTZyTaNWcBMpyEvQ0hTTV0wK+bIB6GfJcdzSVtLCnaaTpnhYiLeJpYdK2eJpOWtTTIqTFPG0LaXFfffjnfhU9Tn1EfPyCIvlt"
    "r24MikpJ3mY/r88Lx9KIJ8YVGhmg7ApGu3HryvIzv5gdElGpgqiwnwM+n18xYrMoWSKrEHMvlBDfGnMRFUZs/zY5GJtOM2JgFWKObQaGfJ7PMqKC"
    "9RCnHiwh/j0us7jM8ZQoQY6zH6WVbeUotv8/fXIlD/EeDXIG3QpTV62glW0GDvnmeJNX0LlOzGzfKvuWVluT8XrvURtJq4Kk+ZAiNSFpZUgaIz3f"
    "YSOFOHLldRDi8ad8Ht9lJG3dOnjtWnlWIuw/XGUlYR512hfxC81wdsPaK7mK+2mkXpF5xcu8XqW+dDtOoZKvH3glreuu5MhoaSW3n5IoXzAKn8yo"
    "djLXqU51qtNaJJx33QC/WYCfGhqfavZ3nbt0rdQ/k/xvaQgn6DdPfymzmKX7HE7WVD/boArXl7jHMe73QkkjhD6HY5jieRyruX7pvVL413PPAxP/"
    "3haqFX+llnn+x/j/AL96bPM="
)
HEADER = 'IXI_ID,"SEX_ID (1=m, 2=f)",HEIGHT,WEIGHT,ETHNIC_ID,DOB,DATE_AVAILABLE,STUDY_DATE,AGE'
SCANS = ["IXI002-Guys-0828-T1.nii.gz", "IXI020-HH-1212-T1.nii.gz", "IXI035-IOP-0873-T1.nii.gz"]


@pytest.fixture
def workbook(tmp_path):
    path = tmp_path / "IXI.xls"
    path.write_bytes(zlib.decompress(base64.b64decode(XLS)))
    return path


@pytest.fixture
def table(tmp_path):
    """Read the demographics of these rows."""

    def make(*rows, header=HEADER):
        (tmp_path / "ixi.csv").write_text("\n".join([header, *rows]) + "\n")
        return ixi.read_demographics(tmp_path / "ixi.csv")

    return make


def rows_of(frame):
    """Rows as tuples, unknown numbers as None."""
    return [tuple(None if value != value else value for value in row) for row in frame.itertuples(index=False)]


def test_the_workbook_gives_one_row_per_participant(workbook, caplog):
    frame = ixi.read_demographics(workbook)
    assert frame.columns.tolist() == ["participant_id", "sex", "age", "height_cm", "weight_kg"]
    assert rows_of(frame) == [
        ("IXI002", "F", 35.8, 164, 58),
        ("IXI012", "M", 38.78, 175, 70),
        ("IXI020", "F", 56, 160, 61),  # two rows that each know what the other does not
        ("IXI021", "", None, 180, 80),  # two rows that contradict each other
        ("IXI030", "F", 26, 170, 65),  # age from dates
        ("IXI031", "", None, None, None),  # sex 0, age 0, height 1700, weight 3
        ("IXI500", "M", 46, 181, 77),
    ]
    assert caplog.messages == [
        "IXI.xls: 2 participants have several rows. Contradicting, so unknown: sex of IXI021; age of IXI021"
    ]


def test_dates_of_birth_are_never_written(workbook, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    participants.write_table(ixi.read_demographics(workbook), tmp_path / "participants.tsv")
    written = (tmp_path / "participants.tsv").read_text() + caplog.text
    assert not any(year in written for year in ("1950", "1966", "1970", "1980", "1960", "2005", "2006"))


def test_a_given_age_is_not_computed(table):
    frame = table("1,1,170,70,1,1980-01-01,1,2006-01-01,55", "2,1,170,70,1,1980-01-01,1,2006-01-01,")
    assert frame["age"].tolist() == [55, 26]


def test_a_second_row_without_an_age_does_not_contradict_the_first(table):
    """Its dates give an age that differs by a few hundredths."""
    frame = table("7,1,170,70,1,1980-01-01,1,2006-01-01,26.05", "7,1,170,70,1,1980-01-01,1,2006-01-01,")
    assert rows_of(frame) == [("IXI007", "M", 26.05, 170, 70)]


def test_contradicting_ages_are_not_replaced_by_dates(table):
    frame = table("7,1,170,70,1,1980-01-01,1,2006-01-01,26", "7,1,170,70,1,1980-01-01,1,2006-01-01,41")
    assert rows_of(frame) == [("IXI007", "M", None, 170, 70)]


@pytest.mark.parametrize(
    ("born", "scanned"),
    [
        ("01/02/1980", "2006-01-01"),  # January or February
        ("29221", "2006-01-01"),  # a spreadsheet's count of days
        ("", "2006-01-01"),
        ("1980-13-45", "2006-01-01"),
        ("2006-01-01", "1980-01-01"),  # scanned before birth
        ("1880-01-01", "2006-01-01"),
    ],
)
def test_ambiguous_dates_give_no_age(table, born, scanned):
    assert np.isnan(table(f"1,1,170,70,1,{born},1,{scanned},")["age"][0])


@pytest.mark.parametrize(
    ("column", "good", "bad"),
    [
        ("age", [10, 19.98, 86.32, 110], [0, 9.99, 110.01, -3, 1955, "n/a"]),
        ("height_cm", [120, 158, 220], [0, 1, 119, 1700, "tall"]),
        ("weight_kg", [30, 70.5, 250], [0, 29, 700, -1]),
    ],
)
def test_values_outside_their_bounds_are_unknown(table, column, good, bad):
    values = {"age": 50, "height_cm": 170, "weight_kg": 70}
    row = "{n},1,{height_cm},{weight_kg},1,,1,,{age}".format
    rows = [row(n=n, **{**values, column: value}) for n, value in enumerate([*good, *bad], start=1)]
    assert table(*rows)[column].tolist() == pytest.approx([*good, *[np.nan] * len(bad)], nan_ok=True)


def test_sex_is_decoded_by_the_name_of_its_column(table):
    rows = ["1,1,0,0,1,,1,,50", "2,2,0,0,1,,1,,50", "3,0,0,0,1,,1,,50", "4,3,0,0,1,,1,,50", "5,,0,0,1,,1,,50"]
    assert table(*rows)["sex"].tolist() == ["M", "F", "", "", ""]
    turned = HEADER.replace("SEX_ID (1=m, 2=f)", "SEX_ID (1=f; 2 = m)")
    assert table(*rows[:2], header=turned)["sex"].tolist() == ["F", "M"]
    assert table(*rows[:2], header=HEADER.replace("SEX_ID (1=m, 2=f)", "sex"))["sex"].tolist() == ["M", "F"]


def test_ids_have_three_digits_and_rows_without_one_are_ignored(table, caplog):
    rows = ["12,1,170,70,1,,1,,50", "IXI007,1,170,70,1,,1,,50", ",1,170,70,1,,1,,50", "x,1,170,70,1,,1,,50"]
    assert table(*rows)["participant_id"].tolist() == ["IXI007", "IXI012"]
    assert caplog.messages == ["2 rows without a participant are ignored"]


def test_a_table_without_dates_is_read(table):
    frame = table("1,1,170,70,50", header="IXI_ID,SEX_ID,HEIGHT,WEIGHT,AGE")
    assert rows_of(frame) == [("IXI001", "M", 50, 170, 70)]


def test_another_table_is_refused(tmp_path, table):
    with pytest.raises(ValueError, match=r"ixi.csv lacks a column HEIGHT...; it has IXI_ID, SEX_ID, AGE"):
        table("1,1,50", header="IXI_ID,SEX_ID,AGE")
    for name, data in {"page.xls": b"<html>", "cut.xls": zlib.decompress(base64.b64decode(XLS))[:3000]}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name} cannot be read as a table \(.*Expected is IXI.xls as IXI"):
            ixi.read_demographics(tmp_path / name)


def test_every_participant_with_a_scan_has_a_row(workbook, caplog):
    caplog.set_level(logging.INFO, logger="neuromf.data.ixi")
    frame = ixi.participants_of_scans(ixi.read_demographics(workbook), [SCANS[2], SCANS[0]])
    assert rows_of(frame) == [("IXI002", "F", 35.8, 164, 58), ("IXI035", "", None, None, None)]
    assert caplog.messages[-1] == (
        "2 participants with a T1 scan; unknown: sex of 1, age of 1, height_cm of 1, weight_kg of 1. 6 without a scan"
    )


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, workbook):
    """Config keys of a server with IXI.xls and IXI-T1.tar."""
    with tarfile.open(tmp_path / "IXI-T1.tar", "w") as tar:
        for name in [*SCANS, "IXI002-Guys-0828-T2.nii.gz", "._IXI002-Guys-0828-T1.nii.gz"]:
            info = tarfile.TarInfo(name)
            info.size = 2000
            tar.addfile(info, io.BytesIO(bytes(2000)))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        root = f"http://127.0.0.1:{server.server_port}"
        keys = {"t1_sha256": sha256(tmp_path / "IXI-T1.tar"), "demographics_sha256": sha256(workbook)}
        yield {"t1": f"{root}/IXI-T1.tar", "demographics": f"{root}/IXI.xls?raw=1", "expected": 3, **keys}
        server.shutdown()
        thread.join()


def run(folder, config):
    files = ["--scans", str(folder / "T1"), "--participants", str(folder / "participants.tsv")]
    ixi_script.main(["--config", json.dumps({"ixi": config}), *files])


def test_the_cohort_reads_the_downloaded_folder(server, tmp_path):
    folder = tmp_path / "data" / "ixi"
    run(folder, server)
    expected = ["IXI-T1.tar", "IXI-T1.tar.json", "IXI.xls", "IXI.xls.json", "T1", "participants.tsv"]
    assert sorted(path.name for path in folder.iterdir()) == expected
    assert sorted(path.name for path in (folder / "T1").iterdir()) == SCANS
    assert (folder / "participants.tsv").read_text().splitlines()[0] == "participant_id\tsex\tage\theight_cm\tweight_kg"
    config = {"cohort": {"source": "folder", "root": str(folder), **listing.IXI, "split": {"train": 1.0}}, "seed": 0}
    cohort_script.main(["--config", json.dumps(config), "--out", str(tmp_path / "cohort.tsv")])
    read = participants.read_table(tmp_path / "cohort.tsv")
    assert read["participant"].tolist() == ["IXI002", "IXI020", "IXI035"] and (read["problem"] == "").all()
    assert read["sex"].tolist() == ["F", "F", ""] and read["site"].tolist() == ["Guys", "HH", "IOP"]
    assert read["age"].tolist() == pytest.approx([35.8, 56, np.nan], nan_ok=True)


def test_a_second_run_changes_nothing_and_needs_no_network(server, tmp_path):
    folder = tmp_path / "ixi"
    run(folder, server)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    gone = {"t1": "http://127.0.0.1:9/IXI-T1.tar", "demographics": "http://127.0.0.1:9/IXI.xls"}
    run(folder, {**server, **gone})
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    (folder / "IXI-T1.tar").unlink()  # all scans are there: the archive is not needed
    run(folder, {**server, **gone})
    assert not (folder / "IXI-T1.tar").exists()


def test_an_unexpected_number_of_scans_is_logged(server, tmp_path, caplog):
    files = {key: server[key] for key in ("t1", "demographics")}
    ixi.fetch(tmp_path / "ixi" / "T1", tmp_path / "ixi" / "participants.tsv", **files)
    assert f"{tmp_path / 'ixi' / 'T1'} holds 3 T1 scans, expected 581" in caplog.messages
    assert caplog.messages[0].startswith("licence: CC BY-SA 3.0 (IXI), https://creativecommons.org/")


def test_without_a_network_the_script_explains_the_manual_download(tmp_path, monkeypatch):
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    config = {"t1": "http://127.0.0.1:9/IXI-T1.tar", "demographics": "http://127.0.0.1:9/IXI.xls"}
    with pytest.raises(
        SystemExit, match=r"IXI.xls could not be fetched: .* By hand: download http://127.0.0.1:9/IXI.xls"
    ):
        run(tmp_path, config)
    with pytest.raises(SystemExit, match="names no file; it should end in one"):
        run(tmp_path, {**config, "demographics": "http://127.0.0.1:9/"})
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_table_stops_the_script(server, tmp_path):
    (tmp_path / "ixi").mkdir()
    (tmp_path / "ixi" / "IXI.xls").write_text("<html>")
    with pytest.raises(SystemExit, match="cannot be read as a table"):
        run(tmp_path / "ixi", {**server, "demographics_sha256": None})
    assert not (tmp_path / "ixi" / "participants.tsv").exists()


def test_bounds_include_the_range_of_adults(tmp_path):
    frame = pd.DataFrame({"IXI_ID": range(1, 61), "SEX": 1, "AGE": np.linspace(18, 90, 60)})
    frame["HEIGHT"], frame["WEIGHT"] = np.linspace(140, 205, 60), np.linspace(40, 150, 60)
    frame.to_csv(tmp_path / "ixi.tsv", sep="\t", index=False)
    read = ixi.read_demographics(tmp_path / "ixi.tsv")
    for name, column in {"age": "AGE", "height_cm": "HEIGHT", "weight_kg": "WEIGHT"}.items():
        np.testing.assert_allclose(read[name], frame[column], atol=0.005)
