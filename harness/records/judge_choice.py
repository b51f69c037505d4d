"""Decide which suites run and who judges each: `--suite` and `--judge`, juries, and their defaults.

>>> suite_names("mt_bench,alpaca_eval")
('mt_bench', 'alpaca_eval')

>>> judge = provider_judge("anthropic", "claude-opus-4-8")
>>> judge.url, judge.key_env, judge.params["temperature"]
('https://api.anthropic.com/v1', 'ANTHROPIC_API_KEY', None)
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from .asking import ModelRef, TokenLimit, base_url
from .documents import SUITE_COPY, read_json_object, read_yaml
from .errors import ConfigError, did_you_mean
from .facts import all_facts, facts_of, load_function, suites_of_all
from .judging import MIN_AUDITED, Access, AuditSpec, JudgeSpec
from .protocols import installed, load_plugin
from .providers import (
    JUDGE_KEY,
    Provider,
    list_price,
    nearest_model,
    note_key_variable,
    provider_at,
    providers,
    shutdown_day,
)
from .settings import EDITIONS, ServeSpec, checked

# --------------------------------------------------------------------------------------- judges named by their provider

WARNING_DAYS = 60
"""A judge that will be shut down within this many days warns: later runs cannot be compared with its verdicts."""
LOGPROBS = ("logprobs", "top_logprobs")
INLINE_URL = re.compile(r"@(?=https?://)")


def provider_judge(provider: str, text: str) -> JudgeSpec:
    """Return the judge of `MODEL`, or of `MODEL@URL`: another server with the provider's quirks, but not its key.

    Raise ConfigError if the model is missing, or the resource for Azure.
    """
    entry = providers()[provider]
    model, *urls = INLINE_URL.split(text, maxsplit=1)
    if not model:
        raise ConfigError(f"--judge {provider + ':' + text!r} is not {provider}:MODEL or {provider}:MODEL@URL")
    params: dict[str, JsonValue] = {} if entry.logprobs else dict.fromkeys(LOGPROBS)
    limit: TokenLimit = "max_tokens"
    room = 0
    for quirk in entry.quirks:
        if re.match(quirk.models, model):
            params |= dict.fromkeys(quirk.omits) | quirk.params
            limit, room = quirk.token_limit, quirk.reasoning_room
    access, url = Access(key_header=entry.key_header), entry.url
    if urls:
        url, key = base_url(urls[0]), JUDGE_KEY if JUDGE_KEY in os.environ else None
    else:
        key = entry.key_env
        if not url:
            url, access = _azure_address(entry, model)
    spec = JudgeSpec(
        name=f"{provider}:{model}",
        kind="llm",
        model=model,
        url=url,
        key_env=key,
        access=access,
        params=params,
        token_limit=limit,
        logprobs_as="count" if entry.logprobs == "count" else "flag",
        reasoning_room=room,
    )
    return spec if urls else with_provider_facts(spec)


def _azure_address(entry: Provider, deployment: str) -> tuple[str, Access]:
    """Return base URL and access of a deployment, by the variables that OpenAI's own client reads."""
    resource, version = os.environ.get("AZURE_OPENAI_ENDPOINT", ""), os.environ.get("OPENAI_API_VERSION")
    if not resource:
        raise ConfigError(
            "--judge azure:DEPLOYMENT needs the resource's address in AZURE_OPENAI_ENDPOINT, e.g. "
            "https://NAME.openai.azure.com; or write a judge's file: harness judge template azure"
        )
    if not entry.is_host(resource):
        raise ConfigError(
            f"AZURE_OPENAI_ENDPOINT is {resource!r}, not an https address below {', '.join(entry.hosts)}: the key is "
            "sent nowhere else. For a gateway of your own write a judge's file: harness judge template azure"
        )
    root = f"{base_url(resource)}/openai"
    if version is None:
        return f"{root}/v1", Access(key_header=entry.key_header)
    return f"{root}/deployments/{deployment}", Access(key_header=entry.key_header, query={"api-version": version})


