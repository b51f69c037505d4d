"""A command's options are one record: what typer parses fills it, and every flag explains itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
import typer
from typer.testing import CliRunner

from harness.cli.main import COMMANDS, load_command
from harness.cli.options import Flags, JsonFlags, ResultsFlags, command, from_values, parameters
from harness.cli.run import RunFlags, SamplingFlags, ServeFlags
from harness.records.protocols import installed
from harness.records.settings import FileSpec, RunSpec, SamplingOverride, ServeSpec
from tests.fakes.commands import Done

SAMPLES = {str: "text", int: 12, float: 0.5, bool: True, Path: Path("folder")}


class Nested(Flags):
    speed: Annotated[int | None, typer.Option(help="Speed.", rich_help_panel="Fine tuning")] = None


class Example(ResultsFlags, JsonFlags):
    names: Annotated[list[str], typer.Argument(help="Names.")]
    tags: Annotated[list[str] | None, typer.Option("--tag", help="Tags; repeatable.")] = None
    colour: Annotated[bool, typer.Option(help="Use colour.")] = True
    nested: Nested = Nested()


def parsed(*words: str, **environment: str) -> Example:
    records: list[Example] = []

    @command
    def example(context: typer.Context, flags: Example) -> None:
        """Show an example."""
        assert context.info_name == "example"
        records.append(flags)

    app = typer.Typer()
    app.command()(example)
    done = CliRunner().invoke(app, words, prog_name="example", env=environment)
    assert done.exit_code == 0, done.output
    return records[0]


def test_defaults_arguments_repeated_and_negated_flags_and_groups() -> None:
    assert parsed("a", "b") == Example(names=["a", "b"])
    assert parsed(
        "a", "--tag", "x", "--tag", "y", "--no-colour", "--speed", "3", "--json", "--results", "r"
    ) == Example(names=["a"], tags=["x", "y"], colour=False, nested=Nested(speed=3), as_json=True, results=Path("r"))


def test_an_environment_variable_fills_its_flag() -> None:
    assert parsed("a", HARNESS_RESULTS="elsewhere").results == Path("elsewhere")


def test_own_flags_come_before_inherited_ones() -> None:
    assert [parameter.name for parameter in parameters(Example)] == [
        *("names", "tags", "colour", "speed"),
        *("results", "as_json"),
    ]


def leaves(click_command: Any, name: str) -> Iterator[tuple[str, Any]]:
    yield name, click_command
    for child_name, child in getattr(click_command, "commands", {}).items():
        yield from leaves(child, f"{name} {child_name}")


@pytest.fixture(scope="module")
def commands() -> dict[str, Any]:
    """Every command and subcommand by name."""
    names = (*COMMANDS, *installed("commands"))
    return {path: leaf for name in names for path, leaf in leaves(load_command(name), name)}


def test_every_option_has_a_help_text(commands: dict[str, Any]) -> None:
    assert len(commands) > 25
    silent = [
        f"{name} {parameter.name}"
        for name, click_command in commands.items()
        for parameter in click_command.params
        if not getattr(parameter, "help", None)
    ]
    assert silent == []


def test_the_help_of_a_group_shows_whole_sentences(harness: Callable[..., Done]) -> None:
    for group in ("judge", "data", "cache", "config", "suite", "gate"):
        assert "..." not in harness(group, "--help").out.partition("Commands:")[2]


def records_of(kind: type[Flags]) -> Iterator[type[Flags]]:
    for child in kind.__subclasses__():
        yield child
        yield from records_of(child)


def sample(annotation: Any) -> Any:
    """A value of a flag's type."""
    if annotation in SAMPLES:
        return SAMPLES[annotation]
    if get_origin(annotation) is Literal:
        return get_args(annotation)[-1]
    options = [option for option in get_args(annotation) if option is not type(None)]
    return [sample(options[0])] if getattr(annotation, "__origin__", None) is list else sample(options[0])


def test_every_record_of_flags_survives_typer_and_json(commands: dict[str, Any]) -> None:
    records = [record for record in records_of(Flags) if record.__module__.partition(".")[0] != "tests"]
    assert len(records) > 20
    for record in records:
        names = [parameter.name for parameter in parameters(record)]
        assert len(names) == len(set(names)), record
        values = {parameter.name: sample(get_args(parameter.annotation)[0]) for parameter in parameters(record)}
        flags = from_values(record, values)
        assert record.model_validate_json(flags.model_dump_json()) == flags
        assert all(value in str(flags.model_dump()) for value in map(str, values.values()))


def test_no_flag_of_a_run_is_dropped_on_its_way_to_the_plan() -> None:
    of_the_command = {"no_cache", "config", "dry_run", "fresh", "log_to", "as_json", "verbose", "parallel_models"}
    become_judges_and_suites = {"suite", "judge", "judges", "judge_devices"}

    assert set(RunFlags.model_fields) - of_the_command <= set(FileSpec.model_fields)
    assert set(FileSpec.model_fields) - become_judges_and_suites <= set(RunSpec.model_fields)
    assert set(ServeFlags.model_fields) <= set(ServeSpec.model_fields)
    assert set(SamplingFlags.model_fields) == set(SamplingOverride.model_fields)


def test_each_flag_of_a_run_replaces_its_key_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "harness.yaml"
    file.write_text("{model: a, seed: 1, limit: 4, serve: {dtype: float32, concurrency: 8}, sampling: {top_p: 0.5}}")
    words = {"config": file, "seed": 2, "no_cache": True, "concurrency": 9, "temperature": 0.0, "n": 3}

    settings = from_values(RunFlags, words).settings()

    assert (settings.model, settings.seed, settings.limit, settings.cache) == ("a", 2, 4, False)
    assert (settings.serve.dtype, settings.serve.concurrency) == ("float32", 9)
    assert (settings.sampling.top_p, settings.sampling.temperature, settings.sampling.n) == (0.5, 0.0, 3)
