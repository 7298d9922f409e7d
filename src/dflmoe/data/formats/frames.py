"""The process that decodes what may crash it (see ``apart``); it imports nothing of this package.

Each line that comes in is ``{"file", "at", "syntax"}`` for a frame of a DICOM file, and without the
syntax for a page of a TIFF. What goes out is a line ``{"bytes", ...}`` and so many bytes, or ``{}``
if it cannot be decoded.
"""

import json
import os
import signal
import sys
import warnings
from typing import Any

IDLE_S, FRAME_S = 60, 30
"""Seconds after which the process is ended if nobody asks, and if a frame is not done."""


def frame(asked: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Return a frame of a DICOM file: what it is, and its numbers."""
    from pydicom.pixels.utils import pixel_array  # noqa: PLC0415 - who has TIFF may not have it

    found = pixel_array(asked["file"], index=asked["at"], transfer_syntax_uid=asked["syntax"])
    return {"shape": found.shape, "dtype": found.dtype.str}, found.tobytes()


def page(asked: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Return a page of a TIFF: what it is, and its pixels."""
    from PIL import Image  # noqa: PLC0415 - as above

    with Image.open(asked["file"], formats=("TIFF",)) as image:
        image.seek(asked["at"])
        found = image.convert("RGB") if image.mode == "P" else image
        data = found.tobytes()
        return {"mode": found.mode, "size": found.size}, data


def answer(line: bytes) -> bytes:
    """Return what to say to a question."""
    asked = json.loads(line)
    try:
        said, data = frame(asked) if "syntax" in asked else page(asked)
    except Exception:  # a damaged file makes a library raise anything
        return b"{}\n"
    return json.dumps({**said, "bytes": len(data)}).encode() + b"\n" + data


def limit(seconds: int) -> None:
    """Let the system end this process in so many seconds, whatever it is at."""
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


def main() -> None:
    """Answer until nobody asks any more."""
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print is no answer
    limit(IDLE_S)
    for line in iter(sys.stdin.buffer.readline, b""):
        limit(FRAME_S)
        answers.write(answer(line))
        answers.flush()
        limit(IDLE_S)


if __name__ == "__main__":
    main()
