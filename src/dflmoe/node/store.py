"""What a node keeps: SQLite for facts, files named by their SHA-256 for payloads.

A payload is durable before the row that names it, and a row before anybody is told, so whatever
stops the process, and whenever, what was delivered is there when it starts again.
"""

import hashlib
import json
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from dflmoe.errors import OutputError, StoreError
from dflmoe.files import replace_file
from dflmoe.security.audit import Entry, Event, Facts, Kind, entry_after
from dflmoe.types import SiteId

STORE, DATABASE, BLOBS = "store", "state.db", "blobs"
"""The folder in a site's home, and what is in it."""

PROOFS = 2
"""Heads of one number that are kept as evidence against a site."""

REFUSALS, SENTENCE = 1000, 300
"""Kinds of refusals that are remembered, and letters of each: what was refused may be long."""

REFUSALS_A_DAY = 500
"""So many refusals of a day have an entry in the log; the rest are only counted."""

NEWEST_STATE = "SELECT blob FROM round ORDER BY number DESC LIMIT 1"

MIGRATIONS = (
    """
    CREATE TABLE head (
        site TEXT PRIMARY KEY, seq INTEGER NOT NULL, envelope BLOB NOT NULL, blob TEXT NOT NULL,
        arrived TEXT NOT NULL
    ) STRICT;
    CREATE TABLE evidence (
        site TEXT NOT NULL, seq INTEGER NOT NULL, envelope BLOB NOT NULL, arrived TEXT NOT NULL,
        UNIQUE (site, envelope)
    ) STRICT;
    CREATE TABLE lent (seq INTEGER PRIMARY KEY, blob TEXT NOT NULL) STRICT;
    CREATE TABLE refusal (
        reason TEXT NOT NULL, sentence TEXT NOT NULL, times INTEGER NOT NULL, last TEXT NOT NULL,
        PRIMARY KEY (reason, sentence)
    ) STRICT;
    CREATE TABLE traffic (
        day TEXT NOT NULL, way TEXT NOT NULL, peer TEXT NOT NULL, bytes INTEGER NOT NULL,
        PRIMARY KEY (day, way, peer)
    ) STRICT;
    """,
    """
    CREATE TABLE round (
        number INTEGER PRIMARY KEY, blob TEXT NOT NULL, summary TEXT NOT NULL, played TEXT NOT NULL
    ) STRICT;
    """,
    """
    CREATE TABLE audit (
        number INTEGER PRIMARY KEY, at TEXT NOT NULL, kind TEXT NOT NULL, facts TEXT NOT NULL,
        before TEXT NOT NULL
    ) STRICT;
    CREATE TRIGGER audit_stays BEFORE UPDATE ON audit BEGIN
        SELECT RAISE(ABORT, 'the audit log is only appended to');
    END;
    CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit BEGIN
        SELECT RAISE(ABORT, 'the audit log is only appended to');
    END;
    CREATE INDEX audit_kind ON audit (kind, at);
    CREATE TABLE receipt (
        site TEXT NOT NULL, day TEXT NOT NULL, envelope BLOB NOT NULL, PRIMARY KEY (site, day)
    ) STRICT;
    """,
    """
    CREATE TABLE spending (
        head TEXT PRIMARY KEY, sigma REAL NOT NULL, steps INTEGER NOT NULL, at TEXT NOT NULL
    ) STRICT;
    CREATE TRIGGER spending_stays BEFORE UPDATE ON spending BEGIN
        SELECT RAISE(ABORT, 'what was spent stays spent');
    END;
    CREATE TRIGGER spending_is_kept BEFORE DELETE ON spending BEGIN
        SELECT RAISE(ABORT, 'what was spent stays spent');
    END;
    """,
    """
    ALTER TABLE round ADD COLUMN seconds REAL NOT NULL DEFAULT 0;
    """,
)
"""Each brings a database one version further; the file says which it has."""


@dataclass(frozen=True)
class StoredHead:
    """The newest head that is held of a site.

    Attributes:
        site: Who lent it.
        seq: Its number.
        envelope: As it was received.
        blob: Digest of what is stored of its payload.
        arrived: When.
    """

    site: SiteId
    seq: int
    envelope: bytes
    blob: str
    arrived: str


@dataclass(frozen=True)
class Refusal:
    """Something that was refused, and how often."""

    reason: str
    sentence: str
    times: int
    last: str


