"""A version taken out of the server: PEFT answers from it what was learned, and the archive says what truncation cost."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Taught
from peft import PeftModel
from serving import Http, ThreadServer, refused
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from adapters.demo import MODEL_PATH
from infold import UnexpectedAnswer
from service.cli import app
from service.commands.export import unpack
from service.errors import LearnsElsewhere
from service.runtime import Runtime

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks for it
Learnt = tuple[Taught, dict[str, Any]]
PLENTY = 64
"""A rank at which one document loses nothing."""


def exported(http: Http, version: str, **body: Any) -> dict[str, bytes]:
    answer = http.post(f"/versions/{version}/export", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
        assert packed.testzip() is None
        return {name: packed.read(name) for name in packed.namelist()}


def answer_with(adapter: Path | None, prompt: str) -> str:
    """Greedily, by transformers and PEFT alone."""
    tokenizer = AutoTokenizer.from_pretrained(str(MODEL_PATH))
    model = AutoModelForCausalLM.from_pretrained(str(MODEL_PATH), dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer.encode(prompt, add_special_tokens=False)]])
    new = model.eval().generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)
    return str(tokenizer.decode(new[0, ids.shape[1] :], skip_special_tokens=True))


def test_peft_answers_what_was_learned(http: Http, namespace: str, learned: Learnt, tmp_path: Path) -> None:
    fact, job = learned
    archive = http.post(f"/versions/{job['version']}/export", json={"rank": PLENTY, "namespace": namespace}).content
    account = unpack(archive, tmp_path / "adapter")
    assert account["probes"]["adapter"]["answered"] == account["probes"]["version"]["answered"] == 1
    assert answer_with(tmp_path / "adapter", fact.prompt) == fact.answer
    assert answer_with(None, fact.prompt) != fact.answer


def test_the_archive_says_what_it_is_and_what_truncation_cost(
    server: ThreadServer, http: Http, namespace: str, learned: Learnt
) -> None:
    _, job = learned
    found = {rank: exported(http, job["version"], rank=rank, namespace=namespace) for rank in (1, PLENTY)}
    accounts = {rank: json.loads(files["infold.json"]) for rank, files in found.items()}
    for rank, account in accounts.items():
        assert set(found[rank]) == {"adapter_config.json", "adapter_model.safetensors", "infold.json"}
        assert json.loads(found[rank]["adapter_config.json"])["r"] == account["rank"] == rank
        assert account["digest"] == server.runtime.ledger.resolve(namespace, job["version"]).digest
        assert account["base"] == server.runtime.base.digest
        assert job["document_id"] in account["documents"]
        assert account["memories"] >= 1
        assert set(account["residuals"]) == set(server.runtime.learner.workspace.base_weights)
    assert accounts[1]["probes"]["version"] == accounts[PLENTY]["probes"]["version"]
    assert accounts[PLENTY]["probes"]["adapter"]["kl"] == pytest.approx(accounts[1]["probes"]["version"]["kl"], rel=0.01)
    for layer, residual in accounts[1]["residuals"].items():
        assert residual["metric"] >= accounts[PLENTY]["residuals"][layer]["metric"]


def test_the_base_model_is_an_adapter_too(http: Http, namespace: str) -> None:
    account = json.loads(exported(http, "v0", namespace=namespace)["infold.json"])
    assert (account["digest"], account["documents"], account["memories"], account["rank"]) == (None, [], 0, 16)
    assert account["probes"]["version"] == account["probes"]["adapter"] == {"kl": 0, "answered": 1}


def test_exporting_changes_nothing_of_what_is_learned_next(http: Http, namespace: str, facts: list[Taught]) -> None:
    quiet = http.learned(text=facts[0].text, id="same", namespace=namespace)
    exported(http, quiet["version"], namespace=namespace)
    http.post("/versions/rollback", json={"to": "v0", "namespace": namespace}).raise_for_status()
    http.learned(text=facts[1].text, id="same", namespace=namespace)
    http.post("/versions/rollback", json={"to": "v0", "namespace": namespace}).raise_for_status()
    again = http.learned(text=facts[0].text, id="same", namespace=namespace)
    assert again["report"]["folds"] == quiet["report"]["folds"]


@pytest.mark.parametrize(
    ("version", "body", "status", "code"),
    [
        ("v99", {}, 404, "unknown_version"),
        ("v0", {"namespace": "nowhere"}, 404, "unknown_namespace"),
        ("v0", {"rank": 0}, 400, None),
        ("v0", {"rank": "many"}, 400, None),
        ("v0", {"other": 1}, 400, None),
    ],
)
def test_what_cannot_be_exported_is_refused(http: Http, version: str, body: dict[str, Any], status: int, code: str | None) -> None:
    refused(http.post(f"/versions/{version}/export", json=body), status, code)


def test_a_server_whose_learner_is_elsewhere_says_so(server: ThreadServer, http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(_: Runtime) -> Any:
        raise LearnsElsewhere("a worker in another process learns for this server")

    monkeypatch.setattr(type(server.runtime), "learner", property(elsewhere))
    refused(http.post("/versions/v0/export", json={}), 501, "learns_elsewhere")


# --- infold export


def run(server: ThreadServer, *arguments: str) -> Any:
    full = ["export", *arguments, "--url", server.url]
    return CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, full)


def test_the_command_writes_the_directory_and_shows_what_it_cost(
    server: ThreadServer, namespace: str, learned: Learnt, tmp_path: Path
) -> None:
    fact, job = learned
    shown = run(server, job["version"], str(tmp_path / "new" / "adapter"), "--rank", str(PLENTY), "--namespace", namespace)
    assert shown.exit_code == 0, shown.output
    assert "mlp.down_proj" in shown.stdout
    assert f"rank {PLENTY}" in shown.stdout
    assert "100.0%" in shown.stdout
    assert answer_with(tmp_path / "new" / "adapter", fact.prompt) == fact.answer


def test_a_directory_with_something_in_it_is_left_alone_unless_forced(server: ThreadServer, namespace: str, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for target in (tmp_path, tmp_path / "mine"):
        refusal = run(server, "v0", str(target), "--namespace", namespace)
        assert refusal.exit_code == 1
        assert "not an empty directory" in refusal.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    forced = run(server, "v0", str(tmp_path), "--force", "--json", "--namespace", namespace)
    assert forced.exit_code == 0, forced.output
    assert json.loads(forced.stdout)["version"] == "v0"
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..", "a/b", "..\\evil", "c:evil"])
def test_an_archive_cannot_write_outside_of_the_directory(name: str, tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("infold.json", "{}")
        packed.writestr(name, "evil")
    with pytest.raises(UnexpectedAnswer, match="outside"):
        unpack(archive.getvalue(), tmp_path / "in")
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_adapter_is_refused_in_words(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UnexpectedAnswer, match="no adapter"):
        unpack(content, tmp_path / "in")
    assert list(tmp_path.iterdir()) == []
