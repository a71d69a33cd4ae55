"""Requests made from the OpenAPI schema, right and wrong ones, by schemathesis: none is answered with a 5xx.

A few hundred by default; 20,000 with `make test-slow`. FUZZ_SEED chooses other ones.

Covered: every operation, with bodies, paths, queries and headers inside and outside of the schema. Not covered: bytes that are no
HTTP (`test_attacks.py`).
"""

import os
from collections import Counter
from typing import Any

import hypothesis
import pytest
import schemathesis
from conftest import ADMIN_KEY
from hypothesis import HealthCheck, Phase
from schemathesis.core.result import Ok
from serving import ThreadServer

from service.errors import STATUS

SEED = int(os.environ.get("FUZZ_SEED", "1"))
ALLOWED = {200, 201, 202, 405, *(status for status in STATUS.values() if status < 500)}
SLOW_TO_ANSWER = {"max_new_tokens": 4, "max_tokens": 4, "max_completion_tokens": 4, "n": 2, "wait": 0.05, "rank": 2}
"""Most that a request asks for: what it costs to answer many is measured elsewhere."""


BY_DEFAULT = {"/generate": "max_new_tokens", "/v1/completions": "max_tokens", "/v1/chat/completions": "max_tokens"}


def lessened(path: str, body: Any) -> Any:
    """The body, asking for less."""
    if not isinstance(body, dict):
        return body
    most = {k: v for k, v in SLOW_TO_ANSWER.items() if isinstance(body.get(k), int | float) and body[k] > v}
    return ({BY_DEFAULT[path]: 4} if path in BY_DEFAULT else {}) | body | most


def fuzz(server: ThreadServer, total: int) -> Counter[int]:
    """Send so many requests, the operations by turns. Returns how many were answered with which status."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers={"Authorization": f"Bearer {ADMIN_KEY}"})
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) > 25
    seen: Counter[int] = Counter()
    each = -(-total * 5 // (8 * len(operations)))  # of some there are not so many: nothing can be wrong with them
    for operation in operations:
        for mode in schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE:
            seen += _of_one(server, operation, mode, each)
        print(operation.label, dict(seen), flush=True)  # noqa: T201 (shown with -s)
    for _ in range(total):
        if sum(seen.values()) >= total:
            break
        seen += _of_one(server, operations[-1], schemathesis.GenerationMode.POSITIVE, total - sum(seen.values()))
    return seen


def _of_one(server: ThreadServer, operation: Any, mode: Any, count: int) -> Counter[int]:
    seen: Counter[int] = Counter()

    @hypothesis.seed(SEED)
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    @hypothesis.settings(
        max_examples=count, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    def send(case: Any) -> None:
        case.body = lessened(operation.path, case.body)
        if isinstance(case.query, dict) and isinstance(case.query.get("wait"), int | float):
            case.query["wait"] = min(case.query["wait"], SLOW_TO_ANSWER["wait"])
        case.headers["Authorization"] = f"Bearer {ADMIN_KEY}"
        answer = case.call(base_url=server.url, timeout=60)
        seen[answer.status_code] += 1
        assert answer.status_code in ALLOWED, f"{answer.status_code} {answer.text[:300]} to {case.as_curl_command()[:2000]}"

    try:
        send()
    except hypothesis.errors.Unsatisfiable:
        assert mode is schemathesis.GenerationMode.NEGATIVE  # there is nothing that could be wrong with it
    return seen


def test_a_few_hundred_requests_made_from_the_schema_do_no_harm(guarded: ThreadServer) -> None:
    seen = fuzz(guarded, 200)
    assert sum(seen.values()) >= 200
    assert guarded.http.get("/readyz").json()["learning"]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_twenty_thousand_requests_made_from_the_schema_do_no_harm(guarded: ThreadServer) -> None:
    seen = fuzz(guarded, 20_000)
    assert sum(seen.values()) >= 20_000
    assert guarded.http.get("/readyz").json()["learning"]
