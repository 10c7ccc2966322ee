"""ane.c against a fake of Apple's frameworks (fake.h): what it sends in which order, what it leaves, how it fails."""

from __future__ import annotations

import ctypes
import fcntl
import shutil
from pathlib import Path

import numpy as np
import pytest
from ane_build import Problem
from ane_fake import LOADED, SHAPE, Mac
from ane_programs import DIALECTS, PROGRAMS, Simulator, Text, generate

CLASSES = ["_ANEInMemoryModelDescriptor", "_ANEInMemoryModel", "_ANEIOSurfaceObject", "_ANERequest"]


@pytest.fixture
def mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mac:
    return Mac(tmp_path, monkeypatch)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_program_gives_what_the_simulator_gives(mac: Mac, program: str, dialect: str) -> None:
    text = generate(mac.made, program, SHAPE, dialect)
    packed = np.random.default_rng(1).normal(0, 0.1, mac.halves(program, "input")).astype(np.float16)
    count = mac.halves(program, "output")
    simulator = Simulator(mac.made)
    expected = simulator.run(text, packed, count)
    simulator.close()
    engine = mac.open()
    result = engine.run(text, packed, count)
    engine.close()
    assert np.abs(expected.astype(float)).max() > 0
    assert result.tobytes() == expected.tobytes()
    assert mac.steps() == [*LOADED, *["surface", "object"] * 2, "request", "evaluate", "unload"]
    assert mac.is_clean()


def test_the_files_are_ours_alone_while_the_program_is_loaded(mac: Mac) -> None:
    text, engine = mac.text(), mac.open()
    program = engine.load(text)
    folder = mac.temporary / mac.identifier()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "model.mil").read_text() == text.text
    assert {path: (folder / path).read_bytes() for path in text.files} == text.files
    assert text.files
    engine.executor.unload(engine.executor.self, program)
    engine.close()
    assert mac.is_clean()


FAILURES = {
    "descriptor": ("the framework makes no descriptor of it", LOADED[:1]),
    "model": ("the framework makes no model of it", LOADED[:2]),
    "identifier": ("the framework does not say where it wants the files", LOADED[:3]),
    "temporary": ("the framework does not say where it wants the files", LOADED[:3]),
    "long": ("the framework's name for the folder is longer than ", LOADED[:3]),
    "compile": ("compiling failed: Error Domain=com.apple.appleneuralengine.compiler Code=1 ", LOADED[:4]),
    "load": ("loading failed: Error Domain=com.apple.appleneuralengine Code=2 ", [*LOADED, "load"]),
}


INFERENCE_ERROR = (
    'evaluating failed: Error Domain=com.apple.appleneuralengine Code=8 "processRequest:model:qos:qIndex:modelStringID:'
    "options:returnValue:error:: ANEProgramProcessRequestDirect() Failed with status=0x1d : statusType=0x9: "
)


@pytest.mark.parametrize("fault", FAILURES)
def test_loading_that_fails_is_a_sentence_and_leaves_nothing(mac: Mac, fault: str) -> None:
    engine = mac.open()
    mac.faults(fault)
    words, steps = FAILURES[fault]
    with pytest.raises(ValueError) as error:
        engine.load(mac.text())
    assert str(error.value).startswith(words)
    assert "\n" not in str(error.value)
    assert mac.steps() == steps
    engine.close()
    assert mac.is_clean()


def test_a_name_that_leads_out_of_the_folder_is_refused(mac: Mac) -> None:
    engine = mac.open()
    mac.faults("escape")
    with pytest.raises(ValueError, match=r'^"\.\./escape" is no name for a folder$'):
        engine.load(mac.text())
    assert sorted(path.name for path in mac.temporary.parent.iterdir()) == ["mac.so", "temporary"]
    engine.close()
    assert mac.is_clean()


