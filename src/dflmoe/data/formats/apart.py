"""What libraries in C++ decode is decoded in a process apart, as damaged files make them crash.

GDCM, the one free decoder of lossless JPEG, ends the whole process over about one damaged file in a
thousand. Here that costs the one file. What such libraries print goes nowhere.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from dflmoe.data.formats.frames import IDLE_S

PROGRAM = Path(__file__).with_name("frames.py")


class Apart:
    """The process; it is started when it is needed first, and again when it has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner, self._last = 0, 0.0
        atexit.register(self.close)

    def decoded(self, file: Path, at: int, **how: str) -> tuple[dict[str, Any], bytes]:
        """Return what a frame or page of a file is, and its bytes (see ``frames``).

        Raises:
            RuntimeError: It cannot be decoded.
            OSError: The process cannot be started.
        """
        question = json.dumps({"file": str(file.absolute()), "at": at, **how}).encode() + b"\n"
        with self._lock:
            try:
                said, data = self._asked(question)
            except (EOFError, BrokenPipeError) as error:
                self._end()
                raise RuntimeError("the decoder crashed or took too long") from error
            except BaseException:  # interrupted: its answer would be taken for another's
                self._end()
                raise
        if not said:
            raise RuntimeError("it cannot be decoded")
        return said, data

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _asked(self, question: bytes) -> tuple[dict[str, Any], bytes]:
        """Return the answer.

        Raises:
            EOFError: The process has ended before it.
            BrokenPipeError: It has ended before the question.
        """
        process = self._running()
        if process.stdin is None or process.stdout is None:
            raise EOFError
        process.stdin.write(question)
        process.stdin.flush()
        line = process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        said: dict[str, Any] = json.loads(line)
        data = process.stdout.read(said.get("bytes", 0))
        if len(data) < said.get("bytes", 0):
            raise EOFError
        self._last = time.monotonic()
        return said, data

    def _running(self) -> "subprocess.Popen[bytes]":
        """Return the process; a new one where there is none, or where it is about to end.

        A process that was forked from this one has none of its own yet.
        """
        idle = time.monotonic() - self._last > IDLE_S / 2
        if (
            self._process is None
            or self._owner != os.getpid()
            or self._process.poll() is not None
            or idle
        ):
            self._end()
            self._owner = os.getpid()
            self._process = subprocess.Popen(  # noqa: S603 - this very Python
                [sys.executable, "-P", str(PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            with suppress(OSError), process:  # it was not told everything
                pass


apart = Apart()
"""The one of this process."""
