"""Tables as source and sink, through SQLAlchemy: SQLite, PostgreSQL.

A table or query is read in the order of its key, by a server-side cursor; SQLite, where an open cursor would lock out the
writer, is read page by page. Results are written by key in batches, in one transaction with the checkpoint
(table `triage_rescore`), so a lost connection or a killed process leaves either both or neither.
"""

from __future__ import annotations

import datetime
import json
import re
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from triage.errors import InputError, OutputError, StoppedError, require
from triage.sinks import Checkpoint, Columns, Rows, RunFolder, flat
from triage.sources import BadRow, Items, read_row

require("sqlalchemy", "rescore")
import sqlalchemy as sa  # noqa: E402 - after the message that names the extra
from sqlalchemy.dialects import postgresql, sqlite  # noqa: E402

_PAGE = 1024  # rows fetched at a time
_POLL = 0.5  # seconds between two looks at a queue table
_LOCK_WAIT = 5.0  # seconds for a server to notice that a killed run is gone
_KINDS: dict[Any, Any] = {int: sa.BigInteger(), float: sa.Double(), bool: sa.Boolean(), datetime.date: sa.Date(),
                          datetime.datetime: sa.DateTime(timezone=True)}  # fmt: skip
_CHECKPOINTS = sa.Table(
    "triage_rescore",
    sa.MetaData(),
    sa.Column("output", sa.String(200), primary_key=True),
    sa.Column("checkpoint", sa.Text),
)


def is_url(name: str) -> bool:
    """Whether a SOURCE or SINK names a database."""
    return re.match(r"(sqlite|postgres(ql)?)(\+\w+)?://", name) is not None


def connect(url: str) -> sa.Engine:
    """Return an engine. Raises TriageError naming the extra whose driver is missing, InputError for a bad address."""
    if url.startswith(("postgres://", "postgresql://")):
        url = "postgresql+psycopg://" + url.partition("://")[2]
    if url.startswith("postgresql+psycopg:"):
        require("psycopg", "postgres")
    try:
        return sa.create_engine(url)
    except sa.exc.ArgumentError:
        raise InputError(
            "the database address is not readable; give sqlite:///FILE or postgresql://USER@HOST/NAME"
        ) from None


def shown(engine: sa.Engine) -> str:
    """Return the address without its password."""
    return engine.url.render_as_string(hide_password=True)


@contextmanager
def _reaching(engine: sa.Engine) -> Iterator[None]:
    """Turn a lost, full or faulty database into an error that tells the mend; it never carries values of rows."""
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError) as error:
        reason = str(error.orig).strip().splitlines()[0][:200] if error.orig else type(error).__name__
        raise StoppedError(
            f"{shown(engine)}: {reason}; once it answers, run the same command again to continue"
        ) from None
    except sa.exc.DBAPIError as error:
        reason = type(error.orig).__name__ if error.orig else type(error).__name__
        raise InputError(f"{shown(engine)}: refused ({reason}); check table, query, columns and rights") from None


