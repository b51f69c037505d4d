"""Runs the installed original tools on our answers and records what they send. A process of its own: they change
global state when imported.

    reference_requests.py fastchat FOLDER             gen_judgment and gen_api_answer with their client replaced by a
                                                      recorder; FOLDER holds `data` and replies.json
    reference_requests.py fastchat_pairs FOLDER       gen_judgment --mode pairwise-baseline, likewise
    reference_requests.py alpaca FOLDER URL           alpaca-eval's annotator, over HTTP to URL; FOLDER holds
                                                      baseline.json and outputs.json
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

JUDGING = ["--model-list", "fake", "--judge-model", "gpt-4"]
FASTCHAT = {
    "fastchat": (("judge", "gen_judgment", JUDGING), ("answer", "gen_api_answer", ["--model", "gpt-3.5-turbo"])),
    "fastchat_pairs": (("judge", "gen_judgment", [*JUDGING, "--mode", "pairwise-baseline"]),),
}


def record_fastchat(what: str, folder: Path) -> None:
    """The arguments of every call, one JSON line each: judge.jsonl and answer.jsonl."""
    import openai

    os.chdir(folder)
    replies = json.loads(Path("replies.json").read_text("utf-8"))
    for name, module, words in FASTCHAT[what]:
        calls: list[dict[str, Any]] = []
        create = partial(_reply, calls, replies)
        openai.ChatCompletion = SimpleNamespace(create=create)  # type: ignore[assignment,attr-defined,misc,unused-ignore]
        sys.argv = [module, *words]
        runpy.run_module(f"fastchat.llm_judge.{module}", run_name="__main__")
        Path(f"{name}.jsonl").write_text("".join(json.dumps(call) + "\n" for call in calls), "utf-8")


def _reply(calls: list[dict[str, Any]], replies: dict[str, str], **call: Any) -> dict[str, Any]:
    """Answered from `replies` by its last message; what is not there is a judge's prompt."""
    calls.append(call)
    return {"choices": [{"message": {"content": replies.get(call["messages"][-1]["content"], "Rating: [[5]]")}}]}


def annotate(folder: Path, url: str) -> None:
    os.environ |= {"OPENAI_CLIENT_CONFIG_PATH": str(folder / "clients.json"), "OPENAI_MAX_CONCURRENCY": "16"}
    (folder / "clients.json").write_text(json.dumps({"default": [{"api_key": "none", "base_url": url}]}))
    import openai

    openai.OpenAI = cache(openai.OpenAI)  # type: ignore[assignment,misc] # alpaca-eval makes one a request, 60 ms each
    from alpaca_eval.annotators import PairwiseAnnotator

    annotator = PairwiseAnnotator(
        annotators_config="weighted_alpaca_eval_gpt4_turbo", caching_path=str(folder / "cache.json")
    )
    rows = annotator.annotate_head2head(
        outputs_1=json.loads((folder / "baseline.json").read_text("utf-8")),
        outputs_2=json.loads((folder / "outputs.json").read_text("utf-8")),
    )
    kept = [{key: row[key] for key in ("instruction", "preference")} for row in rows]
    (folder / "annotations.json").write_text(json.dumps(kept), "utf-8")


def main() -> None:
    folder = Path(sys.argv[2]).resolve()
    if sys.argv[1] == "alpaca":
        annotate(folder, sys.argv[3])
    else:
        record_fastchat(sys.argv[1], folder)


if __name__ == "__main__":
    main()
