"""The job specification: what a TOML job file may say, checked and frozen.

A `Job` holds no state and reads no clock: the same file, overrides and environment always give the same value. Every URI in
it is absolute; ``{placeholders}`` are still unrendered, because they depend on the run.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_serializer

from batch import placeholders
from batch.cron import parse_cron
from batch.errors import UsageError
from batch.units import parse_bytes, parse_seconds

NAME = r"[a-z0-9][a-z0-9._-]*"

_SIZE_SCHEMA = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]}
Size = Annotated[int, BeforeValidator(parse_bytes), WithJsonSchema(_SIZE_SCHEMA)]
Seconds = Annotated[float, BeforeValidator(parse_seconds), WithJsonSchema(_SIZE_SCHEMA)]
Policy = Literal["reject", "null", "allow"]
FormatName = Literal["", "csv", "jsonl", "parquet"]


def _check_name(value: str) -> str:
    if re.fullmatch(NAME, value) is None:
        raise ValueError(
            f"{value!r} is not a name: use small letters, digits, '.', '_' and '-', starting with a letter or digit"
        )
    return value


def _check_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ValueError, OSError, KeyError):  # the last is ZoneInfoNotFoundError
        raise ValueError(f"unknown time zone {value!r}; write one like Europe/Berlin") from None
    return value


def _check_cron(value: str) -> str:
    if value:
        try:
            parse_cron(value, "UTC")
        except UsageError as error:
            raise ValueError(f"{error.message.removeprefix('[schedule] cron = ')}; {error.hint}") from None
    return value


def _one_byte(value: str) -> str:
    if len(value.encode()) != 1 or value in '"\r\n':
        raise ValueError(f"must be one ASCII character other than a quote or a line end, not {value!r}")
    return value


def _placeholders(*allowed: str) -> AfterValidator:
    return AfterValidator(lambda text: placeholders.check(text, allowed))


Name = Annotated[str, AfterValidator(_check_name)]
_PERIODS = ("period", "period_start", "period_end", "period_last")
InputUri = Annotated[str, _placeholders(*_PERIODS)]
OutputUri = Annotated[str, _placeholders(*_PERIODS, "run_id", "stem")]


class Section(BaseModel):
    """What all tables of a job file share: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class Input(Section):
    """Where the rows come from and the limits they must keep."""

    uri: InputUri = Field(
        "", description='One object, a prefix ending in `/`, a glob, or a manifest `.json` with `{"files": [{"uri"}]}`.'
    )
    format: FormatName = Field(
        "", description="Default: by suffix (.csv .jsonl .ndjson .parquet; the text ones also .gz .zst)."
    )
    id: str = Field("", description="Column kept out of the features and copied to the output.")
    delimiter: Annotated[str, AfterValidator(_one_byte)] = Field(",", description="CSV only.")
    header: bool = Field(
        True,
        description="CSV only. Without a header the columns are the kept ones outside the signature, then the signature's.",
    )
    null_values: tuple[str, ...] = Field((), description="Texts that mean null besides an empty unquoted CSV field.")
    allow_empty: bool = Field(
        False, description="An object of 0 bytes gives a valid output without rows instead of a refusal."
    )
    unique_id: bool = Field(
        False, description="Reject rows whose id an earlier predicted row of the run has (`duplicate_id`)."
    )
    wait: Seconds = Field(0.0, description="How long to wait for an input that is not there yet.")
    max_bytes: Size = Field(5 * 2**30, description="Sum of all inputs as stored.")
    max_decompressed_bytes: Size = Field(50 * 2**30, description="Sum of all inputs as decoded (Parquet: Arrow bytes).")
    max_ratio: float = Field(
        0.0, ge=0, description="Decoded bytes per stored byte, checked after 64 MiB. Default: 200, Parquet 1000."
    )
    max_rows: int = Field(0, ge=0, description="0: no limit.")
    max_record_bytes: Size = Field(2**20, description="A longer record is rejected (`too_long`).")


class Output(Section):
    """Where the predictions go and what stands beside them."""

    uri: OutputUri = Field(description="Ending in `/`: one file per input file, `{stem}` with the format's suffix.")
    format: FormatName = Field("", description="Default: by suffix, else the input's.")
    keep: tuple[str, ...] = Field(
        (), description='Input columns in front of the predictions; `["*"]` for all. Default: the id, else all.'
    )
    replace: Literal["own", "any", "never"] = Field("own", description="Whose file may be replaced.")
    excel_safe: bool = Field(
        False, description="CSV: put `'` before text cells that a spreadsheet would take for a formula."
    )


class Checks(Section):
    """What happens to values that the model's signature does not allow."""

    on_null: Policy = Field("reject", description="Null in a required column.")
    on_range: Policy = Field("reject", description="Outside the declared range; infinity.")
    on_category: Policy = Field("reject", description="Not among the declared categories.")


class Rejects(Section):
    """The budget of rejected rows."""

    uri: OutputUri = Field("", description="Default: the output's name with `.rejects` and the input format's suffix.")
    max_share: float = Field(0.0, ge=0, le=1, description="Allowed share of rejected rows.")
    max_rows: int | None = Field(
        None, ge=0, description="Allowed number of rejected rows; alone it replaces max_share."
    )
    stop_rows: int = Field(10_000, ge=0, description="Stop scoring once over budget by so many rows.")


