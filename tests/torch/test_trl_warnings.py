"""TRL's warning about vLLM's version is silenced, as it does not concern training; all other warnings are shown."""

from __future__ import annotations

import importlib
import warnings

import recipes.training


def test_only_trls_warnings_about_vllms_version_are_silent() -> None:
    version = "TRL currently supports vLLM versions from 0.22.0 to 0.31.0. You have version 0.32.0 installed."
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        importlib.reload(recipes.training)
        warnings.warn_explicit(version, UserWarning, "vllm_client.py", 48, module="trl.generation.vllm_client")
        warnings.warn_explicit(
            "Another matter.", UserWarning, "vllm_client.py", 50, module="trl.generation.vllm_client"
        )
        warnings.warn_explicit(version, UserWarning, "mine.py", 3, module="mine")

    assert [str(warning.message) for warning in heard] == ["Another matter.", version]
