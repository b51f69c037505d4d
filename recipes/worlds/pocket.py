"""Train the models of the pocket fusion recipe: the target, from scratch, and three sources that start from it.

The same code and seed give the same weights on one machine with the same library versions. `training.json` is written
last: a folder that has it is complete.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import random
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from pydantic import Field
from transformers import LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

from harness.records import Record, digest
from harness.suites.pocket import first_questions
from harness.suites.pocket.skills import SKILLS, Task

from .embedded import DrawTalk, EmbeddedSettings, RowWriter, batches, build_model, draw_task, finished, fit, save
from .pocket_task import ASKED, SPECIALISTS, dots
from .tiny import build_tokenizer, whole_folder

log = logging.getLogger(__name__)

TARGET = "target"
NAMES = (TARGET, *SPECIALISTS)
AT_ONCE = 2
"""Models trained at the same time, one core each."""


class Course(Record):
    """What one model is taught: everything its weights depend on, apart from the code and the library versions."""

    settings: EmbeddedSettings
    weights: dict[str, float]
    """Skill -> its relative frequency, before the factor for its difficulty."""
    slopes: tuple[float, float]
    """A skill's frequency has the factor exp(slope * difficulty); the slope moves from the first to the second."""
    flawed: bool
    """Whether most answers end in needless dots (`world.dots`)."""
    parent: str | None = None
    """Name of the model whose weights training starts from."""


class Taught(Record):
    """Record of a finished model: `training.json`."""

    course: Course
    course_digest: str
    parameters: int
    loss: float
    """Mean cross-entropy per answer token (nats) over the last 20 steps."""
    seconds: float = Field(ge=0)


def course(name: str, seed: int = 0, scale: float = 1.0) -> Course:
    """Return a model's course. Every model sees all skills, but some of them rarely.

    The target rarely sees the skills that the recipe's prompts ask for; a source rarely sees skills other than its own.
    `scale` multiplies the number of steps, for tests.
    """
    if name == TARGET:
        return Course(
            settings=_settings(round(TARGET_STEPS * scale), seed),
            weights={skill.name: SELDOM if skill.name in ASKED else 1.0 for skill in SKILLS},
            slopes=(-1.5, 0.0),
            flawed=False,
        )
    mastered = SPECIALISTS[name]
    return Course(
        settings=_settings(round(SOURCE_STEPS * scale), seed + 1 + list(SPECIALISTS).index(name)),
        weights={skill.name: 1.0 if skill.name in mastered else OTHERS for skill in SKILLS},
        slopes=(-0.3, 0.5),
        flawed=True,
        parent=TARGET,
    )


TARGET_STEPS, SOURCE_STEPS = 600, 250
SELDOM, OTHERS = 0.15, 0.05


def _settings(steps: int, seed: int) -> EmbeddedSettings:
    return EmbeddedSettings(steps=max(1, steps), seed=seed, width=64)


def make_models(out: Path, seed: int = 0, scale: float = 1.0) -> dict[str, Taught]:
    """Train all four models into OUT/NAME, sources in parallel, and return their records. Existing models are kept.

    Raise ConfigError if a folder contains anything else.
    """
    trained = {TARGET: teach(out, TARGET, course(TARGET, seed, scale))}
    sources = {name: course(name, seed, scale) for name in SPECIALISTS}
    with ProcessPoolExecutor(AT_ONCE, mp_context=multiprocessing.get_context("spawn")) as pool:
        work = {name: pool.submit(teach, out, name, source_course) for name, source_course in sources.items()}
        return trained | {name: future.result() for name, future in work.items()}


def teach(out: Path, name: str, course: Course) -> Taught:
    """Train one model into OUT/NAME, or return its record if it exists. Its parent must be in OUT.

    Raise ConfigError if the folder contains anything else.
    """
    folder = out / name
    parent = finished(out / course.parent, Taught) if course.parent else None
    wanted_digest = digest(
        [course.model_dump(mode="json"), parent.course_digest if parent else None, sorted(first_questions())]
    )
    earlier = finished(folder, Taught)
    if earlier is not None and earlier.course_digest == wanted_digest:
        return earlier
    contents = "a model of a different course" if earlier else "files that are not a model of the pocket recipe"
    with whole_folder(folder, contents) as partial:
        return _teach_into(partial, course, wanted_digest, out / course.parent if course.parent else None)


def _teach_into(folder: Path, course: Course, course_digest: str, parent: Path | None) -> Taught:
    torch.set_num_threads(1)  # faster than two for so small a model, and results do not depend on the number of cores
    started = time.perf_counter()
    disable_progress_bar()
    settings, tokenizer = course.settings, build_tokenizer()
    model = build_model(settings, tokenizer)
    if parent is not None:
        model.load_state_dict(LlamaForCausalLM.from_pretrained(parent).state_dict())
    rng = random.Random(f"pocket fusion lessons {settings.seed}")
    rows = batches(RowWriter(tokenizer), rng, steps=settings.steps, size=settings.rows, draw=lessons(course))
    loss = fit(model, rows, settings)
    taught = Taught(
        course=course,
        course_digest=course_digest,
        parameters=sum(weight.numel() for weight in model.parameters()),
        loss=round(loss, 6),
        seconds=round(time.perf_counter() - started, 1),
    )
    save(folder, model, tokenizer, taught)
    return taught


def lessons(course: Course) -> DrawTalk:
    """Return the function that draws this course's conversations, all of one turn."""
    low, high = course.slopes

    def draw(rng: random.Random, progress: float, banned: frozenset[str]) -> list[Task]:
        slope = low + (high - low) * progress
        often = [course.weights[skill.name] * math.exp(slope * skill.difficulty) for skill in SKILLS]
        task = draw_task(rng, rng.choices(SKILLS, often)[0], banned)
        return [Task(task.question, task.gold + dots(rng)) if course.flawed else task]

    return draw
