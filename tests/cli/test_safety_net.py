"""Pins what the commands produce, by hash, so that code can be moved without moving a number.

Each artefact is normalised (times, versions and paths are removed, floats are cut to ten digits, rows are sorted) and
hashed; `safety_net.json` holds the expected hashes. To see what changed, run the test in both trees with
`HARNESS_NET_DIR=FOLDER`, which writes the normalised artefacts and their `hashes.json` there, and diff the two folders.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import run

ROOT = Path(__file__).resolve().parent
while not (ROOT / "pyproject.toml").exists():
    ROOT = ROOT.parent
EXPECTED = Path(__file__).with_name("safety_net.json")
VOLATILE = {"ended", "started", "seconds", "tokens_per_second", "harness", "python", "packages", "git", "device"}
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)?)?")
SPEED = re.compile(r"[\d.]+(?:,\d{3})*( \| |,)TIME")  # tokens per second stand before the date on a leaderboard
LONG_FLOAT = re.compile(r"\d+\.\d{9,}(?:e-?\d+)?")
PUBLISHED = os.environ.get("HARNESS_PUBLISHED")
MIRROR = os.environ.get("HARNESS_MIRROR")
SCORED = {
    "mt-bench-official": ("fastchat", "mt_bench/official_scores.jsonl.xz"),
    "mt-bench-single": ("fastchat", "mt_bench/judgments/Medusa.gpt-4_single.main.jsonl.xz"),
    "mt-bench-pairs": ("fastchat", "mt_bench/judgments/FastChat_skycamp.gpt-4_pair.jsonl.xz"),
    "alpaca-eval": ("alpaca_eval", "alpaca_eval/annotations/FuseChat-Gemma-2-9B-Instruct.json.xz"),
    "alpaca-eval-stable": (
        *("alpaca_eval", "alpaca_eval/annotations/FuseChat-Llama-3.2-3B-Instruct.json.xz"),
        *("--fold-order", "stable", "--no-intervals"),
    ),
    "arena-hard": ("arena_hard", "arena_hard/official_verdicts.gpt-4-0613.jsonl.xz"),
    "arena-hard-pool": (
        *("arena_hard", "arena_hard/raw_judgments/image_arena_gpt4o.tar.xz"),
        *("--baseline", "gpt4_1106_preview", "--pool"),
    ),
}
"""Artefact -> format, published file, further options of `harness score`."""


class Net:
    """Runs commands in one folder and collects their normalised artefacts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.artefacts: dict[str, str] = {}
        self.exit_codes: list[object] = []
        self.paths = sorted({str(folder), str(folder.resolve()), str(ROOT), PUBLISHED or "", MIRROR or ""} - {""})

    def call(self, *words: str, codes: tuple[int, ...] = (0,)) -> str:
        """Run `harness WORDS` in this process and return its standard output; keep the exit code in `exit_codes`."""
        out, err = io.StringIO(), io.StringIO()
        arguments, sys.argv = sys.argv, ["harness", *words]
        status: object = 0
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                run()
        except SystemExit as stop:
            status = stop.code or 0
        finally:
            sys.argv = arguments
        assert status in codes, f"harness {' '.join(words)} exited with {status}: {err.getvalue()}"
        self.exit_codes.append(status)
        return out.getvalue()

    def pin(self, name: str, text: str) -> None:
        """Add an artefact; the kind of the file, its name's suffix, decides how it is normalised."""
        if name.endswith(".jsonl"):
            text = "".join(sorted(_dumped(json.loads(line), None) for line in text.splitlines()))
        elif name.endswith(".json"):
            text = _dumped(json.loads(text), 1)
        else:
            text = LONG_FLOAT.sub(lambda match: f"{float(match[0]):.10g}", text)
        for path in reversed(self.paths):  # longer paths first
            text = text.replace(path, "PATH")
        self.artefacts[name] = SPEED.sub(r"SPEED\1TIME", TIMESTAMP.sub("TIME", text))

    def check(self, group: str) -> None:
        """Compare the hashes with the expected ones of the group; name each artefact that differs."""
        hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(self.artefacts.items())}
        if folder := os.environ.get("HARNESS_NET_DIR"):
            _write(Path(folder), group, self.artefacts, hashes)
        expected = json.loads(EXPECTED.read_text()).get(group, {})
        changed = sorted(name for name in hashes.keys() | expected.keys() if hashes.get(name) != expected.get(name))
        assert not changed, (
            f"artefacts of {group!r} differ from {EXPECTED.name}: {', '.join(changed)}. "
            "Set HARNESS_NET_DIR=FOLDER here and in an earlier tree, then diff the two folders."
        )


def _dumped(value: Any, indent: int | None) -> str:
    return json.dumps(_normal(value), indent=indent, ensure_ascii=False) + "\n"


def _normal(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: entry for key, entry in value.items() if key not in VOLATILE and not key.endswith("_seconds")}
        return {key: _normal(entry) for key, entry in kept.items()}
    if isinstance(value, list):
        return [_normal(entry) for entry in value]
    # the last digits depend on the processor's linear algebra
    return float(f"{value:.10g}") if isinstance(value, float) else value


