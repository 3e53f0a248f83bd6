"""Versions are taken once and never change; aliases only grow, whoever changes them at the same time."""

import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import batch
from batch.errors import ModelMissing, UsageError
from batch.models import aliases, bundle, registry
from batch.models.registry import ModelSummary, ModelVersion
from tests.model_cases import NUMBERS, X, simple


def register(root: Path, name: str = "churn", **options: Any) -> ModelVersion:
    return batch.register(simple(), name, X[NUMBERS], root=str(root), **options)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with three versions of one model, without aliases; tests copy it."""
    root = tmp_path_factory.mktemp("three")
    for _ in range(3):
        register(root)
    return root


@pytest.fixture
def root(three: Path, tmp_path: Path) -> str:
    return str(shutil.copytree(three, tmp_path / "root"))


def at_once(count: int, act: Callable[[int], Any]) -> list[Any]:
    """Results of `act(0)` … `act(count - 1)`, all started at the same moment."""
    barrier = threading.Barrier(count)

    def started(number: int) -> Any:
        barrier.wait()
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(started, range(count)))


def test_versions_count_up_and_say_what_they_are(tmp_path: Path) -> None:
    """The returned version names the folder, and the digest of the card that stands in it."""
    first, second = register(tmp_path), register(tmp_path, alias="champion")
    assert (first.name, first.version, second.version) == ("churn", 1, 2)
    resolved = bundle.resolve("models:/churn@champion", str(tmp_path))
    assert (resolved.uri, resolved.sha256, resolved.version) == (second.uri, second.sha256, 2)
    assert resolved.card["created_at"] == second.created_at.isoformat()


def test_layout_of_the_registry(tmp_path: Path) -> None:
    """Claim, bundle and alias lie where the documentation says."""
    register(tmp_path, alias="champion", by="ann")
    folder = tmp_path / "models" / "churn"
    assert {path.name for path in (folder / "1").iterdir()} == {
        *("claim.json", "model.skops", "model.json", "golden.parquet", "profile.json"),
        *("MLmodel", "README.md", "requirements.txt"),
    }
    entry = json.loads((folder / "aliases" / "champion" / "00000001.json").read_text())
    assert (entry["version"], entry["action"], entry["by"], entry["restores"]) == (1, "set", "ann", None)


def test_registrars_at_once_get_versions_of_their_own(tmp_path: Path) -> None:
    """Four at the same moment: four numbers, four whole bundles."""
    versions = at_once(4, lambda _: register(tmp_path))
    assert sorted(version.version for version in versions) == [1, 2, 3, 4]
    for version in versions:
        assert bundle.resolve(version.uri, "").sha256 == version.sha256


def test_promoters_at_once_lose_nothing(root: str) -> None:
    """Eight at the same moment, half of them asking for the same: one history of eight entries."""
    at_once(8, lambda number: registry.promote(root, "churn", 1 + number % 2, "champion", by=str(number // 2)))
    history = registry.alias_history(root, "churn", "champion")
    assert [entry.n for entry in history] == list(range(1, 9))
    assert sorted((entry.version, entry.by) for entry in history) == [(v, str(by)) for v in (1, 2) for by in range(4)]
    assert bundle.resolve("models:/churn@champion", root).version == history[-1].version


def test_a_number_without_a_card_does_not_exist_and_is_not_reused(root: str) -> None:
    """A registration that died half-way leaves a gap: not listed, not resolved, not given out again."""
    (Path(root) / "models" / "churn" / "3" / "model.json").unlink()
    assert registry.list_models(root) == [ModelSummary("churn", 2)]
    with pytest.raises(ModelMissing, match="has no version 3"):
        bundle.resolve("models:/churn/3", root)
    assert register(Path(root)).version == 4


def test_rollback_goes_one_further_back_each_time(root: str) -> None:
    """1, 2, 3, then back to 2, back to 1, and then there is nothing before."""
    for version in (1, 2, 3):
        registry.promote(root, "churn", version, "champion")
    first = registry.rollback(root, "churn", "champion", by="bob")
    second = registry.rollback(root, "churn", "champion")
    assert [(e.n, e.version, e.action, e.restores) for e in (first, second)] == [
        (4, 2, "rollback", 2),
        (5, 1, "rollback", 1),
    ]
    assert bundle.resolve("models:/churn@champion", root).version == 1
    with pytest.raises(ModelMissing, match="meant no other version before"):
        registry.rollback(root, "churn", "champion")


def test_rollback_after_a_promotion_never_returns_to_what_was_rolled_away(root: str) -> None:
    """1, 2, rolled back to 1, then 3: before 3 came 1, not 2."""
    for version in (1, 2):
        registry.promote(root, "churn", version, "champion")
    registry.rollback(root, "churn", "champion")
    registry.promote(root, "churn", 3, "champion")
    restored = registry.rollback(root, "churn", "champion")
    assert (restored.version, restored.restores) == (1, 1)


def test_rollback_passes_a_promotion_that_changed_nothing(root: str) -> None:
    """Promoting the champion again is no reason for a rollback to do nothing."""
    for version in (1, 2, 2):
        registry.promote(root, "churn", version, "champion")
    assert registry.rollback(root, "churn", "champion").version == 1


def test_aliases_are_independent(root: str) -> None:
    """Each alias has a history of its own, and the listing shows what each means."""
    registry.promote(root, "churn", 1, "champion")
    registry.promote(root, "churn", 3, "challenger")
    assert registry.list_models(root) == [ModelSummary("churn", 3, {"challenger": 3, "champion": 1})]


def test_describe_is_the_card_and_the_history(root: str) -> None:
    """The newest version by default, any by number, with what each alias has meant."""
    registry.promote(root, "churn", 2, "champion", by="ann")
    about = registry.describe(root, "churn")
    assert (about["version"], about["versions"], about["name"]) == (3, [1, 2, 3], "churn")
    assert [(e["version"], e["by"]) for e in about["alias_history"]["champion"]] == [(2, "ann")]
    assert registry.describe(root, "churn", 1)["sha256"] == bundle.resolve("models:/churn/1", root).sha256


def test_a_bundle_resolves_by_its_folder(root: str) -> None:
    """With or without the slash at its end, as a path or a file URI; the reference is kept as it was given."""
    wanted = bundle.resolve("models:/churn/2", root)
    for reference in (wanted.uri, wanted.uri.rstrip("/"), f"file://{wanted.uri}"):
        found = bundle.resolve(reference, "")
        assert (found.uri, found.sha256, found.uri_given) == (wanted.uri, wanted.sha256, reference)


@pytest.mark.slow
def test_a_copied_bundle_needs_no_registry(root: str, tmp_path: Path) -> None:
    """A folder that was copied elsewhere still knows its name and version, and loads."""
    copy = shutil.copytree(bundle.resolve("models:/churn/2", root).uri, tmp_path / "copy")
    resolved = bundle.resolve(str(copy), "")
    assert (resolved.name, resolved.version) == ("churn", 2)
    assert bundle.load(resolved).card == resolved.card


@pytest.mark.parametrize(
    ("reference", "message", "hint"),
    [
        ("models:/chrun@champion", "no model 'chrun'", "did you mean churn?"),
        ("models:/zzz/1", "no model 'zzz'", "models: churn"),
        ("models:/churn@champoin", "no alias 'champoin'", "did you mean champion?"),
        ("models:/churn/9", "has no version 9", "versions: 1, 2, 3"),
        ("/nowhere/at/all", "no model.json in", "name the folder of a bundle, or models:/name@alias"),
    ],
)
def test_a_missing_model_names_the_nearest(root: str, reference: str, message: str, hint: str) -> None:
    """What does not exist is refused with exit code 4 and with what does."""
    registry.promote(root, "churn", 1, "champion")
    with pytest.raises(ModelMissing, match=message) as caught:
        bundle.resolve(reference, root)
    assert (caught.value.hint, caught.value.exit_code) == (hint, 4)


def test_an_empty_registry_says_how_to_begin(tmp_path: Path) -> None:
    """There is nothing to be near to."""
    assert registry.list_models(str(tmp_path)) == []
    with pytest.raises(ModelMissing) as caught:
        bundle.resolve("models:/churn@champion", str(tmp_path))
    assert "models register" in caught.value.hint


@pytest.mark.parametrize(
    "reference", ["models:/", "models:churn/1", "models:/churn", "models:/churn/one", "models:/a@b@c"]
)
def test_a_malformed_reference_is_a_usage_error(root: str, reference: str) -> None:
    """Not missing, but mistyped."""
    with pytest.raises(UsageError, match="malformed"):
        bundle.resolve(reference, root)


@pytest.mark.parametrize("name", ["", "Churn", "-churn", "chu rn", "../churn", "churn/1", "chürn"])
def test_names_are_checked_before_anything_is_stored(tmp_path: Path, name: str) -> None:
    """Models and aliases alike: lower-case letters, digits, dots, underscores, hyphens."""
    with pytest.raises(UsageError, match="model name"):
        register(tmp_path, name)
    with pytest.raises(UsageError, match="alias"):
        register(tmp_path, alias=name)
    assert list(tmp_path.iterdir()) == []


def test_only_what_exists_is_promoted(root: str) -> None:
    """A version that is not there gets no alias, and an alias that is not there cannot be rolled back."""
    with pytest.raises(ModelMissing, match="has no version 7"):
        registry.promote(root, "churn", 7, "champion")
    with pytest.raises(ModelMissing, match="has no alias 'champion'"):
        registry.rollback(root, "churn", "champion")
    assert aliases.history(root, "churn", "champion") == []
