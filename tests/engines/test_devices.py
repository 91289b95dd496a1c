"""Devices: those of this machine, and through a fake registry those that it lacks."""

import pickle
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import fartrack
from fartrack.engines import devices, onnxruntime
from fartrack.engines.devices import AUTO, DEVICES, choose
from fartrack.engines.opening import open_engine, resolve
from fartrack.errors import FartrackError
from fartrack.packages import open_package

GRAPHS = ("template-6.onnx", "template_rest-6.onnx", "search-6.onnx")
PACKAGE = open_package("pico")  # int8 is its own precision


@pytest.fixture
def registry(monkeypatch):
    """A function that lets the runtimes find these devices, by our names; ONNX Runtime's sessions with a provider that
    is not in ``broken`` then say that they run on it, and all run on the CPU. It returns the list of what is opened:
    the graph's name and the providers asked for."""
    opened, real = [], onnxruntime.ort.InferenceSession

    def install(*here, broken=()):
        monkeypatch.setattr(devices, "available", lambda engine: [name for name in DEVICES[engine] if name in here])

        class Session(real):
            def __init__(self, path, options, providers):
                super().__init__(path, options, providers=["CPUExecutionProvider"])
                self.asked = [each if isinstance(each, str) else each[0] for each in providers]
                opened.append((path.rpartition("/")[2], self.asked))

            def get_providers(self):
                lost = {DEVICES["onnxruntime"][name] for name in broken}
                return [name for name in self.asked if name not in lost]

        monkeypatch.setattr(onnxruntime.ort, "InferenceSession", Session)
        return opened

    return install


@pytest.mark.parametrize(
    ("engine", "device", "here", "expected"),
    [
        ("auto", "cpu", "cpu", ("onnxruntime", ["cpu"])),
        ("auto", "auto", "cpu", ("onnxruntime", ["cpu"])),
        ("auto", "auto", "cpu cuda tensorrt", ("onnxruntime", ["cuda", "cpu"])),
        ("auto", "auto", "cpu coreml", ("onnxruntime", ["cpu"])),
        ("auto", "directml", "cpu directml", ("onnxruntime", ["directml"])),
        ("auto", "npu", "cpu auto npu", ("openvino", ["npu"])),
        ("auto", "mps", "cpu mps", ("torch", ["mps"])),
        ("torch", "auto", "cpu cuda", ("torch", ["cuda", "cpu"])),
        ("openvino", "auto", "cpu auto gpu", ("openvino", ["auto"])),
        ("openvino", "gpu", "cpu auto", "openvino has no device 'gpu' here; use cpu or auto."),
        ("auto", "mps", "cpu cuda", "torch has no device 'mps' here; use cpu or cuda."),
        ("auto", "tpu", "cpu coreml", "onnxruntime has no device 'tpu' here; use cpu or coreml."),
        ("auto", "cuda", "cpu", r"no device 'cuda' here; use cpu, or pip install 'fartrack\[gpu\]'."),
    ],
)
def test_what_a_name_of_a_device_means(registry, engine, device, here, expected):
    registry(*here.split())
    if isinstance(expected, tuple):
        assert choose(engine, device) == expected
    else:
        with pytest.raises(FartrackError, match=expected):
            choose(engine, device)


def test_runtimes_are_asked(monkeypatch):
    providers = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "AzureExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime.ort, "get_available_providers", lambda: providers)
    assert devices.available("onnxruntime") == ["cpu", "cuda", "tensorrt"]


def test_openvino_is_asked(monkeypatch):
    openvino = pytest.importorskip("fartrack.engines.openvino")
    assert {"cpu", "auto"} <= set(devices.available("openvino"))
    monkeypatch.setattr(openvino.ov.Core, "available_devices", ["CPU", "GPU.0", "GPU.1"])
    assert devices.available("openvino") == ["cpu", "gpu", "auto"]


