"""The spans of one database.

The span of an operation is the current one while its caller waits, retries included. A statement that several
callers share belongs to none of their traces: it has a span in a trace of its own, which is linked with the
spans of all of them, in both directions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from opentelemetry import context as contexts
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    set_span_in_context,
)

from asm.engine.logs import operation_name
from asm.engine.observation import Observation, current
from asm.engine.registry import QueryRegistry
from asm.engine.script import Batchable, Operation, Query
from asm.errors import AsmError
from asm.models import Artifact, Event, Page, Run, Session
from asm.telemetry import names
from asm.telemetry.instruments import Instruments
from asm.telemetry.places import Attributes
from asm.telemetry.scripts import reporting, reporting_script

_IN_SESSIONS = (Run, Event, Artifact)
_ROWS = (Session, *_IN_SESSIONS)


class Spans:
    """Makes the spans of one database. `queries` are its statements, if spans are to have their text."""

    def __init__(
        self, tracer: Tracer, instruments: Instruments, place: Attributes, queries: QueryRegistry | None
    ) -> None:
        self.tracer = tracer
        self.instruments = instruments
        self.place = place
        self.queries = queries
        self._dimensions: dict[str, Attributes] = {}

    def dimensions(self, name: str, table: str | None) -> Attributes:
        """The attributes that all spans of one operation have, and its durations. They are not copied."""
        found = self._dimensions.get(name)
        if found is None:
            found = {**self.place, names.OPERATION: name}
            if table is not None:
                found[names.COLLECTION] = table
            self._dimensions[name] = found
        return found

    def operation(self, operation: Operation[Any]) -> OperationSpan:
        """Around an operation of a store."""
        span = self._of(operation)
        if isinstance(operation, Batchable):
            operation.observation = span
        if self.queries is not None or span.table is None or not isinstance(operation, Query):
            span.operation = reporting(operation, span.sends)
        return span

    def in_transaction(self, operation: Operation[Any]) -> OperationSpan:
        """Around an operation in a transaction of the application."""
        span = self._of(operation)
        span.operation = reporting_script(operation, span.sends)
        return span

    def own_statement(self) -> OperationSpan:
        """Around a statement of the application's own, whose text may contain values."""
        return OperationSpan(self, "execute")

    def block(self, name: str) -> OperationSpan:
        """Around what consists of several operations, and of what the application does between them."""
        return OperationSpan(self, name, kind=SpanKind.INTERNAL)

    def statement(self, query: Query[Any]) -> OperationSpan | CallersStatement:
        """Around a statement of the group commit."""
        requests = getattr(query, "requests", ())
        if len(requests) > 1:
            return self._shared(query, requests)
        caller = getattr(requests[0].operation, "observation", None) if requests else current.get()
        return CallersStatement(self, query, caller)

    def _of(self, operation: Operation[Any]) -> OperationSpan:
        name = operation_name(operation)
        size = len(operation.items) if isinstance(operation, Batchable) else 0
        is_poll = isinstance(operation, Query) and getattr(operation, "waits", False)
        span = OperationSpan(self, name, size=size, shown_if_found=is_poll)
        span.operation = operation
        if len(operation.sessions) == 1:
            span.session_id = operation.sessions[0]
        elif isinstance(operation, Query):
            span.session_id = _session_id(operation, span.table)
        return span

    def _shared(self, query: Query[Any], requests: Sequence[Any]) -> OperationSpan:
        callers = [getattr(request.operation, "observation", None) for request in requests]
        size = sum([len(request.operation.items) for request in requests])
        self.instruments.batch_size.record(size, self.place)
        span = OperationSpan(
            self, names.GROUP_COMMIT, size=size, callers=[caller for caller in callers if caller is not None]
        )
        span.operation = query if self.queries is None else reporting(query, span.sends)
        return span


