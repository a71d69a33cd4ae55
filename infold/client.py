"""`Client` and `AsyncClient`: the calls of `calls.py` as methods, over one connection pool each.

Errors are those of `infold.errors`. Lost connections, 429 and 503 are tried again for up to `patience` seconds, with growing
pauses or those that the server asks for; but for calls that must not happen twice only while it is sure that they have not.
"""

import asyncio
import functools
import inspect
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, ParamSpec, TypeVar

import httpx2
from httpx2 import EventSource

import infold.calls as calls
from infold.calls import Call, Request, Stream
from infold.exchange import ERRORS, Exchange

P = ParamSpec("P")
T = TypeVar("T")
LOCAL = "http://127.0.0.1:8000"


def _asked(describe: Callable[P, Call[T]]) -> "Callable[Concatenate[Client, P], T]":
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.ask(describe(*args, **kwargs))

    return _named(method, describe)


def _streamed(describe: Callable[P, Stream[T]]) -> "Callable[Concatenate[Client, P], Iterator[T]]":
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self.listen(describe(*args, **kwargs))

    return _named(method, describe)


def _asked_async(describe: Callable[P, Call[T]]) -> "Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]":
    def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        return self.ask(describe(*args, **kwargs))

    return _named(method, describe)


def _streamed_async(describe: Callable[P, Stream[T]]) -> "Callable[Concatenate[AsyncClient, P], AsyncIterator[T]]":
    def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        return self.listen(describe(*args, **kwargs))

    return _named(method, describe)


M = TypeVar("M", bound=Callable[..., Any])


def _named(method: M, describe: Callable[..., Any]) -> M:
    """With the name, the text and the parameters of what it does."""
    functools.update_wrapper(method, describe)
    shown, own = inspect.signature(describe), inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    method.__signature__ = shown.replace(parameters=[own, *shown.parameters.values()])  # type: ignore[attr-defined]
    return method


class _Server:
    """One server, by its address and with a key."""

    def __init__(self, url: str | None = None, *, api_key: str | None = None, timeout: float = 60, patience: float = 30) -> None:
        """url, api_key: None: as INFOLD_URL and INFOLD_API_KEY say. timeout: seconds for an answer; patience: to try again in."""
        self._url = (url or os.environ.get("INFOLD_URL") or LOCAL).rstrip("/")
        key = api_key or os.environ.get("INFOLD_API_KEY")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._verify = not self._url.startswith("http://")  # reading all certificates takes 50 ms, and no redirect is followed
        self._timeout, self._patience = timeout, patience

    @property
    def url(self) -> str:
        """Its address."""
        return self._url

    def _exchange(self, request: Request) -> Exchange:
        return Exchange(self._url, request, self._timeout, self._patience)


