"""Learning rates and the moving average of the weights, step by step."""

import math

import pytest
import torch
from torch import nn

from captioning.model.decoder import DecoderConfig, make_decoder
from training.config import TrainConfig
from training.fit.network import CaptioningNetwork
from training.fit.optimization import Phase, make_average, make_optimizer, make_scheduler, phases_of
from training.fit.trunk import Trunk

STEPS = 10  # per epoch


def small_network() -> CaptioningNetwork:
    config = DecoderConfig("gru", 7, feature_size=8, memory_size=8, hidden_size=4, embedding_size=4)
    encoder = nn.Module()
    encoder.layer4 = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    return CaptioningNetwork({"gru": make_decoder(config)}, Trunk(encoder, "layer4", None))


def rates(network: CaptioningNetwork, phase: Phase, done: int, count: int) -> list[tuple[float, ...]]:
    """Return the learning rates of decoders and encoder at `count` steps after the first `done`."""
    optimizer = make_optimizer(TrainConfig(), network)
    scheduler = make_scheduler(optimizer, phase, STEPS, done)
    found = []
    for _ in range(count):
        found.append(tuple(scheduler.get_last_lr()))
        optimizer.step()
        scheduler.step()
    return found


def test_the_learning_rate_rises_and_then_follows_a_cosine_to_one_percent() -> None:
    phase = Phase("cross_entropy", 4, 1e-3, 1e-4, warmup_steps=5, encoder_freeze_epochs=0)
    found = [decoders for decoders, _ in rates(small_network(), phase, 0, 4 * STEPS + 1)]
    assert found[0] == pytest.approx(1e-3 / 5)
    assert found[4] == max(found)
    assert found[20] == pytest.approx(1e-3 * 0.505)
    assert found[40] == pytest.approx(1e-5)


def test_the_encoder_starts_its_own_warm_up_after_the_epochs_in_which_it_is_frozen() -> None:
    phase = Phase("cross_entropy", 4, 1e-3, 1e-4, warmup_steps=5, encoder_freeze_epochs=2)
    found = [encoder for _, encoder in rates(small_network(), phase, 0, 4 * STEPS)]
    assert set(found[: 2 * STEPS]) == {0.0}
    cosine = 0.01 + 0.99 * (1 + math.cos(math.pi * 20 / 40)) / 2
    assert found[2 * STEPS] == pytest.approx(1e-4 / 5 * cosine)


def test_a_resumed_phase_continues_with_the_same_learning_rates() -> None:
    phase = Phase("scst", 2, 1e-3, 1e-4, warmup_steps=5, encoder_freeze_epochs=1)
    assert rates(small_network(), phase, 7, 5) == rates(small_network(), phase, 0, 12)[7:]


def test_the_second_phase_has_a_quarter_of_the_warm_up_and_its_own_rates() -> None:
    config = TrainConfig(warmup_steps=200, encoder_freeze_epochs=1, scst_epochs=3, scst_learning_rate=1e-5)
    second = phases_of(config)[1]
    assert (second.name, second.epochs, second.learning_rate) == ("scst", 3, 1e-5)
    assert (second.warmup_steps, second.encoder_freeze_epochs) == (50, 0)


def test_the_average_follows_quickly_at_first_and_then_by_its_decay() -> None:
    network = small_network()
    average = make_average(network, 0.5, torch.device("cpu"))
    names = [name for name, value in network.state_dict().items() if value.is_floating_point()]
    assert "trunk.tuned.layer4.1.running_var" in names
    expected = {name: network.state_dict()[name].clone() for name in names}
    for update in range(1, 13):
        with torch.no_grad():
            for name in names:
                network.state_dict()[name].add_(1)
        average.update_parameters(network)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = {name: decay * expected[name] + (1 - decay) * network.state_dict()[name] for name in names}
    torch.testing.assert_close({name: average.module.state_dict()[name] for name in names}, expected)
