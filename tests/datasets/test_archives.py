import bz2
import io
import lzma
import os
import random
import struct
import tarfile
import tracemalloc
import zipfile
import zlib

import pytest

from quickstudy.datasets import archives
from quickstudy.datasets.archives import ArchiveError, Limits, read_archive

CONTENT = {"a/one.txt": b"one " * 100, "a/two.bin": bytes(range(256)) * 9}


def everything(name):
    return True


def make_zip(path, content=CONTENT, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def make_tar(path, content=CONTENT, extra=()):
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in extra:
            archive.addfile(info)
    return path


MAKERS = [(make_zip, "x.zip"), (make_tar, "x.tar"), (make_tar, "x.tar.gz")]


@pytest.mark.parametrize(("make", "name"), MAKERS)
def test_members_are_read(tmp_path, make, name):
    archive = make(tmp_path / name)
    assert dict(read_archive(archive, everything)) == CONTENT
    assert list(dict(read_archive(archive, lambda n: n.endswith("bin")))) == ["a/two.bin"]


@pytest.mark.parametrize(("make", "name"), MAKERS)
@pytest.mark.parametrize("evil", ["../up.txt", "a/../../up.txt", "/etc/passwd", "C:\\x", "..\\up"])
def test_paths_outside_the_folder_are_refused(tmp_path, make, name, evil):
    archive = make(tmp_path / name, {**CONTENT, evil: b"x"})
    with pytest.raises(ArchiveError, match="outside its folder"):
        list(read_archive(archive, everything))
    # even when nobody asks for that member
    with pytest.raises(ArchiveError, match="outside its folder"):
        list(read_archive(archive, lambda n: n == "a/one.txt"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    info = tarfile.TarInfo("a/link")
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(ArchiveError, match="is a link or a device"):
        list(read_archive(make_tar(tmp_path / "x.tar", extra=[info]), everything))


def test_a_link_in_a_zip_is_refused(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("a/link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(ArchiveError, match="is a link or a device"):
        list(read_archive(path, everything))


@pytest.mark.parametrize(("make", "name"), MAKERS)
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, make, name):
    archive = make(tmp_path / name, {"a/bomb": bytes(3_000_000)})
    with pytest.raises(ArchiveError, match=r"bomb.*3,000,000|3,000,000.*bomb"):
        list(read_archive(archive, everything, Limits(file_bytes=2_000_000)))
    many = make(tmp_path / f"many-{name}", {f"a/{i}": bytes(1000) for i in range(30)})
    with pytest.raises(ArchiveError, match="add up to over 20,000"):
        list(read_archive(many, everything, Limits(total_bytes=20_000)))
    with pytest.raises(ArchiveError, match="over 20 members"):
        list(read_archive(many, everything, Limits(members=20)))


def test_a_zip_with_too_high_a_compression_ratio_is_refused(tmp_path):
    archive = make_zip(tmp_path / "x.zip", {"a/bomb": bytes(3_000_000)})
    with pytest.raises(ArchiveError, match="claim to unpack to 3,000,000"):
        list(read_archive(archive, everything, Limits(ratio=100)))


@pytest.mark.parametrize(("make", "name"), MAKERS)
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.6])
def test_a_truncated_archive_is_refused(tmp_path, make, name, keep):
    archive = make(tmp_path / name, {"a/noise": bytes((i * i) % 251 for i in range(20_000))})
    archive.write_bytes(archive.read_bytes()[: int(keep * archive.stat().st_size)])
    with pytest.raises(ArchiveError, match=f"{name}: damaged or incomplete.*download it again"):
        list(read_archive(archive, everything))


@pytest.mark.parametrize(("make", "name"), [MAKERS[0], MAKERS[2]])
def test_an_altered_byte_is_detected(tmp_path, make, name):
    archive = make(tmp_path / name, {"a/noise": bytes((i * i) % 251 for i in range(20_000))})
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 255
    archive.write_bytes(data)
    with pytest.raises(ArchiveError, match="damaged"):
        list(read_archive(archive, everything))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_errors_of_altered_archives_name_the_archive(tmp_path, method):
    """The codecs and zipfile itself raise errors of many types on damaged bytes."""
    intact = make_zip(tmp_path / "x.zip", method=method).read_bytes()
    altered, rng, refused = tmp_path / "altered.zip", random.Random(0), []
    for _ in range(500):
        data = bytearray(intact)
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        altered.write_bytes(data)
        try:
            list(read_archive(altered, everything))
        except ArchiveError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert all("altered.zip: " in message for message in refused)


@pytest.mark.timeout(20)
def test_a_pipe_instead_of_an_archive_is_refused(tmp_path):
    os.mkfifo(tmp_path / "x.zip")
    with pytest.raises(ArchiveError, match=r"x\.zip: must be a zip or tar archive; it is .* pipe"):
        list(read_archive(tmp_path / "x.zip", everything))


def test_a_text_file_is_not_an_archive(tmp_path):
    path = tmp_path / "x.zip"
    path.write_text("<html>404: not found</html>")
    with pytest.raises(ArchiveError, match="damaged or incomplete"):
        list(read_archive(path, everything))


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.zip"):
        list(read_archive(tmp_path / "nowhere.zip", everything))


def test_an_encrypted_member_is_refused(tmp_path):
    path = make_zip(tmp_path / "x.zip")
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flag in the local header, and the one in the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match="encrypted"):
        list(read_archive(path, everything))


def header(kind=tarfile.REGTYPE, size=0, name="a/file"):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def pax(records, kind=tarfile.XHDTYPE):
    body = b""
    for key, value in records:
        rest = f" {key}={value}\n".encode()
        length = len(rest) + len(str(len(rest)))
        length = len(rest) + len(str(length))
        body += str(length).encode() + rest
    return header(kind, len(body)) + body.ljust(-(-len(body) // 512) * 512, b"\0")


END = bytes(1024)
LONG = 10_000_000
SPARSE = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "9")]

HOSTILE_TARS = {
    "a long name": header(tarfile.GNUTYPE_LONGNAME, LONG) + b"x" * LONG + header() + END,
    "a long link": header(tarfile.GNUTYPE_LONGLINK, LONG) + b"x" * LONG + header() + END,
    "a long extended header": header(tarfile.XHDTYPE, LONG)
    + f"{LONG} path=".encode().ljust(LONG, b"x")
    + header()
    + END,
    "a long global header": header(tarfile.XGLTYPE, LONG) + b"x" * LONG + header() + END,
    "a name of 5,000 characters": pax([("path", "x" * 5000)]) + header() + END,
    "many global headers": pax([(f"k{i}", "v") for i in range(101)], tarfile.XGLTYPE)
    + header()
    + END,
    "nested extended headers": pax([("a", "b")]) * 2000 + header() + END,
    "the map of a sparse file": pax(SPARSE)
    + header(size=LONG)
    + (b"9" * 1000 + b"\n") * (LONG // 1001)
    + END,
    "an old sparse map": header(tarfile.GNUTYPE_SPARSE)[:482] + b"\1" + bytes(29) + b"\1" * LONG,
    "a size that is negative": pax([("size", "-512")]) + header() + END,
    "a size without end": pax([("size", "9" * 4000)]) + header() + END,
    "a size of its own kind": pax([("size", "10000000000000000000")]) + header() + END,
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", HOSTILE_TARS)
def test_headers_are_refused_before_they_fill_memory(tmp_path, kind, packed):
    path = tmp_path / "x.tar"
    content = HOSTILE_TARS[kind]
    path.write_bytes(zlib.compress(content, 1, 31) if packed else content)
    tracemalloc.start()
    with pytest.raises(ArchiveError, match=r"x\.tar: ") as caught:
        list(read_archive(path, everything))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000
    assert len(str(caught.value)) < 600


def test_memory_does_not_grow_with_the_members_that_were_read(tmp_path):
    path = make_tar(tmp_path / "x.tar", {f"a/{i}": b"" for i in range(1000)})
    tracemalloc.start()
    assert sum(1 for _ in read_archive(path, everything)) == 1000
    assert tracemalloc.get_traced_memory()[1] < 300_000
    tracemalloc.stop()


def test_a_tar_with_a_damaged_header_is_not_taken_for_a_shorter_one(tmp_path):
    path = make_tar(tmp_path / "x.tar", {f"a/{i}": b"content" for i in range(3)})
    intact = path.read_bytes()
    for altered in (
        intact[:1024] + b"?" + intact[1025:],  # the second header
        intact[:1536],  # ends after the first half of the second member
        intact[:3072],  # ends where the end should be marked
    ):
        path.write_bytes(altered)
        with pytest.raises(ArchiveError, match=r"x\.tar: damaged or incomplete"):
            list(read_archive(path, everything))


BOMBS = {"gz": lambda data: zlib.compress(data, 9, 31), "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("kind", BOMBS)
def test_packed_tars_are_read_and_bombs_among_them_refused(tmp_path, kind):
    plain = make_tar(tmp_path / "x.tar").read_bytes()
    path = tmp_path / f"x.tar.{kind}"
    path.write_bytes(BOMBS[kind](plain))
    assert dict(read_archive(path, everything)) == CONTENT
    size = 20_000_000
    path.write_bytes(BOMBS[kind](header(size=size) + bytes(size) + END))
    tracemalloc.start()
    with pytest.raises(ArchiveError, match=rf"x\.tar\.{kind}: .*bomb"):
        list(read_archive(path, everything, Limits(ratio=500)))
    assert tracemalloc.get_traced_memory()[1] < 15_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_without_a_limit_are_refused(tmp_path, method):
    path = make_zip(tmp_path / "x.zip", {"a/zeros": bytes(20_000_000)}, method)
    tracemalloc.start()
    with pytest.raises(ArchiveError, match=r"x\.zip: 'a/zeros' is packed by method \d+"):
        list(read_archive(path, everything))
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_members_of_a_zip_that_share_their_bytes_are_refused(tmp_path):
    path = make_zip(tmp_path / "x.zip", {"a/0": bytes(900_000)})
    intact = path.read_bytes()
    start = intact.index(b"PK\x01\x02")
    end = intact.index(b"PK\x05\x06")
    entry, count = intact[start:end], 200
    close = bytearray(intact[end:])
    close[8:12] = struct.pack("<HH", count, count)
    close[12:16] = struct.pack("<I", count * len(entry))
    path.write_bytes(intact[:start] + entry * count + close)
    with pytest.raises(ArchiveError, match=r"x\.zip: (refused: .* claim|damaged)"):
        list(read_archive(path, everything, Limits(ratio=1000)))


def test_the_list_of_a_zip_is_bounded_before_it_is_parsed(tmp_path, monkeypatch):
    path = make_zip(tmp_path / "x.zip", {f"a/{i}": b"" for i in range(3000)})
    tracemalloc.start()
    with pytest.raises(ArchiveError, match=r"x\.zip: refused: there are over 100 members"):
        list(read_archive(path, everything, Limits(members=100)))
    assert tracemalloc.get_traced_memory()[1] < 700_000
    tracemalloc.stop()
    monkeypatch.setattr(archives, "MOST_DIRECTORY", 10_000)
    with pytest.raises(ArchiveError, match=r"x\.zip: refused: its list of members is over 10,000"):
        list(read_archive(path, everything))