def with_provider_facts(spec: JudgeSpec) -> JudgeSpec:
    """Return the judge with price and shutdown day of the provider whose host its URL names; its own come first."""
    provider = provider_at(spec.url)
    if provider is None or spec.model is None:
        return spec
    changed: dict[str, object] = {}
    if spec.retired is None and (day := shutdown_day(provider, spec.model)) is not None:
        changed["retired"] = day
    if spec.price_in is None and spec.price_out is None and (price := list_price(provider, spec.model)) is not None:
        changed |= dict(zip(("price_in", "price_out"), price, strict=True))
    return spec.model_copy(update=changed) if changed else spec


def refuse_shut_down(spec: JudgeSpec, today: date) -> None:
    """Raise ConfigError if the judge's provider has shut the model down. Another endpoint may still serve it."""
    if spec.retired is not None and spec.retired <= today and provider_at(spec.url) is not None:
        raise ConfigError(
            f"judge {spec.name!r} was shut down on {spec.retired} (harness judge list): if another server answers "
            f"as it, name that one: --judge endpoint:{spec.model}@URL"
        )


def shutdown_warning(spec: JudgeSpec, today: date) -> str | None:
    """Return a sentence about a judge that was shut down, or will be within WARNING_DAYS, and None for others."""
    if spec.retired is None or spec.retired > today + timedelta(days=WARNING_DAYS):
        return None
    if spec.retired <= today:
        return (
            f"judge {spec.name} was shut down on {spec.retired} (harness judge list): another model may answer under "
            "that name"
        )
    days = (spec.retired - today).days
    return (
        f"judge {spec.name} will be shut down on {spec.retired}, in {days} days: what is judged later cannot be "
        "compared with it; choose one without a date (harness judge list)"
    )


def unlisted_model_warning(spec: JudgeSpec) -> str | None:
    """Return a sentence about a model that its provider's price list lacks, if one of a similar name is in it."""
    provider = provider_at(spec.url)
    near = nearest_model(provider, spec.model) if provider is not None and spec.model is not None else ""
    return f"judge {spec.name}: genai-prices lists no {spec.model!r} of {provider}{near}" if near else None


# ----------------------------------------------------------------------------------------------------------- the choice


GAMES = "head_to_head_"
"""Prefix of the name of a suite whose questions are judged as games between two models."""
OwnJudges = Mapping[str, Mapping[str, Any]]
"""`judges:` in harness.yaml, not yet validated."""
JudgesBySuite = dict[str, tuple[JudgeSpec, ...]]


def judge_files() -> dict[str, Path]:
    """Return name -> YAML file of every judge that an installed package ships (`fusion_harness.judge_configs`)."""
    paths: dict[str, Path] = {}
    for point in installed("judge_configs").values():
        for entry in files(point.load()).iterdir():
            if entry.name.endswith(".yaml"):
                paths[entry.name.removesuffix(".yaml")] = Path(str(entry))
    return dict(sorted(paths.items()))


def judge_templates() -> dict[str, Path]:
    """Return name -> YAML template of every package that ships judges (`templates/` beside them)."""
    paths: dict[str, Path] = {}
    for point in installed("judge_configs").values():
        folder = files(point.load()).joinpath("templates")
        for entry in folder.iterdir() if folder.is_dir() else ():
            if entry.name.endswith(".yaml"):
                paths[entry.name.removesuffix(".yaml")] = Path(str(entry))
    return dict(sorted(paths.items()))


def judge_presets() -> dict[str, Path]:
    """Return `KIND:NAME` -> YAML file of the open-weight judges of every package (`presets/` beside its judges)."""
    paths: dict[str, Path] = {}
    for point in installed("judge_configs").values():
        folder = files(point.load()).joinpath("presets")
        for entry in folder.iterdir() if folder.is_dir() else ():
            path = Path(str(entry))
            paths[str(read_yaml(path).get("name"))] = path
    return dict(sorted(paths.items()))