def test_torch_is_asked(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert devices.available("torch") == ["cpu", "cuda", "mps"]


def test_every_automatic_choice_is_a_device_of_its_runtime():
    assert all(set(names) <= set(DEVICES[engine]) for engine, names in AUTO.items())


@pytest.mark.parametrize("device", ["cuda", "tensorrt", "coreml", "directml"])
def test_other_providers_run_the_graphs_of_single_precision(registry, device):
    opened = registry("cpu", device)
    engine = open_engine(PACKAGE, threads=1, device=device)
    provider = DEVICES["onnxruntime"][device]
    assert opened == [(name, [provider, "CPUExecutionProvider"]) for name in GRAPHS]
    assert resolve(PACKAGE, "auto", None, device) == ("onnxruntime", "fp32")
    pickle.loads(pickle.dumps(engine))
    assert opened[3:] == opened[:3]


def test_int8_is_for_the_cpu(registry):
    registry("cpu", "cuda")
    with pytest.raises(FartrackError, match="device cuda has no precision int8; use the cpu, or precision fp32"):
        fartrack.load(device="cuda", precision="int8")


def test_a_device_that_does_not_start(registry):
    """ONNX Runtime built for CUDA lists it without a card, and falls back in silence."""
    opened = registry("cpu", "cuda", broken=["cuda"])
    with pytest.raises(FartrackError, match="cannot start the device cuda; check its driver, or use cpu"):
        fartrack.load(device="cuda")
    opened.clear()
    fartrack.load(device="auto", threads=1)
    assert opened[-1] == ("search_int8-6.onnx", ["CPUExecutionProvider"])


def test_openvino_compiles_for_the_device(monkeypatch):
    openvino, asked = pytest.importorskip("fartrack.engines.openvino"), []
    real = openvino.ov.Core.compile_model

    def compile_model(core, model, device, settings):
        asked.append((device, settings))
        return real(core, model, "CPU", {})

    monkeypatch.setattr(devices, "available", lambda engine: ["cpu", "gpu"])
    monkeypatch.setattr(openvino.ov.Core, "compile_model", compile_model)
    fartrack.load(device="gpu", threads=1)
    assert asked == [("GPU", {"PERFORMANCE_HINT": "LATENCY"})] * len(GRAPHS)


def test_openvino_chooses_by_itself(demo_clip):
    pytest.importorskip("openvino")
    frames, truth = demo_clip
    boxes = []
    for device in ("cpu", "auto"):
        tracker = fartrack.load(engine="openvino", device=device)
        tracker.init(frames[0], truth[0])
        boxes.append([tracker.update(frame).box for frame in frames[1:6]])
    np.testing.assert_allclose(boxes[0], boxes[1], atol=2)  # bf16, where the processor has it


def test_openvino_computes_in_bf16_if_asked(demo_clip):
    """Boxes within two pixels of single precision, which stays what is usual."""
    openvino = pytest.importorskip("fartrack.engines.openvino")
    if "BF16" not in openvino.core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no instructions for bfloat16")
    frames, truth = demo_clip
    boxes = {}
    for precision in (None, "fp32", "bf16"):
        tracker = fartrack.load(engine="openvino", precision=precision, threads=1)
        tracker.init(frames[0], truth[0])
        boxes[precision] = [tracker.update(frame).box for frame in frames[1:6]]
    assert boxes[None] == boxes["fp32"] != boxes["bf16"]
    np.testing.assert_allclose(boxes["fp32"], boxes["bf16"], atol=2)


def test_a_processor_without_bf16_says_so(monkeypatch):
    openvino = pytest.importorskip("fartrack.engines.openvino")
    monkeypatch.setattr(openvino.ov.Core, "get_property", lambda core, device, name: ["FP32", "INT8"])
    with pytest.raises(FartrackError, match="no instructions for bfloat16; use precision fp32, or int8 with"):
        fartrack.load(engine="openvino", precision="bf16")


@pytest.mark.parametrize(
    ("engine", "device", "precision", "expected"),
    [
        ("torch", "cuda", None, "bf16"),
        ("torch", "cuda", "fp32", "fp32"),
        ("openvino", "gpu", None, "fp32"),
        ("openvino", "gpu", "bf16", "device gpu has no precision bf16; use the cpu, or precision fp32"),
        ("torch", "cuda", "int8", "engine torch has no precision int8; use onnxruntime, or precision bf16 or fp32"),
    ],
)
def test_what_a_device_computes_in(registry, engine, device, precision, expected):
    registry("cpu", device)
    if " " not in expected:
        assert resolve(PACKAGE, engine, precision, device) == (engine, expected)
    else:
        with pytest.raises(FartrackError, match=expected):
            resolve(PACKAGE, engine, precision, device)


def test_a_model_of_single_precision_runs_in_what_is_usual(registry):
    registry("cpu", "cuda")
    package = replace(PACKAGE, precision="fp32")
    assert resolve(package, "torch", None, "cuda") == ("torch", "bf16")
    assert resolve(package) == ("onnxruntime", "fp32")


def test_bf16_is_close(demo_clip):
    """What a GPU computes in, here on the CPU: outputs stay float32, and boxes within two pixels."""
    pytest.importorskip("torch")
    from fartrack.engines.torch import TorchEngine

    frames, truth = demo_clip
    network, boxes = TorchEngine.load(PACKAGE, 1).network, []
    for engine in (TorchEngine(network), TorchEngine(network, bf16=True)):
        tracker = fartrack.Tracker(engine, fartrack.TrackerSettings(retention=0.75))
        tracker.init(frames[0], truth[0])
        boxes.append([tracker.update(frame).box for frame in frames[1:6]])
        assert tracker.state.memory.kv_cache.dtype == np.float32
    assert not np.array_equal(*boxes)
    np.testing.assert_allclose(boxes[0], boxes[1], atol=2)
    assert all(a != b for a, b in pairwise(boxes[1]))
