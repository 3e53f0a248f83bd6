"""The weekly flights job by a real cron daemon: two lines that fire every minute give the week once.

Needs Debian's cron and to be root, and writes ``/etc/cron.d/batch-predict-test`` while it runs; part of `make test-nightly`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
TABLE = Path("/etc/cron.d/batch-predict-test")
MINUTES = 2


def main() -> int:
    """0 when it holds, or when this machine has no cron to try."""
    if not os.access("/usr/sbin/cron", os.X_OK) or os.geteuid():
        print("NOT TESTED: there is no cron here, or this is not root")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        program = str(Path(sys.executable).parent / "batch-predict")
        subprocess.run([sys.executable, str(CHECKOUT / "jobs" / "train_flights.py"), "--root", folder], check=True)
        line = (
            f"* * * * * root cd {CHECKOUT} && BATCH_ROOT={folder} {program} run jobs/weekly_flights.toml --once --trigger cron "
            f"--now 2013-07-08T06:00-04:00 --set output.uri={folder}/out/{{period}}.csv >> {folder}/log-NAME 2>&1; "
            f"echo $? >> {folder}/exit-NAME\n"
        )
        TABLE.write_text(line.replace("NAME", "one") + line.replace("NAME", "two"))
        daemon = subprocess.Popen(["/usr/sbin/cron", "-f"], stderr=subprocess.DEVNULL)
        try:
            return _judge(Path(folder))
        finally:
            TABLE.unlink()
            daemon.terminate()
            daemon.wait()


def _judge(folder: Path) -> int:
    until = time.monotonic() + 60 * (MINUTES + 2)
    while any(len(_codes(folder, name)) < MINUTES for name in ("one", "two")):
        if time.monotonic() > until:
            print(f"FAILED: cron did not fire in time; {[path.read_text() for path in folder.glob('log-*')]}")
            return 1
        time.sleep(1)
    codes = _codes(folder, "one") + _codes(folder, "two")
    receipts = list((folder / "done" / "weekly-flights").rglob("*.json"))
    entries = [path for path in (folder / "outputs").rglob("*.json") if path.parent.name not in {"lease", "rejects"}]
    starts = list((folder / "attempts" / "weekly-flights").glob("*.start.json"))
    receipt = json.loads(receipts[0].read_text()) if receipts else {}
    found = (len(receipts), len(entries), len(starts), receipt.get("trigger"), receipt.get("subject"))
    print(f"{len(codes)} fires ended with {codes}; receipts, register entries, attempts, trigger, week: {found}")
    holds = found == (1, 1, 1, "cron", "2013-W27") and set(codes) <= {0, 75} and 0 in codes
    print("ok" if holds else "FAILED")
    return 0 if holds else 1


def _codes(folder: Path, name: str) -> list[int]:
    path = folder / f"exit-{name}"
    return [int(code) for code in path.read_text().split()] if path.exists() else []


if __name__ == "__main__":
    sys.exit(main())
