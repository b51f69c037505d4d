"""Generate with a checkpoint in this process, by transformers: in batches, and in conversations of several turns.

Generation is one loop with a KV cache and left padding. Every request draws from its own random stream. Its text
therefore depends neither on the other requests of the batch nor on their order, apart from float rounding. Shapes: `_R`
rows, `_V` vocabulary, `_T` tokens.
"""

from __future__ import annotations

import logging
import math
import warnings
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from harness.backends.chat import answer_of
from harness.backends.thinking import Thinking, opened_block, separated
from harness.client import ChatReply
from harness.records import Answer, Failure, Finish, Prompt
from harness.records.errors import CheckpointError, ReplyError, ServerError, one_line
from harness.records.protocols import Draw, ServeOptions
from harness.records.reasoning import MARKS
from harness.store.checkpoint import Checkpoint
from harness.store.weights import LoadingReport, check_loaded

log = logging.getLogger(__name__)
GAMMA, MIX1, MIX2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""Constants of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, figure 17)."""
ATTEMPT = 1 << 32
"""Distance in a row's stream between two attempts at one token. It exceeds the tokens of any answer."""
COMPACT = 0.75
"""Finished rows are removed from the batch once no more than this share of it is unfinished."""
Messages = list[dict[str, str]]
Opening = tuple[str | None, str]
"""System message and first turn. Used as the key of rendered prompts, because prompts of two suites may share an id."""
StopCheck = Callable[[Sequence[int]], bool]
"""A function that returns whether these generated ids contain a stop string of the request."""


@dataclass(frozen=True)
class Request:
    """One text to generate."""

    ids: tuple[int, ...]
    """Token ids of the prompt, at least one."""
    max_tokens: int
    key: int = 0
    """64-bit key of its random stream."""
    temperature: float = 1.0
    """0: always the likeliest token."""
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    stopped_by: StopCheck | None = None
    """Called after each token. None: only end tokens stop generation."""


@dataclass(frozen=True)
class Generated:
    """The text generated for one request."""

    ids: tuple[int, ...]
    """Token ids without the end token."""
    finish: Finish
    tokens: int
    """Number of tokens including the end token, as servers count."""


class StoppedError(Exception):
    """Internal: the caller stopped generation."""


