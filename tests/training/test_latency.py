"""What `hlrs describe --measure` says of a network: the time of a pass, its spread, and the peak memory."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from hlrs.training import latency


class Clocked(nn.Module):
    """A network whose passes take given seconds of a clock of their own, by turns."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.now, self.passes = seconds, 0.0, []

    def forward(self, images):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.now += self.seconds[len(self.passes) % len(self.seconds)]
        self.passes.append(tuple(images.shape))
        return images


@pytest.fixture
def clocked(monkeypatch):
    def make(*seconds):
        network = Clocked(seconds)
        monkeypatch.setattr(latency, "perf_counter", lambda: network.now)
        monkeypatch.setenv("HLRS_DEVICE", "cpu")
        return network, latency.measure(network, 3, 8, torch.get_num_threads())

    return make


def test_the_median_and_the_quartiles_are_those_of_the_passes_that_count(clocked):
    network, found = clocked(1.0, 2.0, 3.0, 4.0)
    # three passes to warm up (1, 2, 3), then ten: 4 1 2 3 4 1 2 3 4 1; sorted 1 1 1 2 2 3 3 4 4 4
    first, second = found["batches"]
    assert (first["batch"], first["passes"], first["median_seconds"]) == (1, 10, pytest.approx(2.5))
    assert first["quartiles_seconds"] == pytest.approx([1.25, 3.75])  # at places 2.25 and 6.75 of 0 to 9
    assert network.passes == [(1, 3, 8, 8)] * 13 + [(64, 3, 8, 8)] * 13
    assert second["batch"] == 64
    assert "batch of 64" in "\n".join(latency.lines(found))


def test_short_passes_are_repeated_until_their_time_or_number_is_reached(clocked):
    assert [row["passes"] for row in clocked(0.25)[1]["batches"]] == [20, 20]  # 5 s
    assert [row["passes"] for row in clocked(0.001)[1]["batches"]] == [100, 100]


HUNGRY = """
import torch
from hlrs.training import latency
from hlrs.training.device import prepare

class Hungry(torch.nn.Module):
    def forward(self, images):
        return torch.ones(len(images), 1_000_000).sum()  # 4 MB per image

prepare(1)  # which keeps what is freed
torch.ones(200_000_000)
latency.SECONDS = 0.0
print(*(row["peak_memory_bytes"] for row in latency.measure(Hungry(), 1, 4, 1)["batches"]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not report the peak")
def test_the_peak_memory_is_what_a_pass_takes():
    # in a process of its own, as of a user: one that has freed memory before takes less from the system
    command = [sys.executable, "-c", HUNGRY]
    ran = subprocess.run(command, env=os.environ | {"HLRS_DEVICE": "cpu"}, capture_output=True, text=True)
    one, batch = map(int, ran.stdout.split())
    assert 4e6 <= one < 40e6
    assert 256e6 <= batch < 300e6
