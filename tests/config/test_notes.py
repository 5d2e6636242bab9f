"""What `check` says of a config without mistakes: what cannot start here, and which keys reach which models."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.engines.vllm.launch import VLLMLaunch
from gateway.config import notes
from gateway.config.inherit import owners, succession
from tests.config.files import config

DEMO = Path(__file__).resolve().parent.parent.parent / "models" / "demo.gguf"
MODELS = """
backends: {a: {engine: openai, url: "http://127.0.0.1:9", models: [x]}}
models:
  big: {aliases: [large], targets: {a: x}, fallback: [mid]}
  middle: {aliases: [mid], targets: {a: x}, fallback: [small]}
  small: {targets: {a: x}}
  other: {targets: {a: x}}
keys:
"""


def key(number: int, models: str) -> str:
    return f'  k{number}: {{hash: "sha256:{number:064x}", models: [{models}]}}\n'


def told(folder: Path, text: str) -> list[str]:
    return list(notes.everything(config(folder, text)))


def launched(options: str) -> str:
    return f"backends: {{a: {{engine: llamacpp, launch: {{{options}}}}}}}"


def test_the_order_in_which_fallbacks_come(tmp_path: Path) -> None:
    made = config(tmp_path, MODELS + key(1, "big"))
    assert succession(made, "big", owners(made)) == ["big", "middle", "small"]
    assert succession(made, "other", owners(made)) == ["other"]


def test_models_that_a_key_reaches_and_may_not_name(tmp_path: Path) -> None:
    keys = ["large", "big, middle", "big, mid, sm*", "small, other", '"*"']
    assert told(tmp_path, MODELS + "".join(key(number, models) for number, models in enumerate(keys, 1))) == [
        "key 'k1' reaches 'middle', 'small' as a fallback of 'big', though it may not name it",
        "key 'k2' reaches 'small' as a fallback of 'big', though it may not name it",
        "key 'k2' reaches 'small' as a fallback of 'middle', though it may not name it",
    ]


def test_the_look_ups_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "LOOK_UPS", 7)
    found = told(tmp_path, MODELS + "".join(key(number, "big") for number in range(1, 100)))
    assert len(found) == 2 and "too many" in found[-1]


def test_files_that_are_missing_are_told_with_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    [missing] = told(tmp_path, launched("model: models/none.gguf"))
    assert missing.startswith("backend 'a' cannot be launched here:")
    assert f"models/none.gguf (in {tmp_path})" in missing
    [absolute] = told(tmp_path, launched("model: /none.gguf"))
    assert "/none.gguf" in absolute and str(tmp_path) not in absolute
    [template] = told(tmp_path, launched(f"model: {DEMO}, chat_template: chat.jinja"))
    assert f"chat.jinja (in {tmp_path})" in template


def test_more_context_than_a_model_was_trained_for(tmp_path: Path) -> None:
    assert told(tmp_path, launched(f"model: {DEMO}, context: 2048")) == []
    made = config(tmp_path, launched(f"model: {DEMO}, context: 2049"))
    [note] = notes.startup(made)
    assert note == "backend 'a': context: 2049 tokens are more than the 2048 that the model was trained for"
    assert list(notes.everything(made)) == [note]


def test_a_folder_as_hugging_face_has_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 4096}')
    assert VLLMLaunch(model=str(tmp_path), name="m", max_model_len=4096).notes() == ()
    [note] = VLLMLaunch(model=str(tmp_path), name="m", max_model_len=5000).notes()
    assert note.startswith("max_model_len: 5000")