def _entry(row: tuple[object, ...]) -> Entry:
    """Return the entry that a row holds.

    Raises:
        ValueError: It holds none.
    """
    names = ("number", "at", "kind", "facts", "before")
    return Entry.model_validate(dict(zip(names, row, strict=True)), strict=False)


class Store:
    """The store of one node; one process at a time writes to it."""

    def __init__(self, folder: Path, *, sweeps: bool = True, reads: bool = False) -> None:
        """Open a store, and bring it to this version.

        Args:
            folder: Where it is, or shall be.
            sweeps: Remove files that nothing names; only the node itself may, as it alone knows
                that none of them is about to be named.
            reads: Only read, and change nothing, not even to bring it to this version.

        Raises:
            StoreError: It cannot be opened, is damaged, or was written by another version.
        """
        self.folder = folder
        self._one = threading.RLock()
        self._heads: dict[SiteId, StoredHead] | None = None
        try:
            if reads:
                where = f"{(folder / DATABASE).absolute().as_uri()}?mode=ro"
            else:
                (folder / BLOBS).mkdir(parents=True, exist_ok=True)
                where = str(folder / DATABASE)
            self._db = sqlite3.connect(
                where, isolation_level=None, check_same_thread=False, uri=reads
            )
            if not reads:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._migrate()
            elif self._version() != len(MIGRATIONS):
                raise StoreError(
                    f"the store in {folder} was written by another version of dflmoe; "
                    f"start its node once with this one"
                )
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"the store in {folder} cannot be opened: {error}; "
                f"restore it with the help of: dflmoe store check"
            ) from error
        if sweeps and not reads:
            self._sweep()

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    # --- heads ---

    def heads(self) -> Mapping[SiteId, StoredHead]:
        """Return the newest head of each site."""
        with self._one:
            if self._heads is None:
                rows = self._rows(
                    "SELECT site, seq, envelope, blob, arrived FROM head ORDER BY site"
                )
                self._heads = {row[0]: StoredHead(*row) for row in rows}
            return self._heads

    def keep_head(
        self,
        site: SiteId,
        seq: int,
        envelope: bytes,
        payload: bytes,
        now: datetime,
        *,
        blob: str,
        facts: Facts | None = None,
    ) -> bool:
        """Keep a head if it is newer than the one that is held; returns whether it is.

        The same head again, with a payload that is stored otherwise (wrapped anew), is kept too.

        Args:
            site: Who lent it.
            seq: Its number.
            envelope: As it was signed.
            payload: What is stored of it.
            now: The moment.
            blob: Digest of the payload, which who has checked it knows.
            facts: What the log says of a head that was received; none for the site's own.

        Raises:
            StoreError: The disk is full or cannot be written; what was there stays.
        """
        self._keep(blob, payload)
        before = self.heads().get(site)
        with self._transaction():
            done = self._db.execute(
                "INSERT INTO head VALUES (?, ?, ?, ?, ?) ON CONFLICT (site) DO UPDATE SET "
                "seq = excluded.seq, envelope = excluded.envelope, blob = excluded.blob, "
                "arrived = excluded.arrived WHERE excluded.seq > head.seq OR "
                "(excluded.envelope = head.envelope AND excluded.blob <> head.blob)",
                (site, seq, envelope, blob, now.isoformat()),
            ).rowcount
            if done > 0:
                self._db.execute(
                    "INSERT OR REPLACE INTO receipt VALUES (?, ?, ?)",
                    (site, f"{now:%Y-%m-%d}", envelope),
                )
            if done > 0 and facts is not None:
                self._append("received", facts, now)
        self._heads = None
        self._forget(blob, *([before.blob] if before else []))
        return done > 0

    def keep_evidence(self, site: SiteId, seq: int, envelope: bytes, now: datetime) -> None:
        """Keep a head that proves that its site signed two of one number."""
        with self._transaction():
            kept = self._db.execute(
                "INSERT OR IGNORE INTO evidence SELECT ?, ?, ?, ? WHERE "
                "(SELECT count(*) FROM evidence WHERE site = ?) < ?",
                (site, seq, envelope, now.isoformat(), site, PROOFS),
            ).rowcount
            if kept > 0:
                proof = hashlib.sha256(envelope).hexdigest()
                facts: Facts = {"site": site, "seq": seq, "evidence": proof}
                self._append("quarantined", facts, now)

    def convicted(self) -> frozenset[SiteId]:
        """Return the sites against which there is evidence."""
        return frozenset(s for (s,) in self._rows("SELECT DISTINCT site FROM evidence"))

    def release(self, site: SiteId, now: datetime) -> int:
        """Forget the evidence against a site, as its peer's administrator decides."""
        with self._transaction():
            forgotten = self._db.execute("DELETE FROM evidence WHERE site = ?", (site,)).rowcount
            if forgotten:
                self._append("released", {"site": site, "evidence": forgotten}, now)
            return forgotten

    def payload(self, blob: str) -> bytes:
        """Return what is stored under a digest.

        Raises:
            StoreError: It is not there, or was changed on disk.
        """
        try:
            raw = self._path(blob).read_bytes()
        except OSError as error:
            raise StoreError(
                f"file {blob[:12]} of the store in {self.folder} cannot be read: "
                f"{error.strerror or error}; its head will be asked for again"
            ) from error
        if hashlib.sha256(raw).hexdigest() != blob:
            raise StoreError(
                f"file {blob[:12]} of the store in {self.folder} was changed on disk; "
                f"run: dflmoe store check"
            )
        return raw

    def next_number(self, now: datetime) -> int:
        """Return a number for the site's next head: above all before, even after a restore."""
        ((last,),) = self._rows("SELECT coalesce(max(seq), 0) FROM lent")
        return max(int(last) + 1, int(now.timestamp() * 1e6))

    def keep_lent(self, seq: int, payload: str, facts: Facts, now: datetime) -> Entry:
        """Note that a number was given to a payload, before anybody is told.

        Returns:
            The entry of the log that says so: the head bears its digest.
        """
        with self._transaction():
            self._db.execute("INSERT INTO lent VALUES (?, ?)", (seq, payload))
            return self._append("lent", {"seq": seq, "payload": payload, **facts}, now)

    def last_lent(self) -> str | None:
        """Return the digest of the payload that was lent last."""
        rows = self._rows("SELECT blob FROM lent ORDER BY seq DESC LIMIT 1")
        return str(rows[0][0]) if rows else None

    # --- privacy ---

    def spent(self) -> list[tuple[str, float, int]]:
        """Return each private head that was ever made: its digest, noise and steps."""
        return [
            (str(head), float(sigma), int(steps))
            for head, sigma, steps in self._rows(
                "SELECT head, sigma, steps FROM spending ORDER BY at, head"
            )
        ]

    def spend(self, head: str, sigma: float, steps: int, facts: Facts, now: datetime) -> None:
        """Note a private head before it is made.

        Raises:
            StoreError: It cannot be written, so the head must not be made.
        """
        with self._transaction():
            self._db.execute(
                "INSERT INTO spending VALUES (?, ?, ?, ?)", (head, sigma, steps, now.isoformat())
            )
            self._append("spent", facts, now)

    # --- rounds ---

    def keep_round(
        self,
        number: int,
        state: bytes,
        summary: bytes,
        now: datetime,
        events: Sequence[Event] = (),
        *,
        seconds: float = 0.0,
    ) -> None:
        """Keep the state after a round, what came of it, and what the log says of it.

        Args:
            number: Of the round.
            state: After it.
            summary: What came of it, as JSON.
            now: The moment.
            events: What the log says.
            seconds: Of computing that it took.

        Raises:
            StoreError: The disk is full or cannot be written; the round before stays.
        """
        blob = hashlib.sha256(state).hexdigest()
        self._keep(blob, state)
        before = self._rows(NEWEST_STATE)
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO round VALUES (?, ?, ?, ?, ?)",
                (number, blob, summary.decode(), now.isoformat(), seconds),
            )
            for kind, facts in events:
                self._append(kind, facts, now)
        self._forget(*(last for (last,) in before))

    def state(self) -> bytes | None:
        """Return the state after the last round, if any was played.

        Raises:
            StoreError: It cannot be read, or was changed on disk.
        """
        rows = self._rows(NEWEST_STATE)
        return self.payload(rows[0][0]) if rows else None

    def rounds(self) -> list[str]:
        """Return what came of every round, as JSON, from the first."""
        return [s for (s,) in self._rows("SELECT summary FROM round ORDER BY number")]

    def computed(self) -> float:
        """Return the seconds of computing that all rounds took together."""
        ((seconds,),) = self._rows("SELECT coalesce(sum(seconds), 0) FROM round")
        return float(seconds)

    def played(self, count: int) -> list[tuple[str, str]]:
        """Return what came of the newest rounds, as JSON, and when it was stored, oldest first."""
        newest = self._rows(
            "SELECT summary, played FROM round ORDER BY number DESC LIMIT ?", str(count)
        )
        return newest[::-1]

    def last_round(self) -> str | None:
        """Return what came of the last round, as JSON, if any was played."""
        rows = self._rows("SELECT summary FROM round ORDER BY number DESC LIMIT 1")
        return str(rows[0][0]) if rows else None

    # --- the log ---

    def note(self, kind: Kind, facts: Facts, now: datetime) -> Entry:
        """Append to the log that something happened.

        Raises:
            StoreError: It cannot be written.
        """
        with self._transaction():
            return self._append(kind, facts, now)

    def entries(self, *kinds: Kind) -> list[Entry]:
        """Return the log as it stands, or what it has of some kinds: nothing of it is checked.

        Raises:
            StoreError: A row is none that was ever written here.
        """
        return self.newest_entries(-1, *kinds)

    def newest_entries(self, count: int, *kinds: Kind) -> list[Entry]:
        """Return the end of the log, oldest first: nothing of it is checked.

        Args:
            count: How many of the newest; -1 for all.
            kinds: Only these; all if none is named.

        Raises:
            StoreError: A row is none that was ever written here.
        """
        rows = self._rows(
            "SELECT number, at, kind, facts, before FROM audit WHERE ? = '[]' "
            "OR kind IN (SELECT value FROM json_each(?)) ORDER BY number DESC LIMIT ?",
            json.dumps(kinds),
            json.dumps(kinds),
            str(count),
        )
        return self._entries(rows[::-1])

    def newest_entry(self, *kinds: Kind) -> Entry | None:
        """Return the newest entry of the log, or of some kinds, if there is any."""
        newest = self.newest_entries(1, *kinds)
        return newest[0] if newest else None

    def _entries(self, rows: Sequence[tuple[object, ...]]) -> list[Entry]:
        try:
            return [_entry(row) for row in rows]
        except ValueError as error:
            raise StoreError(
                f"the audit log in {self.folder} holds a row that was never written by a node: "
                f"{error}; it was changed by hand"
            ) from error

    def receipts(self, site: SiteId | None = None) -> list[tuple[SiteId, bytes]]:
        """Return envelopes of heads that are kept as receipts, the newest of each day.

        Args:
            site: Whose; all sites' if not given.
        """
        rows = self._rows("SELECT site, envelope FROM receipt ORDER BY site, day")
        return [(whose, raw) for whose, raw in rows if site is None or whose == site]

    # --- what is counted ---

    def refused(self, reason: str, sentence: str, now: datetime) -> None:
        """Count something that was refused."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO refusal VALUES (?, ?, 1, ?) ON CONFLICT (reason, sentence) "
                "DO UPDATE SET times = times + 1, last = excluded.last",
                (reason, sentence[:SENTENCE], now.isoformat()),
            )
            (times,) = self._db.execute(
                "SELECT times FROM refusal WHERE reason = ? AND sentence = ?",
                (reason, sentence[:SENTENCE]),
            ).fetchone()
            (today,) = self._db.execute(
                "SELECT count(*) FROM audit WHERE kind = 'refused' AND at >= ?",
                (f"{now:%Y-%m-%d}",),
            ).fetchone()
            if str(times).strip("0") == "1" and today < REFUSALS_A_DAY:  # the 1st, 10th, 100th
                facts: Facts = {"reason": reason, "why": sentence[:SENTENCE], "times": times}
                self._append("refused", facts, now)
            self._db.execute(
                "DELETE FROM refusal WHERE rowid NOT IN "
                "(SELECT rowid FROM refusal ORDER BY last DESC LIMIT ?)",
                (REFUSALS,),
            )

    def refusals(self) -> list[Refusal]:
        """Return what was refused, the latest first."""
        rows = self._rows(
            "SELECT reason, sentence, times, last FROM refusal ORDER BY last DESC, sentence"
        )
        return [Refusal(*row) for row in rows]

    def moved(self, way: str, peer: str, count: int, now: datetime) -> None:
        """Count bytes where they leave or enter the process."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO traffic VALUES (?, ?, ?, ?) ON CONFLICT (day, way, peer) "
                "DO UPDATE SET bytes = bytes + excluded.bytes",
                (f"{now:%Y-%m-%d}", way, peer, count),
            )

    def traffic(self) -> dict[tuple[str, str, str], int]:
        """Return bytes by day, way (``sent`` or ``received``) and peer."""
        rows = self._rows("SELECT day, way, peer, bytes FROM traffic")
        return {(day, way, peer): count for day, way, peer, count in rows}

    # --- care ---

    def check(self) -> list[str]:
        """Return what is wrong with the store, in sentences; none if nothing is."""
        try:
            found = [
                f"the database is damaged: {row[0]}"
                for row in self._db.execute("PRAGMA integrity_check")
                if row[0] != "ok"
            ]
        except sqlite3.Error as error:
            return [f"the database cannot be read: {error}"]
        for blob in sorted(self._named()):
            try:
                self.payload(blob)
            except StoreError as error:
                found.append(str(error))
        return found

    def backup(self, folder: Path) -> None:
        """Copy the store to a new folder, while the node runs.

        Raises:
            StoreError: There is something in the folder, or it cannot be written.
        """
        if folder.exists() and any(folder.iterdir()):
            raise StoreError(f"{folder} is not empty; name a new folder for the backup")
        try:
            (folder / BLOBS).mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(folder / DATABASE)) as copy:
                self._db.backup(copy)
            for blob in self._named():
                shutil.copy2(self._path(blob), folder / BLOBS / blob)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"the backup to {folder} failed: {error}") from error

    # --- what stands behind these ---

    def _version(self) -> int:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        return int(version)

    def _migrate(self) -> None:
        version = self._version()
        if version > len(MIGRATIONS):
            raise StoreError(
                f"the store in {self.folder} was written by a newer version of dflmoe; "
                f"install that, or restore a backup"
            )
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            self._db.executescript(f"BEGIN; {script} PRAGMA user_version = {number}; COMMIT;")

    def _rows(self, query: str, *values: str) -> list[Any]:
        """Return what is read.

        Raises:
            StoreError: It cannot be read: even to read, SQLite may have to write.
        """
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(
                f"the store in {self.folder} cannot be read: {error}; "
                f"look at the disk, then run: dflmoe store check"
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            with self._one, self._db:  # threads share the connection
                self._db.execute("BEGIN IMMEDIATE")
                yield
        except sqlite3.Error as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: BaseException) -> StoreError:
        return StoreError(
            f"the store in {self.folder} cannot be written: {error}; what it held is still there"
        )

    def _append(self, kind: Kind, facts: Facts, now: datetime) -> Entry:
        """Append to the log, within a transaction."""
        entry = entry_after(self.newest_entry(), kind, facts, now)
        self._db.execute(
            "INSERT INTO audit VALUES (?, ?, ?, ?, ?)",
            (entry.number, entry.at.isoformat(), entry.kind, entry.facts, entry.before),
        )
        return entry

    def _keep(self, blob: str, payload: bytes) -> None:
        try:
            self.payload(blob)
        except StoreError:
            try:
                replace_file(self._path(blob), payload)
            except OutputError as error:
                raise self._unwritten(error.__cause__ or error) from error

    def _path(self, blob: str) -> Path:
        return self.folder / BLOBS / blob

    def _named(self) -> set[str]:
        """Return the digests of all files that are needed: heads, and the newest state."""
        return {
            blob
            for (blob,) in self._rows(
                f"SELECT blob FROM head UNION SELECT blob FROM ({NEWEST_STATE})"  # noqa: S608
            )
        }

    def _forget(self, *blobs: str) -> None:
        """Remove files that nothing names any more."""
        named = self._named()
        for blob in set(blobs) - named:
            with suppress(OSError):  # it is swept at the next start
                self._path(blob).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove files that no row names: heads that newer ones replaced, and halves."""
        named = self._named()
        for path in (self.folder / BLOBS).iterdir():
            if path.name not in named:
                with suppress(OSError):
                    path.unlink()