class Run(Section):
    """How the work is cut and carried out."""

    chunk_bytes: Annotated[Size, Field(ge=1)] = Field(
        32 * 2**20, description="Decompressed text, or Parquet's uncompressed bytes, per chunk."
    )
    predict_rows: int = Field(50_000, ge=1, description="Rows per model call.")
    engine: Literal["auto", "inline", "threads", "processes", "dask", "ray"] = Field(
        "auto", description="Who scores the chunks."
    )
    scheduler: str = Field("", description="Dask or Ray address.")
    workers: int = Field(0, ge=0, description="0: the cores this process may use.")
    memory: Annotated[Size, Field(ge=1)] = Field(
        2**30, description="Ceiling for the process tree on this host; never changes the cuts."
    )
    chunk_seconds: float = Field(600.0, gt=0, description="A model call that hangs longer is stopped.")
    single_writer: bool = Field(False, description="Accept a store that does not enforce create-once.")


class Schedule(Section):
    """When the job runs and what period a run is about."""

    cron: Annotated[str, AfterValidator(_check_cron)] = Field(
        "", description="Five fields of crontab(5), for example `0 6 * * MON`."
    )
    timezone: Annotated[str, AfterValidator(_check_zone)] = Field("UTC", description="IANA name.")
    period: Literal["", "hour", "day", "week", "month"] = Field(
        "", description="The span of time that one run is about."
    )


class Watch(Section):
    """The drop folder."""

    prefix: str = Field("", description="Every object that lands here is an input.")
    pattern: str = Field("*", description="Of the names below the prefix.")
    settle: Seconds | None = Field(
        None, description="How long a file must be unchanged. Default: 0s on S3, 5s on local folders."
    )
    sentinel: str = Field(
        "",
        description="Name of a marker object that releases the files of its folder, for example `_SUCCESS`; with `{name}` one file "
        "each (`{name}.ok`); a manifest (`.json`) those that it names.",
    )
    attempts: int = Field(3, ge=1, description="How often a failing file is tried.")
    backoff: Seconds = Field(60.0, description="Wait before the second try; doubles.")
    after: Literal["leave", "move"] = Field(
        "leave",
        description="What happens to the input when it is done; `move`: to the prefix with `-done` behind its name.",
    )
    queue: str = Field("", description="URL of an SQS queue with the prefix's events, which wake the watcher early.")


class Variant(Section):
    """A second model that scores some rows (split) or all rows on the side (shadow)."""

    name: Name
    model: str
    weight: float = Field(0.0, ge=0, le=1)
    mode: Literal["split", "shadow"] = "split"


class Trust(Section):
    """Exceptions from the rule that only skops files are loaded."""

    pickle_sha256: tuple[str, ...] = Field((), description="Digests of pickle or joblib files that may be loaded.")


class Monitor(Section):
    """Drift thresholds, data capture, and who is told how a run ended."""

    psi_warn: float = Field(0.1, ge=0)
    psi_alert: float = Field(0.25, ge=0)
    drift_ignore: tuple[str, ...] = Field(
        (), description="Input columns whose drift says nothing, for example `month`: a calendar moves by itself."
    )
    capture_rows: int = Field(0, ge=0, description="Rows of input to keep per run, chosen by a salted hash.")
    capture_deny: tuple[str, ...] = Field((), description="Columns that are never captured.")
    metrics: str = Field(
        "",
        description="Where the Prometheus text file goes: a path or URI, ending in `/` for `NAME.prom` in it; `off` for none. "
        "Default: `metrics/NAME.prom` under the root.",
    )
    on_failure: tuple[str, ...] = Field(
        (), description="Command that is called when a run has failed, as a list of arguments; see docs/alerts.md."
    )


class Report(Section):
    """The weekly report."""

    group_by: str = Field("", description="Column of the input that the report is told by, for example `product`.")
    outcome: str = Field(
        "",
        description="What a prediction means, as the headline says it: `satisfied`, or `revenue in EUR`. Default: the class.",
    )
    webhook: str = Field(
        "",
        repr=False,
        description="Where a chat takes messages: its URL, or `$NAME` of the environment variable that holds it.",
    )
    webhook_form: Literal["", "text", "teams"] = Field(
        "", description="`text` (Slack, Mattermost) or `teams` (an Adaptive Card). Default: by the host."
    )
    link: str = Field(
        "", description="Where people open a stored file, `{key}` being its key: `https://files.example.com/{key}`."
    )

    @field_serializer("webhook")
    def _without_secret(self, webhook: str) -> str:
        """A plan keeps the job's configuration: the name of a variable may stand there, a URL that lets anybody post may not."""
        return webhook if webhook.startswith("$") else ""


class Job(Section):
    """One job file, checked. Build it with `load_job`."""

    name: Name = Field(description="Of the job; part of every key it writes.")
    root: str = Field(description="Where models, runs and registers live; `$BATCH_ROOT` overrides it.")
    model: str = Field(
        description="`models:/name@alias`, `models:/name/3`, the URI of a bundle or of the model file in one."
    )
    salt: str = Field("", description="Of the routing hash; default: the name.")
    input: Input = Input()
    output: Output
    checks: Checks = Checks()
    rejects: Rejects = Rejects()
    run: Run = Run()
    schedule: Schedule = Schedule()
    watch: Watch = Watch()
    variants: tuple[Variant, ...] = Field((), description="Routing; without it all rows go to `model`.")
    trust: Trust = Trust()
    monitor: Monitor = Monitor()
    report: Report = Report()


def load_job(path_or_name: str, *, set: dict[str, Any] | None = None, **overrides: Any) -> Job:  # noqa: A002
    """Read, override and check a job file.

    `path_or_name`: a path to a TOML file, or the name of one in ``jobs/`` (or ``$BATCH_JOBS``).
    `set`: values by dotted key, as they would stand in the file (``{"run.workers": 2}``).
    `overrides`: ``input``, ``output``, ``model``, ``root`` (URIs, relative ones to the working directory), ``engine``, ``workers``.

    Raises `UsageError` where there is no such file and `JobInvalid` naming all problems, each with its key.
    """
    from batch import job_file

    return job_file.load(path_or_name, set or {}, overrides)
