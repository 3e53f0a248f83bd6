"""A drop folder with its job, for the tests of watchers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import batch
from batch.storage import storage_for
from batch.triggers.watch import Told, Watcher
from tests.run_cases import encode, rows

OPTIONS = {"settle": '"0s"', "backoff": '"1m"'}


class Folder:
    """A root with a drop folder, its job, and what watchers said."""

    def __init__(self, root: str, model: str, folder: Path, **options: str) -> None:
        self.root, self.path = root, folder / "drop.toml"
        settings = "\n".join(f"{key} = {value}" for key, value in (OPTIONS | options).items() if key != "output")
        self.path.write_text(
            f'name = "dropped"\nroot = "{root}"\nmodel = "{model}"\n'
            f'[input]\nid = "customer_id"\n[output]\nuri = "{options.get("output", root + "/out/")}"\n'
            f'keep = ["customer_id"]\n[watch]\nprefix = "{root}/in/"\n{settings}\n'
        )
        self.said: list[Told] = []

    def job(self, **settings: Any) -> batch.Job:
        return batch.load_job(str(self.path), set={key.replace("__", "."): value for key, value in settings.items()})

    def watcher(self, **settings: Any) -> Watcher:
        return Watcher(self.job(**settings), self.said.append)

    def put(self, name: str, body: bytes | None = None) -> str:
        content = encode(rows(20), "csv") if body is None else body
        return storage_for(self.root).replace(f"{self.root}/{name}", [content], len(content)).uri

    def get(self, name: str) -> bytes | None:
        return storage_for(self.root).get(f"{self.root}/{name}")

    def names(self, folder: str) -> list[str]:
        prefix = f"{self.root}/{folder}/"
        return [info.uri.removeprefix(prefix) for info in storage_for(self.root).list(prefix)]

    def events(self) -> list[tuple[str, str]]:
        return [(told.event, told.uri.removeprefix(f"{self.root}/in/")) for told in self.said]
