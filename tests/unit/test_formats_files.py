"""Files of the original tools are found and read whatever they are packed in; a broken one is named with its line."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import tarfile
from pathlib import Path

import pytest

from harness.records.errors import ConfigError
from harness.suites.files import SourceFile, read_files

LINES = '{"a": 1}\n\n{"a": "x\u2028y"}\n'
ROWS: tuple[dict[str, object], ...] = ({"a": 1}, {"a": "x\u2028y"})


def test_plain_and_packed_files_hold_the_same_rows(tmp_path: Path) -> None:
    text = LINES.encode()
    (tmp_path / "a.jsonl").write_bytes(text)
    (tmp_path / "b.jsonl.xz").write_bytes(lzma.compress(text))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(text, mtime=0))
    (tmp_path / "d.json").write_text(json.dumps(ROWS))

    found = list(read_files(sorted(tmp_path.iterdir())))

    assert [file.name for file in found] == ["a.jsonl", "b.jsonl", "c.jsonl", "d.json"]
    assert all(file.rows == ROWS for file in found)


@pytest.mark.parametrize("ending", [".tar", ".tar.xz", ".tar.gz"])
def test_a_tar_is_read_member_by_member(tmp_path: Path, ending: str) -> None:
    mode = {".tar": "w", ".tar.xz": "w:xz", ".tar.gz": "w:gz"}[ending]
    path = tmp_path / f"all{ending}"
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]  # the mode is a variable
        for name, content in (("x/one.jsonl", LINES), ("x/._one.jsonl", "no"), ("readme.txt", "no")):
            member = tarfile.TarInfo(name)
            member.size = len(content.encode())
            tar.addfile(member, io.BytesIO(content.encode()))

    assert list(read_files([path])) == [SourceFile("one.jsonl", ROWS)]  # type: ignore[arg-type]  # JSON all the same


def test_a_folder_is_read_at_any_depth_and_settings_in_it_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x.jsonl").write_text(LINES)
    (tmp_path / "settings.json").write_text('{"a": 1}')
    (tmp_path / "notes.txt").write_text("no")

    assert [file.name for file in read_files([tmp_path])] == ["x.jsonl"]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.jsonl", b'{"a": 1}\n{"a": \n', r"x\.jsonl, line 2: not JSON"),
        ("x.jsonl", b'{"a": 1}\n[2]\n', r"x\.jsonl, line 2: expected an object"),
        ("x.json", b'{"a": 1}', r"x\.json: expected a list"),
        ("x.json", b"[1]", r"x\.json: expected a list"),
        ("x.jsonl.xz", b"no", r"cannot read .*x\.jsonl\.xz"),
        ("x.jsonl.gz", gzip.compress(b'{"a": 1}', mtime=0)[:-9], r"cannot read .*x\.jsonl\.gz"),
        ("x.tar.gz", b"no", r"cannot read .*x\.tar\.gz"),
        ("x.jsonl", b"\xff", r"cannot read .*x\.jsonl"),
        ("x.csv", b"", r"x\.csv: expected \.json"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(ConfigError, match=sentence):
        list(read_files([tmp_path / name]))


def test_a_path_that_is_not_there_and_an_empty_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        list(read_files([tmp_path / "none.jsonl"]))
    with pytest.raises(ConfigError, match=r"no \.json or \.jsonl file"):
        list(read_files([tmp_path]))
