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
from contextlib import suppress
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("frames.py")

TRIES = 2
"""The process may have ended just as it was asked, since nobody had for a while."""


class Apart:
    """The process; it is started when it is needed first, and again when it has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        atexit.register(self.close)

    def decoded(self, file: Path, at: int, **how: str) -> tuple[dict[str, Any], bytes]:
        """Return what a frame or page of a file is, and its bytes (see ``frames``).

        Raises:
            RuntimeError: It cannot be decoded.
            OSError: The process cannot be started.
        """
        question = json.dumps({"file": str(file.absolute()), "at": at, **how}).encode() + b"\n"
        with self._lock:
            for _ in range(TRIES):
                try:
                    said, data = self._asked(question)
                except EOFError:
                    self._end()
                    continue
                if not said:
                    raise RuntimeError("it cannot be decoded")
                return said, data
        raise RuntimeError("the decoder crashed")

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _asked(self, question: bytes) -> tuple[dict[str, Any], bytes]:
        """Return the answer.

        Raises:
            EOFError: The process has ended before it.
        """
        process = self._running()
        if process.stdin is None or process.stdout is None:
            raise EOFError
        try:
            process.stdin.write(question)
            process.stdin.flush()
        except OSError as error:
            raise EOFError from error
        line = process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        said: dict[str, Any] = json.loads(line)
        data = process.stdout.read(said.get("bytes", 0))
        if len(data) < said.get("bytes", 0):
            raise EOFError
        return said, data

    def _running(self) -> "subprocess.Popen[bytes]":
        """Return the process of this one; one that was forked has none yet."""
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
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
