"""A checkpoint loaded by transformers in this process, with its tokenizer, and conversations of several turns.

The backend `in_process` uses it to render prompts, generate texts and estimate memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from harness.checkpoint import Checkpoint
from harness.errors import CheckpointError, ServerError
from harness.protocols import Draw, ServeOptions
from harness.records import Answer, Failure, Finish, Prompt

from .generation import Generated, Request, generate

Messages = list[dict[str, str]]
Opening = tuple[str | None, str]
"""System message and first turn. They key rendered prompts, because prompts of two suites may share an id."""


@dataclass
class LocalModel:
    """A model, its tokenizer, and a cache of rendered prompts."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    end_ids: tuple[int, ...]
    """Tokens that end an answer: those of the tokenizer and of the generation config (Llama 3 has several)."""
    _ids: dict[Opening, array[int]] = field(default_factory=dict)

    @classmethod
    def load(cls, checkpoint: Checkpoint, options: ServeOptions) -> LocalModel:
        """Load a checkpoint. Raise CheckpointError if transformers cannot load it or it does not support padding."""
        disable_progress_bar()  # a recipe loads many small models, and each would show a bar
        folder = checkpoint.base or checkpoint.path
        device = _device(options.devices)
        how = {"local_files_only": True, "trust_remote_code": options.trust_remote_code}
        try:
            tokenizer = AutoTokenizer.from_pretrained(_tokenizer_folder(checkpoint), **how)
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=options.dtype or ("float32" if device.type == "cpu" else "auto"), **how
            )
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"transformers cannot load {str(folder)!r}: {reason}") from error
        if checkpoint.is_adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, checkpoint.path).merge_and_unload()
        if getattr(model, "_is_stateful", False):
            raise CheckpointError(
                f"{checkpoint.architecture} keeps a running state, which cannot be padded: use --backend vllm"
            )
        tokenizer.chat_template = checkpoint.template
        return cls(model.to(device).eval(), tokenizer, _end_ids(model, tokenizer))

    def prompt_ids(self, prompt: Prompt) -> Sequence[int]:
        """Return the token ids of the conversation up to the first answer."""
        if opening(prompt) not in self._ids:
            self.render_first([prompt])
        return self._ids[opening(prompt)]

    def render_first(self, prompts: Sequence[Prompt]) -> None:
        """Render and cache the prompts that are not cached yet, in one call of the tokenizer."""
        new = {opening(prompt): messages_of(prompt, ()) for prompt in prompts if opening(prompt) not in self._ids}
        if new:
            for key, ids in zip(new, self.render(list(new.values())), strict=True):
                self._ids[key] = array("l", ids)

    def render(self, conversations: Sequence[Messages]) -> list[list[int]]:
        """Return the token ids of each conversation up to the answer's first token.

        Raise CheckpointError if the chat template writes two BOS tokens.
        """
        rendered: list[list[int]] = self.tokenizer.apply_chat_template(
            list(conversations), tokenize=True, add_generation_prompt=True, return_dict=True
        )["input_ids"]
        bos = self.tokenizer.bos_token_id
        if bos is not None and any(ids[:2] == [bos, bos] for ids in rendered):
            raise CheckpointError(
                f"prompts of {self.tokenizer.name_or_path!r} would begin with two BOS tokens: its chat template "
                "writes one too many; remove one, or give another --chat-template"
            )
        return rendered

    def by_length(self, draws: Sequence[Draw]) -> list[Draw]:
        """Return the draws sorted by prompt length, so that little is padded. Draws of one prompt stay together."""
        self.render_first([draw.prompt for draw in draws])
        return sorted(draws, key=lambda draw: (len(self.prompt_ids(draw.prompt)), draw.prompt.id, draw.index))

    def generate(self, requests: Sequence[Request], stopped: Callable[[], bool]) -> list[Generated]:
        """Return one text per request, in order. Raise ServerError if torch fails, for example out of memory."""
        try:
            results: list[Generated] = generate(self.model, requests, end_ids=self.end_ids, stopped=stopped)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise ServerError(f"generating {len(requests)} answers together failed: {reason}") from error
        return results

    def texts(self, answers: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts of these token ids, without special tokens."""
        if not answers:
            return []  # batch_decode returns one empty text for an empty list
        decoded: list[str] = self.tokenizer.batch_decode(
            [list(ids) for ids in answers], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return decoded

    def ended(self, stop: Sequence[str]) -> Callable[[Sequence[int]], bool]:
        """Return a function that says whether the text of these ids contains a stop string."""

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
    texts: list[str] = field(default_factory=list)
    finish: list[Finish] = field(default_factory=list)
    prompt_tokens: list[int] = field(default_factory=list)
    completion_tokens: list[int] = field(default_factory=list)
    failure: Failure | None = None

    def asks(self, turn: int) -> bool:
        return self.failure is None and turn < len(self.draw.prompt.turns)

    def messages(self) -> Messages:
        return messages_of(self.draw.prompt, self.texts)

    def add(self, generated: Generated, text: str, prompt_tokens: int) -> None:
        """Append one turn's answer. `text` may still contain a stop string and the text after it."""
        self.texts.append(_cut(text, self.draw.sampling.stop))
        self.finish.append(generated.finish)
        self.prompt_tokens.append(prompt_tokens)
        self.completion_tokens.append(generated.tokens)

    def answer(self, label: str, seconds: float) -> Answer:
        prompt_id, index = self.draw.prompt.id, self.draw.index
        if self.failure is not None:
            return Answer(prompt_id=prompt_id, model=label, index=index, seconds=seconds, error=self.failure)
        return Answer(
            prompt_id=prompt_id,
            model=label,
            index=index,
            turns=tuple(self.texts),
            finish=tuple(self.finish),
            prompt_tokens=tuple(self.prompt_tokens),
            completion_tokens=tuple(self.completion_tokens),
            seconds=seconds,
        )


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
    """Return the folder of an adapter's tokenizer if it has one, else that of its base model."""
    has_tokenizer = (checkpoint.path / "tokenizer_config.json").is_file()
    return str(checkpoint.path if has_tokenizer or checkpoint.base is None else checkpoint.base)


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    end_ids: list[int] = []
    for ids in (tokenizer.eos_token_id, model.generation_config.eos_token_id, model.config.eos_token_id):
        end_ids += ids if isinstance(ids, list) else [] if ids is None else [ids]
    return tuple(sorted(set(end_ids)))
