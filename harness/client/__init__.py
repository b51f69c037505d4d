"""One OpenAI-compatible HTTP client: connections, retries, rate limits, and nothing of what is asked.

It owns waiting and error classes. It does not know prompts, judges or budgets. `chat` is the client, `endpoint` what
all clients of one endpoint share; `flow`, `pace`, `breaker`, `headers` and `replies` are pure.
"""

from .chat import REFUSALS_TO_STOP, ChatClient
from .replies import ChatReply, read_chat_reply, server_sentence

__all__ = ["REFUSALS_TO_STOP", "ChatClient", "ChatReply", "read_chat_reply", "server_sentence"]
