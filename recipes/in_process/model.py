"""Generate with a checkpoint in this process, by transformers: in batches, and in conversations of several turns.

`generation` has the loop that generates; here are prompts, texts and conversations. Shapes: `_V` vocabulary, `_T`
tokens.
"""

from __future__ import annotations

import logging
import math
import warnings
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jinja2 import TemplateError
from pydantic import JsonValue
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from harness.backends.chat import answer_of
from harness.backends.thinking import Thinking, opened_block, separated
from harness.client import ChatReply
from harness.records import Answer, Failure, Prompt
from harness.records.errors import CheckpointError, ReplyError, ServerError, one_line
from harness.records.protocols import Draw, ServeOptions
from harness.records.reasoning import MARKS
from harness.store.checkpoint import Checkpoint
from harness.store.weights import LoadingReport, check_loaded

from .generation import Generated, Request, StopCheck, generate

log = logging.getLogger(__name__)
Messages = list[dict[str, str]]
Opening = tuple[str | None, str]
"""System message and first turn. Used as the key of rendered prompts, because prompts of two suites may share an id."""


def _merged(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """Return the model with a LoRA adapter in its weights. Raise CheckpointError if the adapter has none for it."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Found missing adapter keys")  # they would stay at 0: the base's answers
        try:
            merged: PreTrainedModel = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        except UserWarning as warning:
            raise CheckpointError(f"the adapter {str(adapter)!r} is not one of its base: {one_line(warning)}") from None
    return merged


@dataclass
class LocalModel:
    """A model, its tokenizer, and a cache of rendered prompts."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    end_ids: tuple[int, ...]
    """Tokens that end an answer: those of the tokenizer and of the generation config (Llama 3 has several)."""
    thinking: Thinking = field(default_factory=Thinking)
    variables: Mapping[str, JsonValue] = field(default_factory=dict)
    """Variables of the chat template."""
    _ids: dict[Opening, array[int] | Failure] = field(default_factory=dict)

    @classmethod
    def load(cls, checkpoint: Checkpoint, options: ServeOptions) -> LocalModel:
        """Load a checkpoint. Raise CheckpointError if transformers cannot load it or it does not support padding."""
        disable_progress_bar()  # a recipe loads many small models, and each would show a bar
        folder = checkpoint.base or checkpoint.path
        device = _device(options.devices)
        load_args = {"local_files_only": True, "trust_remote_code": options.trust_remote_code}
        try:
            tokenizer = AutoTokenizer.from_pretrained(_tokenizer_folder(checkpoint), **load_args)
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=options.dtype or ("float32" if device.type == "cpu" else "auto"),
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported below
                **load_args,
            )
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            raise CheckpointError(f"transformers cannot load {str(folder)!r}: {one_line(error)}") from error
        for sentence in check_loaded(folder, checkpoint.architecture, LoadingReport.of(info, model.config.to_dict())):
            log.warning("%s", sentence)
        if checkpoint.is_adapter:
            model = _merged(model, checkpoint.path)
        if getattr(model, "_is_stateful", False):
            raise CheckpointError(
                f"{checkpoint.architecture} keeps a running state, which cannot be padded: use --backend vllm"
            )
        tokenizer.chat_template = checkpoint.template
        variables = dict(options.chat_template_kwargs or {})
        thinking = Thinking(options.reasoning_room or 0, opened_block(checkpoint.template or "", variables))
        return cls(model.to(device).eval(), tokenizer, _end_ids(model, tokenizer), thinking, variables)

    def prompt_ids(self, prompt: Prompt) -> Sequence[int] | Failure:
        """Return the token ids of the conversation up to the first answer, or why the template rejects it."""
        if opening(prompt) not in self._ids:
            self.render_first([prompt])
        return self._ids[opening(prompt)]

    def render_first(self, prompts: Sequence[Prompt]) -> None:
        """Render and cache the prompts that are not cached yet, in one call of the tokenizer."""
        new = {opening(prompt): messages_of(prompt, ()) for prompt in prompts if opening(prompt) not in self._ids}
        if new:
            for key, ids in zip(new, self.rendered(list(new.values())), strict=True):
                self._ids[key] = ids if isinstance(ids, Failure) else array("l", ids)

    def prompt_length(self, prompt: Prompt) -> int:
        """Return the number of tokens up to the first answer, 0 if the template rejects the conversation."""
        ids = self.prompt_ids(prompt)
        return 0 if isinstance(ids, Failure) else len(ids)

    def rendered(self, conversations: Sequence[Messages]) -> list[list[int] | Failure]:
        """Return what `render` does, with a failure in the place of each conversation that the template rejects."""
        try:
            return list(self.render(conversations))
        except TemplateError as error:
            if len(conversations) > 1:  # find the one, e.g. with a system message that the template does not know
                return [outcome for conversation in conversations for outcome in self.rendered([conversation])]
            message = f"the chat template rejects the conversation: {one_line(error)}"
            return [Failure(reason="other", message=message)]

    def render(self, conversations: Sequence[Messages]) -> list[list[int]]:
        """Return the token ids of each conversation up to the answer's first token.

        Raise CheckpointError if the chat template writes two BOS tokens, and TemplateError if it rejects one.
        """
        rendered: list[list[int]] = self.tokenizer.apply_chat_template(
            list(conversations), tokenize=True, add_generation_prompt=True, return_dict=True, **self.variables
        )["input_ids"]
        bos = self.tokenizer.bos_token_id
        if bos is not None and any(ids[:2] == [bos, bos] for ids in rendered):
            raise CheckpointError(
                f"prompts of {self.tokenizer.name_or_path!r} would begin with two BOS tokens: its chat template "
                "writes one too many; remove one, or give another --chat-template"
            )
        return rendered

    @torch.inference_mode()
    def perplexity(self, text: str) -> float:
        """Return exp of the mean negative log-probability per token of the text, after the tokenizer's BOS if any.

        The first token counts only after a BOS, as in vLLM's `prompt_logprobs`. A text of one token has no
        perplexity: raise ReplyError.
        """
        ids_1T = self.tokenizer(text, return_tensors="pt")["input_ids"].to(self.model.device)
        if ids_1T.shape[1] < 2:
            raise ReplyError(f"the prompt {text[:40]!r} has fewer than two tokens", reason="other")
        logps_1TV = self.model(ids_1T).logits[:, :-1].float().log_softmax(-1)
        return math.exp(-logps_1TV.gather(-1, ids_1T[:, 1:, None]).mean().item())

    def by_length(self, draws: Sequence[Draw]) -> list[Draw]:
        """Return the draws sorted by prompt length, so that little is padded. Draws of one prompt stay together."""
        self.render_first([draw.prompt for draw in draws])
        return sorted(draws, key=lambda draw: (self.prompt_length(draw.prompt), draw.prompt.id, draw.index))

    def generate(self, requests: Sequence[Request], stopped: Callable[[], bool]) -> list[Generated]:
        """Return one text per request, in order. Raise ServerError if torch fails, for example out of memory."""
        try:
            results: list[Generated] = generate(self.model, requests, end_ids=self.end_ids, stopped=stopped)
        except RuntimeError as error:
            raise ServerError(f"generating {len(requests)} answers together failed: {one_line(error)}") from error
        return results

    def count(self, text: str) -> int:
        """Return the tokens of a text alone."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def texts(self, answers: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts of these token ids, without special tokens except those that mark reasoning."""
        if not answers:
            return []  # batch_decode returns one empty text for an empty list
        marks = set(MARKS) & set(self.tokenizer.all_special_tokens)
        if marks:
            hidden = set(self.tokenizer.all_special_ids) - set(self.tokenizer.convert_tokens_to_ids(sorted(marks)))
            shown = [[number for number in ids if number not in hidden] for ids in answers]
            return list(self.tokenizer.batch_decode(shown, clean_up_tokenization_spaces=False))
        decoded: list[str] = self.tokenizer.batch_decode(
            [list(ids) for ids in answers], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return decoded

    def stop_check(self, stop: Sequence[str]) -> StopCheck:
        """Return the check for these stop strings."""

        def contains_stop(ids: Sequence[int]) -> bool:
            text = self.texts([ids])[0]
            return any(word in text for word in stop)

        return contains_stop

    def row_bytes(self, tokens: int) -> int:
        """Return the bytes that one row of a batch needs: keys and values of all its tokens, and its logits."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        cache: int = 2 * config.num_hidden_layers * heads * width * self.model.dtype.itemsize
        logits: int = 4 * 4 * config.vocab_size  # sampling keeps about four float32 copies
        return cache * tokens + logits


@dataclass
class Talk:
    """The state of one draw while its turns are answered."""

    draw: Draw
    replies: list[ChatReply] = field(default_factory=list)
    is_split: bool = False
    """Whether reasoning was split off a text."""
    failure: Failure | None = None

    def asks(self, turn: int) -> bool:
        return self.failure is None and len(self.draw.prompt.answered) <= turn < len(self.draw.prompt.turns)

    def messages(self) -> Messages:
        return messages_of(self.draw.prompt, [*self.draw.prompt.answered, *(reply.text for reply in self.replies)])

    def add(self, reply: ChatReply, model: LocalModel) -> None:
        """Append one turn's answer. Its text may still contain a stop string and the text after it."""
        reply, is_split = separated(replace(reply, text=_cut(reply.text, self.draw.sampling.stop)), model.thinking)
        count = min(model.count(reply.reasoning), reply.completion_tokens) if reply.reasoning else 0
        self.replies.append(replace(reply, reasoning_tokens=count))
        self.is_split |= is_split

    def answer(self, label: str, seconds: float) -> Answer:
        prompt_id, index = self.draw.prompt.id, self.draw.index
        if self.failure is not None:
            return Answer(prompt_id=prompt_id, model=label, index=index, seconds=seconds, error=self.failure)
        return answer_of(self.draw.prompt, label, self.replies, index=index, is_split=self.is_split, seconds=seconds)


def opening(prompt: Prompt) -> Opening:
    return prompt.system, prompt.turns[0]


def messages_of(prompt: Prompt, answers: Sequence[str]) -> Messages:
    """Return the conversation up to the next turn that has no answer yet."""
    messages = [] if prompt.system is None else [{"role": "system", "content": prompt.system}]
    for turn, answer in zip(prompt.turns, answers, strict=False):
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": prompt.turns[len(answers)]}]


def free_device_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _cut(text: str, stop: Sequence[str]) -> str:
    return text[: min([position for word in stop if (position := text.find(word)) >= 0], default=len(text))]


def _device(devices: str | None) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int((devices or "0").partition(",")[0]))


def _tokenizer_folder(checkpoint: Checkpoint) -> str:
    has_tokenizer = (checkpoint.path / "tokenizer_config.json").is_file()
    return str(checkpoint.path if has_tokenizer or checkpoint.base is None else checkpoint.base)


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    end_ids: list[int] = []
    for ids in (tokenizer.eos_token_id, model.generation_config.eos_token_id, model.config.eos_token_id):
        end_ids += ids if isinstance(ids, list) else [] if ids is None else [ids]
    return tuple(sorted(set(end_ids)))