def test_loading_is_tried_twice(mac: Mac) -> None:
    engine = mac.open()
    mac.faults("load@1")
    program = engine.load(mac.text())
    assert mac.steps() == [*LOADED, "load"]
    engine.executor.unload(engine.executor.self, program)
    engine.close()
    assert mac.is_clean()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("surface", "there is no memory for a surface of 1064960 bytes"),
        ("object", "the framework refuses a surface of 1064960 bytes"),
        ("lock", "a surface of 1064960 bytes cannot be locked: code 0xe00002c9"),
        ("unlock", "a surface of 1064960 bytes cannot be unlocked: code 0xe00002c9"),
    ],
)
def test_a_surface_that_fails(mac: Mac, fault: str, words: str) -> None:
    engine, problem = mac.open(), Problem()
    mac.faults(fault)
    assert engine.executor.surface(engine.executor.self, 1_050_000, ctypes.byref(problem)) is None
    assert problem.text.decode() == words
    engine.close()
    assert mac.is_clean()


@pytest.mark.parametrize(("bytes_", "rounded"), [(1, 65536), (65536, 65536), (65537, 81920), (98304, 98304)])
def test_surfaces_are_rounded_up_and_zero(mac: Mac, bytes_: int, rounded: int) -> None:
    engine, problem = mac.open(), Problem()
    executor = engine.executor
    surface = executor.surface(executor.self, bytes_, ctypes.byref(problem))
    assert f"surface {rounded}" in mac.made.fake_report().decode()
    at = executor.lock(executor.self, surface, False, ctypes.byref(problem))
    assert ctypes.string_at(at, rounded) == bytes(rounded)
    assert executor.unlock(executor.self, surface, False, ctypes.byref(problem))
    executor.release(executor.self, surface)
    engine.close()
    assert mac.is_clean()


def test_a_surface_too_large_to_count(mac: Mac) -> None:
    engine, problem = mac.open(), Problem()
    assert engine.executor.surface(engine.executor.self, 2**64 - 1, ctypes.byref(problem)) is None
    assert problem.text.decode() == f"a surface of {2**64 - 1} bytes is too large"
    engine.close()
    assert mac.is_clean()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("request", "the framework makes no request"),
        ("evaluate", INFERENCE_ERROR),
        ("umlauts", 'evaluating failed: Error Domain=umlaut Code=8 "ääää'),
        ("description@1,evaluate", "evaluating failed: Error Domain=com.apple.appleneuralengine Code=8"),
    ],
)
def test_an_evaluation_that_fails(mac: Mac, fault: str, words: str) -> None:
    engine, text, problem = mac.open(), mac.text("wotBwd"), Problem()
    executor, own, why = engine.executor, engine.executor.self, ctypes.byref(problem)
    program = engine.load(text)
    surfaces = [executor.surface(own, mac.halves("wotBwd", side) * 2, why) for side in ("input", "output")]
    mac.faults(f"{fault}@1")
    binding = executor.bind(own, program, *surfaces, why)
    failed = binding is None or not executor.run(own, binding, why)
    assert failed
    assert problem.text.decode().startswith(words)
    if binding is None:  # and the next one is fine
        binding = executor.bind(own, program, *surfaces, why)
    assert executor.run(own, binding, why)
    executor.unbind(own, binding)
    executor.unload(own, program)
    for surface in surfaces:
        executor.release(own, surface)
    engine.close()
    assert mac.is_clean()


def test_unloading_that_fails_is_a_notice(mac: Mac, capfd: pytest.CaptureFixture[str]) -> None:
    engine = mac.open()
    program = engine.load(mac.text())
    mac.faults("unload")
    engine.executor.unload(engine.executor.self, program)
    assert capfd.readouterr().err.startswith("notice: ane: program: unloading failed: Error Domain=")
    engine.close()
    assert mac.is_clean()