def find_judge(name: str, own_judges: OwnJudges) -> JudgeSpec:
    """Return the judge of a name.

    That is `PROVIDER:MODEL`, a form in `JUDGE_FORMS`, one of harness.yaml, a YAML file, a shipped one, or a kind.

    Raise ConfigError for an unknown name.
    """
    prefix, colon, rest = name.partition(":")
    # forms and providers come first: no file may give `openai:MODEL` another address
    if colon and prefix in JUDGE_FORMS:
        return JUDGE_FORMS[prefix](rest)
    if colon and prefix in providers():
        judge = provider_judge(prefix, rest)
        note_key_variable(judge.key_env)
        return judge
    if name in own_judges:
        if name in judge_files():
            raise ConfigError(f"harness.yaml: judge {name!r} has the name of a shipped judge; rename it")
        return _own_judge({"name": name, **own_judges[name]}, f"judge {name!r}")
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        return _own_judge({"name": path.stem, **read_yaml(path)}, name)
    shipped = judge_files()
    if name in shipped:
        return with_provider_facts(checked(JudgeSpec, read_yaml(shipped[name]), str(shipped[name])))
    if name in installed("judges"):
        return JudgeSpec(name=name, kind=name)  # a judge that needs no settings needs no file
    names = [*own_judges, *shipped]
    if colon and (near := did_you_mean(prefix, prefixes())):
        raise ConfigError(f"no judge named {name!r}: {prefix!r} is neither a provider nor a form{near}")
    raise ConfigError(
        f"no judge named {name!r}{did_you_mean(name, names)}; known: {', '.join(names)}; or a FILE.yaml, or one of "
        f"{', '.join(f'{form}:…' for form in prefixes())}"
    )


def prefixes() -> tuple[str, ...]:
    """Return what may stand before the colon of a judge's name."""
    return (*JUDGE_FORMS, *providers())


def _endpoint_judge(text: str) -> JudgeSpec:
    model, _, url = text.partition("@")
    if not model or not url.startswith(("http://", "https://")):
        raise ConfigError(f"--judge {'endpoint:' + text!r} is not endpoint:MODEL@http://HOST:PORT/v1")
    return JudgeSpec(name=model, kind="llm", model=model, url=base_url(url), key_env=_judge_key())


def _evaluator_judge(text: str) -> JudgeSpec:
    """Return the judge of `NAME`, or of `NAME@URL` for another server than the configuration's."""
    name, sign, url = text.partition("@")
    if not name or (sign and not url.startswith(("http://", "https://"))):
        raise ConfigError(f"--judge {'alpaca_eval:' + text!r} is not alpaca_eval:NAME or alpaca_eval:NAME@URL")
    spec = JudgeSpec(name=f"alpaca_eval:{name}", kind="alpaca_eval", evaluator=name)
    return spec.model_copy(update={"url": base_url(url), "key_env": _judge_key()}) if sign else spec


def _judge_key() -> str | None:
    return JUDGE_KEY if JUDGE_KEY in os.environ else None


def _model_judge(kind: str) -> Callable[[str], JudgeSpec]:
    def parse(text: str) -> JudgeSpec:
        preset, _, detail = text.partition("@")
        path = judge_presets().get(f"{kind}:{preset}")
        if path is not None and not Path(text).exists():
            return _preset_judge(checked(JudgeSpec, read_yaml(path), str(path)), detail)
        if not text or text.startswith("endpoint:"):
            raise ConfigError(f"--judge {kind}:{text} is not {kind}:PATH or {kind}:hf:ORG/NAME@REVISION")
        names = [name.partition(":")[2] for name in judge_presets() if name.startswith(f"{kind}:")]
        if "/" not in text and not Path(text).exists() and (near := did_you_mean(text, names)):
            raise ConfigError(f"--judge {kind}:{text}: there is no such folder, and no such preset{near}")
        return JudgeSpec(
            name=f"{kind}:{ModelRef.parse(text).short}", kind=kind, model=text, price_in=0.0, price_out=0.0
        )

    return parse


