"""FlexAttention's blocks, the dense mask and single sequences see the same: equal log-probabilities and gradients."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from recipes.training.attention import BLOCK, FLEX, TokenNumbers, windows  # noqa: E402
from recipes.training.head import LogitScaling, add_scoring, next_logps  # noqa: E402
from recipes.training.packing import RowIds, base_model, batch_logps, collator_for, default_layout  # noqa: E402

VOCABULARY = 64
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "mistral, window of 20 tokens": ("MistralConfig", {"sliding_window": 20}),
    "gemma2, every other layer with a window": ("Gemma2Config", {"sliding_window": 20, "query_pre_attn_scalar": 8}),
    "gemma3, every other layer with a window": (
        "Gemma3TextConfig",
        {"sliding_window": 20, "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 8},
    ),
    "qwen2, last layer with a window": (
        "Qwen2Config",
        {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1},
    ),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Let FlexAttention compute all scores and apply the mask's function, which needs no compiler."""
    from torch.nn.attention import flex_attention

    flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG = True
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG = False


def model_of(kind: str, **changed: Any) -> Any:
    name, keys = MODELS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, name)(**{**SMALL, **keys, **changed})
    model = transformers.AutoModelForCausalLM.from_config(config).train()
    for parameter in model.parameters():  # larger weights: a token too many or too few must show
        parameter.data.mul_(4 if parameter.ndim > 1 else 1)
    return model


def rows(*lengths: tuple[int, int, int, int]) -> list[RowIds]:
    random = torch.Generator().manual_seed(1)

    def ids(length: int) -> list[int]:
        drawn: list[int] = torch.randint(3, VOCABULARY, (length,), generator=random).tolist()
        return drawn

    names = ("prompt_ids", "source_ids", "target_ids", "rejected_ids")
    return [dict(zip(names, map(ids, row), strict=True)) for row in lengths]  # type: ignore[misc]


ROWS = rows((30, 40, 25, 50), (5, 9, 8, 7), (60, 70, 3, 41))


def alone(model: Any, examples: list[RowIds]) -> Any:
    """Return (3, B) log-probabilities, each of a sequence by itself with the model's own attention and logits."""
    columns = []
    for row in examples:
        sums = []
        for name in ("source_ids", "target_ids", "rejected_ids"):
            prompt, answer = row["prompt_ids"], row[name]
            logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            sums.append(logits.float().log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum())
        columns.append(torch.stack(sums))
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("layout", ["shared", "rows"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", MODELS)
def test_every_layout_has_the_log_probabilities_and_gradients_of_single_sequences(
    kind: str, implementation: str, layout: Any
) -> None:
    model = model_of(kind)
    expected = alone(model, ROWS)
    weights = torch.tensor([[0.3], [0.7], [-1.0]])
    (expected * weights).sum().backward()
    gradient = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.set_attn_implementation(implementation)
    add_scoring(model)

    sums, _ = batch_logps(model, collator_for(model, layout)(ROWS))
    (sums * weights).sum().backward()

    assert sums.detach().numpy() == pytest.approx(expected.detach().numpy(), rel=2e-5)
    for name, parameter in model.named_parameters():
        assert float((parameter.grad - gradient[name]).norm() / gradient[name].norm()) < 2e-4, name


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["shared", "rows"])
@pytest.mark.parametrize("kind", MODELS)
def test_flex_attention_has_the_log_probabilities_of_single_sequences(kind: str, layout: Any) -> None:
    """FlexAttention has no backward pass on CPUs."""
    model = model_of(kind)
    expected = alone(model, ROWS).detach()
    model.set_attn_implementation(FLEX)
    add_scoring(model)
    with torch.no_grad(), uncompiled():
        sums, _ = batch_logps(model, collator_for(model, layout)(ROWS))
    assert sums.numpy() == pytest.approx(expected.numpy(), rel=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "mistral, window of 20 tokens"])
def test_compiled_flex_attention_visits_the_listed_blocks(
    kind: str, record_property: Callable[[str, object], None]
) -> None:
    """Only the compiled kernel skips blocks that are not listed and does not look inside full ones."""
    examples = rows((300, 200, 400, 10), (20, 300, 30, 130))
    model = model_of(kind, max_position_embeddings=1024)
    expected = alone(model, examples).detach()
    model.set_attn_implementation(FLEX)
    add_scoring(model)
    for layout in ("shared", "rows"):
        with torch.no_grad():
            sums, _ = batch_logps(model, collator_for(model, layout)(examples))
        assert sums.numpy() == pytest.approx(expected.numpy(), rel=2e-5)
    record_property("measured", f"log-probabilities {float((sums - expected).abs().max()):.1e} apart")


def test_windowed_models_are_shared_by_default_and_layers_without_attention_are_not() -> None:
    assert {kind: default_layout(model_of(kind)) for kind in MODELS} == dict.fromkeys(MODELS, "shared")
    assert windows(model_of("gemma3, every other layer with a window").config) == {
        "full_attention": None,
        "sliding_attention": 20,
    }
    chunked = transformers.LlamaConfig(**SMALL, layer_types=["chunked_attention", "full_attention"])
    assert windows(chunked) is None


