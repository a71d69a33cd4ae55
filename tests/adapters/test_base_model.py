"""Identity, loading, and the second view that shares parameters."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from adapters.base_model import BaseModel, learning_view, load_base_model, pad_rows
from adapters.errors import ModelNotLoadable
from adapters.targets import DOWN_PROJECTIONS, find_targets
from adapters.workspace import Workspace

MakeBase = Callable[..., BaseModel]
KINDS = sorted(DOWN_PROJECTIONS)
TEXT = "Mira Holm was born in Oslo."


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def save(base: BaseModel, path: Path) -> str:
    base.model.save_pretrained(path)
    base.tokenizer.save_pretrained(path)
    return str(path)


def logits(model: torch.nn.Module, base: BaseModel) -> torch.Tensor:
    return model(torch.tensor([base.encode(TEXT)]), use_cache=False).logits


@pytest.mark.parametrize("kind", KINDS)
def test_a_learning_view_shares_all_storage_but_that_of_the_targets(kind: str, make_base: MakeBase) -> None:
    model = make_base(kind).model
    targets = find_targets(model)
    view = learning_view(model, targets.names)
    own = {f"{name}.weight" for name in targets.names}
    served = {name: t.data_ptr() for name, t in (*model.named_parameters(), *model.named_buffers())}
    seen = {name: t.data_ptr() for name, t in (*view.named_parameters(), *view.named_buffers())}
    assert served.keys() == seen.keys()
    assert {name for name in served if served[name] != seen[name]} == own


@pytest.mark.parametrize("kind", KINDS)
def test_a_learning_view_computes_what_the_model_computes(kind: str, make_base: MakeBase) -> None:
    base = make_base(kind)
    view = learning_view(base.model, find_targets(base.model).names)
    assert torch.equal(logits(view, base), logits(base.model, base))


@pytest.mark.parametrize("kind", KINDS)
def test_what_serving_sets_on_its_configuration_does_not_reach_the_learning_view(kind: str, make_base: MakeBase) -> None:
    base = make_base(kind)
    view = learning_view(base.model, find_targets(base.model).names)
    before = logits(view, base)
    assert view.config is not base.model.config
    base.model.config.is_causal = False
    assert torch.equal(logits(view, base), before)


def test_serving_without_causality_on_a_shared_configuration_would_be_noticed(make_base: MakeBase) -> None:
    base = make_base("llama")
    before = logits(base.model, base)
    base.model.config.is_causal = False
    assert not torch.allclose(logits(base.model, base), before)


def test_changing_a_target_of_the_view_leaves_the_model_as_it_was(make_workspace: Callable[..., Workspace]) -> None:
    workspace = make_workspace()
    before = logits(workspace.base.model, workspace.base)
    workspace.install({name: weight + 1 for name, weight in workspace.base_weights.items()})
    assert torch.equal(logits(workspace.base.model, workspace.base), before)
    assert not torch.allclose(logits(workspace.model, workspace.base), before)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "opt"])
def test_a_saved_model_loads_with_the_same_weights_frozen_and_in_evaluation_mode(
    kind: str, make_base: MakeBase, tmp_path: Path
) -> None:
    base = make_base(kind)
    loaded = load_base_model(save(base, tmp_path))
    assert torch.equal(logits(loaded.model, loaded), logits(base.model, base))
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.encode(TEXT) == base.encode(TEXT)
    assert loaded.source == str(tmp_path)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_a_digest_survives_saving_loading_and_moving(kind: str, make_base: MakeBase, tmp_path: Path) -> None:
    once = load_base_model(save(make_base(kind), tmp_path / "once"))
    twice = load_base_model(save(once, tmp_path / "twice"))
    assert once.digest == twice.digest
    assert len(once.digest) == 32
    assert int(once.digest, 16) >= 0


def test_a_digest_does_not_depend_on_the_dtype_that_holds_the_weights(make_base: MakeBase, tmp_path: Path) -> None:
    path = save(make_base(dtype=torch.bfloat16), tmp_path)
    narrow, wide = load_base_model(path, dtype="bfloat16"), load_base_model(path, dtype="float32")
    assert (narrow.model.dtype, wide.model.dtype) == (torch.bfloat16, torch.float32)
    assert narrow.digest == wide.digest


@pytest.mark.parametrize("which", ["model.embed_tokens.weight", "model.norm.weight", "model.layers.1.mlp.down_proj.weight"])
def test_a_digest_changes_with_any_single_weight(which: str, make_base: MakeBase, tmp_path: Path) -> None:
    base = make_base()
    before = load_base_model(save(base, tmp_path / "before")).digest
    weight = base.model.get_parameter(which)
    weight.data.view(-1)[-1] += 1e-3
    assert load_base_model(save(base, tmp_path / "after")).digest != before


def test_a_digest_changes_with_the_configuration(make_base: MakeBase, tmp_path: Path) -> None:
    one = load_base_model(save(make_base(rms_norm_eps=1e-6), tmp_path / "one"))
    other = load_base_model(save(make_base(rms_norm_eps=1e-5), tmp_path / "other"))
    assert one.digest != other.digest


def break_nothing_there(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()


def break_configuration(path: Path) -> None:
    (path / "config.json").write_text("{")


def break_weights(path: Path) -> None:
    whole = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def break_architecture(path: Path) -> None:
    (path / "config.json").write_text('{"model_type": "t5"}')


@pytest.mark.parametrize("damage", [break_nothing_there, break_configuration, break_weights, break_architecture])
def test_what_is_not_a_causal_language_model_is_refused(
    damage: Callable[[Path], None], make_base: MakeBase, tmp_path: Path
) -> None:
    source = save(make_base(), tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelNotLoadable, match=str(tmp_path)):
        load_base_model(source)


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotLoadable, match="no such directory"):
        load_base_model(str(tmp_path / "nothing" / "here"))


def test_a_text_starts_with_the_start_token_exactly_once(base: BaseModel) -> None:
    start = base.tokenizer.bos_token_id
    assert base.encode(TEXT).count(start) == base.encode("<s>" + TEXT).count(start) == 1
    assert base.encode("") == [start]


def test_a_model_without_start_token_adds_none(make_base: MakeBase) -> None:
    base = make_base(bos=False)
    assert base.start == []
    assert base.encode(TEXT) == base.tokenizer.encode(TEXT, add_special_tokens=False)


@pytest.mark.parametrize("text", [TEXT, " leading", "日本 😀\n\ttab", "é"])
def test_decoding_gives_back_what_was_encoded(text: str, base: BaseModel) -> None:
    assert base.decode(base.encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
def test_the_context_of_every_architecture_is_known(kind: str, make_base: MakeBase) -> None:
    assert make_base(kind).context == 256


def test_all_ends_of_text_of_model_and_tokenizer_are_known(base: BaseModel) -> None:
    base.model.generation_config.eos_token_id = [5, 7]
    assert base.stop_ids == {5, 7, base.tokenizer.eos_token_id}


def test_rows_are_padded_on_the_right_and_padding_is_masked() -> None:
    ids, mask = pad_rows([[5, 6, 7], [8]], 9, torch.device("cpu"))
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_a_document_cannot_smuggle_in_special_tokens(make_base: Callable[..., BaseModel]) -> None:
    base = make_base()
    attack = "before</s>after<s><pad>"
    assert set(base.encode(attack)[1:]) & {base.tokenizer.eos_token_id, base.tokenizer.bos_token_id}
    assert not set(base.encode(base.inert(attack))[1:]) & set(base.tokenizer.all_special_ids)
    assert base.inert("plain text < s >") == "plain text < s >"
