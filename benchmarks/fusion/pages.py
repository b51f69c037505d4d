"""The tables and the figure of docs/fusion_study.md, made from the study's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.pages.charts import Drawing, axis

from .findings import (
    GREEDY,
    SAMPLED,
    FloatArray,
    PairedDifference,
    WorldResults,
    by_world,
    difference,
    may_be_best,
    over_worlds,
)
from .methods import METHODS
from .study import UNTRAINED, Trained

CONTROLS = ("dpo", "sft-cont")
"""What WRPO has to beat: the target's own pair, and the sources' answers."""
NAMES = {
    "target": "target",
    "sft": "SFT only",
    "best-source": "best source",
    "mixture": "mixture of sources",
    "best-of-sources": "best of 15 source answers",
}


def is_wrpo(name: str) -> bool:
    """Return whether a method weights source against target with DPO's loss."""
    return name.startswith("wrpo-0") or name == "hybrid-dpo"


def world_map(rows: Sequence[Trained]) -> str:
    """Who wins where."""
    lines = [
        "| sources, SFT | SFT only | y_ws less y_wt | more SFT | best of the trained | may be best |",
        "|---|---:|---:|---:|---|---|",
    ]
    for results in by_world(rows, GREEDY):
        gain = difference(results.rewards["sft-cont"], results.rewards["sft"])
        margin = sum(facts.source_less_target for facts in results.facts) / len(results.facts)
        best = max(results.trained, key=results.mean)
        lines.append(
            f"| {_title(results)} | {results.mean('sft'):.3f} | {margin:+.3f} | {_interval(gain)} | "
            f"{best} {results.mean(best):.3f} | {', '.join(may_be_best(results, results.trained))} |"
        )
    return "\n".join(lines) + "\n"


def wrpo(rows: Sequence[Trained]) -> str:
    """WRPO at each alpha less each control, greedy and sampled."""
    lines = []
    for decoding, how in ((GREEDY, "greedy"), (SAMPLED, "T 0.8")):
        worlds = by_world(rows, decoding)
        names = [name for name in worlds[0].trained if is_wrpo(name)]
        for control in CONTROLS:
            lines += ["", f"| {how}: less {control} | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
            count = _comparisons(worlds, names)
            tables = [(_title(results), results.rewards) for results in worlds]
            for title, by_name in [*tables, ("all worlds", over_worlds(worlds))]:
                cells = [_shown(difference(by_name[name], by_name[control], comparisons=count)) for name in names]
                lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines[1:]) + "\n"


