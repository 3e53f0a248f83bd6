"""One message into a chat: an HTTP POST in the form that its host understands, tried three times, its URL never told.

``{"text": …}`` is understood by Slack's and Mattermost's incoming webhooks. Microsoft retired those of Teams for good in April 2026; the
Workflows that took their place want a message with an Adaptive Card. They live at ``*.logic.azure.com`` or ``*.powerplatform.com``.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from batch.clock import SYSTEM, Clock
from batch.errors import StorageUnavailable, UsageError

TRIES = 3
TIMEOUT_SECONDS = 10.0
BACKOFF_SECONDS = 1.0
"""Before the second try; doubles."""
TEAMS_HOSTS = ("logic.azure.com", "powerplatform.com", "webhook.office.com")


class NotDelivered(StorageUnavailable):
    """The host did not take the message."""

    code = "webhook"


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where the message goes."""

    url: str
    """A secret: whoever knows it can post there."""
    form: str
    """``text`` or ``teams``."""

    def __repr__(self) -> str:
        return f"Webhook(host={self.host!r}, form={self.form!r})"

    @property
    def host(self) -> str:
        """All of the URL that may be told."""
        return urlsplit(self.url).hostname or ""


def webhook_of(setting: str, form: str, environment: Mapping[str, str] | None = None) -> Webhook | None:
    """The webhook of a job: a URL, or ``$NAME`` of the environment variable that holds it. Raises `UsageError`."""
    known = os.environ if environment is None else environment
    url = setting
    if setting.startswith("$"):
        name = setting[1:].strip("{}")
        url = known.get(name, "")
        if not url:
            raise UsageError(
                f"[report] webhook names the environment variable {name}, which is not set",
                hint=f"set {name} to the URL",
            )
    if not url:
        return None
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UsageError("[report] webhook is no http(s) URL", hint="paste the URL that the chat gave, or $NAME")
    host = (parts.hostname or "").lower()
    is_teams = any(host == one or host.endswith(f".{one}") for one in TEAMS_HOSTS)
    return Webhook(url, form or ("teams" if is_teams else "text"))


def message(form: str, text: str, link: str) -> dict[str, Any]:
    """What is sent for a plain `text`; `link`: where the report is, "" where nobody can open it by a click."""
    if form == "text":
        return {"text": harmless(text)}
    title, _, rest = text.partition("\n")
    blocks = [{"type": "TextBlock", "text": _card_text(title), "weight": "Bolder", "size": "Medium", "wrap": True}]
    blocks += [{"type": "TextBlock", "text": _card_text(line), "wrap": True, "spacing": "Small"} for line in rest.splitlines() if line]  # fmt: skip
    card: dict[str, Any] = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "msteams": {"width": "Full"},
        "body": blocks,
    }
    if link.startswith(("http://", "https://")):
        card["actions"] = [{"type": "Action.OpenUrl", "title": "Open the report", "url": link}]
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def harmless(text: str) -> str:
    """Text in which no name of a group mentions anybody or hides a link.

    Slack reads ``<!channel>`` and ``<url|words>`` unless the three characters are escaped; Mattermost also Markdown and ``@all``.
    """
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(char, entity)
    return text.replace("@", "@\N{ZERO WIDTH SPACE}").replace("](", "]\N{ZERO WIDTH SPACE}(")


def _card_text(text: str) -> str:
    """Cards read some Markdown: of names, links are what could mislead."""
    return text.replace("](", "]\N{ZERO WIDTH SPACE}(")


class _NoRedirects(HTTPRedirectHandler):
    """A redirect would turn the POST into a GET, and take the message to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


def post(
    webhook: Webhook, document: dict[str, Any], *, clock: Clock = SYSTEM, timeout: float = TIMEOUT_SECONDS
) -> None:
    """Send it; up to `TRIES` times where trying again can help. Raises `NotDelivered`, which names the host alone."""
    body = json.dumps(document, ensure_ascii=False).encode()
    opener, why = build_opener(_NoRedirects), ""
    for attempt in range(TRIES):
        if attempt:
            clock.wait(threading.Event(), BACKOFF_SECONDS * 2 ** (attempt - 1))
        request = Request(webhook.url, body, {"Content-Type": "application/json; charset=utf-8"}, method="POST")  # noqa: S310 (webhook_of looked at the scheme)
        try:
            with opener.open(request, timeout=timeout):
                return
        except HTTPError as error:
            error.close()
            why = f"answered {error.code}"
            if error.code < 500 and error.code not in {408, 429}:
                break
        except (OSError, HTTPException, ValueError) as error:  # ValueError: a URL that http.client does not accept
            why = _reason(error)
    raise NotDelivered(f"the webhook at {webhook.host} {why}", hint="the next run or report of this period tries again")


def _reason(error: Exception) -> str:
    """What went wrong without the library's own text, which may hold the URL."""
    cause = getattr(error, "reason", error)
    if isinstance(cause, TimeoutError):
        return "did not answer in time"
    if isinstance(cause, ConnectionRefusedError):
        return "refused the connection"
    return f"could not be reached ({type(cause).__name__})"
