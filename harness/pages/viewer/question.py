"""Show one question: its turns, the answer, the baseline or reference, and every judgment.

Texts are untrusted: they become plain text, or Markdown without links, images and HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from urllib.parse import urlencode

import nh3
from markdown_it import MarkdownIt
from markupsafe import Markup

from ...records import Answer, Judgment, Preference, Prompt, Rating
from ...store.runs import read_question
from ..text import marked, visible
from .library import Run
from .listing import SuiteTexts, suite_texts

SHOWN = 20_000
"""Characters of one text on a page; a link leads to the complete text as plain text."""
TAGS = {
    *("p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li", "div"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}


@dataclass(frozen=True)
class Text:
    """One text in its box."""

    title: str
    html: Markup | None
    """None: there is no text, and `missing` states why."""
    missing: str = ""
    whole: str = ""
    """Address of the complete text if it is cut."""
    notes: tuple[str, ...] = ()
    reasoning: Text | None = None
    """The reasoning before an answer or a judge's reply, shown folded."""


@dataclass(frozen=True)
class Turn:
    user: Text
    answers: tuple[Text, ...]
    """The candidate's first, then the baseline or reference."""


@dataclass(frozen=True)
class JudgmentView:
    """One judgment."""

    title: str
    outcome: str
    good: bool | None
    """True: the candidate wins; False: it loses; None: neither, or a rating."""
    notes: tuple[str, ...]
    reply: Text


@dataclass(frozen=True)
class QuestionView:
    prompt: Prompt | None
    turns: tuple[Turn, ...]
    replies: tuple[JudgmentView, ...]
    draw: int = 0
    """Index of the shown answer."""
    draws: tuple[int, ...] = ()
    """All available indices."""


def question(run: Run, prompt_id: str, *, markdown: bool, draw: str = "", words: str = "") -> QuestionView | None:
    """Return the question, or None if the run lacks it.

    `draw`: index of the answer; an unknown one shows the first. `words` are marked in every text.
    """
    answers, judgments = read_question(run.folder, prompt_id)
    texts = suite_texts(run.card, run.folder).of_run(run.folder)
    prompt = texts.prompts.get(prompt_id)
    if not answers and not judgments:
        return None
    answer = next((row for row in answers if str(row.index) == draw), answers[0] if answers else None)
    index = answer.index if answer else 0
    judgments = [row for row in judgments if row.index == index]
    box = Box(run, prompt_id, markdown, words)
    turns = tuple(box.turns(texts, prompt, answer))
    replies = tuple(box.reply(row, index, position) for position, row in enumerate(judgments))
    return QuestionView(prompt, turns, replies, index, tuple(sorted(row.index for row in answers)))


@dataclass(frozen=True)
class Box:
    """Creates the texts of one question of one run."""

    run: Run
    prompt_id: str
    markdown: bool
    words: str = ""

    def text(self, title: str, text: str | None, part: str, notes: tuple[str, ...] = (), missing: str = "") -> Text:
        if text is None or not text.strip():
            return Text(title, None, missing or "(empty)", notes=notes)
        whole = f"{self.run.address}/text?{urlencode({'id': self.prompt_id, 'part': part})}" if is_cut(text) else ""
        return Text(title, text_html(text, markdown=self.markdown, words=self.words), whole=whole, notes=notes)

    def turns(self, texts: SuiteTexts, prompt: Prompt | None, answer: Answer | None) -> list[Turn]:
        tasks = list(texts.tasks(self.prompt_id, answer)) if answer is not None and answer.error is None else []
        baseline = next((task.baseline for task in tasks if task.baseline is not None), None)
        count = max(len(prompt.turns) if prompt else 0, len(answer.turns) if answer else 0, 1)
        shown_turns = []
        for index in range(count):
            user = prompt.turns[index] if prompt and index < len(prompt.turns) else None
            number = f", turn {index + 1}" if count > 1 else ""
            user_text = self.text(
                f"Question{number}", user, f"prompt-{index}", missing="the question is not on this machine"
            )
            boxes = [self._answer(f"{self.run.card.model}{number}", answer, index)]
            if baseline is not None:
                text = baseline.turns[index] if index < len(baseline.turns) else None
                boxes.append(self.text(f"baseline {baseline.model}{number}", text, f"baseline-{index}"))
            elif prompt is not None and index < len(prompt.reference):
                boxes.append(self.text(f"reference{number}", prompt.reference[index], f"reference-{index}"))
            shown_turns.append(Turn(user_text, tuple(boxes)))
        return shown_turns

    def _answer(self, title: str, answer: Answer | None, index: int) -> Text:
        if answer is None:
            return Text(title, None, "the answer is not stored: only its judgments were imported")
        if answer.error is not None:
            return Text(title, None, f"no answer ({answer.error.reason}): {answer.error.message[:500]}")
        notes = []
        if index < len(answer.finish) and answer.finish[index] == "length":
            notes.append("truncated")
        if index < len(answer.completion_tokens):
            notes.append(f"{answer.completion_tokens[index]} tokens")
        text = answer.turns[index] if index < len(answer.turns) else None
        notes.append(f"{len(text or '')} characters")
        reasoning = answer.reasoning[index] if index < len(answer.reasoning) else ""
        missing = "(empty: the token limit came before the reasoning ended)" if answer.is_cut_in_reasoning else ""
        box = self.text(title, text, f"answer-{answer.index}-{index}", tuple(notes), missing)
        return replace(box, reasoning=self._reasoning(answer, index, reasoning)) if reasoning else box

    def _reasoning(self, answer: Answer, index: int, text: str) -> Text:
        tokens = answer.reasoning_tokens[index] if index < len(answer.reasoning_tokens) else 0
        length = f"{tokens} tokens" if tokens else f"{len(text)} characters"
        return self.text(f"Reasoning, not judged ({length})", text, f"reasoning-{answer.index}-{index}")

    def reply(self, row: Judgment, draw: int, position: int) -> JudgmentView:
        notes = [*row.flags, *([f"repeat {row.repeat}"] if row.repeat else [])]
        if row.cost:
            notes.append(f"${row.cost:.4f}")
        if isinstance(row.verdict, Rating):
            notes += [f"{item} {score:g}" for item, score in row.verdict.items.items()]
        order = {"ab": "baseline shown first", "ba": "candidate shown first"}.get(row.order or "", "")
        turn = f"turn {row.turn}" if row.turn else ""
        number = f"answer {row.index}" if row.index else ""
        title = ", ".join(part for part in (row.judge, turn, number, order) if part)
        text = self.text("reply", row.reply, f"reply-{draw}-{position}", missing="no reply is stored")
        if row.reasoning:
            length = f"{len(row.reasoning)} characters"
            thoughts = self.text(f"Reasoning, no verdict ({length})", row.reasoning, f"thoughts-{draw}-{position}")
            text = replace(text, reasoning=thoughts)
        return JudgmentView(title, outcome(row), _good(row), tuple(notes), text)


