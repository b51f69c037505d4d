"""Find in a server's log what went wrong, in the fewest lines. Pure."""

from __future__ import annotations

import re

ANSI = re.compile(r"\x1b\[[0-9;]*m")
PREFIX = re.compile(r"^(\(\w[^)]*\)\s*)?((DEBUG|INFO|WARNING|ERROR|CRITICAL)\s+\d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?)?")
"""vLLM's `(EngineCore pid=12) ERROR 11-23 18:14:10 [core.py:133] `."""
ERROR = re.compile(r"^([\w.]*(Error|Exception|Interrupt|Exit)\b|Error|error):? ?")
WRAPPER = re.compile(
    r"root cause|Engine core (initialization|proc)|WorkerProc initialization failed|EngineDeadError", re.I
)
"""Errors that only report another error."""
FRAME = re.compile(r'^\s*File "')
NOISE = re.compile(
    r"^\s*(\^+|Traceback|During handling|The above exception|nanobind| - |warnings\.warn|$)|resource_tracker"
)


def plain_lines(text: str) -> list[str]:
    """Return the log's lines without colours, process names, levels, times and trailing blanks."""
    return [PREFIX.sub("", ANSI.sub("", line)).rstrip() for line in text.splitlines()]


def reason(text: str) -> str | None:
    """Return the sentence that says why the server died: the last error that is not a wrapper; None if there is
    none."""
    lines = plain_lines(text)
    cause = None
    for number, line in enumerate(lines):
        if not ERROR.match(line) or WRAPPER.search(line):
            continue
        sentence = line
        if "validation error" in line:  # pydantic puts the words on the lines that follow
            sentence = next((text.strip() for text in lines[number + 1 : number + 4] if "error," in text), line)
        cause = re.sub(r"\s*\[type=\w+, input_value=.*", "", sentence)
    return cause[:600] if cause else None


def tail(text: str, count: int = 12) -> str:
    """Return the last `count` different lines that carry meaning (no stack frames), at most 300 characters each."""
    lines = plain_lines(text)
    frames = {number for number, line in enumerate(lines) if FRAME.match(line)}
    kept = [
        line[:300]
        for number, line in enumerate(lines)
        if number not in frames and not (number - 1 in frames and line[:1] == " ") and not NOISE.search(line)
    ]
    return "\n".join(list(dict.fromkeys(kept))[-count:])