def test_a_process_compiles_no_more_than_100_programs(mac: Mac) -> None:
    engine, text = mac.open(), mac.text("wotBwd")
    mac.faults("compile")
    for _ in range(100):
        with pytest.raises(ValueError, match="compiling failed"):
            engine.load(text)
    with pytest.raises(ValueError, match=r"^a process cannot compile more than 100 programs$"):
        engine.load(text)
    engine.close()
    engine = mac.open()  # it is the process that counts
    with pytest.raises(ValueError, match="cannot compile more than 100 programs"):
        engine.load(text)
    engine.close()
    assert mac.is_clean()


# ---- what is there at all ----


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_that_is_missing(mac: Mac, name: str) -> None:
    mac.faults(f"missing {name}")
    with pytest.raises(ValueError, match=f"^this macOS has no class {name}, which the Neural Engine needs$"):
        mac.open()
    assert mac.is_clean()


@pytest.mark.parametrize(
    "method",
    [
        "+[_ANEInMemoryModelDescriptor modelWithMILText:weights:optionsPlist:]",
        "+[_ANEInMemoryModel inMemoryModelWithDescriptor:]",
        "-[_ANEInMemoryModel hexStringIdentifier]",
        "-[_ANEInMemoryModel compileWithQoS:options:error:]",
        "-[_ANEInMemoryModel loadWithQoS:options:error:]",
        "+[_ANEIOSurfaceObject objectWithIOSurface:]",
        "+[_ANERequest requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex:]",
        "-[_ANEInMemoryModel evaluateWithQoS:options:request:error:]",
        "-[_ANEInMemoryModel unloadWithQoS:error:]",
    ],
)
def test_a_method_that_is_missing(mac: Mac, method: str) -> None:
    mac.faults(f"missing {method.split()[1][:-1]}")
    with pytest.raises(ValueError) as error:
        mac.open()
    assert str(error.value) == f"this macOS has no method {method}, which the Neural Engine needs"
    assert mac.is_clean()


def test_a_mac_without_a_neural_engine(mac: Mac) -> None:
    mac.faults("no-engine")
    with pytest.raises(ValueError, match=r"^this machine has no Neural Engine$"):
        mac.open()
    assert mac.is_clean()


