#!/usr/bin/env python3
"""A Parquet file as the Hugging Face hub has them → huggingface.parquet, for runtime/src/data/parquet_tests.rs.

    python tests/golden/huggingface.py

30 rows in groups of 12 and pages of few rows, compressed with Snappy. The bytes of row N are the number N and a slash,
over and over, of 500 + 100 N bytes; row 7 has none, row 9 no path and row 11 no label (-1).
"""

import json
import pathlib

import pyarrow
from pyarrow import parquet

ROWS = 30
NAMES = ["tench", "goldfish", "shark"]


def image(row):
    data = None if row == 7 else (f"{row}/" * 2000).encode()[: 500 + 100 * row]
    return {"bytes": data, "path": None if row == 9 else f"train/n{row:03}.JPEG"}


def main():
    features = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}, "caption": {"dtype": "string", "_type": "Value"}}
    schema = pyarrow.schema(
        [
            ("caption", pyarrow.string()),
            ("image", pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])),
            ("label", pyarrow.int64()),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    rows = range(ROWS)
    table = pyarrow.table(
        {
            "caption": [f"row {row}" for row in rows],
            "image": [image(row) for row in rows],
            "label": [-1 if row == 11 else row % 3 for row in rows],
        },
        schema=schema,
    )
    path = pathlib.Path(__file__).with_suffix(".parquet")
    parquet.write_table(table, path, row_group_size=12, data_page_size=2000, write_batch_size=2, compression="snappy", use_dictionary=["caption", "label"], write_statistics=False)


if __name__ == "__main__":
    main()
