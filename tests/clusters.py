"""What the tests of every cluster ask: the bytes of `inline`, whatever dies meanwhile. An engine needs only to start its processes and kill them."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import batch
from batch.errors import ModelFailed
from tests.deadly import Deadly, Slow, deadly_bench
from tests.run_cases import Bench, encode, register, rows

CHUNKS = {"run__chunk_bytes": 700, "run__predict_rows": 20}


def same_bytes_as_inline(root: str, folder: Path, **engine: Any) -> None:
    """Tiny chunks cut through quoted line breaks; also where the input is compressed, so that the workers need a copy that they can read."""
    model = register(root)
    for name, body in {
        "in.csv": encode(rows(400), "csv"),
        "in.csv.gz": gzip.compress(encode(rows(400), "csv")),
    }.items():
        found = []
        for number, settings in enumerate(({"run__engine": "inline"}, engine)):
            bench = Bench(f"{root}/{name}.{number}", model, folder)
            bench.put(name, body)
            receipt = bench.run(name, "out.csv", **settings, **CHUNKS)
            assert receipt.as_dict()["engine"] == settings["run__engine"]
            assert (receipt.rows.predicted, receipt.as_dict()["chunks"]["scored"] > 20) == (400, True)
            assert not [uri for uri in bench.names() if "/input/" in uri], (
                "the copy is gone when it is not needed any more"
            )
            found.append(bench.get("out.csv"))
        assert found[0] == found[1]


def survives(tmp_path: Path, kill: Callable[[], None], **engine: Any) -> dict[str, Any]:
    """`kill` is called once three chunks are done: no chunk is lost, and the bytes are those of `inline`. Gives the receipt."""
    calm, settings = deadly_bench(tmp_path / "calm", Slow())
    calm.run("in.csv", "out.csv", **settings | CHUNKS | {"run__engine": "inline"})
    shaken, settings = deadly_bench(tmp_path / "shaken", Slow())
    killed: list[bool] = []

    def progress(done: int, total: int, rows_read: int, seconds: float) -> None:
        if done >= 3 and not killed:
            assert done < total - 3
            killed.append(True)
            kill()

    job = shaken.job("in.csv", "out.csv", **settings | CHUNKS | engine)
    receipt = batch.run(job, progress=progress)
    assert killed
    assert shaken.get("out.csv") == calm.get("out.csv")
    return dict(receipt.as_dict())


def blames_the_chunk(tmp_path: Path, **engine: Any) -> None:
    """A chunk that kills its worker each time ends the run by its rows; once is forgiven, also to those beside it."""
    bench, settings = deadly_bench(tmp_path / "always", Deadly())
    with pytest.raises(ModelFailed, match="killed its worker process 2 times while nothing else ran beside it"):
        bench.run("in.csv", "out.csv", **settings | engine)
    assert bench.get("out.csv") is None
    bench, settings = deadly_bench(tmp_path / "once", Deadly(flag=str(tmp_path / "flag")))
    receipt = bench.run("in.csv", "out.csv", **settings | engine)
    assert (receipt.rows.predicted, (tmp_path / "flag").exists()) == (400, True)
