"""YAML and flags -> RunSpec: `specs` the settings, `judges` which judge a name means, `choice` who judges what."""

from .choice import (
    choose_judges,
    find_jury,
    is_judged,
    split_jury,
    suite_names,
)
from .judges import (
    find_judge,
    judge_files,
    judge_templates,
    with_devices,
)
from .specs import (
    EDITIONS,
    FileSpec,
    RunSpec,
    SamplingOverride,
    ServeSpec,
    checked,
    read_file_spec,
    read_yaml,
)

__all__ = [
    "EDITIONS",
    "FileSpec",
    "RunSpec",
    "SamplingOverride",
    "ServeSpec",
    "checked",
    "choose_judges",
    "find_judge",
    "find_jury",
    "is_judged",
    "judge_files",
    "judge_templates",
    "read_file_spec",
    "read_yaml",
    "split_jury",
    "suite_names",
    "with_devices",
]
