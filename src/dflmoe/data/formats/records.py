"""The records of EDF files, decoded by edfio.

edfio maps the files that it reads in part into memory, and a mapped file whose disk has gone ends
the process; here what is asked for is read, and edfio given no more than that.
"""

import math
from pathlib import Path
from typing import NamedTuple

import edfio

from dflmoe.errors import DataFileError

ENCODING = "latin-1"
"""Of headers. They should be in ASCII, and µV often is not."""


class Recording(NamedTuple):
    """An EDF file of which no more than the header is in memory.

    Attributes:
        file: Where it is.
        head: The header.
        records: How many there are.
        record_s: Seconds of each.
        record_bytes: Bytes of each.
    """

    file: Path
    head: bytes
    records: int
    record_s: float
    record_bytes: int

    def between(self, first: int, last: int) -> edfio.Edf:
        """Return some records as a recording of their own.

        Raises:
            DataFileError: The file is shorter than it was.
        """
        size = (last - first) * self.record_bytes
        with self.file.open("rb") as stream:
            stream.seek(len(self.head) + first * self.record_bytes)
            data = stream.read(size)
        if len(data) < size:
            raise DataFileError(f"{self.file} has become shorter; copy it again")
        head = self.head[:236] + f"{last - first:<8}".encode() + self.head[244:]
        return edfio.read_edf(head + data, header_encoding=ENCODING)

    def around(self, start_s: float, seconds: float) -> tuple[edfio.Edf, int]:
        """Return the records that some seconds are in, and the number of the first of them."""
        first = int(start_s / self.record_s + 1e-9)
        last = math.ceil((start_s + seconds) / self.record_s - 1e-9)
        return self.between(first, min(last, self.records)), first


def opened(file: Path) -> Recording:
    """Return a recording of which nothing but the header has been read.

    Raises:
        DataFileError: The file is shorter or longer than its header says.
    """
    with file.open("rb") as stream:
        head = stream.read(256)
        signals = int(head[252:256])
        head += stream.read(256 * signals)
    begin = 256 + 216 * signals
    samples = [int(head[k : k + 8]) for k in range(begin, begin + 8 * signals, 8)]
    records, record_bytes = int(head[236:244]), 2 * sum(samples)
    whole = records * record_bytes + int(head[184:192])
    if min(samples) < 0 or records < 1 or int(head[184:192]) != 256 * (signals + 1):
        raise DataFileError(f"{file} has a damaged header; export it again")
    if whole != file.stat().st_size:
        raise DataFileError(
            f"{file} is {file.stat().st_size} bytes long, and its header says {whole}; copy or "
            f"export it again"
        )
    return Recording(file, head, records, float(head[244:252]), record_bytes)


def whole(file: Path) -> edfio.Edf:
    """Return a recording with its annotations, whose signals are read when they are asked for.

    Raises:
        DataFileError: It is shorter or longer than its header says, or has gaps.
    """
    opened(file)
    edf = edfio.read_edf(file, header_encoding=ENCODING)
    if edf.reserved.startswith("EDF+D") and not edf.is_continuous:
        raise DataFileError(
            f"{file} has gaps in time (EDF+D), and an epoch must have none; export it as EDF+C, or "
            f"move it away"
        )
    return edf