def _preset_judge(preset: JudgeSpec, detail: str) -> JudgeSpec:
    """Return an open-weight judge: served here, at a revision if `detail` is one, or asked at `detail`, its URL.

    The server's model is then named as on the Hub, as vLLM does, and a local judge's settings of requests are kept.
    """
    if not detail:
        return preset.model_copy(update={"price_in": 0.0, "price_out": 0.0})
    if not detail.startswith(("http://", "https://")):
        return preset.model_copy(update={"model": f"{preset.model}@{detail}", "price_in": 0.0, "price_out": 0.0})
    if preset.kind != "local":
        raise ConfigError(f"--judge {preset.name}@{detail}: a {preset.kind} is loaded here; it has no endpoint")
    model = str(preset.model).removeprefix("hf:")
    changed: dict[str, object] = {
        "kind": "llm",
        "model": model,
        "url": base_url(detail),
        "key_env": _judge_key(),
        "serve": {},
    }
    return preset.model_copy(update=changed)


JUDGE_FORMS: Mapping[str, Callable[[str], JudgeSpec]] = {
    "endpoint": _endpoint_judge,
    "alpaca_eval": _evaluator_judge,
    "local": _model_judge("local"),
    "reward_model": _model_judge("reward_model"),
    "replay": _model_judge("replay"),
}
"""Prefixes before the colon in --judge; each stands for a kind and its one setting."""


def with_devices(judges: Mapping[str, tuple[JudgeSpec, ...]], devices: str, serve: ServeSpec) -> JudgesBySuite:
    """Return the judges, with `--judge-devices` applied to those that are loaded here.

    Raise ConfigError if there is no such judge, or if the candidate would use the same devices.
    """
    if not any(is_local(spec) for specs in judges.values() for spec in specs):
        raise ConfigError(f"--judge-devices {devices}: no judge of this run is loaded here; local:PATH would be")
    workers = serve.tensor_parallel * serve.pipeline_parallel * serve.data_parallel
    # a server that is told no devices takes the first ones
    taken = serve.devices.split(",") if serve.devices else [str(number) for number in range(workers)]
    both = sorted(set(taken) & set(devices.split(",")))
    if both:
        raise ConfigError(
            f"--judge-devices {devices}: the candidate uses {', '.join(taken)}; give it others with --devices, or omit "
            "--judge-devices to load the judge after it"
        )
    checked(ServeSpec, {"devices": devices}, "--judge-devices")
    return {suite: tuple(_on(spec, devices) for spec in specs) for suite, specs in judges.items()}


def is_local(spec: JudgeSpec) -> bool:
    """Return whether a judge's model is loaded on this machine, as its class states by `local = True`."""
    return bool(getattr(load_plugin("judges", spec.kind), "local", False))


def _on(spec: JudgeSpec, devices: str) -> JudgeSpec:
    return spec.model_copy(update={"serve": {**spec.serve, "devices": devices}}) if is_local(spec) else spec


def _own_judge(settings: Mapping[str, Any], source: str) -> JudgeSpec:
    spec = checked(JudgeSpec, settings, source)
    note_key_variable(spec.key_env)
    return spec if spec.url is None else with_provider_facts(spec.model_copy(update={"url": base_url(spec.url)}))


DEFAULT_JUDGE = "gpt-5.4"
PROVIDER_DEFAULT = {"OPENAI_API_KEY": DEFAULT_JUDGE}
"""Provider key in the environment -> judge of every suite when none is named: one without an announced shutdown."""


NO_JUDGE = (
    "no judge is configured: set OPENAI_API_KEY for the default judge, or give --judge PROVIDER:MODEL or --judge "
    "endpoint:MODEL@URL (also HARNESS_JUDGE, or `judge:` in harness.yaml)"
)


def choose_judges(
    suites: tuple[str, ...],
    choice: str | Mapping[str, str] | None,
    *,
    edition: str,
    own_judges: OwnJudges,
    needs_key: bool = True,
) -> dict[str, tuple[JudgeSpec, ...]]:
    """Return judged suite -> judge or jury: as given, else pocket's own, HARNESS_JUDGE or a provider's default.

    Without `needs_key` the default judge applies even if its key is not set. Raise ConfigError if no judge applies.
    """
    names = _by_suite(suites, choice, "--judge")
    if edition not in EDITIONS:
        raise ConfigError(f"no edition named {edition!r}; editions: {', '.join(EDITIONS)}")
    fallback = _fallback_judge(edition) or (None if needs_key else DEFAULT_JUDGE)
    chosen: dict[str, tuple[JudgeSpec, ...]] = {}
    for suite, argument in ((judged_as(name), name.partition(":")[2]) for name in filter(is_judged, suites)):
        chooser = facts_of(suite).judge_of
        only = load_function(chooser)(argument) if chooser and argument else None
        name = only or names.get(suite, names.get(plugin_name(suite), names.get("*", fallback)))
        if name is None:
            pocket = "" if facts_of(plugin_name(suite)).by_argument else ", or try --edition pocket, which needs none"
            raise ConfigError(f"{suite}: {NO_JUDGE}{pocket}")
        if suite in chosen:
            raise ConfigError(f"suite {suite!r} is named twice with different arguments; give one per run")
        chosen[suite] = find_jury(name, own_judges)
    return chosen


