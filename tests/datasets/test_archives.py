import io
import os
import random
import tarfile
import zipfile

import pytest

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