class Client(_Server):
    """A client that waits for its answers."""

    def __init__(self, url: str | None = None, *, api_key: str | None = None, timeout: float = 60, patience: float = 30) -> None:
        """See `_Server`."""
        super().__init__(url, api_key=api_key, timeout=timeout, patience=patience)
        self._http = httpx2.Client(headers=self._headers, verify=self._verify)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def ask(self, call: Call[T]) -> T:
        """Make a call. Raises InfoldError."""
        exchange = self._exchange(call.request)
        while True:
            try:
                return exchange.read(call, self._http.request(**exchange.sent()))
            except ERRORS as error:
                pause = exchange.pause(error)
            time.sleep(pause)

    def listen(self, stream: Stream[T]) -> Iterator[T]:
        """Make a call whose answer comes in pieces. Raises InfoldError."""
        exchange = self._exchange(stream.request)
        while not exchange.ended:
            try:
                with self._http.stream(**exchange.sent()) as response:
                    if response.is_error:
                        response.read()
                    exchange.begin(response)
                    for event in EventSource(response):
                        item = exchange.take(stream, event)
                        if item is not None:
                            yield item
                    exchange.end(stream)
            except ERRORS as error:
                time.sleep(exchange.pause(error))

    learn = _asked(calls.learn)
    learn_all = _asked(calls.learn_all)
    job = _asked(calls.job)
    cancel = _asked(calls.cancel)
    follow = _streamed(calls.follow)
    generate = _asked(calls.generate)
    stream = _streamed(calls.stream)
    chat = _streamed(calls.chat)
    models = _asked(calls.models)
    documents = _asked(calls.documents)
    document = _asked(calls.document)
    forget = _asked(calls.forget)
    versions = _asked(calls.versions)
    rollback = _asked(calls.rollback)
    diff = _asked(calls.diff)
    collect = _asked(calls.collect)
    export = _asked(calls.export)
    canaries = _asked(calls.canaries)
    add_canaries = _asked(calls.add_canaries)
    remove_canaries = _asked(calls.remove_canaries)
    dead_letters = _asked(calls.dead_letters)
    retry = _asked(calls.retry)
    drop = _asked(calls.drop)
    create_key = _asked(calls.create_key)
    api_keys = _asked(calls.api_keys)
    revoke_key = _asked(calls.revoke_key)
    access = _asked(calls.access)
    audit = _asked(calls.audit)
    ready = _asked(calls.ready)
    metrics = _asked(calls.metrics)


class AsyncClient(_Server):
    """A client that lets others run while it waits for its answers."""

    def __init__(self, url: str | None = None, *, api_key: str | None = None, timeout: float = 60, patience: float = 30) -> None:
        """See `_Server`."""
        super().__init__(url, api_key=api_key, timeout=timeout, patience=patience)
        self._http = httpx2.AsyncClient(headers=self._headers, verify=self._verify)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def ask(self, call: Call[T]) -> T:
        """Make a call. Raises InfoldError."""
        exchange = self._exchange(call.request)
        while True:
            try:
                return exchange.read(call, await self._http.request(**exchange.sent()))
            except ERRORS as error:
                pause = exchange.pause(error)
            await asyncio.sleep(pause)

    async def listen(self, stream: Stream[T]) -> AsyncIterator[T]:
        """Make a call whose answer comes in pieces. Raises InfoldError."""
        exchange = self._exchange(stream.request)
        while not exchange.ended:
            try:
                async with self._http.stream(**exchange.sent()) as response:
                    if response.is_error:
                        await response.aread()
                    exchange.begin(response)
                    async for event in EventSource(response):
                        item = exchange.take(stream, event)
                        if item is not None:
                            yield item
                    exchange.end(stream)
            except ERRORS as error:
                await asyncio.sleep(exchange.pause(error))

    learn = _asked_async(calls.learn)
    learn_all = _asked_async(calls.learn_all)
    job = _asked_async(calls.job)
    cancel = _asked_async(calls.cancel)
    follow = _streamed_async(calls.follow)
    generate = _asked_async(calls.generate)
    stream = _streamed_async(calls.stream)
    chat = _streamed_async(calls.chat)
    models = _asked_async(calls.models)
    documents = _asked_async(calls.documents)
    document = _asked_async(calls.document)
    forget = _asked_async(calls.forget)
    versions = _asked_async(calls.versions)
    rollback = _asked_async(calls.rollback)
    diff = _asked_async(calls.diff)
    collect = _asked_async(calls.collect)
    export = _asked_async(calls.export)
    canaries = _asked_async(calls.canaries)
    add_canaries = _asked_async(calls.add_canaries)
    remove_canaries = _asked_async(calls.remove_canaries)
    dead_letters = _asked_async(calls.dead_letters)
    retry = _asked_async(calls.retry)
    drop = _asked_async(calls.drop)
    create_key = _asked_async(calls.create_key)
    api_keys = _asked_async(calls.api_keys)
    revoke_key = _asked_async(calls.revoke_key)
    access = _asked_async(calls.access)
    audit = _asked_async(calls.audit)
    ready = _asked_async(calls.ready)
    metrics = _asked_async(calls.metrics)