class SqlSource:
    """The rows of a table or of a query, in the order of a unique key of integers or strings.

    follow: go on with rows that come in. Raises InputError when table, query or key will not do.
    """

    def __init__(
        self,
        url: str,
        text_column: str,
        key: str,
        table: str | None = None,
        query: str | None = None,
        follow: bool = False,
    ) -> None:
        if (table is None) == (query is None):
            raise InputError(f"{url.partition('://')[0]}: name what to read, with --table or --query")
        self._engine = connect(url)
        self.name = f"{shown(self._engine)} {table or 'query'}"
        self.share: float | None = None
        self.same_columns, self.state = True, None
        self.encodings: dict[str, str] = {}
        self._text, self._key, self._label = text_column, key, table or "query"
        self._follow = follow
        self._under_way: set[int | str] = set()  # when following: keys read and not yet written
        self._pending: sa.ColumnElement[bool] | None = None
        self._from: sa.FromClause
        with _reaching(self._engine):
            if table is not None:
                self._from = _reflect(self._engine, table)
            else:
                self._from = sa.text(str(query)).columns(*self._told_by_values(str(query))).subquery("asked")
        self.columns: Mapping[str, Any] | None = {
            c.name: None if isinstance(c.type, sa.types.NullType) else c.type for c in self._from.columns
        }
        for column, option in ((text_column, "--text-column"), (key, "--id-column")):
            if column not in self.columns:
                raise InputError(
                    f"{self.name}: no column {column!r}; the columns are {', '.join(self.columns)}; give {option}"
                )
        self.fingerprint = f"{shown(self._engine)} {table or query} by {key}"
        self._check_key()

    @property
    def url(self) -> str:
        """Address without password: tells whether a sink is the same database."""
        return shown(self._engine)

    def _told_by_values(self, query: str) -> list[sa.ColumnClause[Any]]:
        """Return the columns of a query; a type is what its first hundred rows agree upon."""
        with self._engine.connect() as connection:
            result = connection.execute(sa.text(f"SELECT * FROM ({query}) AS asked LIMIT 100"))
            names, rows = list(result.keys()), result.all()
        columns = []
        for n, name in enumerate(names):
            kinds = {type(row[n]) for row in rows if row[n] is not None}
            kind = _KINDS.get(kinds.pop()) if len(kinds) == 1 else None
            columns.append(sa.column(name, kind))
        return columns

    def leave_out(self, written: sa.Table, column: str) -> None:
        """Follow a queue by what has no result yet, not by the key: keys may become visible out of order."""
        key = self._from.columns[self._key]
        there = written.alias("written")  # it may be the table that is read
        has_result = sa.exists().where(there.columns[self._key] == key, there.columns[column].is_not(None))
        self._pending = sa.not_(has_result.correlate(self._from))

    def close(self) -> None:
        """Let go of the connections."""
        self._engine.dispose()

    def written(self, keys: Iterable[int | str]) -> None:
        """Take note that rows have their results."""
        self._under_way.difference_update(keys)

    def _check_key(self) -> None:
        key = self._from.columns[self._key]
        if isinstance(self._from, sa.Table) and [c.name for c in self._from.primary_key] == [self._key]:
            return
        twice = sa.select(key).where(key.is_not(None)).group_by(key).having(sa.func.count() > 1).limit(1)
        with _reaching(self._engine), self._engine.connect() as connection:
            if connection.execute(twice).first() is not None:
                raise InputError(
                    f"{self.name}: {self._key!r} holds some values twice; name a unique column with --id-column"
                )

    def items(self, start: Any = None, stop: threading.Event | None = None) -> Items:
        """Yield the rows whose key is greater than `start`, then, when following, what comes in."""
        last = start
        with _reaching(self._engine):
            if start is None and (missing := self._count(self._from.columns[self._key].is_(None))):
                yield BadRow(self._label, f"{missing} row(s) have no {self._key}; give them one", None)
            total = self._count() if not self._follow else 0
            done = self._count(self._from.columns[self._key] <= start) if start is not None and total else 0
            while True:
                with closing(self._read(last)) as records:
                    for record in records:
                        row = dict(record._mapping)
                        key = row[self._key]
                        if type(key) not in (int, str):
                            raise InputError(
                                f"{self.name}: {self._key!r} holds {type(key).__name__}; give a key of integers or text, "
                                "as in --query 'SELECT CAST(id AS text) AS id, ...'"
                            )
                        if self._follow and key in self._under_way:
                            continue
                        if self._follow:
                            self._under_way.add(key)  # a bad row stays there: it is told once a run
                        done, last = done + 1, key
                        self.share = done / total if total else None
                        yield read_row(f"{self._label}:{self._key}={key}", str(key), row, self._text, self._key, key)
                if not self._follow or stop is None:
                    return
                yield None
                if stop.wait(_POLL):
                    return

    def _count(self, *where: sa.ColumnElement[bool]) -> int:
        with self._engine.connect() as connection:
            return int(
                connection.execute(sa.select(sa.func.count()).select_from(self._from).where(*where)).scalar_one()
            )

    def _read(self, last: Any) -> Generator[sa.Row[Any], None, None]:
        """Yield what stands after a key: by one cursor on the server, or, in SQLite and when following, by pages."""
        key = self._from.columns[self._key]
        asked = sa.select(self._from).where(key.is_not(None)).order_by(key)
        if self._follow and self._pending is not None:
            asked, last = asked.where(self._pending), None
        paged = self._engine.dialect.name == "sqlite" or self._follow
        while True:
            page = asked.where(key > last) if last is not None else asked
            with self._engine.connect() as connection:
                if not paged:
                    with connection.execution_options(yield_per=_PAGE).execute(page) as streamed:
                        yield from streamed
                    return
                records = connection.execute(page.limit(_PAGE)).all()
            yield from records
            if len(records) < _PAGE:
                return
            last = records[-1]._mapping[self._key]


