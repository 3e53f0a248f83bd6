"""Pictures of a page as a browser shows it: Chromium without a window, told what to do over a pipe (the DevTools protocol).

Needs only a Chromium (``$CHROMIUM``, or the first of the usual names on the path). Theme, width and density are emulated, so the pictures
are the same on every screen.
"""

# ruff: noqa: INP001
from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")

_ON_3_AND_4 = """
import os, sys
ours = [os.dup(os.dup(os.dup(os.dup(int(number))))) for number in sys.argv[1:3]]
os.dup2(ours[0], 3)
os.dup2(ours[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Chromium reads commands from descriptor 3 and answers on 4; those are copied out of the way first."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a page is looked at."""

    width: int
    """CSS pixels."""
    theme: str = "light"
    """light or dark."""
    density: float = 1.0
    height_max: int = 4000
    """CSS pixels; what lies below is cut off."""


class Chromium:
    """A browser for as long as the ``with`` block lasts."""

    def __enter__(self) -> Self:
        program = os.environ.get("CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)
        if program is None:
            raise SystemExit("no Chromium found: install one, or set CHROMIUM to its path")
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # A page of ours runs no script: the sandbox, which a container does not allow, guards nothing here.
        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += ["--remote-debugging-pipe", f"--user-data-dir={self._profile.name}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ON_3_AND_4, str(theirs_in), str(theirs_out), *command],
            pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._number, self._rest, self._session = 0, b"", ""
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._ask("Page.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)
        os.close(self._in)
        os.close(self._out)
        self._profile.cleanup()

    def picture(self, page: Path, look: Look) -> bytes:
        """The page as PNG, from its top to its end or to `height_max`."""
        self._open(page, look)
        size = self._ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": look.width, "height": min(size["height"], look.height_max), "scale": 1}
        shot = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(shot["data"])

    def width(self, page: Path, look: Look) -> int:
        """How wide the page's content is in CSS pixels: more than the look's width means that it has to be pushed sideways."""
        self._open(page, look)
        return int(self._ask("Page.getLayoutMetrics")["cssContentSize"]["width"])

    def pdf(self, page: Path) -> bytes:
        """The page as it is printed on A4."""
        self._open(page, Look(800))
        return base64.b64decode(self._ask("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"])

    def _open(self, page: Path, look: Look) -> None:
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=look.width, height=900, deviceScaleFactor=look.density, mobile=look.width < 500,
        )  # fmt: skip
        self._ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": look.theme}])
        self._ask("Page.navigate", url=page.resolve().as_uri())
        self._await("Page.loadEventFired")

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        command = {"id": self._number, "method": method, "params": params}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._out, json.dumps(command).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _await(self, event: str) -> None:
        while self._next().get("method") != event:
            pass

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not (block := os.read(self._in, 1 << 20)):
                raise RuntimeError("the browser went away")
            self._rest += block
        body, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(body)
        return message
