from __future__ import annotations

import io
import pickle
import re
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch

from vodet.errors import CheckpointError
from vodet.tasks.checkpoint_file import WHAT_READS_WHAT
from vodet.tasks.restricted_pickle import read_pickle
from vodet.tasks.weights import read_weights


def tensors() -> OrderedDict[str, torch.Tensor]:
    whole = torch.arange(24.0).view(2, 3, 4)
    return OrderedDict(
        whole=whole,
        transposed=whole[0].t(),
        part=whole[1, 1:],  # of the same storage
        parameter=torch.nn.Parameter(torch.randn(3)),
        half=torch.randn(5).half(),
        brain=torch.randn(5).bfloat16(),
        count=torch.tensor(7),
        nothing=torch.zeros(0, 4),
    )


def arrays() -> dict[str, Any]:
    return {
        "single": np.arange(6, dtype="f4").reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "half": np.ones(3, "f2"),
        "whole": np.arange(4),
        "flags": np.array([True, False]),
        "scalar": np.float32(1.5),
        "single_number": np.array(2.5),
    }


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "a.pth"
        path.write_bytes(data)
        return path

    return write


def saved(content: Any, *, is_zip: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=is_zip)
    return buffer.getvalue()


WAYS: dict[str, Callable[[Any], bytes]] = {
    "zip": saved,
    "before zip": lambda content: saved(content, is_zip=False),
    **{f"pickle {n}": lambda c, n=n: pickle.dumps(c, n) for n in range(2, 6)},  # type: ignore[misc]
}


def message_of(path: Path, read: Callable[[Path], Any] = read_pickle) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(path)
    return str(caught.value)


@pytest.mark.parametrize("way", WAYS)
def test_tensors(way: str, written: Callable[[bytes], Path]) -> None:
    content = {"model": tensors(), "iteration": 3, "optimizer": {"state": [(1, 0.5), None]}}

    found = read_pickle(written(WAYS[way](content)))

    assert found["iteration"] == 3
    assert found["optimizer"] == content["optimizer"]
    assert list(found["model"]) == list(tensors())
    torch.testing.assert_close(dict(found["model"]), dict(content["model"]), rtol=0, atol=0)


@pytest.mark.parametrize("way", WAYS)
def test_arrays(way: str, written: Callable[[bytes], Path]) -> None:
    found = read_pickle(written(WAYS[way]({"model": arrays(), "__author__": "someone"})))

    assert found["__author__"] == "someone"
    for name, value in arrays().items():
        np.testing.assert_array_equal(found["model"][name], value)
        assert found["model"][name].dtype == value.dtype


def test_arrays_of_numpy_1(written: Callable[[bytes], Path]) -> None:
    content = {"single": arrays()["single"], "scalar": arrays()["scalar"]}
    old = pickle.dumps(content, 2).replace(b"numpy._core.", b"numpy.core.")
    buffer = io.BytesIO()
    with ZipFile(io.BytesIO(saved(content))) as new, ZipFile(buffer, "w") as rewritten:
        for name in new.namelist():
            rewritten.writestr(name, new.read(name).replace(b"numpy._core.", b"numpy.core."))

    for data in (old, buffer.getvalue()):
        assert b"numpy.core." in data
        found = read_pickle(written(data))
        np.testing.assert_array_equal(found["single"], content["single"])
        assert found["scalar"] == 1.5


def array_of_python_2(state_of_dtype: bytes) -> bytes:
    """The pickle of an array of 1.5 and -2.25; raw bytes were text then."""
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R" + state_of_dtype + b"\x89"
        b"U\x08" + struct.pack("<2f", 1.5, -2.25) + b"tb."
    )


def test_arrays_of_python_2(written: Callable[[bytes], Path]) -> None:
    data = array_of_python_2(b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb")
    np.testing.assert_array_equal(read_pickle(written(data)), np.array([1.5, -2.25], "f4"))


def test_a_type_that_takes_numbers_for_objects(written: Callable[[bytes], Path]) -> None:
    """What else than the order of bytes the state of a type says is not looked at."""
    field = b"}U\x01a(cnumpy\ndtype\nU\x02O8K\x00K\x01\x87RK\x00ts"
    data = array_of_python_2(b"(K\x03U\x01<N(U\x01at" + field + b"K\x08K\x08K\x3ftb")
    found = read_pickle(written(data))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array([1.5, -2.25], "f4"))


