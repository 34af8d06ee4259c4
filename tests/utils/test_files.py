import errno
import os
import resource

import pytest

from enl_detectron2.utils.errors import FileNotWritten
from enl_detectron2.utils.files import whole_file


def write(path, content):
    with whole_file(path) as file:
        file.write(content)


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file.txt"
    write(path, b"before")
    for error in (ValueError("a bug"), KeyboardInterrupt()):
        with pytest.raises(type(error)), whole_file(path) as file:
            file.write(b"half")
            assert file.name.endswith(".txt") and os.path.exists(file.name)
            raise error
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_bytes() == b"before"
    mode = os.umask(0o022)
    write(tmp_path / "other.txt", b"")
    os.umask(mode)
    assert (tmp_path / "other.txt").stat().st_mode & 0o777 == 0o644


def test_the_longest_names_can_be_written(tmp_path):
    longest = tmp_path / ("x" * 251 + ".txt")
    write(longest, b"content")
    assert longest.read_bytes() == b"content"
    too_long = tmp_path / ("x" * 5000)
    with pytest.raises(FileNotWritten, match="xxx can't be written: File name too long"):
        write(too_long, b"content")
    with pytest.raises(FileNotWritten, match="none/a can't be written: No such file or directory"):
        write(tmp_path / "none/a", b"content")


def test_what_the_disk_does_not_take_leaves_what_was_there(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("before")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(FileNotWritten, match="html can't be written: File too large") as error:
            write(path, b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.errno == errno.EFBIG
    assert path.read_text() == "before" and len(list(tmp_path.iterdir())) == 1