def rewards(rows: Sequence[Trained]) -> str:
    """Mean test rewards of everything; in bold what may be the best trained method."""
    lines = []
    for decoding, title in ((GREEDY, "greedy"), (SAMPLED, "T 0.8")):
        worlds = by_world(rows, decoding)
        lines += ["", f"| {title} | " + " | ".join(map(_title, worlds)) + " |", "|---|" + "---:|" * len(worlds)]
        best = [set(may_be_best(results, results.trained)) for results in worlds]
        for name in worlds[0].rewards:
            cells = [
                f"**{results.mean(name):.3f}**" if name in kept else f"{results.mean(name):.3f}"
                for results, kept in zip(worlds, best, strict=True)
            ]
            lines.append(f"| {NAMES.get(name, name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines[1:]) + "\n"


def methods(rows: Sequence[Trained]) -> str:
    """What each method is, its four settings, and how often each was chosen."""
    worlds = by_world(rows, GREEDY)
    lines = [
        "| method | what it trains | settings, and in how many of all worlds and seeds each was chosen |",
        "|---|---|---|",
    ]
    for name in worlds[0].trained:
        chosen = [settings for results in worlds for settings in results.chosen[name]]
        each = [
            f"{', '.join(f'{key} {value:g}' for key, value in setting.items())}: {chosen.count(setting)}"
            for setting in METHODS[name].settings
        ]
        lines.append(f"| {name} | {METHODS[name].about} | {'; '.join(each)} |")
    return "\n".join(lines) + "\n"


def sentences(rows: Sequence[Trained]) -> str:
    """The answer in words: per world, over all worlds, and what needs no training. Greedy rewards."""
    worlds = by_world(rows, GREEDY)
    names = [name for name in worlds[0].trained if is_wrpo(name)]
    count = _comparisons(worlds, names)
    lines = []
    tables = [(_title(results), results.rewards) for results in worlds]
    for title, by_name in [*tables, ("all worlds on average", over_worlds(worlds))]:
        parts = [_verdicts(by_name, names, control, count) for control in CONTROLS]
        lines.append(f"- **{title}**: {'; '.join(parts)}.")
    lines += [_untrained(results) for results in worlds]
    return "\n".join(lines) + "\n"


def _verdicts(by_name: Mapping[str, FloatArray], names: Sequence[str], control: str, comparisons: int) -> str:
    """Return which of the methods are better or worse than the control, by simultaneous intervals."""
    signs = {name: difference(by_name[name], by_name[control], comparisons=comparisons).sign for name in names}
    texts = {1: f"better than {control}", 0: f"not shown to differ from {control}", -1: f"worse than {control}"}
    if len(set(signs.values())) == 1:
        sign = next(iter(signs.values()))
        return f"every alpha is {texts[sign]}" if sign else f"no alpha is shown to differ from {control}"
    return ", ".join(
        f"{' and '.join(group)} {'is' if len(group) == 1 else 'are'} {text}"
        for sign, text in texts.items()
        if (group := [name for name in names if signs[name] == sign])
    )


def _untrained(results: WorldResults) -> str:
    """Return how the best trained method stands to the best row without training, in a sentence."""
    trained = max(results.trained, key=results.mean)
    untrained = max(("best-source", "mixture", "best-of-sources"), key=results.mean)
    apart = difference(results.rewards[trained], results.rewards[untrained])
    verdict = {1: "beats", 0: "is not shown to differ from", -1: "does not reach"}[apart.sign]
    start = f"- {_title(results)}: the best trained method ({trained})"
    return f"{start} {verdict} the {NAMES[untrained]}, {_interval(apart)}."


SECTIONS = {"map": world_map, "sentences": sentences, "wrpo": wrpo, "rewards": rewards, "methods": methods}
"""Name in the page's markers -> what is printed there."""


def _comparisons(worlds: Sequence[WorldResults], names: Sequence[str]) -> int:
    """Return the number of differences in one of the tables of WRPO: each world, and all of them."""
    return (len(worlds) + 1) * len(names)


def _title(results: WorldResults) -> str:
    gap, sft = results.world
    return f"{gap.replace('-', ' ')}, {sft}"


def _interval(apart: PairedDifference) -> str:
    return f"{apart.mean:+.3f} [{apart.low:.3f}, {apart.high:.3f}]"


def _shown(apart: PairedDifference) -> str:
    return f"**{_interval(apart)}**" if apart.sign else _interval(apart)


PANEL_WIDTH, LABELS, TOP, LINE, HEAD = 250.0, 130.0, 62.0, 15.0, 26.0


def figure(rows: Sequence[Trained]) -> str:
    """Return an SVG: in each world, each method less DPO with its simultaneous interval. One row per gap."""
    worlds = by_world(rows, GREEDY)
    names = [name for name in worlds[0].trained if name != "dpo"]
    columns = len({results.world[1] for results in worlds})
    apart = [
        [difference(results.rewards[name], results.rewards["dpo"], comparisons=len(names)) for name in names]
        for results in worlds
    ]
    ends = [end for each in apart for interval in each for end in (interval.low, interval.high)]
    # intervals of few seeds can be far wider than any difference
    reach = max(abs(interval.mean) for each in apart for interval in each) * 1.3 or 1.0
    ends = [min(max(end, -reach), reach) for end in ends]
    height = HEAD + LINE * len(names) + 34
    lines = -(-len(worlds) // columns)
    drawing = Drawing(
        LABELS + columns * PANEL_WIDTH + 10, TOP + lines * height, "Mean test reward of each method less that of DPO"
    )
    drawing.text(8, 18, "Test reward less that of DPO on the target's own pair, greedy", css="title")
    seeds = len(worlds[0].seeds)
    drawing.text(
        8,
        36,
        f"mean of {seeds} seeds; 95 % intervals, simultaneous within a panel; cut at the edges",
        css="small muted",
    )
    for number, (results, each) in enumerate(zip(worlds, apart, strict=True)):
        left, top = LABELS + PANEL_WIDTH * (number % columns), TOP + height * (number // columns)
        across = axis(ends, left + 8, left + PANEL_WIDTH - 8)
        drawing.text(left + 8, top, _title(results), css="small")
        bottom = top + HEAD + LINE * len(names) - 8
        for tick in across.ticks(4):
            drawing.line(across(tick), top + 8, across(tick), bottom, "axis" if tick == 0 else "grid")
            drawing.text(across(tick), bottom + 13, f"{tick:g}", anchor="middle", css="small muted")
        for line, (name, interval) in enumerate(zip(names, each, strict=True)):
            y = top + HEAD + LINE * line - 4
            if number % columns == 0:
                drawing.text(LABELS - 4, y + 4, name, anchor="end", css="small")
            kind = 2 if is_wrpo(name) else 1
            low, high = (min(max(end, across.low), across.high) for end in (interval.low, interval.high))
            drawing.line(across(low), y, across(high), y, f"l{kind}")
            hint = f"{name}, {_title(results)}: {_interval(interval)}"
            drawing.mark(across(interval.mean), y, kind, hint=hint, css=f"m{kind}")
    return drawing.standalone()


__all__ = ["SECTIONS", "UNTRAINED", "figure"]
