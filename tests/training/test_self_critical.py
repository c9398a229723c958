"""Rewards of sampled captions: the same in processes as at once, less for words that occur twice."""

import dataclasses

import pytest
import torch

from captioning.model.decoder import DecoderConfig, make_decoder
from training.config import TrainConfig
from training.fit.cider_reward import CiderReward, Penalties, Sampled
from training.fit.network import CaptioningNetwork
from training.fit.rewards import Rewards, processes_for
from training.fit.self_critical import advantages

REFERENCES = {
    "1": [["a", "man", "rides", "a", "motorcycle"], ["a", "man", "on", "a", "red", "motorcycle"]],
    "2": [["two", "cats", "sit", "on", "a", "sofa"]],
    "3": [["snow", "on", "a", "roof"]],
}
CAPTIONS = [
    Sampled(name, words.split(), ended)
    for name, words, ended in [
        ("1", "a man rides a motorcycle", True),
        ("1", "a man rides a motorcycle on a motorcycle", True),
        ("2", "two cats", False),
        ("3", "", True),
        ("2", "two cats sit on a sofa", True),
    ]
]
PENALTIES = Penalties(repeat=0.2, invention=0.3)


@pytest.mark.processes
def test_processes_return_the_same_rewards_in_the_same_order() -> None:
    with Rewards(REFERENCES, PENALTIES, 0) as here, Rewards(REFERENCES, PENALTIES, 2) as there:
        waiting = [there.submit(CAPTIONS), there.submit(CAPTIONS[:1]), there.submit([])]
        assert [collect() for collect in waiting] == [here.submit(part)() for part in (CAPTIONS, CAPTIONS[:1], [])]


def test_a_content_word_that_is_said_again_costs_its_penalty() -> None:
    plain, strict = CiderReward(REFERENCES), CiderReward(REFERENCES, penalties=Penalties(repeat=0.5))
    for caption, again in zip(CAPTIONS, (0, 1, 0, 0, 0), strict=True):
        difference = plain.of(caption.name, caption.words) - strict.of(caption.name, caption.words)
        assert difference == pytest.approx(0.5 * again)


def test_people_and_dogs_that_no_reference_has_cost_the_penalty_for_invention() -> None:
    references = {"1": [["a", "man", "on", "a", "horse"]], "2": [["two", "cats"], ["a", "puppy", "and", "cats"]]}
    plain, strict = CiderReward(references), CiderReward(references, penalties=Penalties(invention=0.5))

    def cost(name: str, caption: str) -> float:
        return plain.of(name, caption.split()) - strict.of(name, caption.split())

    assert cost("1", "a boy on a horse") == pytest.approx(0)
    assert cost("1", "two dogs on a horse with a dog") == pytest.approx(0.5)
    assert cost("2", "a dog") == pytest.approx(0)
    assert cost("2", "people and a man") == pytest.approx(0.5)


def test_the_rewards_of_an_image_with_one_caption_count_a_fifth() -> None:
    with Rewards(REFERENCES, Penalties(), 0) as rewards:
        (copied,) = rewards.submit(CAPTIONS[-1:])()
    assert CiderReward(REFERENCES).of("2", CAPTIONS[-1].words) == pytest.approx(10)
    assert copied == pytest.approx(2)


def test_the_advantage_is_over_the_other_captions_of_the_image() -> None:
    found = advantages([1.0, 2.0, 3.0, 0.0, 0.0, 6.0], images=2)
    assert found.tolist() == [-1.5, 0.0, 1.5, -3.0, -3.0, 6.0]


def test_without_a_gpu_no_process_computes_rewards_unless_asked() -> None:
    assert processes_for(3) == 3
    assert (processes_for(None) == 0) is not torch.cuda.is_available()


def test_the_entropy_weight_lowers_the_loss_by_the_entropy_of_the_next_word() -> None:
    torch.manual_seed(1)
    shape = DecoderConfig("gru", 9, feature_size=8, memory_size=8, hidden_size=4, embedding_size=4)
    config = TrainConfig(scst_epochs=1, temperature=2.0)
    network = CaptioningNetwork({"gru": make_decoder(shape)}, config=config).eval()
    grid, words = torch.randn(1, 4, 8), {"gru": torch.tensor([[1, 5, 2]])}
    zero = {"gru": torch.zeros(1)}  # no advantage: only the entropy counts
    plain = network(grid, words, zero)["gru"]
    network.config = dataclasses.replace(config, entropy_weight=0.5)
    rewarded = network(grid, words, zero)["gru"]
    logits = network.decoders["gru"](grid, words["gru"][:, :-1])[0]
    logits[:, [0, 1, 3]] = float("-inf")
    expected = torch.distributions.Categorical(logits=logits / 2).entropy().mean()
    torch.testing.assert_close(plain - rewarded, 0.5 * expected)
    rewarded.backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
