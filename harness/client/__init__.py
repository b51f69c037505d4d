"""One OpenAI-compatible HTTP client: connections, retries and rate limits.

It decides when to wait and which error to raise, but knows no prompts, judges or budgets. `chat` is the client,
`endpoint` what all clients of one endpoint share; `flow`, `pace`, `breaker`, `headers` and `replies` are pure.
"""

from .chat import REFUSALS_TO_STOP, ChatClient, ChatReply, read_chat_reply, server_sentence

__all__ = ["REFUSALS_TO_STOP", "ChatClient", "ChatReply", "read_chat_reply", "server_sentence"]
