"""What a client wants written, and what comes back: the words between routes and the engine."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """How one request chooses its tokens."""

    temperature: float = 0.0
    """0: always the likeliest token."""
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    seed: int | None = None


@dataclass(frozen=True)
class Wanted:
    """One answer that a client wants."""

    namespace: str
    prompt: tuple[int, ...]
    """Token ids."""
    max_new_tokens: int
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    """Go on after a token that ends a text."""
    alternatives: int | None = None
    """How many of the likeliest tokens come with each token's log-probability; None: no log-probabilities."""


@dataclass(frozen=True)
class ScoredToken:
    """A written token with what the model thought of it, before temperature, top-k and top-p."""

    token: int
    logprob: float
    """Natural logarithm."""
    likeliest: tuple[tuple[int, float], ...]
    """Tokens and their log-probabilities, the likeliest first."""


@dataclass(frozen=True)
class Course:
    """When an answer came about, by `time.perf_counter`."""

    accepted: float
    joined: float
    """When it had waited long enough, and its prompt began to be read."""
    first: float
    """Its first token."""
    last: float


@dataclass(frozen=True)
class Piece:
    """Newly certain text; the last piece carries why the request ended."""

    text: str
    tokens: int
    """Tokens written so far."""
    finish_reason: str | None = None
    """stop, length, cancelled or error."""
    scored: tuple[ScoredToken, ...] = ()
    """The tokens written since the last piece, if they were asked for; without the one that ends a text."""
    course: Course | None = None
    """Of the last piece, if any token was written."""