def _write(folder: Path, group: str, artefacts: dict[str, str], hashes: dict[str, str]) -> None:
    for name, text in artefacts.items():
        path = folder / group / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    file = folder / "hashes.json"
    groups = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(groups | {group: hashes}, indent=2) + "\n")


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Net:
    for name in ("HARNESS_MIRROR", "HARNESS_PUBLISHED", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return Net(tmp_path)


def write_script(path: Path, skill: float) -> None:
    """Write answers to all pocket prompts, correct with probability `skill`, some of them wordy."""
    rows = []
    for file in sorted((ROOT / "harness").rglob("*.prompts.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            prompt = json.loads(line)
            gold = [*prompt.get("reference", []), "none", "none"][: len(prompt["turns"])]
            draw = random.Random(f"{path.name} {prompt['id']}")
            turns = [text if draw.random() < skill else f"no idea, {text[::-1]}" for text in gold]
            lead = draw.choice(("", "", "the answer is "))
            rows.append(json.dumps({"prompt_id": prompt["id"], "turns": [lead + text for text in turns]}) + "\n")
    assert len(rows) == 260
    path.write_text("".join(rows))


def test_pocket_runs_and_what_is_made_of_them(net: Net) -> None:
    pocket = ("--backend", "scripted", "--edition", "pocket")
    for model, skill in {"good": 0.9, "close": 0.85, "bad": 0.4}.items():
        write_script(net.folder / f"{model}.jsonl", skill)
        words = ("run", "--model", f"{model}.jsonl", *pocket, "--suite", "all")
        net.pin(f"dry-run/{model}.json", net.call(*words, "--dry-run", "--json"))
        net.pin(f"run/{model}.json", net.call(*words, "--json"))
    sampled = ("--limit", "24", "--seed", "7", "--temperature", "0.5", "--samples", "2", "--repeats", "2")
    net.pin("run/sampled.json", net.call("run", "--model", "good.jsonl", *pocket, "--suite", "all", *sampled, "--json"))

    games = ("compare", "bad.jsonl", "close.jsonl", "--suite", "arena_hard", "--head-to-head", "--judge", "reference")
    net.pin("head-to-head.json", net.call(*games, "--json"))
    files = sorted(path for path in Path("results/runs").rglob("*") if path.is_file() and path.suffix)
    for file in files:
        if file.name != "sessions.jsonl":
            net.pin(str(file.relative_to("results")), file.read_text(encoding="utf-8"))
    runs = sorted({str(file.parent.relative_to("results/runs")) for file in files})
    net.pin("run-ids.json", json.dumps(runs))

    for suffix in ("json", "md", "csv"):
        net.pin(f"leaderboard.{suffix}", net.call("leaderboard", "--format", suffix))
    net.pin("leaderboard-unpaired.json", net.call("leaderboard", "--json", "--unpaired"))
    whole = {
        path.split("/")[1].split("@")[0] + "/" + path.split("/")[0]: f"results/runs/{path}"
        for path in runs
        if not _card(path)["protocol"].get("limit")
    }
    for suite in ("mt_bench", "alpaca_eval", "arena_hard"):
        pair = (whole[f"{suite}/good.jsonl"], whole[f"{suite}/bad.jsonl"])
        net.pin(f"compare/{suite}.json", net.call("compare", *pair, "--json"))
        net.pin(f"compare/{suite}.md", net.call("compare", *pair, "--format", "md"))
        formats = {"mt_bench": "fastchat"}
        net.call("export", pair[0], "--format", formats.get(suite, suite), "--out", f"export/{suite}")
    for file in sorted(path for path in Path("export").rglob("*") if path.is_file()):
        net.pin(str(file), file.read_text(encoding="utf-8"))

    for candidate in ("close", "bad"):
        for suite in ("mt_bench", "arena_hard"):
            sides = ("--candidate", whole[f"{suite}/{candidate}.jsonl"], "--baseline", whole[f"{suite}/good.jsonl"])
            for mode in ((), ("--sequential",)):
                name = "-".join([candidate, suite, *(word.strip("-") for word in mode)])
                net.pin(f"gate/{name}.json", net.call("gate", *sides, *mode, "--json", codes=(0, 1, 3)))
    net.pin("exit-codes.json", json.dumps(net.exit_codes))
    net.check("pocket")


def _card(run_folder: str) -> dict[str, Any]:
    card: dict[str, Any] = json.loads(Path("results/runs", run_folder, "card.json").read_text())
    return card


@pytest.mark.slow
def test_training_plan_of_the_pocket_recipe(net: Net) -> None:
    net.pin("plan.json", net.call("train", "pocket", "--dry-run", "--json"))
    net.check("train")


@pytest.mark.skipif(
    not (PUBLISHED and MIRROR), reason="HARNESS_PUBLISHED and HARNESS_MIRROR name the folders of published files"
)
def test_scores_of_published_judgments(net: Net) -> None:
    for name, (file_format, file, *options) in SCORED.items():
        words = ("score", f"{PUBLISHED}/{file}", "--format", file_format, "--mirror", str(MIRROR), *options, "--json")
        net.pin(f"score/{name}.json", net.call(*words))
    net.check("published")
