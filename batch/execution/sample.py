"""A look at the first rows of an input: what of them would be rejected, before anything is scored."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from batch.errors import RejectBudgetExceeded
from batch.execution.budget import budget_of
from batch.execution.coordinate import Totals
from batch.execution.phases import Phases
from batch.execution.plan import Plan
from batch.execution.score import Rows
from batch.formats import FORMATS, Cut
from batch.job import Job

SAMPLE_BYTES = 1 << 20
SAMPLE_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Sample:
    """The first rows of the first input that holds any."""

    totals: Totals
    by_code: dict[str, int]
    first: str
    """Where the first rejected row is and what is said of it; "" where none is."""

    def as_dict(self) -> dict[str, Any]:
        """For ``check --json``."""
        return {
            "rows": self.totals.rows_read,
            "rejected": self.totals.rows_rejected,
            "by_code": self.by_code,
            "first": self.first,
        }

    def over_budget(self, job: Job, plan: Plan) -> RejectBudgetExceeded | None:
        """The refusal, where these rows alone are more than the whole input may have."""
        rows = max(self.totals.rows_read, self.totals.rows_at_most(plan))
        allowed = budget_of(job).allowed(rows)
        if self.totals.rows_rejected <= allowed:
            return None
        worst = ", ".join(f"{code}: {count}" for code, count in sorted(self.by_code.items()))
        return RejectBudgetExceeded(
            f"{self.totals.rows_rejected} of the first {self.totals.rows_read} rows would be rejected ({worst}), allowed are "
            f"{allowed} in the whole input; {self.first}",
            hint="mend the input, or raise the budget in [rejects]",
        )


def take_sample(plan: Plan) -> Sample | None:
    """Decode and check the first `SAMPLE_BYTES` (Parquet: `SAMPLE_ROWS`); None for an empty input. Raises `InputRefused` as a run would."""
    if not plan.tasks:
        return None
    task = plan.tasks[0]
    file = plan.files[task.file]
    size = SAMPLE_ROWS if plan.input_format == "parquet" else SAMPLE_BYTES
    cut = Cut(task.cut.start, min(task.cut.end, task.cut.start + size))
    reader = FORMATS[plan.input_format].read(file.source, file.shape, cut, task.start, plan.read)
    rows = Rows(plan, reader, Phases())
    for _ in rows:
        pass
    by_code = Counter(code for table in rows.rejected for code in table["_code"].to_pylist())
    totals = Totals(rows.read, by_code.total(), covered=reader.end - reader.start)
    return Sample(totals, dict(by_code), _first(rows, file.name))


def _first(rows: Rows, name: str) -> str:
    tables = [table.select(["_row", "_message"]) for table in rows.rejected[:1]]  # the rest may be no text at all
    faults = [fault for table in tables for fault in table.slice(0, 1).to_pylist()]
    return "".join(f"row {fault['_row'] + 1} of {name}: {fault['_message']}" for fault in faults)