@dataclass(frozen=True)
class _Rows:
    """The requests still in the batch. Each field has one entry per row, (R,)."""

    numbers: Tensor
    """Index of each row's request."""
    keys: np.ndarray
    temperature: Tensor
    top_p: Tensor
    top_k: Tensor
    length: Tensor
    """Tokens of each row's prompt."""

    def kept(self, index: Tensor) -> _Rows:
        return _Rows(
            self.numbers[index],
            self.keys[index.cpu().numpy()],
            self.temperature[index],
            self.top_p[index],
            self.top_k[index],
            self.length[index],
        )


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    requests: Sequence[Request],
    *,
    end_ids: Sequence[int],
    stopped: Callable[[], bool] = lambda: False,
) -> list[Generated]:
    """Return one Generated per request, in the same order. A prompt that several requests share is computed once.

    Raise StoppedError if `stopped()`, which is called before each token, returns True.
    """
    rows = _rows(requests, model.device)
    width, room = max(len(request.ids) for request in requests), max(request.max_tokens for request in requests)
    logits_RV, cache, mask_RT = _prefill(model, requests, width, room)
    ends = torch.tensor(list(end_ids), device=model.device)
    generated: list[list[int]] = [[] for _ in requests]
    finish: list[Finish] = ["length"] * len(requests)
    padded = not bool(mask_RT[:, :width].all())
    step = 0
    while True:
        if stopped():
            raise StoppedError
        next_R = choose(logits_RV, rows.keys, step, rows.temperature, rows.top_p, rows.top_k)
        going = _append_tokens(next_R, rows, torch.isin(next_R, ends), requests, generated, finish)
        left = going.nonzero().squeeze(1)
        if not len(left):
            break
        if len(left) <= COMPACT * len(next_R):
            rows, next_R, mask_RT = rows.kept(left), next_R[left], mask_RT[left]
            cache.batch_select_indices(left)
        step += 1
        logits_RV = model(
            input_ids=next_R[:, None],
            attention_mask=mask_RT[:, : width + step] if padded else None,
            position_ids=(rows.length + step - 1)[:, None],
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
    return [_generated(ids, reason, frozenset(end_ids)) for ids, reason in zip(generated, finish, strict=True)]


def choose(
    logits_RV: Tensor, keys_R: np.ndarray, step: int, temperature_R: Tensor, top_p_R: Tensor, top_k_R: Tensor
) -> Tensor:
    """Return the next token of each row, (R,): the likeliest at temperature 0, else one drawn from the nucleus.

    A token is drawn from the whole distribution by inverse CDF, and drawn again while it is outside the nucleus, that
    is, while the tokens likelier than it have a share of `top_p` or more (Holtzman et al. 2020, arXiv 1904.09751). The
    result has the same distribution as after sorting and truncating, in a twentieth of a sort's time on a CPU. Tokens
    as likely as the least likely one in the nucleus also belong to it.
    """
    best_R = logits_RV.argmax(-1)
    open_R = (temperature_R > 0).nonzero().squeeze(1)
    attempt = 0
    while len(open_R):
        if attempt == 0:
            probs_RV = (logits_RV[open_R].float() / temperature_R[open_R, None]).softmax(-1)
            probs_RV = _only_top_k(probs_RV, top_k_R[open_R])
            cdf_RV = probs_RV.cumsum(-1)
        uniform_R = torch.from_numpy(uniforms(keys_R[open_R.cpu().numpy()], step + attempt * ATTEMPT)).to(probs_RV)
        token_R = torch.searchsorted(cdf_RV, uniform_R[:, None] * cdf_RV[:, -1:], right=True)
        token_R = token_R.clamp(max=probs_RV.shape[1] - 1)  # float32 rounding may give the index after the last token
        prob_R1 = probs_RV.gather(1, token_R)
        inside = ((probs_RV * (probs_RV > prob_R1)).sum(-1) < top_p_R[open_R]) & (prob_R1.squeeze(1) > 0)
        best_R[open_R[inside]] = token_R[inside].squeeze(1)
        again = ~inside
        open_R, probs_RV, cdf_RV = open_R[again], probs_RV[again], cdf_RV[again]
        attempt += 1
    return best_R


def uniforms(keys: np.ndarray, number: int) -> np.ndarray:
    """Return the `number`-th value of each key's stream: float64 in [0, 1), the upper 53 bits of SplitMix64."""
    with np.errstate(over="ignore"):
        z = keys + np.uint64((number + 1) * GAMMA % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(MIX1)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(MIX2)
        z ^= z >> np.uint64(31)
    values: np.ndarray = (z >> np.uint64(11)) * 2.0**-53
    return values


def _only_top_k(probs_RV: Tensor, top_k_R: Tensor) -> Tensor:
    """Keep the probabilities of the `top_k` likeliest tokens, renormalised to sum to 1, and set the rest to 0."""
    most = int(top_k_R.max())
    if most == 0:
        return probs_RV
    top_RK = probs_RV.topk(min(most, probs_RV.shape[1]), dim=-1).values
    last_R = top_RK.gather(1, (top_k_R[:, None] - 1).clamp(min=0, max=top_RK.shape[1] - 1))
    last_R = torch.where(top_k_R[:, None] > 0, last_R, torch.zeros_like(last_R))
    kept_RV = probs_RV * (probs_RV >= last_R)
    return kept_RV / kept_RV.sum(-1, keepdim=True)


def _rows(requests: Sequence[Request], device: torch.device) -> _Rows:
    return _Rows(
        torch.arange(len(requests), device=device),
        np.array([request.key for request in requests], dtype=np.uint64),
        torch.tensor([request.temperature for request in requests], device=device),
        torch.tensor([request.top_p for request in requests], device=device),
        torch.tensor([request.top_k for request in requests], device=device),
        torch.tensor([len(request.ids) for request in requests], device=device),
    )


def _prefill(
    model: PreTrainedModel, requests: Sequence[Request], width: int, room: int
) -> tuple[Tensor, DynamicCache, Tensor]:
    """Return the logits of the first generated token (R, V), the cache, and the attention mask (R, width + room)."""
    prompts = list(dict.fromkeys(request.ids for request in requests))
    ids = torch.zeros((len(prompts), width), dtype=torch.long)  # padding is never attended to, so any id will do
    mask = torch.zeros((len(prompts), width + room), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    padded = not bool(mask[:, :width].all())
    cache = DynamicCache(config=model.config)
    logits = model(
        input_ids=ids,
        attention_mask=mask[:, :width] if padded else None,
        position_ids=(mask[:, :width].cumsum(-1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    if len(prompts) == len(requests):
        return logits, cache, mask
    row_of = {prompt: row for row, prompt in enumerate(prompts)}
    index = torch.tensor([row_of[request.ids] for request in requests], device=model.device)
    cache.batch_select_indices(index)
    return logits[index], cache, mask[index]


def _append_tokens(
    next_R: Tensor,
    rows: _Rows,
    end_R: Tensor,
    requests: Sequence[Request],
    generated: list[list[int]],
    finish: list[Finish],
) -> Tensor:
    """Append each unfinished row's token to its text, and return which rows are still unfinished, (R,)."""
    going = []
    for number, token, end in zip(rows.numbers.tolist(), next_R.tolist(), end_R.tolist(), strict=True):
        ids, request = generated[number], requests[number]
        if finish[number] == "stop" or len(ids) >= request.max_tokens:
            going.append(False)
            continue
        ids.append(token)
        if end or (request.stopped_by is not None and request.stopped_by(ids)):
            finish[number] = "stop"
        going.append(finish[number] == "length" and len(ids) < request.max_tokens)
    return torch.tensor(going, device=next_R.device)


def _generated(ids: list[int], finish: Finish, end_ids: frozenset[int]) -> Generated:
    visible = ids[:-1] if ids and ids[-1] in end_ids else ids
    return Generated(tuple(visible), finish, len(ids))


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
    _ids: dict[Opening, array[int]] = field(default_factory=dict)

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
        return sorted(draws, key=lambda draw: (len(self.prompt_ids(draw.prompt)), draw.prompt.id, draw.index))

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
