"""The benchmark of a GPU runs through on a CPU, so that on a GPU only the figures are new."""

import importlib.util
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("benchmark_gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize("changes", [{}, {"attention": "joint", "identities": 3, "trajectory": 0}])
def test_a_rehearsal(gpu, tiny, random_network, changes):
    records = []
    with torch.no_grad():
        gpu.measure(random_network(tiny(**changes)), gpu.REHEARSAL, (1, 2), False, records.append)
    record = records[-1]
    assert list(record["agreement"]) == [row["way"] for row in record["latency"]] == ["fp32", "bf16", "bf16, graph"]
    assert record["agreement"]["fp32"][0] == 0 and record["agreement"]["bf16"][0] > 0
    assert [row["batch"] for row in record["throughput"]["bf16, graph"]] == [1, 2]


def test_the_step_decodes_as_the_tracker_does(gpu, tiny, random_network):
    from fartrack.model.vocabulary import decode

    network, scene = random_network(tiny()), gpu.Scene(3, 1)
    with torch.no_grad():
        step = gpu.Step(network, gpu.FP32, scene.memory(network, 2), scene.size)
        scene.show(step, 2)
        step.search()
        corners, _ = decode(step.network())
    assert step.corners.numpy() == pytest.approx(corners, abs=1e-5)


def test_without_a_gpu_it_says_so_in_one_sentence(gpu, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as caught:
        gpu.main()
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and out == ""
    assert err.startswith("There is no CUDA GPU") and err.count("\n") == 1