class OperationSpan:
    """One operation: a context manager that gives its span what it returned or raised."""

    operation: Any
    """What to run in its place."""

    result: Any = None

    def __init__(
        self,
        spans: Spans,
        name: str,
        *,
        kind: SpanKind = SpanKind.CLIENT,
        size: int = 0,
        shown_if_found: bool = False,
        callers: Sequence[OperationSpan] | None = None,
    ) -> None:
        """`callers` are those of a shared statement. `shown_if_found`: a span is made only in the end."""
        self._spans = spans
        self._name = name
        self._kind = kind
        self.size = size
        self._shown_if_found = shown_if_found
        self._callers = callers
        self.table = names.TABLES.get(name)
        self.session_id: str | None = None
        self.retries = 0
        self._texts: dict[str, None] = {}
        self.statements: list[SpanContext] = []
        """The shared statements that were sent for this operation."""
        self._span: Span | None = None

    def __enter__(self) -> Self:
        self._begun_at_ns = time.time_ns()
        self._clock_ns = time.perf_counter_ns()
        self._observed = current.set(self)
        if not self._shown_if_found:
            self._attached = contexts.attach(set_span_in_context(self._start()))
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        try:
            span = self._span
            if span is None and (error is not None or self.result):
                span = self._start()
            if span is not None:
                self._end(span, error)
        finally:
            # A Batchable and its observation would refer to each other, and wait for the garbage collector.
            self.operation = None
            self._detach()

    def _detach(self) -> None:
        try:
            current.reset(self._observed)
        except ValueError:
            # A block may be left in another task than it was entered in, which has a context of its own.
            return
        if not self._shown_if_found:
            contexts.detach(self._attached)

    @property
    def span(self) -> Span:
        assert self._span is not None
        return self._span

    def retried(self, error: Exception, pause_s: float) -> None:
        self.retries += 1
        if self._span is not None:
            self._span.add_event(
                names.RETRY, {**error_attributes(error), names.RETRY_PAUSE: round(pause_s, 3)}
            )

    def sends(self, query: Query[Any]) -> None:
        """Take what a query says of the operation."""
        # A shared statement is of several sessions.
        if self.session_id is None and self._callers is None:
            self.session_id = _session_id(query, self.table)
        if self.table is None and ":" not in self._name:
            # The steps of a job have its name, and differ in their statements.
            self._name = f"{self._name}: {query.query}"
        if (queries := self._spans.queries) is not None:
            rendered = queries[query.query].render(query.params)
            self._texts.update(dict.fromkeys([statement.sql for statement in rendered.statements]))

    def _start(self) -> Span:
        self._started_as = (self._name, self.session_id)
        shared = self._callers is not None
        self._span = span = self._spans.tracer.start_span(
            self._span_name(),
            # A shared statement is no child of the caller that happens to send it.
            context=Context() if shared else None,
            kind=self._kind,
            attributes=self._attributes(),
            links=self._links() if shared else None,
            start_time=self._begun_at_ns,
            record_exception=False,
            set_status_on_exception=False,
        )
        for caller in self._callers or ():
            caller.statements.append(span.get_span_context())
        return span

    def _links(self) -> list[Link]:
        contexts_of_callers = [caller.span.get_span_context() for caller in self._callers or ()]
        return [Link(each) for each in contexts_of_callers if each.is_valid]

    def _span_name(self) -> str:
        return self._name if self.table is None else f"{self._name} {self.table}"

    def _attributes(self) -> Attributes:
        attributes = self._spans.dimensions(self._name, self.table).copy()
        if self.session_id is not None:
            attributes[names.SESSION_ID] = self.session_id
        if self.size > 1:
            attributes[names.BATCH_SIZE] = self.size
        return attributes

    def _end(self, span: Span, error: BaseException | None) -> None:
        took_ns = time.perf_counter_ns() - self._clock_ns
        failure = None if error is None else error_attributes(error)
        for caller in self._callers or ():
            caller.retries += self.retries
        if self._kind is SpanKind.CLIENT and self._callers is None:
            dimensions = self._spans.dimensions(self._name, self.table)
            self._spans.instruments.duration.record(
                took_ns / 1e9, dimensions if failure is None else {**dimensions, **failure}
            )
        if span.is_recording():
            self._complete(span)
            if failure is not None:
                span.set_attributes(dict(failure))
                # Without a description: the message of an error may contain what was to be stored.
                span.set_status(Status(StatusCode.ERROR))
        span.end(self._begun_at_ns + took_ns)

    def _complete(self, span: Span) -> None:
        """Give a span what was not known when it started."""
        if (self._name, self.session_id) != self._started_as:
            span.update_name(self._span_name())
            span.set_attributes(self._attributes())
        if (rows := rows_of(self.result)) is not None:
            span.set_attribute(names.ROWS, rows)
        if self.session_id is None and (session_id := _session_id_of(self.result)) is not None:
            span.set_attribute(names.SESSION_ID, session_id)
        if self.retries:
            span.set_attribute(names.RETRIES, self.retries)
        if self._texts:
            span.set_attribute(names.QUERY_TEXT, "\n".join(self._texts))
        for each in self.statements:
            span.add_link(each)


class CallersStatement:
    """A statement that the group commit sends for one caller, whose span is there already."""

    def __init__(self, spans: Spans, query: Query[Any], caller: Any) -> None:
        self._caller: OperationSpan | None = caller if isinstance(caller, OperationSpan) else None
        self.operation: Operation[Any] = query
        if self._caller is not None:
            spans.instruments.batch_size.record(self._caller.size, spans.place)
            if spans.queries is not None:
                self.operation = reporting(query, self._caller.sends)

    def __enter__(self) -> Self:
        # A task of the group commit has the context of any of the callers.
        self._before: Observation | None = current.get()
        current.set(self._caller)
        return self

    def __exit__(self, *_: object) -> None:
        current.set(self._before)


def error_attributes(error: BaseException) -> dict[str, str]:
    """What kind of error it is, by our code, and the SQLSTATE or SQLite's name of its error."""
    attributes = {names.ERROR_TYPE: error.code if isinstance(error, AsmError) else type(error).__qualname__}
    for each in (error, error.__cause__):
        code = getattr(each, "sqlstate", None) or getattr(each, "sqlite_errorname", None)
        if isinstance(code, str):
            attributes[names.STATUS_CODE] = code
    return attributes


def rows_of(result: Any) -> int | None:
    """How many rows a result consists of; None for one that is not made of rows."""
    if isinstance(result, list):
        return len(result)
    if isinstance(result, Page):
        return len(result.items)
    return 1 if isinstance(result, _ROWS) else None


def _session_id_of(result: Any) -> str | None:
    if isinstance(result, Session):
        return result.id
    return result.session_id if isinstance(result, _IN_SESSIONS) else None


def _session_id(query: Query[Any], table: str | None) -> str | None:
    id = query.params.get("session_id")
    if id is None and table == "asm_sessions":
        id = query.params.get("id")
    return id if isinstance(id, str) else None