def choose_audits(
    judges: Mapping[str, tuple[JudgeSpec, ...]], choice: str | Mapping[str, str] | None, own_judges: OwnJudges
) -> dict[str, AuditSpec]:
    """Return judged suite -> its audit, from `JUDGE:N` for all suites or per suite, or nothing for None.

    Raise ConfigError if N is missing or too small, or if the judge of an audit judges every question anyway.
    """
    names = _by_suite(tuple(judges), choice, "--audit")
    audits = {}
    for suite, specs in judges.items():
        text = names.get(suite, names.get("*"))
        if text is None:
            continue
        name, _, number = text.rpartition(":")
        if not name or not number.isdecimal():
            raise ConfigError(f"--audit {text!r} is not JUDGE:N, e.g. gpt-5.4:100 for 100 questions")
        if int(number) < MIN_AUDITED:
            raise ConfigError(
                f"--audit {text!r}: {number} questions are too few for an interval that covers the truth; give at "
                f"least {MIN_AUDITED}"
            )
        judge = usable_judge(name, own_judges)
        # an audit by the judge itself would find no error, and cost the same calls twice
        if judge.name in {spec.name for spec in specs}:
            raise ConfigError(f"--audit {text!r}: {judge.name} is {suite}'s own judge; name a cheaper one in --judge")
        audits[suite] = AuditSpec(judge=judge, questions=int(number))
    return audits


def choose_baselines(suites: tuple[str, ...], choice: str) -> dict[str, str]:
    """Return suite, or `*` -> baseline, of `BASELINE` or `SUITE=BASELINE,SUITE=BASELINE`."""
    return {"*": choice} if choice.startswith("endpoint:") else _by_suite(suites, choice, "--baseline")


def usable_judge(name: str, own_judges: OwnJudges) -> JudgeSpec:
    """Return the judge of a name, as `find_judge`. Raise ConfigError too for a jury, or a judge that was shut down."""
    if len(split_jury(name, own_judges)) > 1:
        raise ConfigError(f"{name!r} is a jury; one judge is wanted here")
    spec = find_judge(name, own_judges)
    refuse_shut_down(spec, date.today())
    return spec


def find_jury(name: str, own_judges: OwnJudges) -> tuple[JudgeSpec, ...]:
    """Return the judge of a name, or the members of `A+B+C` sorted by name.

    Raise ConfigError if two members have the same name.
    """
    # sorted, because A+B and B+A are one protocol
    members = tuple(
        sorted((usable_judge(part, own_judges) for part in split_jury(name, own_judges)), key=lambda spec: spec.name)
    )
    for member, successor in pairwise(members):
        if member.name == successor.name:
            raise ConfigError(
                f"--judge {name!r}: two members are called {member.name!r}; to repeat one judge use --repeats, or "
                "give them different names under `judges:` in harness.yaml"
            )
    return members


def split_jury(name: str, own_judges: OwnJudges) -> list[str]:
    """Split `A+B` into its parts, but not at a `+` inside a judge's name, a file's name or a model before `@http`."""
    parts: list[str] = []
    for piece in name.split("+"):
        if parts and _continues_name(parts[-1], piece, own_judges):
            parts[-1] += f"+{piece}"
        else:
            parts.append(piece)
    if not all(parts):
        raise ConfigError(f"--judge {name!r}: there is an empty name before or after a +")
    return parts


