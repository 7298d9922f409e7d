"""Rows that a database answers with; it is only ever read.

A file of SQLite is opened for reading only. Where a server knows transactions that only read, the
query is in one; its account should be allowed no more than that, too.
"""

import sqlite3
from pathlib import Path

import pandas as pd
import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError

from dflmoe.data.source import Source
from dflmoe.errors import ColumnError, DataFileError, MissingExtraError

READS_ONLY = frozenset({"postgresql", "mysql", "mariadb", "oracle"})
"""Servers whose transactions may be told to only read."""


def answered(source: Source) -> pd.DataFrame:
    """Return what a database answers to a query.

    Raises:
        DataFileError: It cannot be reached, does not understand the query, or has no rows for it.
        ColumnError: Two columns of the answer have one name.
        MissingExtraError: What speaks with this kind of database is not installed.
    """
    url = _url(source)
    try:
        rows, names = _rows(_engine(source, url), source.query or "")
    except ImportError as error:
        raise MissingExtraError(
            f"database {source.shown} needs {error.name}; install it with: pip install {error.name}"
        ) from error
    except (SQLAlchemyError, ValueError, TypeError, OSError) as error:
        reason = str(getattr(error, "orig", None) or error).partition("\n")[0]
        if url.password:
            reason = reason.replace(str(url.password), "***")
        raise DataFileError(f"database {source.shown} does not answer: {reason}") from error
    if not rows:
        raise DataFileError(f"the query of {source.shown} returns no rows; mend query in [data]")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ColumnError(
            f"the query of {source.shown} returns two columns {twice!r}; name one of them with AS"
        )
    return pd.DataFrame.from_records(rows, columns=names, coerce_float=True)


def _url(source: Source) -> sqlalchemy.URL:
    try:
        return sqlalchemy.make_url(str(source.path))
    except (SQLAlchemyError, ValueError):  # what they say may hold the password
        raise DataFileError(
            f"{source.shown} is no address of a database; write, for example, "
            f"postgresql://name:password@host/database, with signs of a password as %40 for @"
        ) from None


def _engine(source: Source, url: sqlalchemy.URL) -> sqlalchemy.Engine:
    pool = sqlalchemy.NullPool  # nothing stays open
    if url.drivername not in {"sqlite", "sqlite+pysqlite"}:
        return sqlalchemy.create_engine(url, poolclass=pool, hide_parameters=True)
    file = Path(url.database or "")
    if not file.is_file():
        raise DataFileError(f"{source.shown} is not there; check path in [data]")
    with file.open("rb") as stream:
        head = stream.read(18)
    page = int.from_bytes(head[16:])
    if head.startswith(b"SQLite") and page > 1 and file.stat().st_size % page:
        raise DataFileError(  # SQLite itself would take what is gone for zeros
            f"database {source.shown} does not answer: it has been cut short; copy it again"
        )

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)  # others would be open for writing
        return connection

    return sqlalchemy.create_engine("sqlite://", creator=connect, poolclass=pool)


def _rows(engine: sqlalchemy.Engine, query: str) -> tuple[list[tuple[object, ...]], list[str]]:
    """Return rows and the names of their columns; whatever was asked, nothing there changes."""
    with engine.connect().execution_options(no_parameters=True) as connection:
        if engine.dialect.name in READS_ONLY:
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        result = connection.exec_driver_sql(query)
        if not result.returns_rows:
            raise ValueError("the query returns nothing; it must begin with SELECT")
        rows = [tuple(row) for row in result]
        connection.rollback()
    return rows, list(result.keys())
