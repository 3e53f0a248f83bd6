"""Make the sample customers of this folder: synthetic, seeded, the same bytes on every machine.

``python sample_data/make_customers.py [--into FOLDER]`` writes ``customers.csv``, ``customers.jsonl`` and ``customers.parquet``
(the same 4,000 customers three times) and ``customers_labelled.parquet`` (6,000 others, with the label ``satisfied``).
README.md beside this file describes the columns.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

SEED = 20_130_101
CUSTOMERS = 4_000
LABELLED = 6_000

Customer = dict[str, Any]

# Product: (share of the customers, how much better or worse than average it is liked, in log-odds).
PRODUCTS = {
    "Harbor Lamp": (0.24, 0.5),
    "Juniper Chair": (0.21, 0.2),
    "Kestrel Bike": (0.08, 0.9),
    "Lumen Speaker": (0.19, -0.4),
    "Meadow Blender": (0.16, -1.1),
    "Tidal Jacket": (0.12, 0.0),
}
REGIONS = ("north", "south", "east", "west")

# What a careless reader of CSV trips over: commas, quotes, line breaks, other alphabets.
OPENINGS = (
    "Arrived on time",
    "Works well",
    'The 5" bracket was missing',
    "Colour differs a little",
    "Très bien",
    "Gut, gerne wieder",
)
ENDINGS = (".", ", thank you.", ", but the box was open.", '. My neighbour said "buy it".', ",\nwould order again.", "\n\nSee my e-mail, please.")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Write the four files; returns 0."""
    parser = argparse.ArgumentParser(description="Make the synthetic sample customers.")
    parser.add_argument("--into", type=Path, default=Path(__file__).parent, help="folder to write to")
    into = parser.parse_args(argv).into
    into.mkdir(parents=True, exist_ok=True)
    rng = Random(SEED)
    customers = [make_customer(rng, number) for number in range(1, CUSTOMERS + 1)]
    write_csv(into / "customers.csv", customers)
    write_jsonl(into / "customers.jsonl", customers)
    write_parquet(into / "customers.parquet", customers)
    others = [make_customer(rng, number) for number in range(CUSTOMERS + 1, CUSTOMERS + LABELLED + 1)]
    write_parquet(into / "customers_labelled.parquet", [with_label(rng, customer) for customer in others])
    return 0


def make_customer(rng: Random, number: int) -> Customer:
    """One customer; `number` makes the identifiers, everything else is drawn from `rng`."""
    (product,) = rng.choices(list(PRODUCTS), [share for share, _ in PRODUCTS.values()])
    orders = poisson(rng, 2.2)
    tickets = poisson(rng, 0.7)
    return {
        "customer_id": f"C{number:06d}",
        "account": f"{number * 7919 % 100_000:05d}",
        "product": product,
        "region": rng.choice(REGIONS),
        "tenure_months": 1 + int(-24 * math.log(1 - rng.random())),
        "orders_last_90d": orders,
        "returns": sum(rng.random() < 0.15 for _ in range(orders)),
        "support_tickets": tickets,
        "avg_delivery_days": round(1 + 2.5 * (rng.random() + rng.random() + rng.random()), 1),
        "discount_share": round(rng.random() ** 2, 2),
        "last_rating": None if rng.random() < 0.3 else max(1, min(5, 5 - poisson(rng, 0.8 + 0.5 * tickets))),
        "has_app": rng.random() < 0.55,
        "last_comment": None if rng.random() < 0.6 else rng.choice(OPENINGS) + rng.choice(ENDINGS),
    }


def with_label(rng: Random, customer: Customer) -> Customer:
    """The customer as training data: without the comment, with `satisfied` (1 or 0)."""
    satisfied = int(rng.random() < satisfaction(customer))
    return {key: value for key, value in customer.items() if key != "last_comment"} | {"satisfied": satisfied}


def satisfaction(customer: Customer) -> float:
    """Probability that this customer is satisfied; the whole truth that a model can find in this data."""
    log_odds = (
        1.2
        + PRODUCTS[customer["product"]][1]
        + 0.01 * min(customer["tenure_months"], 60)
        + (0.3 if customer["has_app"] else 0.0)
        - 0.7 * customer["support_tickets"]
        - 0.9 * customer["returns"]
        - 0.45 * max(0.0, customer["avg_delivery_days"] - 4)
        + 0.5 * ((customer["last_rating"] or 4) - 4)
    )
    return 1 / (1 + math.exp(-log_odds))


def poisson(rng: Random, mean: float) -> int:
    """A Poisson draw (Knuth's product of uniforms), from ``random()`` alone: its stream is the same in every Python."""
    count, product, floor = 0, rng.random(), math.exp(-mean)
    while product > floor:
        count, product = count + 1, product * rng.random()
    return count


def write_csv(path: Path, customers: list[Customer]) -> None:
    """RFC 4180 with LF; a null is an empty field, a boolean true or false."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(customers[0])
        for customer in customers:
            writer.writerow([str(value).lower() if isinstance(value, bool) else value for value in customer.values()])


def write_jsonl(path: Path, customers: list[Customer]) -> None:
    """One compact JSON object per line."""
    with path.open("w", encoding="utf-8", newline="") as file:
        for customer in customers:
            file.write(json.dumps(customer, ensure_ascii=False, separators=(",", ":")) + "\n")


def write_parquet(path: Path, customers: list[Customer]) -> None:
    """Row groups of 1,000, so that even a small file can be cut."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(customers), path, row_group_size=1_000, compression="zstd")


if __name__ == "__main__":
    sys.exit(main())
