"""The command line: the only place that prints, reads argv, exits and runs an event loop."""

from __future__ import annotations

import sys
from types import TracebackType


def _without_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report Ctrl-C in one line while the commands are still being imported; later `main.run` does."""
    if issubclass(kind, KeyboardInterrupt):
        print("harness: stopped", file=sys.stderr)
    else:
        _earlier_hook(kind, error, trace)


_earlier_hook = sys.excepthook  # another package may have set one
sys.excepthook = _without_traceback
