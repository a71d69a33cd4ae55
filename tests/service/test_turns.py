"""Decoding and learning take turns: both make progress, and neither waits long."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from service.turns import LearningInterrupted, Turns

STEPS = 200


@contextmanager
def running(*bodies: Callable[[threading.Event], None]) -> Iterator[threading.Event]:
    """Threads that run until the block ends."""
    stop = threading.Event()
    threads = [threading.Thread(target=body, args=(stop,), daemon=True) for body in bodies]
    for thread in threads:
        thread.start()
    try:
        yield stop
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()


def busy_decoder(turns: Turns, log: list[str]) -> Callable[[threading.Event], None]:
    def body(stop: threading.Event) -> None:
        while not stop.is_set():
            with turns.decoding():
                log.append("decode")

    return body


def busy_learner(turns: Turns, log: list[str], name: str = "learn", quanta: int = 5) -> Callable[[threading.Event], None]:
    def body(stop: threading.Event) -> None:
        while not stop.is_set():
            with turns.learning():
                log.append(f"{name} begins")
                for _ in range(quanta):
                    if stop.is_set():
                        return
                    turns.pace()
                    log.append(f"{name} works")
                log.append(f"{name} ends")

    return body


def wait_for(done: Callable[[], bool]) -> None:
    waiter = threading.Event()
    for _ in range(6000):
        if done():
            return
        waiter.wait(0.005)
    raise AssertionError("no progress")


def test_a_busy_decoder_does_not_starve_a_learner() -> None:
    turns, log = Turns(), list[str]()
    with running(busy_decoder(turns, log), busy_learner(turns, log)):
        wait_for(lambda: log.count("learn ends") > STEPS)


def test_a_busy_learner_does_not_starve_the_decoder() -> None:
    turns, log = Turns(), list[str]()
    with running(busy_decoder(turns, log), busy_learner(turns, log, quanta=10**9)):
        wait_for(lambda: log.count("decode") > STEPS)


def test_a_decode_step_waits_at_most_for_the_quantum_that_has_begun() -> None:
    turns, entered, decoded = Turns(), threading.Event(), threading.Event()
    quanta = list[bool]()

    def decode() -> None:
        entered.wait(30)
        with turns.decoding():
            decoded.set()

    decoder = threading.Thread(target=decode)
    decoder.start()
    with turns.learning():
        entered.set()
        wait_for(lambda: turns._decoders_wait)
        for _ in range(3):
            turns.pace()
            quanta.append(decoded.is_set())
    decoder.join(30)
    assert quanta == [True, True, True]


def test_of_two_decoders_neither_waits_for_a_learner_to_end() -> None:
    """The one that comes second is waited for as well."""
    turns, log = Turns(), list[str]()
    decoders = [threading.Thread(target=lambda: _decode_once(turns, log)) for _ in range(2)]
    with turns.learning():
        for decoder in decoders:
            decoder.start()
        wait_for(lambda: turns._decoders_wait == 2)
        for _ in range(2):
            turns.pace()
        assert log == ["decode", "decode"]
    for decoder in decoders:
        decoder.join(30)


def _decode_once(turns: Turns, log: list[str]) -> None:
    with turns.decoding():
        log.append("decode")


def test_a_learner_that_nobody_waits_for_keeps_the_device() -> None:
    turns, log = Turns(), list[str]()
    with turns.learning():
        for _ in range(STEPS):
            turns.pace()
            log.append("works")
    assert len(log) == STEPS


def test_learners_do_not_come_in_between_each_other_even_while_they_pace() -> None:
    turns, log, learned = Turns(), list[str](), list[str]()
    bodies = [busy_learner(turns, learned, name) for name in ("one", "other", "third")]
    with running(busy_decoder(turns, log), *bodies):
        wait_for(lambda: all(learned.count(f"{name} ends") > 20 for name in ("one", "other", "third")))
        seen = list(learned)  # when all are told to stop, rounds end early
    rounds = [seen[i : i + 7] for i in range(0, len(seen) - 6, 7)]
    for entries in rounds:
        assert {entry.split()[0] for entry in entries} == {entries[0].split()[0]}


def test_decoding_and_learning_never_overlap() -> None:
    turns, inside, overlaps = Turns(), list[int](), list[int]()

    def enter() -> None:
        inside.append(1)
        overlaps.append(len(inside))
        inside.pop()

    def decode(stop: threading.Event) -> None:
        while not stop.is_set():
            with turns.decoding():
                enter()

    def learn(stop: threading.Event) -> None:
        while not stop.is_set():
            with turns.learning():
                enter()
                turns.pace()
                enter()

    with running(decode, learn, learn):
        wait_for(lambda: len(overlaps) > 5 * STEPS)
    assert set(overlaps) == {1}


def test_a_learner_that_fails_gives_the_device_back() -> None:
    turns = Turns()
    with pytest.raises(KeyError), turns.learning():
        raise KeyError
    with turns.decoding() as waited:
        assert waited >= 0
    with turns.learning():
        pass


def test_a_decode_step_that_fails_gives_the_device_back() -> None:
    turns = Turns()
    with pytest.raises(KeyError), turns.decoding():
        raise KeyError
    with turns.learning():
        pass


def test_an_interrupted_learner_ends_with_its_quantum_and_decoding_goes_on() -> None:
    turns = Turns()
    with pytest.raises(LearningInterrupted), turns.learning():  # noqa: PT012
        turns.pace()
        turns.interrupt()
        turns.pace()
    with turns.decoding():
        pass


def test_where_there_are_cores_for_both_neither_waits() -> None:
    turns = Turns()
    turns.divide(1)
    with turns.learning(), turns.decoding() as waited:
        turns.pace()
        assert waited == 0


def test_learners_still_wait_for_each_other_where_there_are_cores_for_both() -> None:
    turns, inside, most = Turns(), list[int](), list[int]()
    turns.divide(1)

    def learn(stop: threading.Event) -> None:
        while not stop.is_set():
            with turns.learning():
                inside.append(1)
                turns.pace()
                most.append(len(inside))
                inside.pop()

    with running(learn, learn):
        wait_for(lambda: len(most) > STEPS)
    assert set(most) == {1}


def test_threads_are_divided_while_both_have_work(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, used = Turns(), list[tuple[str, int]]()
    monkeypatch.setattr("service.turns.torch.set_num_threads", lambda n: used.append((threading.current_thread().name, n)))
    turns.divide(5)

    def decode() -> None:
        with turns.decoding():
            pass

    def step() -> None:
        thread = threading.Thread(target=decode, name="decoder")
        thread.start()
        thread.join(30)

    learner = threading.current_thread().name
    with turns.learning():
        assert used == [(learner, 5)]  # nothing is decoded
        step()
        turns.pace()
        assert used[1:] == [("decoder", 2), (learner, 2)]
        monkeypatch.setattr("service.turns.LATELY", 0.0)  # as if that was long ago
        turns.pace()
        assert used[3:] == [(learner, 5)]
    step()
    assert used[4:] == [("decoder", 5)]


def test_an_interrupted_learner_ends_where_there_are_cores_for_both() -> None:
    turns = Turns()
    turns.divide(1)
    turns.interrupt()
    with pytest.raises(LearningInterrupted), turns.learning():
        turns.pace()