@pytest.mark.parametrize("window", [None, 50, 300])
def test_blocks_are_empty_partial_and_full_where_the_dense_mask_is(window: int | None) -> None:
    """Blocks that are not listed have nothing, blocks listed as full have everything, and the rest is looked at."""
    model = model_of("llama")
    model.set_attn_implementation(FLEX)
    examples = rows((300, 200, 400, 10), (20, 300, 30, 130))
    batch = collator_for(model, "shared")(examples)
    numbers = TokenNumbers(batch["example_of"], batch["answer_of"], batch["position_ids"])
    dense, blocks = numbers.dense(window)[:, 0], numbers.blocks(window)

    count = dense.shape[1] // BLOCK
    tiles = dense.view(1, count, BLOCK, count, BLOCK).transpose(2, 3)
    seen, full = tiles.any((3, 4))[0], tiles.all((3, 4))[0]
    listed_full = [sorted(indices_of(blocks.full_kv_num_blocks, blocks.full_kv_indices, row)) for row in range(count)]
    listed = [sorted(indices_of(blocks.kv_num_blocks, blocks.kv_indices, row)) for row in range(count)]
    assert dense.shape[1] % BLOCK == 0
    for row in range(count):
        either = set(listed[row]) | set(listed_full[row])
        assert set(seen[row].nonzero()[:, 0].tolist()) <= either
        assert set(listed_full[row]) <= set(full[row].nonzero()[:, 0].tolist())
        if window is None:
            assert set(seen[row].nonzero()[:, 0].tolist()) == either
            assert listed_full[row] == full[row].nonzero()[:, 0].tolist()


def indices_of(counts: Any, indices: Any, row: int) -> list[int]:
    return list(indices[0, 0, row, : counts[0, 0, row]].tolist())


def test_a_batch_of_flex_attention_is_one_row_of_whole_blocks() -> None:
    model = model_of("llama")
    model.set_attn_implementation(FLEX)
    answers = [len(row["source_ids"]) + len(row["target_ids"]) + len(row["rejected_ids"]) for row in ROWS]
    stems_and_answers = sum(len(row["prompt_ids"]) - 1 for row in ROWS) + sum(answers)

    batch = collator_for(model)(ROWS)

    assert batch["input_ids"].shape == (1, -(-stems_and_answers // BLOCK) * BLOCK)
    assert int((batch["example_of"] >= 0).sum()) == stems_and_answers


def test_the_mask_of_a_batch_is_made_once_for_policy_and_reference() -> None:
    model = model_of("llama")
    add_scoring(model)
    batch = collator_for(model)(ROWS)
    batch_logps(model, batch)
    mask = batch["mask/sdpa"]
    batch_logps(model, batch)
    assert batch["mask/sdpa"] is mask


@pytest.mark.parametrize("scaling", [LogitScaling(), LogitScaling(scale=0.5, softcap=3.0)])
def test_scores_and_gradients_of_the_head_are_those_of_whole_logits(
    scaling: LogitScaling, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recipes.training import head

    monkeypatch.setitem(head.TILE, "cpu", 50)  # tiles of five tokens by ten columns, the last ones smaller
    monkeypatch.setattr(head, "TOKENS", 5)
    torch.manual_seed(0)
    hidden, weight, bias = (
        torch.randn(*shape, dtype=torch.float64).requires_grad_() for shape in ((2, 9, 8), (64, 8), (64,))
    )
    labels = torch.randint(0, VOCABULARY, (2, 9))
    labels[0, :5] = head.IGNORED
    scores = next_logps(hidden, weight, bias, labels, scaling)
    upstream = torch.randn_like(scores)
    grads = torch.autograd.grad((scores * upstream).sum(), (hidden, weight, bias))

    logits = (hidden @ weight.T + bias) * scaling.scale
    if scaling.softcap is not None:
        logits = scaling.softcap * torch.tanh(logits / scaling.softcap)
    whole = logits.log_softmax(-1).gather(2, labels.clamp(min=0)[:, :, None])[:, :, 0] * (labels >= 0)
    expected = torch.autograd.grad((whole * upstream).sum(), (hidden, weight, bias))
    assert scores.detach().numpy() == pytest.approx(whole.detach().numpy(), abs=1e-5)
    for grad, right in zip(grads, expected, strict=True):
        assert grad.numpy() == pytest.approx(right.numpy(), abs=1e-5)


def test_a_batch_in_which_no_token_is_scored_has_a_backward_pass() -> None:
    hidden = torch.randn(1, 4, 8, requires_grad=True)
    next_logps(hidden, torch.randn(16, 8, requires_grad=True), None, torch.full((1, 4), -100)).sum().backward()
    assert float(hidden.grad.abs().sum()) == 0.0


def test_the_attention_is_that_of_the_model_inside_its_wrappers() -> None:
    class Engine:  # DeepSpeed's: `config` is its own, a dict
        def __init__(self, module: Any) -> None:
            self.module, self.config = module, {"train_batch_size": 2}

    model = torch.nn.Linear(2, 2)
    assert base_model(model) is model
    assert base_model(Engine(torch.compile(model))) is model