class SqlSink:
    """A table of results, or, when it is the source's own table, result columns written back by key.

    A new table takes the key as primary key; rows that stand there under the same key are replaced.
    """

    def __init__(self, url: str, table: str, key: str, types: Mapping[str, Any], result: Mapping[str, Any], same: bool,
                 source: SqlSource | None) -> None:  # fmt: skip
        self._engine, self._name, self._key, self._result = connect(url), table, key, result
        if self._engine.dialect.name == "sqlite" and not self._engine.url.database:
            raise OutputError("a SQLite database in memory is gone when the run ends; give sqlite:///FILE")
        here = Path(self._engine.url.database or "").parent if self._engine.dialect.name == "sqlite" else Path()
        self.folder = RunFolder(here / f"{Path(self._engine.url.database or 'db').name}.{table}.rescore")
        self._source = source if source is not None and source.url == shown(self._engine) else None
        self._back = self._source is not None and self._source._label == table
        self._columns = Columns({**types, **result}, same)
        self._table: sa.Table | None = None
        self._lock: sa.Connection | None = None
        try:
            with _reaching(self._engine):
                self._take_lock()
                _CHECKPOINTS.create(self._engine, checkfirst=True)
        except BaseException:
            self.close()
            raise

    def _take_lock(self) -> None:
        """Keep a second run out, from whatever machine; for SQLite the lock of the run folder does that."""
        if self._engine.dialect.name != "postgresql":
            return
        self._lock = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        until = time.monotonic() + _LOCK_WAIT
        ask = sa.select(sa.func.pg_try_advisory_lock(sa.func.hashtext("triage rescore"), sa.func.hashtext(self._name)))
        while not self._lock.execute(ask).scalar_one():
            if time.monotonic() > until:
                raise OutputError(f"{shown(self._engine)} {self._name}: another run is writing this table; wait for it")
            time.sleep(0.1)

    def load(self) -> Checkpoint | None:
        """Return the last checkpoint. Raises OutputError when the table exists and no run here made it."""
        asked = sa.select(_CHECKPOINTS.c.checkpoint).where(_CHECKPOINTS.c.output == self._name)
        with _reaching(self._engine), self._engine.connect() as connection:
            kept = connection.execute(asked).scalar_one_or_none()
        if kept is not None:
            checkpoint: Checkpoint = json.loads(kept)
            return checkpoint
        table = _named(self._name)
        if not self._back and sa.inspect(self._engine).has_table(table.name, table.schema):
            raise OutputError(
                f"{self._name}: the table exists, and no run here made it; give another, or --restart to replace it"
            )
        return None

    def begin(self, checkpoint: Checkpoint | None) -> None:
        """Begin anew (None): drop what an earlier run made. Uncommitted chunks have undone themselves."""
        with _reaching(self._engine), self._engine.begin() as connection:
            if checkpoint is None:
                connection.execute(_CHECKPOINTS.delete().where(_CHECKPOINTS.c.output == self._name))
                if not self._back:
                    _named(self._name).drop(connection, checkfirst=True)
            if self._back:
                self._add_columns(connection)
        if checkpoint is None:
            self.folder.clear()
        elif checkpoint.get("columns"):
            self._columns.fix((), checkpoint)
        if self._back or self._columns.names:
            with _reaching(self._engine), self._engine.begin() as connection:
                self._made(connection)

    def _add_columns(self, connection: sa.Connection) -> None:
        table = _named(self._name)
        there = {c["name"] for c in sa.inspect(connection).get_columns(table.name, table.schema)}
        spell = self._engine.dialect.identifier_preparer
        for name, kind in self._result.items():
            if name not in there:
                spelled = f"{spell.quote(name)} {sql_type(kind).compile(self._engine.dialect)}"
                connection.execute(sa.text(f"ALTER TABLE {spell.format_table(table)} ADD COLUMN {spelled}"))

    def _made(self, connection: sa.Connection) -> sa.Table:
        if self._table is None:
            if self._back:
                self._table = _named(self._name, autoload_with=connection)
            else:
                columns = [
                    sa.Column(n, sql_type(t), primary_key=n == self._key) for n, t in self._columns.types.items()
                ]
                self._table = _named(self._name, *columns)
                self._table.create(connection, checkfirst=True)
            if self._source is not None:
                self._source.leave_out(self._table, next(iter(self._result)))
        return self._table

    def commit(self, rows: Rows, checkpoint: Checkpoint) -> None:
        """Write rows and checkpoint in one transaction."""
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        with _reaching(self._engine), self._engine.begin() as connection:
            if rows:
                self._columns.fix(rows, checkpoint)
                self._write(connection, rows, dialect)
            kept = dialect.insert(_CHECKPOINTS).values(
                output=self._name, checkpoint=json.dumps(checkpoint, ensure_ascii=False)
            )
            update = kept.on_conflict_do_update(
                index_elements=["output"], set_={"checkpoint": kept.excluded.checkpoint}
            )
            connection.execute(update)
        if self._source is not None:
            self._source.written(row[self._key] for row in rows)

    def _write(self, connection: sa.Connection, rows: Rows, dialect: Any) -> None:
        table, key = self._made(connection), self._key
        if self._back:
            written = [{"_key": r[key], **{n: _value(table, n, r[n]) for n in self._result}} for r in rows]
            changed: dict[str, Any] = {n: sa.bindparam(n) for n in self._result}
            connection.execute(table.update().where(table.c[key] == sa.bindparam("_key")).values(changed), written)
            return
        insert = dialect.insert(table)
        others = {n: insert.excluded[n] for n in self._columns.names if n != key}
        flat_rows = [{n: _value(table, n, v) for n, v in self._columns.row(r).items()} for r in rows]
        connection.execute(insert.on_conflict_do_update(index_elements=[key], set_=others), flat_rows)

    def finish(self) -> None:
        """Nothing to name: the table has been there all along."""

    def close(self) -> None:
        """Let go of connections and locks."""
        if self._lock is not None:
            self._lock.close()
        self._engine.dispose()
        self.folder.close()


