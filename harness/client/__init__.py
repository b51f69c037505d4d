"""Call OpenAI-compatible servers by one HTTP client: connections, retries and rate limits.

>>> reply = read_chat_reply({"choices": [{"message": {"content": "Paris"}, "finish_reason": "stop"}]})
>>> reply.text, reply.finish
('Paris', 'stop')

It decides when to wait and which error to raise, but knows no prompts, judges or budgets. `chat` is the client, and
`endpoint` is what all clients of one endpoint share. Two modules are pure: `flow` decides when the next call may go
out, and `reading` reads what a server sent.
"""

from .chat import REFUSALS_TO_STOP, ChatClient
from .endpoint import CallLimits, Patience
from .reading import (
    ChatReply,
    connection_words,
    error_inside,
    is_starting,
    model_entries,
    read_chat_reply,
    read_count,
    refusal_reason,
    server_codes,
    server_sentence,
    storable,
)

__all__ = [
    "REFUSALS_TO_STOP",
    "CallLimits",
    "ChatClient",
    "ChatReply",
    "Patience",
    "connection_words",
    "error_inside",
    "is_starting",
    "model_entries",
    "read_chat_reply",
    "read_count",
    "refusal_reason",
    "server_codes",
    "server_sentence",
    "storable",
]