class Calls:
    """Calls any function when it is unpickled by the usual reader."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


@pytest.mark.parametrize("way", WAYS)
def test_what_would_run_code_is_refused(
    way: str, written: Callable[[bytes], Path], tmp_path: Path
) -> None:
    target = tmp_path / "made"
    path = written(
        WAYS[way]({"model": tensors(), "hook": Calls(eval, f"open({str(target)!r}, 'w')")})
    )

    message = message_of(path)

    assert not target.exists()
    assert re.match(
        rf"The checkpoint {path} was not loaded .* contains "
        r"((builtins|__builtin__)\.)?eval, expected only tensors .* save only the weights",
        message,
    )
    usual = (
        torch.load(path, weights_only=False) if "zip" in way else pickle.loads(path.read_bytes())
    )
    usual["hook"].close()
    assert target.exists()  # it would have run


def test_code_within_the_bytes_of_a_tensor(
    written: Callable[[bytes], Path], tmp_path: Path
) -> None:
    """A tensor in a plain pickle holds its storage as another pickle."""
    target = tmp_path / "made"
    hostile = pickle.dumps(Calls(eval, f"open({str(target)!r}, 'w').close()"))
    for inner in (hostile, saved(Calls(eval, f"open({str(target)!r}, 'w').close()"))):
        outer = pickle.dumps(Calls(torch.storage._load_from_bytes, inner))
        message_of(written(outer))
        assert not target.exists()


@pytest.mark.parametrize(
    "name",
    ["os.system", "builtins.getattr", "builtins.exec", "subprocess.Popen", "torch.load",
     "torch.serialization.load", "numpy.load", "numpy.f2py.capi_maps.eval", "functools.partial",
     "torch.hub.load", "vodet.load", "pickle.loads", "codecs.decode", "numpy.fromfile"],
)  # fmt: skip
def test_names_that_are_refused(name: str, written: Callable[[bytes], Path]) -> None:
    module, _, function = name.rpartition(".")
    data = f"c{module}\n{function}\n(S'x'\ntR.".encode()
    assert f"it contains {name}, expected only tensors" in message_of(written(data))


def test_names_behind_allowed_names(written: Callable[[bytes], Path]) -> None:
    """Protocol 4 may ask for an attribute of an attribute."""
    data = b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93."
    assert "it contains numpy.ndarray.__class__" in message_of(written(data))


@pytest.mark.parametrize(
    "value",
    [np.array([{}, None]), np.zeros(2, [("a", "f4")]), np.array(["text"]), np.zeros(2, ">f4")],
)
@pytest.mark.parametrize("way", ["zip", "pickle 4", "pickle 5"])
def test_arrays_of_other_things_than_numbers(
    value: np.ndarray, way: str, written: Callable[[bytes], Path]
) -> None:
    assert "numpy type" in message_of(written(WAYS[way]({"model": {"a": value}})))


@pytest.mark.parametrize(
    "data", [b"", b"text", b"\x80\x04\x95", pickle.dumps(arrays())[:200], saved(tensors())[:-200],
             saved(tensors(), is_zip=False)[:-20], b"PK\x03\x04" + bytes(100)],
)  # fmt: skip
def test_damaged(data: bytes, written: Callable[[bytes], Path]) -> None:
    path = written(data)
    message = message_of(path)
    assert message.startswith(f"The checkpoint {path} is damaged or not a checkpoint: expected a")
    assert "\n" not in message


def test_missing(tmp_path: Path) -> None:
    path = tmp_path / "absent.pth"
    assert message_of(path) == f"Expected a checkpoint at {path}, found no such file."


def test_weights(written: Callable[[bytes], Path]) -> None:
    content = {"model": arrays() | tensors(), "optimizer": {}, "iteration": 1}
    for way in WAYS.values():
        found = read_weights(written(way(content)))
        assert all(type(value) is torch.Tensor for value in found.values())
        assert not any(value.requires_grad for value in found.values())
        torch.testing.assert_close(found["single"], torch.arange(6.0).view(2, 3))
        assert found["scalar"] == 1.5
        assert found["whole"].shape == (2, 3, 4)


def test_weights_without_anything_else(written: Callable[[bytes], Path]) -> None:
    assert read_weights(written(saved(tensors()))).keys() == tensors().keys()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"iteration": 3, "weights": tensors()}, "found the entries ['iteration', 'weights']."),
        ({"model": {"a": [1, 2]}}, "found the entries ['model']."),
        ({"model": {}}, "found the entries ['model']."),
        ({}, "found the entries []."),
        ([1, 2], "found a value of type list."),
        (3, "found a value of type int."),
    ],
)
def test_files_without_weights(content: Any, found: str, written: Callable[[bytes], Path]) -> None:
    path = written(pickle.dumps(content))
    message = message_of(path, read_weights)
    assert str(path) in message
    assert f"{found} {WHAT_READS_WHAT}" in message


def test_a_damaged_file_and_a_whole_one_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"w": torch.zeros(99)}, path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CheckpointError, match=r"a\.ckpt .*Copy it again\.$"):
        read_pickle(path)
    with ZipFile(path, "w") as archive:
        archive.writestr("model/code/__torch__.py", "")
        archive.writestr("model/constants.pkl", pickle.dumps(1, 2))
    with pytest.raises(CheckpointError, match=rf"{re.escape(WHAT_READS_WHAT)}$"):
        read_pickle(path)
