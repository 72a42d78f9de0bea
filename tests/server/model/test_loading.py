"""What loads, under which identity, and what is refused with which words."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pytest
import torch
import transformers
from model_kit import BERT, LONGEST, ROBERTA, VOCABULARY, ask, make_model, save, tokenizer_of
from safetensors.torch import load_file, save_file

from mlmon.errors import ConfigError
from mlmon.registry.tokenizers import load_tokenizer as read_tokenizer
from mlmon.server.model import LoadConfig, SpecialIds, load_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from model_kit import Made

    from mlmon.server.model import Packed

Make: TypeAlias = "Callable[[str], Made]"


@pytest.fixture
def bert(made: Make, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(made("bert").directory, tmp_path / "bert")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(
    directory: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    save_file(change(load_file(directory / "model.safetensors")), directory / "model.safetensors")


def refused(source: Path | str, config: LoadConfig | None = None) -> str:
    with pytest.raises(ConfigError) as error:
        load_model(source, config)
    return str(error.value)


def test_a_model_says_what_it_is(bert: Path) -> None:
    loaded = load_model(bert)
    info = loaded.info
    assert (info.name, info.architecture, info.model_type) == ("bert", "BertForMaskedLM", "bert")
    assert (info.path, info.revision, info.dtype, info.device) == ("packed", None, "float32", "cpu")
    assert (info.max_length, info.vocabulary_size, info.hidden_size, info.layers) == (
        LONGEST,
        VOCABULARY,
        48,
        3,
    )
    assert info.model_digest == sha256((bert / "model.safetensors").read_bytes())
    assert info.tokenizer_digest == sha256((bert / "tokenizer.json").read_bytes())
    assert info.tokenizer_digest == read_tokenizer(bert / "tokenizer.json").digest
    assert info.parameters == sum(t.numel() for t in load_file(bert / "model.safetensors").values())
    assert loaded.special == SpecialIds(mask=4, cls=2, sep=3, pad=0, unk=1)
    assert (loaded.encoder.max_length, loaded.encoder.hidden_size) == (LONGEST, 48)


def test_special_tokens_of_a_roberta(made: Make) -> None:
    loaded = load_model(made("roberta").directory)
    assert loaded.special == SpecialIds(mask=4, cls=0, sep=2, pad=1, unk=3)
    assert loaded.info.max_length == LONGEST  # of its 50 positions, two are for padding


def test_the_tokenizer_neither_pads_nor_cuts(made: Make) -> None:
    tokenizer = load_model(made("bert").directory).tokenizer
    assert tokenizer.encode("w7 w8").ids == [2, 7, 8, 3]
    assert len(tokenizer.encode(" ".join(["w9"] * 30)).ids) == 32


def test_the_tokenizers_limit_counts_where_it_is_lower(bert: Path) -> None:
    edit(bert / "tokenizer_config.json", model_max_length=20)
    assert load_model(bert).info.max_length == 20
    edit(bert / "tokenizer_config.json", model_max_length=1000)
    assert load_model(bert).info.max_length == LONGEST


def test_shards_are_one_model(made: Make, bert: Path, batch: Packed) -> None:
    whole = load_model(bert)
    transformers.BertForMaskedLM.from_pretrained(bert).save_pretrained(bert, max_shard_size="40KB")
    shards = sorted(bert.glob("model-*.safetensors"))
    assert len(shards) > 1
    (bert / "model.safetensors").unlink(missing_ok=True)
    loaded = load_model(bert)
    assert torch.equal(loaded.encoder.encode(batch), whole.encoder.encode(batch))
    listing = "".join(f"{sha256(shard.read_bytes())}  {shard.name}\n" for shard in shards)
    assert loaded.info.model_digest == sha256(listing.encode())


def test_sixteen_bit_is_what_was_asked_for(bert: Path, batch: Packed) -> None:
    for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        for path in ("packed", "plain"):
            loaded = load_model(bert, LoadConfig(dtype=name, path=path))
            assert loaded.info.dtype == name
            hidden = loaded.encoder.encode(batch)
            assert hidden.dtype == dtype
            assert loaded.head.top_k(hidden, 2).logprob.dtype == torch.float32


def test_a_checkpoint_in_16_bit_runs_in_float32_on_the_cpu(bert: Path, batch: Packed) -> None:
    edit_weights(bert, lambda weights: {name: t.to(torch.bfloat16) for name, t in weights.items()})
    edit(bert / "config.json", dtype="bfloat16")
    assert load_model(bert).encoder.encode(batch).dtype == torch.float32


def test_a_configuration_in_16_bit_costs_float32_weights_nothing(
    made: Make, bert: Path, batch: Packed
) -> None:
    expected = ask(made("bert"), batch).hidden
    edit(bert / "config.json", dtype="bfloat16")
    for path in ("packed", "plain"):
        hidden = load_model(bert, LoadConfig(path=path)).encoder.encode(batch)
        torch.testing.assert_close(hidden, expected, atol=3e-5, rtol=3e-5)


def test_names_of_old_checkpoints_are_understood(made: Make, bert: Path, batch: Packed) -> None:
    """Norms were called gamma and beta; poolers and sentence heads come along and are left out."""

    def old(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        renamed = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
            for name, t in weights.items()
        }
        return renamed | {"bert.pooler.dense.weight": torch.zeros(48, 48)}

    expected = ask(made("bert"), batch).hidden
    edit_weights(bert, old)
    torch.testing.assert_close(load_model(bert).encoder.encode(batch), expected, atol=3e-5, rtol=3e-5)


def test_a_late_deberta_head_is_found_whatever_the_configuration_says(made: Make, tmp_path: Path) -> None:
    directory = shutil.copytree(made("deberta-late-head").directory, tmp_path / "deberta")
    edit(directory / "config.json", legacy=True)
    hidden = torch.randn(5, 48)
    with torch.no_grad():
        model = made("deberta-late-head").model
        expected = model.lm_predictions(hidden, model.deberta.embeddings.word_embeddings).log_softmax(-1)
    best = load_model(directory).head.top_k(hidden, VOCABULARY)
    torch.testing.assert_close(best.logprob, expected.gather(1, best.ids), atol=1e-4, rtol=1e-4)


def test_a_vocabulary_alone_is_made_a_tokenizer(bert: Path) -> None:
    (bert / "tokenizer.json").unlink()
    (bert / "vocab.txt").write_text("\n".join([*BERT, "hello", "wor", "##ld"]))
    (bert / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    loaded = load_model(bert)
    assert loaded.tokenizer.encode("Hello world").tokens == ["[CLS]", "hello", "wor", "##ld", "[SEP]"]
    saved = bert / "made.json"
    loaded.tokenizer.save(str(saved))
    assert loaded.info.tokenizer_digest == sha256(saved.read_bytes())
    assert loaded.info.tokenizer_digest == load_model(bert).info.tokenizer_digest


# -- What is refused ---------------------------------------------------------------------------------------


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("a pickle was read",))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "tf_model.h5"])
def test_pickle_is_refused_with_the_way_to_convert(
    bert: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (bert / "model.safetensors").unlink()
    (bert / name).write_bytes(pickle.dumps(_Trap()))
    message = refused(bert)
    assert name in message
    assert "expected model.safetensors" in message
    assert "from_pretrained" in message
    assert "save_pretrained" in message
    assert "a pickle was read" not in capsys.readouterr().out


def test_pickle_beside_safetensors_is_never_read(bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("pytorch_model.bin", "adapter_model.bin", ".metadata"):
        (bert / name).write_bytes(pickle.dumps(_Trap()))
    (bert / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "x/y"}')
    assert load_model(bert).info.architecture == "BertForMaskedLM"
    assert "a pickle was read" not in capsys.readouterr().out


def test_unknown_architectures_name_those_that_work(bert: Path) -> None:
    for model_type in ("t5", None, ["bert"]):
        edit(bert / "config.json", model_type=model_type, auto_map={"AutoModelForMaskedLM": "evil.Evil"})
        message = refused(bert)
        assert repr(model_type) in message
        for known in (
            "bert",
            "roberta",
            "xlm-roberta",
            "distilbert",
            "albert",
            "electra",
            "deberta-v2",
            "modernbert",
        ):
            assert known in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"is_decoder": True}, "is a decoder"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "is quantised"),
        ({"position_embedding_type": "relative_key"}, "has relative positions"),
        ({"vocab_size": 200}, "not of the shapes"),
        ({"hidden_act": "wish"}, "cannot be read"),
        ({"num_hidden_layers": 4}, "lack"),
    ],
)
def test_configurations_that_cannot_be_run(bert: Path, change: dict[str, Any], message: str) -> None:
    edit(bert / "config.json", **change)
    assert message in refused(bert)


def test_weights_without_the_head_are_refused(bert: Path) -> None:
    edit_weights(
        bert, lambda weights: {name: t for name, t in weights.items() if not name.startswith("cls.")}
    )
    message = refused(bert)
    assert "lack cls.predictions" in message
    assert "and 3 more" in message
    assert "masked-language-model head" in message


def test_files_that_are_missing_or_broken(bert: Path, tmp_path: Path) -> None:
    (bert / "model.safetensors").write_bytes(b"\xff" * 100)
    assert "cannot be read" in refused(bert)
    (bert / "model.safetensors").unlink()
    assert "has no weights: expected model.safetensors" in refused(bert)
    (bert / "config.json").write_text("[1]")
    (bert / "model.safetensors").touch()
    assert "expected a JSON object, got list" in refused(bert)
    (bert / "config.json").unlink()
    assert "config.json' cannot be read" in refused(bert)
    assert "there is no such directory" in refused(tmp_path / "nowhere")
    assert "there is no such directory" in refused("./nowhere")
    assert "is for models on the hub" in refused(bert, LoadConfig(revision="main"))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "../model.safetensors"}}, "expected names of .safetensors files"),
        ({"weight_map": {"a": "weights.bin"}}, "expected names of .safetensors files"),
        ({"weight_map": {"a": "model-2.safetensors"}}, "which is not there"),
        ({"weight_map": []}, "names no weight files"),
    ],
)
def test_an_index_that_leads_astray_is_refused(bert: Path, index: dict[str, Any], message: str) -> None:
    (bert / "model.safetensors").unlink()
    (bert / "model.safetensors.index.json").write_text(json.dumps(index))
    assert message in refused(bert)


def test_tokenizers_that_do_not_fit(bert: Path) -> None:
    tokenizer = tokenizer_of(BERT)
    tokenizer.add_tokens(["one", "more"])
    tokenizer.save(str(bert / "tokenizer.json"))
    assert "ids up to 131, its embeddings end at 129" in refused(bert)
    (bert / "tokenizer.json").write_text("{}")
    assert "is not one" in refused(bert)
    tokenizer_of({"[CLS]": 0, "[SEP]": 1, "[UNK]": 2}).save(str(bert / "tokenizer.json"))
    assert "has no mask token" in refused(bert)
    (bert / "tokenizer.json").unlink()
    assert "no tokenizer.json" in refused(bert)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LoadConfig(dtype="int8"), "dtype: expected auto, float32, bfloat16, float16, got 'int8'"),
        (LoadConfig(device="tpu"), "device: expected auto, cpu, cuda or cuda:N, got 'tpu'"),
        (LoadConfig(device="meta"), "got 'meta'"),
        (LoadConfig(device="cuda:99"), "'cuda:99' is not there"),
        (LoadConfig(path="plain", compile=True), "for the packed path"),
        (LoadConfig(flash="FA99"), "'FA99' cannot be activated"),
    ],
)
def test_settings_that_cannot_be_followed(bert: Path, config: LoadConfig, message: str) -> None:
    assert message in refused(bert, config)


def test_the_packed_path_is_refused_where_there_is_none(made: Make) -> None:
    message = refused(made("albert").directory, LoadConfig(path="packed"))
    assert "packed is for bert, roberta, xlm-roberta, distilbert, got AlbertForMaskedLM" in message


def test_loading_leaves_the_libraries_talkative(bert: Path) -> None:
    log = transformers.utils.logging
    before = log.get_verbosity(), log.is_progress_bar_enabled()
    load_model(bert)
    assert (log.get_verbosity(), log.is_progress_bar_enabled()) == before


def test_logits_are_bounded_as_configured(bert: Path) -> None:
    head: Any = load_model(bert, LoadConfig(max_logit_bytes=12 * VOCABULARY * 7)).head
    assert head.rows_at_once == 7
    assert head.nll(torch.randn(20, 48), np.zeros(20, np.int64)).shape == (20,)


def test_the_kit_saves_what_transformers_reads(tmp_path: Path) -> None:
    """Else every comparison above would be with a model of its own."""
    model = make_model("xlm-roberta")
    save(model, tmp_path, ROBERTA)
    read = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path)
    ours = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(t, ours[name]) for name, t in read.state_dict().items() if name in ours)
