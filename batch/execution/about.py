"""What a run is about: a period, one version of an object that was dropped into a folder, or nothing in particular."""

from __future__ import annotations

from dataclasses import dataclass

from batch.execution.identity import canonical, sha256
from batch.period import Period
from batch.storage import ObjectInfo


@dataclass(frozen=True, slots=True)
class About:
    """The subject of a run: whatever changes otherwise, a subject is done once."""

    period: Period | None = None
    dropped: ObjectInfo | None = None
    """As the listing told it."""
    named: str = ""
    """The subject of the run that is retried, whatever it was."""

    @property
    def subject(self) -> str:
        """The name of the subject in ``done/<job>/<subject>/``: the period's, a hash of the dropped version, or ``-``."""
        if self.named:
            return self.named
        if self.dropped is not None:
            one = self.dropped
            version = [one.uri, one.version_id or one.etag, one.modified_at.isoformat()]
            return f"drop-{sha256(canonical(version))[:16]}"
        return self.period.name if self.period else "-"