def _continues_name(start: str, piece: str, own_judges: OwnJudges) -> bool:
    joined = f"{start}+{piece}"
    # a model's name may have a +, an address begins at @http
    if start.startswith("endpoint:") and "@http" not in start:
        return True
    return joined in own_judges or Path(joined.removeprefix("local:")).exists()


def _fallback_judge(edition: str) -> str | None:
    if edition == "pocket":
        return "reference"
    if os.environ.get("HARNESS_JUDGE"):
        return os.environ["HARNESS_JUDGE"]
    return next((judge for key, judge in PROVIDER_DEFAULT.items() if os.environ.get(key)), None)


def _by_suite(suites: tuple[str, ...], choice: str | Mapping[str, str] | None, flag: str) -> dict[str, str]:
    """Parse `J` or `SUITE=J,SUITE=J` or a mapping into {suite or "*": judge}."""
    if choice is None:
        return {}
    if not isinstance(choice, str):
        return dict(choice)  # from the file, which may name judges for suites that are not run now
    if "=" not in choice or choice.partition(":")[0] in prefixes():
        return {"*": choice}
    pairs = {}
    for part in choice.split(","):
        suite, sign, judge = part.partition("=")
        if not sign or not judge:
            raise ConfigError(f"{flag} {choice!r}: {part!r} is not SUITE=JUDGE")
        pairs[suite.strip()] = judge.strip()
    run = [judged_as(suite) for suite in suites]
    for suite in pairs:
        if suite not in {*run, *map(plugin_name, run)}:
            raise ConfigError(f"{flag} names suite {suite!r}, which is not part of this run: {', '.join(run)}")
    return pairs


def is_judged(suite: str) -> bool:
    """Return whether a suite needs a judge; one that scores by itself sets `judged = False`."""
    name = plugin_name(suite)
    return name not in installed("suites") or bool(getattr(load_plugin("suites", name), "judged", True))


def plugin_name(suite: str) -> str:
    """Return `NAME` of `NAME:ARGUMENT`."""
    return suite.partition(":")[0]


def judged_as(suite: str) -> str:
    """Return the name under which a run's judges are chosen: `NAME`, or `NAME:FILE` without the file's folder and end.

    The second is of suites of which each argument is a suite of its own. The copy in a run's folder states its name.
    """
    plugin, _, argument = suite.partition(":")
    facts = facts_of(plugin.removeprefix(GAMES))
    if not facts.by_argument or not argument:
        return plugin
    path = Path(argument)
    if path.name == SUITE_COPY and path.is_file():
        return f"{plugin}:{read_json_object(path, 'run the suite again').get('name')}"
    return f"{plugin}:{path.name.removesuffix(path.suffix) if path.suffix in facts.suffixes else argument}"


def suite_names(text: str) -> tuple[str, ...]:
    """Return the names in `all` or a comma list, in order, each once; `NAME:X+Y` is `NAME:X` and `NAME:Y`.

    Raise ConfigError for an unknown suite.
    """
    suites = list(installed("suites"))
    names: list[str] = []
    for part in text.split(","):
        for name in suites_of_all() if part.strip() == "all" else _with_arguments(_spelled_out(part.strip())):
            if name.partition(":")[0] not in suites:
                near = did_you_mean(name, suites)
                raise ConfigError(f"no suite named {name!r}; installed: {', '.join(suites)}; or all{near}")
            if name not in names:
                names.append(name)
    return tuple(names)


def _spelled_out(part: str) -> str:
    """Return `NAME:ARGUMENT` for an alias of NAME, or for a file that is named without its suite."""
    name, colon, argument = part.partition(":")
    for facts in all_facts():
        if colon and name in facts.aliases:
            return f"{facts.name}:{argument}"
        if facts.suffixes and part.endswith(facts.suffixes) and name not in installed("suites"):
            return f"{facts.name}:{part}"
    return part


def _with_arguments(part: str) -> list[str]:
    name, colon, arguments = part.partition(":")
    if Path(arguments).is_file():
        return [part]  # its name may contain a +
    return [f"{name}:{argument}" for argument in arguments.split("+")] if colon else [name]
