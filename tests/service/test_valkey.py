"""The embedded Valkey: durable, exclusive, and there again after whatever killed it."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from serving import eventually, shut_down_valkey, valkey_of, valkey_pid

from service.errors import DataDirectoryBusy
from service.valkey import LONGEST_SOCKET_PATH, DataLock, EmbeddedValkey


@pytest.fixture
def own(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    """A Valkey that the test may kill."""
    valkey = EmbeddedValkey(tmp_path)
    valkey.start()
    yield valkey
    valkey.stop()


def test_what_was_answered_is_there_after_kill_9(own: EmbeddedValkey, tmp_path: Path) -> None:
    with valkey_of(tmp_path) as client:
        for n in range(200):
            client.xadd("stream", {"n": n})
    os.kill(valkey_pid(tmp_path), signal.SIGKILL)
    own.start()
    with valkey_of(tmp_path) as client:
        assert [fields["n"] for _, fields in client.xrange("stream")] == [str(n) for n in range(200)]


def test_what_was_answered_is_there_after_stop_and_start(own: EmbeddedValkey, tmp_path: Path) -> None:
    with valkey_of(tmp_path) as client:
        client.set("key", "value")
    own.stop()
    own.start()
    with valkey_of(tmp_path) as client:
        assert client.get("key") == "value"


def test_stopping_twice_is_no_error(own: EmbeddedValkey) -> None:
    own.stop()
    own.stop()


@pytest.mark.usefixtures("own")
def test_what_a_killed_infold_left_running_is_replaced_and_loses_nothing(tmp_path: Path) -> None:
    with valkey_of(tmp_path) as client:
        client.set("key", "value")
    orphan = valkey_pid(tmp_path)
    successor = EmbeddedValkey(tmp_path)
    successor.start()
    try:
        assert valkey_pid(tmp_path) != orphan
        with valkey_of(tmp_path) as client:
            assert client.get("key") == "value"
    finally:
        successor.stop()


def test_a_path_too_long_for_a_socket_gets_a_short_one(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    valkey = EmbeddedValkey(deep)
    assert len(os.fsencode(valkey.socket)) <= LONGEST_SOCKET_PATH
    assert valkey.socket == EmbeddedValkey(deep).socket != EmbeddedValkey(deep / "other").socket
    valkey.start()
    try:
        with redis.Redis.from_url(valkey.url) as client:
            assert client.ping()
    finally:
        valkey.stop()
        valkey.socket.parent.rmdir()


def test_only_this_user_may_connect(own: EmbeddedValkey) -> None:
    assert own.socket.stat().st_mode & 0o077 == 0


@pytest.mark.usefixtures("own")
def test_it_does_not_listen_on_the_network(tmp_path: Path) -> None:
    with valkey_of(tmp_path) as client:
        assert client.config_get("port") == {"port": "0"}


def test_it_is_started_again_when_it_dies(own: EmbeddedValkey, tmp_path: Path) -> None:
    dead = valkey_pid(tmp_path)

    async def kill_and_wait() -> None:
        watch = asyncio.create_task(own.watch(0.05))
        os.kill(dead, signal.SIGKILL)
        while await asyncio.to_thread(_pid_or_none, tmp_path) in (None, dead):
            await asyncio.sleep(0.05)
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)

    asyncio.run(asyncio.wait_for(kill_and_wait(), 30))


def _pid_or_none(data_dir: Path) -> int | None:
    try:
        return valkey_pid(data_dir)
    except redis.ConnectionError:
        return None


def test_a_data_directory_has_one_user_at_a_time(tmp_path: Path) -> None:
    lock = DataLock(tmp_path / "new")
    with pytest.raises(DataDirectoryBusy, match="another infold server uses"):
        DataLock(tmp_path / "new")
    lock.release()
    DataLock(tmp_path / "new").release()


def test_the_lock_ends_with_the_process_that_held_it(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from service.valkey import DataLock; lock = DataLock(Path(sys.argv[1])); "
    code += "print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DataDirectoryBusy):
            DataLock(tmp_path)
        holder.kill()
    DataLock(tmp_path).release()


@pytest.mark.usefixtures("own")
def test_a_valkey_of_another_directory_is_left_alone(tmp_path: Path) -> None:
    before = valkey_pid(tmp_path)
    other = EmbeddedValkey(tmp_path / "other")
    other.start()
    shut_down_valkey(tmp_path / "other")
    eventually(lambda: _pid_or_none(tmp_path / "other") is None)
    other.stop()
    assert valkey_pid(tmp_path) == before
