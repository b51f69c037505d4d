"""Rows are appended whole, found again, mended after a kill, and one process works on a run at a time."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from harness.records import Answer, Failure, Judgment, Rating
from harness.records.errors import ConfigError, RunLockedError, StoreError
from harness.store import JsonlRows, RunStore, archive_run, find_cards, make_folder, write_atomic
from harness.store.runs import find_run


def answer(prompt_id: str, text: str = "hello") -> Answer:
    return Answer(prompt_id=prompt_id, model="m", turns=(text,), finish=("stop",))


def failed(prompt_id: str) -> Answer:
    return Answer(prompt_id=prompt_id, model="m", error=Failure(reason="timeout", message="late"))


def opened(folder: Path) -> RunStore:
    return RunStore(folder).open({"run": 1})


def test_rows_are_there_after_reopening(tmp_path: Path) -> None:
    store = opened(tmp_path / "run")
    store.answers.append(answer("a", "über\nzwei"))
    store.close()

    again = opened(tmp_path / "run")

    assert again.answers.get("a#0") == answer("a", "über\nzwei")
    again.close()


def test_a_failure_is_not_done_and_the_last_row_of_a_key_wins(tmp_path: Path) -> None:
    store = opened(tmp_path / "run")
    store.answers.append(failed("a"))
    assert not store.answers.succeeded("a#0")

    store.answers.append(answer("a"))

    assert store.answers.succeeded("a#0")
    assert [row.error for row in store.answers.all()] == [None]
    store.close()


def test_calls_of_unknown_price_beside_free_cached_replies_are_not_called_free(tmp_path: Path) -> None:
    store = opened(tmp_path / "run")
    common = {"judge": "j", "model": "m", "answer_sha": "s", "template_sha": "t", "verdict": Rating(value=5)}
    store.judgments.append(Judgment.model_validate({**common, "prompt_id": "a", "calls": 0, "paid": 0.0}))
    assert store.spending().paid == (0.0,)

    store.judgments.append(Judgment.model_validate({**common, "prompt_id": "b", "calls": 1, "paid": None}))

    assert (store.spending().calls, store.spending().paid) == (1, ())
    store.close()


def test_several_rows_are_read_in_the_order_of_their_keys_the_last_of_each(tmp_path: Path) -> None:
    long_text = "x" * 200_000  # more than the three blocks of 65,536 bytes that are read for it
    rows: JsonlRows[Answer] = JsonlRows(tmp_path / "answers.jsonl", Answer)
    rows.open()
    for row in (answer("a"), answer("b", long_text), answer("c"), answer("a", "again")):
        rows.append(row)
    texts = [row.turns[0] for row in rows.several(["c#0", "b#0", "none#0", "a#0", "c#0"])]
    assert texts == ["hello", long_text, "again", "hello"]
    assert [row.turns[0] for row in rows.all()] == ["again", long_text, "hello"]
    assert rows.get("b#0") == answer("b", long_text)
    rows.close()


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_torn_last_line_is_dropped_and_the_rest_kept(tmp_path: Path, cut: int) -> None:
    store = opened(tmp_path / "run")
    store.answers.append(answer("a"))
    store.answers.append(answer("b"))
    store.close()
    path = tmp_path / "run" / "answers.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])

    again = opened(tmp_path / "run")
    again.answers.append(answer("c"))

    assert [row.prompt_id for row in again.answers.all()] == ["a", "c"]
    again.close()
    assert [json.loads(line)["prompt_id"] for line in path.read_text().splitlines()] == ["a", "c"]


def test_a_file_that_is_one_torn_line_becomes_empty(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "answers.jsonl").write_text('{"prompt_id": "a"' + "x" * 200_000)

    store = opened(folder)

    assert len(store.answers) == 0
    assert (folder / "answers.jsonl").read_bytes() == b""
    store.close()


def test_rows_are_indexed_without_writing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.answers.append(answer("q1"))
    store.answers.append(failed("q2"))
    store.close()
    path = tmp_path / "answers.jsonl"
    path.write_bytes(path.read_bytes() + b'{"prompt_id": "q3", "mod')
    before = path.read_bytes()

    rows = RunStore(tmp_path)
    rows.answers.index()
    rows.anchors.index()

    assert [rows.answers.succeeded(f"q{number}#0") for number in (1, 2, 3)] == [True, False, False]
    assert path.read_bytes() == before
    assert not rows.anchors.path.exists()


def test_a_line_that_is_no_row_names_file_and_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "answers.jsonl").write_text('{"prompt_id": "a"}\n')

    with pytest.raises(ConfigError, match=r"answers\.jsonl, line 1"):
        opened(folder)


def _hold(folder: Path, ready: object, go: object) -> None:
    store = opened(folder)
    ready.set()  # type: ignore[attr-defined]  # a multiprocessing event has no public type
    go.wait()  # type: ignore[attr-defined]
    store.close()


def test_a_second_process_is_refused_with_the_holders_pid(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "run", ready, go))
    holder.start()
    try:
        assert ready.wait(30)
        with pytest.raises(RunLockedError, match=f"pid {holder.pid}"):
            opened(tmp_path / "run")
    finally:
        go.set()
        holder.join()
    opened(tmp_path / "run").close()


def test_a_run_without_a_row_leaves_nothing(tmp_path: Path) -> None:
    opened(tmp_path / "runs" / "m" / "toy@1" / "abc").close()

    assert list((tmp_path / "runs").iterdir()) == []


def test_a_fresh_start_is_refused_while_another_process_works_there(tmp_path: Path) -> None:
    holder = opened(tmp_path / "run")
    holder.answers.append(answer("a"))

    with pytest.raises(RunLockedError):
        RunStore(tmp_path / "run").open({"run": 1}, fresh=True)

    assert holder.answers.get("a#0") == answer("a")
    holder.close()
    fresh = RunStore(tmp_path / "run").open({"run": 1}, fresh=True)
    assert len(fresh.answers) == 0
    fresh.close()


def test_another_manifest_is_refused_and_names_what_differs(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run").open({"seed": 0, "model": "a"})
    store.answers.append(answer("a"))
    store.close()

    with pytest.raises(ConfigError, match="another seed"):
        RunStore(tmp_path / "run").open({"seed": 1, "model": "a"})


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path / "run")
    store.answers.append(answer("a"))
    before = (tmp_path / "run" / "answers.jsonl").read_bytes()
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:5]))

    with pytest.raises(StoreError, match="No space left"):
        store.answers.append(answer("b"))

    monkeypatch.undo()
    assert (tmp_path / "run" / "answers.jsonl").read_bytes() == before
    store.answers.append(answer("c"))
    assert [row.prompt_id for row in store.answers.all()] == ["a", "c"]
    store.close()


def test_an_atomic_write_that_fails_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match="it is a folder"):
        write_atomic(tmp_path / "folder", "text")
    with pytest.raises(ConfigError, match=r"cannot write \.: it is a folder"):
        write_atomic(Path(), "text")
    with pytest.raises(ConfigError, match="should be its folder is a file"):
        write_atomic(tmp_path / "file" / "deep", "text")
    with pytest.raises(ConfigError, match="should be its folder is a file"):
        write_atomic(tmp_path / "file" / "deep" / "deeper", "text")

    with pytest.raises(ConfigError, match="there is a file of its name"):
        make_folder(tmp_path / "file" / "deep")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_run_set_aside_is_kept_but_not_found(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "m" / "toy@1" / "abc"
    folder.mkdir(parents=True)
    (folder / "card.json").write_text("{}")
    assert find_cards(tmp_path) == [folder / "card.json"]

    aside = archive_run(folder)

    assert aside is not None
    assert (aside / "card.json").exists()
    assert find_cards(tmp_path) == []


def test_rows_that_cannot_be_opened_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").mkdir()

    with pytest.raises(ConfigError, match=r"cannot read .*answers\.jsonl: Is a directory"):
        JsonlRows(tmp_path / "answers.jsonl", Answer).read()


# Files that are damaged, or that someone else planted


@pytest.mark.parametrize("content", ["", '{"run": ', "[]", "3", "null", '"text"', "[" * 100_000])
def test_a_damaged_manifest_is_one_sentence_and_nothing_is_changed(tmp_path: Path, content: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text(content)

    with pytest.raises(ConfigError, match=r"manifest\.json is not (a )?JSON.*use --fresh to archive this run"):
        opened(tmp_path / "run")

    assert (tmp_path / "run" / "manifest.json").read_text() == content
    fresh = RunStore(tmp_path / "run").open({"run": 1}, fresh=True)
    fresh.close()


def test_damaged_sessions_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = opened(tmp_path / "run")
    store.end_session({"seconds": 2.0, "ended": "2026-11-26"})
    lines = [b'{"seconds": 1', b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"seconds": NaN, "tokens": 3, "more": [1]}', b""]
    with (tmp_path / "run" / "sessions.jsonl").open("ab") as file:
        file.write(b"\n".join(lines))

    assert store.sessions() == [{"seconds": 2.0, "ended": "2026-11-26"}, {"tokens": 3}]
    assert caplog.text.count("skipped a torn line") == 4
    store.close()


@pytest.mark.parametrize("name", ["answers.jsonl", "judgments.jsonl", "sessions.jsonl", ".lock"])
def test_no_link_in_a_run_folder_is_written_through(tmp_path: Path, name: str) -> None:
    (tmp_path / "precious").write_text("kept, without a newline")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "precious")

    def write() -> None:
        opened(tmp_path / "run").end_session({"seconds": 1.0})

    with pytest.raises(StoreError):
        write()

    assert (tmp_path / "precious").read_text() == "kept, without a newline"


def test_an_atomic_write_replaces_a_link_and_does_not_write_through_a_planted_temporary_one(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "card.json").symlink_to(tmp_path / "precious")
    write_atomic(tmp_path / "card.json", "new")
    assert not (tmp_path / "card.json").is_symlink()

    (tmp_path / f".card.json.{os.getpid()}.tmp").symlink_to(tmp_path / "precious")
    with pytest.raises(StoreError):
        write_atomic(tmp_path / "card.json", "newer")

    assert (tmp_path / "precious").read_text() == "kept"
    assert (tmp_path / "card.json").read_text() == "new"


def test_the_damaged_card_of_another_run_does_not_hide_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for model, content in (("a", b"{"), ("b", b"\xff"), ("c", b"")):
        folder = tmp_path / "runs" / model / "s@1" / "id"
        folder.mkdir(parents=True)
        (folder / "card.json").write_bytes(content)

    with pytest.raises(ConfigError, match="no run named 'wanted'"):
        find_run("wanted", tmp_path)
    assert caplog.text.count("is not a score card") == 3
