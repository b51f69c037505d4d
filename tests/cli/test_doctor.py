"""`harness doctor`: each check on facts given to it, and the command as a whole in its two forms."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.backends.devices import GIB
from harness.cli import doctor
from harness.cli.doctor import Check, collisions, disks, memory, processor, python
from harness.store.provenance import DISTRIBUTION, install_command
from tests import ROOT
from tests.fakes.commands import Done

HOME = Path("site")
HOMES = {"harness": HOME, "judges": HOME, "recipes": HOME}


def test_an_old_python_is_a_failure() -> None:
    assert python((3, 10, 4)).status == "fail"
    assert python((3, 11, 0)).status == "ok"


def test_a_foreign_judges_package_is_named_with_its_cure() -> None:
    owners = {
        "harness": ["llm-fusion-harness"],
        "judges": ["llm-fusion-harness", "judges"],
        "recipes": ["llm-fusion-harness"],
    }

    found = collisions(owners, HOMES)

    assert found.status == "fail"
    assert "judges overwrites our package judges" in found.finding
    assert found.fix == f"pip uninstall -y judges && {install_command(reinstall=True)}"


def test_the_package_that_has_our_name_on_pypi_is_removed_and_never_installed() -> None:
    found = collisions({"harness": ["fusion-harness"]}, HOMES)

    assert "fusion-harness overwrites our package harness" in found.finding
    assert found.fix == f"pip uninstall -y fusion-harness && {install_command(reinstall=True)}"


def test_no_advice_installs_a_strangers_package() -> None:
    checks = [collisions({}, {**HOMES, "judges": Path("work")}), *doctor.optional_packages(), doctor.transformers()]
    texts = [check.fix for check in checks] + list(doctor.OPTIONAL.values())

    assert not [text for text in texts if re.search(r"install\b.*[ '](fusion-harness|judges|recipes|harness)\b", text)]


def test_a_viewer_that_cannot_start_is_noticed_before_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.viewer().status == "ok"

    monkeypatch.setattr(doctor, "VIEWER", ("nh3", "no_such_module"))

    assert (doctor.viewer().finding, doctor.viewer().fix) == (
        "harness view lacks no_such_module",
        install_command("view"),
    )


def test_every_install_line_of_a_guide_that_opens_the_viewer_has_its_extra() -> None:
    guides = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    lines = [
        line
        for text in (guide.read_text("utf-8") for guide in guides)
        if "harness view results" in text
        for line in text.splitlines()
        if "[vllm," in line
    ]

    assert lines
    assert all("view]" in line for line in lines)


def test_torchtune_is_named_where_it_brings_recipes() -> None:
    found = collisions({"recipes": ["torchtune"]}, HOMES)

    assert "torchtune overwrites our package recipes" in found.finding


def test_our_own_packages_collide_with_nothing() -> None:
    assert collisions({}, HOMES).status == "ok"  # an editable install lists no top-level packages
    assert collisions({"judges": [DISTRIBUTION]}, HOMES).status == "ok"


def test_a_package_imported_from_elsewhere_is_a_collision() -> None:
    found = collisions({}, {**HOMES, "judges": Path("work")})

    assert (found.status, found.finding) == ("fail", "'judges' is imported from work")


def test_a_processor_without_avx2_is_pointed_at_transformers() -> None:
    found = processor(frozenset({"sse4_2"}), "x86_64")

    assert found.status == "warn"
    assert "--backend transformers" in found.fix
    assert processor(frozenset({"avx2"}), "x86_64").status == "ok"
    assert processor(frozenset(), "aarch64").status == "ok"


def test_memory_thresholds() -> None:
    assert [memory(size).status for size in (GIB, 4 * GIB, 8 * GIB)] == ["fail", "warn", "ok"]
    assert memory(None).status == "warn"


def test_disks_of_results_and_cache_are_told_apart(tmp_path: Path) -> None:
    assert [check.name for check in disks(tmp_path, tmp_path)] == ["disk"]
    assert [check.name for check in disks(tmp_path, tmp_path.parent)] == ["disk", "disk (cache)"]


def test_json_has_the_fix_under_its_former_name_too() -> None:
    check = Check("memory", "fail", "1.0 GiB available", "free some memory")

    assert check.as_json() == {
        "name": "memory",
        "status": "fail",
        "found": "1.0 GiB available",
        "mend": "free some memory",
        "fix": "free some memory",
    }


def test_missing_data_is_a_warning_that_says_how_to_pull(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))

    found = doctor.data()

    assert found.status == "warn"
    assert "harness data pull" in found.fix
    assert "mt_bench" in found.finding


@pytest.mark.parametrize("probe", ["print('vllm 1.0 on cpu')", pytest.param(doctor.PROBE, marks=pytest.mark.slow)])
def test_the_command_prints_json_and_ends_by_what_it_found(
    harness: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, probe: str
) -> None:
    monkeypatch.setattr(doctor, "PROBE", probe)  # importing vLLM takes ten seconds

    done = harness("doctor", "--json")
    found = json.loads(done.out)
    assert done.code == (0 if found["ok"] else 2)
    assert {"python", "packages", "names", "processor", "vllm", "memory", "disk", "data"} <= {
        check["name"] for check in found["checks"]
    }
    assert all(check["fix"] for check in found["checks"] if check["status"] == "fail")
