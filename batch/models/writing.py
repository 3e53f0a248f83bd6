"""The files of a bundle, from a model that passed registration."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Any

from batch.models import bundle, card, catalogue, golden, outputs, signature, trust
from batch.models.registration import Draft


def files_of(draft: Draft, about: Mapping[str, Any]) -> dict[str, bytes]:
    """Name -> bytes, in the order they are stored: what carries a digest of the others comes after them, model.json last."""
    described = {**about, **_facts(draft)}
    files = {
        draft.file.name: draft.file.body,
        bundle.GOLDEN: golden.to_bytes(draft.golden),
        bundle.PROFILE: _json(draft.profile),
        "requirements.txt": card.requirements(described).encode(),
        "MLmodel": card.mlmodel(described, _trusted(draft), uuid.uuid4().hex).encode(),
    }
    described["files"] = {name: _fingerprint(body) for name, body in files.items()}
    files["README.md"] = card.readme(described).encode()
    described["files"] = {name: _fingerprint(body) for name, body in files.items()}
    files[catalogue.CARD] = _json(described)
    return files


def _facts(draft: Draft) -> dict[str, Any]:
    return {
        "estimator": _title(draft.model.estimator),
        "model_file": draft.file.name,
        "layout": draft.model.layout,
        "signature": signature.to_json(draft.model.signature),
        "outputs": outputs.to_json(draft.model.outputs),
        "libraries": draft.libraries,
        "training": {"rows": draft.rows},
        "golden": {"rows": draft.golden.num_rows, "spread": draft.spread},
    }


def _title(estimator: Any) -> str:
    """``Pipeline of ColumnTransformer, LogisticRegression``, or the class alone."""
    steps = [type(step).__name__ for _, step in getattr(estimator, "steps", ())]
    return type(estimator).__name__ + (f" of {', '.join(steps)}" if steps else "")


def _trusted(draft: Draft) -> list[str]:
    return trust.untrusted_types(draft.file.body) if draft.file.name == bundle.SKOPS else []


def _fingerprint(body: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(body).hexdigest(), "size_bytes": len(body)}


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False).encode()