def outcome(row: Judgment) -> str:
    """Return `candidate wins, clearly`, `draw`, `7 of 10`, or why there is no verdict."""
    if row.error is not None:
        return f"unscored ({row.error.reason}): {row.error.message[:300]}"
    if isinstance(row.verdict, Preference):
        value = row.verdict.value
        if value == 0.5:
            return "draw"
        clearly = ", clearly" if row.verdict.strength == 2 else ""
        share = "" if value in (0, 1) else f" ({value:.2f})"
        return f"{'candidate' if value > 0.5 else 'baseline'} wins{clearly}{share}"
    return "" if row.verdict is None else f"{row.verdict.value:g} of {row.verdict.high:g}"


def _good(row: Judgment) -> bool | None:
    if not isinstance(row.verdict, Preference) or row.verdict.value == 0.5:
        return None
    return row.verdict.value > 0.5


def whole_text(run: Run, prompt_id: str, part: str) -> str | None:
    """Return a complete text by the name that `Box.text` assigned, or None if it does not exist."""
    kind, *numbers = part.split("-")
    # the part comes from an address: reject what is not a short number
    if not all(number.isdecimal() and len(number) < 10 for number in numbers):
        return None
    answers, judgments = read_question(run.folder, prompt_id)
    texts = suite_texts(run.card, run.folder).of_run(run.folder)
    prompt = texts.prompts.get(prompt_id)
    match kind, [int(number) for number in numbers]:
        case "reply", [draw, position]:
            return _item([row.reply or "" for row in judgments if row.index == draw], position)
        case "thoughts", [draw, position]:
            return _item([row.reasoning for row in judgments if row.index == draw], position)
        case "answer", [draw, turn]:
            return next((_item(row.turns, turn) for row in answers if row.index == draw), None)
        case "reasoning", [draw, turn]:
            return next((_item(row.reasoning, turn) for row in answers if row.index == draw), None)
        case "baseline", [turn, *_] if answers:
            tasks = texts.tasks(prompt_id, answers[0])
            return next((_item(task.baseline.turns, turn) for task in tasks if task.baseline), None)
        case "prompt", [turn, *_] if prompt is not None:
            return _item(prompt.turns, turn)
        case "reference", [turn, *_] if prompt is not None:
            return _item(prompt.reference, turn)
    return None


def _item(texts: Sequence[str], index: int) -> str | None:
    return texts[index] if index < len(texts) else None


def text_html(text: str, *, markdown: bool, words: str = "") -> Markup:
    """Return the text's first characters as HTML, with `words` marked; all else in it is literal."""
    cut = visible(text[:SHOWN])
    html = _markdown(cut) if markdown else None
    if html is None:
        return Markup('<pre class="text" dir="auto">{}</pre>').format(marked(cut, words))
    return Markup('<div class="text" dir="auto">{}</div>').format(marked(Markup(html), words))


def is_cut(text: str) -> bool:
    return len(text) > SHOWN


def _markdown(text: str) -> str | None:
    """Return HTML, or None for blocks nested deeper than the parser's limit, because it would drop their content."""
    parser = _parser()
    tokens = parser.parse(text)
    if any(token.level + (token.nesting == 1) >= parser.options["maxNesting"] for token in tokens):
        return None
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = "div"  # a model's headings must not become the page's
            if token.type == "heading_open":
                token.attrSet("class", "heading")
    # a second, independent filter: a mistake in the parser's options must not become a script on the page
    html = parser.renderer.render(tokens, parser.options, {})
    return nh3.clean(html, tags=TAGS, attributes={"div": {"class"}, "ol": {"start"}}, url_schemes=set())


@cache
def _parser() -> MarkdownIt:
    """Return a CommonMark parser with tables; links, images and raw HTML stay literal characters."""
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    return parser.disable(["link", "image", "autolink", "html_inline", "html_block", "reference", "entity"])
