"""Every bad input as a case: how it is made, and the exit code, code and message it must end with."""

from __future__ import annotations

from tests.bad_inputs import csv_cases, jsonl_cases, name_cases, packed_cases, parquet_cases
from tests.bad_inputs.case import Case

GROUPS: dict[str, tuple[Case, ...]] = {
    "CSV": csv_cases.CASES,
    "JSONL": jsonl_cases.CASES,
    "Parquet": parquet_cases.CASES,
    "Compressed and misnamed files": packed_cases.CASES,
    "Names and places": name_cases.CASES,
}
"""Heading in docs/bad-inputs.md -> cases, in the page's order."""

CASES: dict[str, Case] = {case.name: case for cases in GROUPS.values() for case in cases}
"""All cases by name."""
