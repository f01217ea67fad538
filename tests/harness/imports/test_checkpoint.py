"""A file is read as tensors and plain values, whatever program wrote it, and refused with the reason if it is none."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from harness.errors import InputError
from harness.imports.checkpoint import read_checkpoint, without_prefixes

STATE = {"a.weight": torch.ones(2), "b.bias": torch.zeros(3)}
AVERAGE = {name: tensor + 1 for name, tensor in STATE.items()}


@pytest.mark.parametrize("key", ["state_dict", "model_state", "model", None])
def test_weights_are_found_where_programs_keep_them(save, key):
    content = STATE if key is None else {key: STATE, "epoch": 3, "optimizer": {"state": {0: torch.ones(1)}}}
    read = read_checkpoint(save(content))
    assert read.tensors.keys() == STATE.keys()
    assert not read.averaged


def test_safetensors_are_read_too(tmp_path):
    save_file(STATE, tmp_path / "weights.safetensors")
    assert read_checkpoint(tmp_path / "weights.safetensors").tensors.keys() == STATE.keys()


def test_the_hash_is_that_of_the_file(save):
    path = save({"state_dict": STATE})
    assert read_checkpoint(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("prefix", ["module.", "model.", "model.module.", "ema_model.module."])
def test_prefixes_that_all_names_have_are_dropped(prefix):
    assert without_prefixes({prefix + name: each for name, each in STATE.items()}).keys() == STATE.keys()
    partly = {"model.a": torch.ones(1), "b": torch.ones(1)}
    assert without_prefixes(partly) == partly


@pytest.mark.parametrize("key", ["ema_state_dict", "state_dict_ema", "ema"])
def test_the_moving_average_is_taken_where_it_is_asked_for(save, key):
    path = save({"state_dict": STATE, key: AVERAGE})
    assert torch.equal(read_checkpoint(path).tensors["a.weight"], STATE["a.weight"])
    average = read_checkpoint(path, averaged=True)
    assert average.averaged
    assert torch.equal(average.tensors["a.weight"], AVERAGE["a.weight"])
    assert read_checkpoint(save({key: AVERAGE})).averaged
    with pytest.raises(InputError, match="has no moving average: none of ema_state_dict"):
        read_checkpoint(save({"state_dict": STATE}), averaged=True)
    with pytest.raises(InputError, match="has no weights"):
        read_checkpoint(save({key: AVERAGE}), averaged=False)


def test_an_average_in_buffers_beside_the_weights_is_found(save):
    beside = {f"ema_{name.replace('.', '_')}": tensor for name, tensor in AVERAGE.items()}
    path = save({"state_dict": STATE | beside})
    assert read_checkpoint(path).tensors.keys() == STATE.keys()
    average = read_checkpoint(path, averaged=True).tensors
    assert average.keys() == STATE.keys()
    assert torch.equal(average["b.bias"], AVERAGE["b.bias"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "a web page, not a checkpoint"),
        (b"\n  <html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS"),
        (b'{"error": "not found"}', "a text file"),
        (b"PK\x03\x04 half of a zip", "truncated or damaged"),
        (b"\x80\x02 no pickle", "damaged, or was written neither|truncated or damaged"),
        (b"no checkpoint at all", "damaged, or was written neither|truncated or damaged"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_told_what_it_is(tmp_path, content, message):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"model.pth .*({message})") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_half_a_file_is_told_as_such(save):
    path = save({"state_dict": {"a": torch.zeros(10_000)}})
    whole = path.read_bytes()
    for share in (0.3, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(InputError, match=r"truncated or damaged|damaged or no file"):
            read_checkpoint(path)


def test_a_file_that_would_run_code_is_refused_with_what_it_asks_for(save, tmp_path):
    path = save({"state_dict": STATE, "history": np.ones(3)})
    with pytest.raises(InputError, match=r"holds more than tensors and plain values: numpy\S* would have to run"):
        read_checkpoint(path)

    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "was here"), "w"))

    (tmp_path / "attack.pth").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(InputError, match=r"attack\.pth"):
        read_checkpoint(tmp_path / "attack.pth")
    torch.save({"state_dict": STATE, "x": Attack()}, tmp_path / "attack.pth")
    with pytest.raises(InputError, match=r"more than tensors and plain values: \S*open would have to run"):
        read_checkpoint(tmp_path / "attack.pth")
    assert not (tmp_path / "was here").exists()


def test_a_file_without_weights_names_its_keys(save):
    with pytest.raises(InputError, match=r"none of state_dict, .* is among its keys, which are epoch, optimizer"):
        read_checkpoint(save({"optimizer": {"lr": 1.0}, "epoch": 3}))
    with pytest.raises(InputError, match=r"missing\.pth cannot be read: No such file"):
        read_checkpoint(save(STATE).parent / "missing.pth")