def _value(table: sa.Table, column: str, value: Any) -> Any:
    if isinstance(table.columns[column].type, sa.String):
        value = flat(value)
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value  # PostgreSQL's text holds no NUL


def sql_type(kind: Any) -> Any:
    """Return the SQL type of a column: itself, or that of a Python or Arrow type; text when it has none."""
    if isinstance(kind, sa.types.TypeEngine):
        return kind.as_generic(allow_nulltype=True) if not isinstance(kind, sa.types.NullType) else sa.Text()
    if kind in _KINDS:
        return _KINDS[kind]
    name = str(kind)  # Arrow's types spell themselves
    for start, sql in (("int", sa.BigInteger()), ("uint", sa.BigInteger()), ("float", sa.Double()), ("double", sa.Double()),
                       ("bool", sa.Boolean()), ("timestamp", sa.DateTime(timezone="tz=" in name)), ("date", sa.Date()),
                       ("decimal", sa.Numeric())):  # fmt: skip
        if name.startswith(start):
            return sql
    return sa.Text()


def _named(table: str, *columns: Any, **options: Any) -> sa.Table:
    schema, _, name = table.rpartition(".")
    return sa.Table(name, sa.MetaData(), *columns, schema=schema or None, **options)


def _reflect(engine: sa.Engine, table: str) -> sa.Table:
    try:
        return _named(table, autoload_with=engine)
    except sa.exc.NoSuchTableError:
        raise InputError(f"{shown(engine)}: no table {table!r}; name one with --table") from None