def test_a_framework_that_is_missing(mac: Mac, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FRAMEWORK", "/nowhere/AppleNeuralEngine")
    with pytest.raises(ValueError, match=r"^this machine has no Neural Engine, or its framework is blocked$"):
        mac.open()
    assert banner(mac) == "no Neural Engine's framework that would say what chip this is"
    assert mac.is_clean()


def banner(mac: Mac) -> str:
    text = ctypes.create_string_buffer(200)
    mac.made.ane_banner(text, ctypes.c_size_t(200))
    return text.value.decode()


def test_the_banner(mac: Mac) -> None:
    assert banner(mac) == "Neural Engine: architecture h16g, cores 16, build 26A1"
    mac.faults("missing aneArchitectureType", "missing numANECores")
    assert banner(mac) == "Neural Engine: architecture unknown, cores unknown, build 26A1"
    mac.faults("missing _ANEDeviceInfo")
    assert "no Neural Engine's framework" in banner(mac)
    mac.open().close()  # the class is for the banner alone
    assert mac.is_clean()


@pytest.mark.parametrize("qos", ["0", "9", "17", "21", "25", "33"])
def test_the_quality_of_service_is_chosen(mac: Mac, monkeypatch: pytest.MonkeyPatch, qos: str) -> None:
    monkeypatch.setenv("ANE_QOS", qos)  # the fake complains of any other
    text, engine = mac.text("wotBwd"), mac.open()
    engine.run(text, np.ones(mac.halves("wotBwd", "input"), np.float16), mac.halves("wotBwd", "output"))
    engine.close()
    assert mac.is_clean()


@pytest.mark.parametrize("qos", ["", "1", "21 ", "-1", "high", "4294967317"])
def test_a_quality_of_service_that_is_none(mac: Mac, monkeypatch: pytest.MonkeyPatch, qos: str) -> None:
    monkeypatch.setenv("ANE_QOS", qos)
    with pytest.raises(ValueError) as error:
        mac.open()
    assert str(error.value) == f'ANE_QOS is "{qos}", but must be 0, 9, 17, 21, 25 or 33'


def test_a_thread_in_the_background_leaves_it(mac: Mac) -> None:
    mac.open().close()
    assert "thread" not in mac.steps()
    mac.faults("background")
    mac.open().close()
    assert mac.made.fake_report().decode().splitlines()[-1] == "thread 25 0"


# ---- folders ----


def name_of(mac: Mac, text: Text) -> str:
    """The name that the framework has for a program's folder."""
    engine = mac.open()
    engine.executor.unload(engine.executor.self, engine.load(text))
    engine.close()
    assert mac.is_clean()
    return mac.identifier()


@pytest.mark.parametrize("what", ["folder", "link", "file", "lock is a link"])
def test_what_is_not_ours_is_refused_and_left(mac: Mac, tmp_path: Path, what: str) -> None:
    text = mac.text()
    name = name_of(mac, text)
    place, other = mac.temporary / name, tmp_path / "other"
    other.mkdir()
    (other / "precious").write_text("kept")
    match what:
        case "folder":
            place.mkdir()
            (place / "model.mil").write_text("another's")
        case "link":
            place.symlink_to(other)
        case "file":
            place.write_text("another's")
        case _:
            place.with_name(f"{name}.lock").symlink_to(other / "precious")
    before = sorted(mac.temporary.rglob("*"))
    engine = mac.open()
    with pytest.raises(ValueError, match=f"{name}.*(exists and is not ours; remove it|cannot be made)"):
        engine.load(text)
    engine.close()
    assert sorted(mac.temporary.rglob("*")) == before
    assert (other / "precious").read_text() == "kept"
    assert list(other.iterdir()) == [other / "precious"]


def test_what_a_killed_run_left_is_removed(mac: Mac, tmp_path: Path) -> None:
    text, engine, saved = mac.text(), mac.open(), tmp_path / "saved"
    program = engine.load(text)
    shutil.copytree(mac.temporary, saved)
    engine.executor.unload(engine.executor.self, program)
    engine.close()
    assert mac.is_clean()
    shutil.copytree(saved, mac.temporary, dirs_exist_ok=True)
    name = next(path.name for path in mac.temporary.iterdir() if path.is_dir())
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("kept")
    (mac.temporary / name / "link").symlink_to(outside)
    engine = mac.open()
    engine.executor.unload(engine.executor.self, engine.load(text))
    assert mac.identifier() == name
    engine.close()
    assert mac.is_clean()
    assert (outside / "precious").read_text() == "kept"


def test_a_folder_in_use_is_refused(mac: Mac) -> None:
    text = mac.text()
    name = name_of(mac, text)
    engine = mac.open()
    program = engine.load(text)
    with pytest.raises(ValueError, match=f"{name} is in use by another run of the same kernel$"):
        engine.load(text)
    assert (mac.temporary / name / "model.mil").read_text() == text.text
    engine.executor.unload(engine.executor.self, program)
    with (mac.temporary / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=f"{name} is in use"):
            engine.load(text)
    (mac.temporary / f"{name}.lock").unlink()
    engine.close()
    assert mac.is_clean()


def test_no_folder_for_temporary_files(mac: Mac, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(mac.temporary / "nowhere"))
    engine = mac.open()
    with pytest.raises(ValueError, match=r"^the folder for temporary files .*/nowhere cannot be opened: No such file"):
        engine.load(mac.text())
    engine.close()
    assert mac.is_clean()


@pytest.mark.parametrize("path", ["../escape", "/tmp/escape", "weights/../../x", "weights//x", "", "weights/", ".x"])
def test_a_file_that_leads_out_of_the_folder_is_refused(mac: Mac, path: str) -> None:
    text, engine = mac.text(), mac.open()
    with pytest.raises(ValueError, match=r"is no path below a folder$"):
        engine.load(Text(text.text, {path: b"1"}))
    engine.close()
    assert mac.is_clean()
