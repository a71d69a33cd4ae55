"""API keys and their rates, in a real Valkey."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from conftest import ADMIN_KEY
from pydantic import SecretStr

from service import keys
from service.api_keys import OPERATOR, ApiKey, ApiKeys
from service.connection import Client, connect
from service.errors import InvalidApiKey, KeysOff, RateExceeded, StoreUnavailable, UnknownKey
from service.rates import Rates

pytestmark = pytest.mark.anyio
FORM = {"scopes": ["generate"], "namespaces": None, "rate": None, "max_body_bytes": None}


@pytest.fixture
def api_keys(client: Client) -> ApiKeys:
    return ApiKeys(client, SecretStr(ADMIN_KEY))


@pytest.fixture
async def away() -> AsyncIterator[Client]:
    """A Redis that nobody runs."""
    connected = connect("redis://127.0.0.1:1/0")
    yield connected
    await connected.aclose()


async def make(api_keys: ApiKeys, **more: Any) -> tuple[ApiKey, bytes]:
    key, secret = await api_keys.create("name", **FORM | more)
    return key, secret.encode()


async def test_a_key_is_recognised_and_nothing_like_it_is(api_keys: ApiKeys) -> None:
    key, secret = await make(api_keys, namespaces=["default"], rate=5)
    assert await api_keys.recognise(secret) == key
    wrong = bytearray(secret)
    wrong[-1] ^= 1
    for other in (bytes(wrong), secret[:-1], secret + b"x", secret.upper(), b"", b"infold_", secret[:20], b"\xff" * 63):
        with pytest.raises(InvalidApiKey):
            await api_keys.recognise(other)


async def test_the_operators_key_is_recognised_and_stored_nowhere(api_keys: ApiKeys, client: Client) -> None:
    await make(api_keys)
    assert await api_keys.recognise(ADMIN_KEY.encode()) == OPERATOR
    stored = json.dumps([await client.hgetall(keys.API_KEYS), await client.keys("*")])
    assert ADMIN_KEY not in stored


async def test_no_secret_is_stored_and_a_hash_is_no_key(api_keys: ApiKeys, client: Client) -> None:
    key, secret = await make(api_keys)
    stored = await client.hget(keys.API_KEYS, key.id)
    assert secret.decode().split("_", 2)[2] not in stored
    for other in (key.sha256, "0" * 64, f"infold_{key.id}_{key.sha256[:43]}"):
        with pytest.raises(InvalidApiKey):
            await api_keys.recognise(other.encode())


async def test_secrets_differ_and_carry_256_bits(api_keys: ApiKeys) -> None:
    made = [(await make(api_keys))[1] for _ in range(20)]
    assert len(set(made)) == 20
    assert {len(secret.split(b"_", 2)[2]) for secret in made} == {43}, "43 characters of base64 are 256 bits"


async def test_a_revoked_key_is_refused_at_once_by_every_server(api_keys: ApiKeys, client: Client) -> None:
    key, secret = await make(api_keys)
    other = ApiKeys(client, SecretStr(ADMIN_KEY))
    assert await other.recognise(secret) == key
    await api_keys.revoke(key.id)
    for server in (api_keys, other):
        with pytest.raises(InvalidApiKey):
            await server.recognise(secret)
    with pytest.raises(UnknownKey):
        await api_keys.revoke(key.id)


async def test_while_redis_is_away_a_key_that_was_good_is_believed_and_no_other(
    api_keys: ApiKeys, away: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, secret = await make(api_keys, rate=1)
    assert await api_keys.recognise(secret) == key
    monkeypatch.setattr(api_keys, "_redis", away)
    assert await api_keys.recognise(secret) == key
    with pytest.raises(InvalidApiKey):
        await api_keys.recognise(secret[:-1] + b"-")
    with pytest.raises(StoreUnavailable):
        await api_keys.recognise(b"infold_000000000000_" + b"x" * 43)
    for _ in range(3):
        await Rates(away).take(key)


async def test_without_a_key_of_the_operators_none_can_be_made(client: Client) -> None:
    with pytest.raises(KeysOff):
        await ApiKeys(client, None).create("name", **FORM)
    with pytest.raises(InvalidApiKey):
        await ApiKeys(client, None).recognise(b"")


@pytest.mark.parametrize("rate", [1, 7, 60])
async def test_a_bucket_gives_what_a_minute_gives_and_says_when_there_is_more(client: Client, rate: int) -> None:
    """So many at once; then none for 60 / rate seconds, rounded up."""
    rates, key = Rates(client), ApiKey("0" * 12, "name", (), rate=rate)
    for _ in range(rate):
        await rates.take(key)
    with pytest.raises(RateExceeded) as refused:
        await rates.take(key)
    assert refused.value.retry_after == -(-60 // rate)
    before = float(await client.hget(keys.bucket(key.id), "at"))
    await client.hset(keys.bucket(key.id), "at", before - 60 / rate)
    await rates.take(key)
    with pytest.raises(RateExceeded):
        await rates.take(key)
    assert 0 < await client.ttl(keys.bucket(key.id)) <= 120


async def test_a_bucket_never_holds_more_than_a_minutes_worth_and_clocks_may_go_back(client: Client) -> None:
    rates, key = Rates(client), ApiKey("0" * 12, "name", (), rate=3)
    await rates.take(key)
    await client.hset(keys.bucket(key.id), "at", 0)
    for _ in range(3):
        await rates.take(key)
    with pytest.raises(RateExceeded):
        await rates.take(key)
    await client.hset(keys.bucket(key.id), "at", 10**11)
    with pytest.raises(RateExceeded) as refused:
        await rates.take(key)
    assert refused.value.retry_after <= 20
    assert float(await client.hget(keys.bucket(key.id), "at")) == 10**11


async def test_a_key_without_a_rate_has_no_bucket(client: Client) -> None:
    await Rates(client).take(ApiKey("0" * 12, "name", ()))
    assert await client.keys("*") == []
