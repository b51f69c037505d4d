"""The losses of the WRPO family, with numbers worked out by hand."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recipes.training.losses import (
    LossType,
    Schedule,
    SourceFusion,
    alpha_at,
    fused_reference,
    preference_loss,
    rewards,
    source_weights,
    weighted_nll,
    weighted_preference_loss,
)


def column(source: float, target: float, rejected: float) -> Tensor:
    return torch.tensor([[source], [target], [rejected]], dtype=torch.float64)


ONES = column(1, 1, 1)


def loss_of(r: Tensor, **settings: object) -> float:
    return float(preference_loss(r, **settings))  # type: ignore[arg-type]


def test_alpha_zero_is_dpo_on_the_target_pair() -> None:
    r = column(9.0, 1.0, 0.0)

    assert loss_of(r, alpha=0.0, beta=1.0) == pytest.approx(math.log1p(math.exp(-1.0)))


def test_alpha_one_is_dpo_on_the_source_pair() -> None:
    r = column(9.0, 1.0, 0.0)

    assert loss_of(r, alpha=1.0, beta=0.5) == pytest.approx(math.log1p(math.exp(-4.5)))


def test_alpha_mixes_the_rewards_of_the_two_chosen_answers() -> None:
    r = column(2.0, 6.0, 1.0)  # 0.25 * 2 + 0.75 * 6 - 1 = 4

    assert loss_of(r, alpha=0.25, beta=0.5) == pytest.approx(math.log1p(math.exp(-2.0)))


def test_the_policy_that_equals_its_reference_has_the_loss_log_two() -> None:
    logps = column(-31.0, -20.0, -12.0)

    assert loss_of(rewards(logps, logps, ONES, "sigmoid"), alpha=0.3, beta=0.01) == pytest.approx(math.log(2))


def test_label_smoothing_mixes_in_the_mirrored_margin() -> None:
    r = column(0.0, 2.0, 0.0)
    kept, mirrored = math.log1p(math.exp(-2.0)), math.log1p(math.exp(2.0))

    assert loss_of(r, alpha=0.0, beta=1.0, label_smoothing=0.1) == pytest.approx(0.9 * kept + 0.1 * mirrored)


def test_simpo_compares_log_probabilities_a_token_and_needs_no_reference() -> None:
    r = rewards(column(-10.0, -8.0, -9.0), None, column(5.0, 2.0, 3.0), "simpo")  # -2, -4, -3 a token
    margin = 0.5 * -2 + 0.5 * -4 - -3  # 0

    assert margin == 0
    assert loss_of(r, loss_type="simpo", alpha=0.5, beta=2.0, gamma=0.6) == pytest.approx(math.log1p(math.exp(0.6)))


def test_ipo_draws_the_margin_of_ratios_a_token_towards_half_over_beta() -> None:
    r = rewards(column(-4.0, -6.0, -9.0), column(-8.0, -8.0, -3.0), column(2.0, 2.0, 3.0), "ipo")  # 2, 1, -2

    assert loss_of(r, loss_type="ipo", alpha=0.5, beta=0.25) == pytest.approx((3.5 - 2.0) ** 2)


def test_lndpo_divides_log_ratios_by_length() -> None:
    r = rewards(column(-4.0, -6.0, -9.0), column(-8.0, -8.0, -3.0), column(2.0, 2.0, 3.0), "lndpo")

    assert r.flatten().tolist() == [2.0, 1.0, -2.0]


def test_the_unweighted_ablation_is_the_mean_of_two_dpo_losses() -> None:
    expected = (math.log1p(math.exp(-3.0)) + math.log1p(math.exp(-1.0))) / 2

    assert loss_of(column(3.0, 1.0, 0.0), loss_type="unweighted", alpha=0.7, beta=1.0) == pytest.approx(expected)


@pytest.mark.parametrize("loss_type", ["sigmoid", "lndpo", "ipo", "simpo", "unweighted"])
def test_gradients_are_those_of_the_formula(loss_type: LossType) -> None:
    torch.manual_seed(0)
    policy = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    reference, lengths = torch.randn(3, 4, dtype=torch.float64), torch.tensor([[3.0], [5.0], [2.0]]).double()

    def total(logps: Tensor) -> Tensor:
        found = rewards(logps, reference, lengths.expand(3, 4), loss_type)
        return preference_loss(found, loss_type=loss_type, alpha=0.3, beta=0.7, gamma=0.2, label_smoothing=0.1).sum()

    assert torch.autograd.gradcheck(total, (policy,))


def test_the_three_gradients_stand_as_alpha_to_one_minus_alpha_to_minus_one(
    record_property: Callable[[str, object], None],
) -> None:
    logps = column(0.3, -0.2, 0.1).requires_grad_()
    preference_loss(logps, alpha=0.3, beta=0.7).sum().backward()
    assert logps.grad is not None
    source, target, rejected = logps.grad.flatten().tolist()
    record_property("measured", f"{source / -rejected:.6f} : {target / -rejected:.6f} : -1 of alpha 0.3")

    assert source / rejected == pytest.approx(-0.3)
    assert target / rejected == pytest.approx(-0.7)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.0), (1, 0.1 / 311), (155, 15.5 / 311), (310, 31 / 311), (311, 0.1), (400, 0.1)]
)
def test_linear_alpha_rises_from_nothing_with_completed_steps(step: int, expected: float) -> None:
    assert alpha_at(step, 311, 0.1) == pytest.approx(expected)


@pytest.mark.parametrize(("schedule", "max_steps"), [("constant", 10), ("linear", 0)])
def test_alpha_is_constant_where_it_is_asked_for_or_nothing_is_trained(schedule: Schedule, max_steps: int) -> None:
    assert alpha_at(3, max_steps, 0.4, schedule) == 0.4


# ------------------------------------------------------------------------------------- InfiFPO


def test_infifpo_with_the_initial_model_as_its_only_source_and_no_clipping_is_lndpo() -> None:
    torch.manual_seed(0)
    policy, reference = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    lengths = torch.tensor([[3.0], [5.0], [2.0]], dtype=torch.float64).expand(3, 5)
    fused = fused_reference(reference / lengths, (reference / lengths)[None], clip=False)
    infifpo = preference_loss(rewards(policy, fused, lengths, "infifpo"), loss_type="infifpo", alpha=0.3, beta=2.5)
    lndpo = preference_loss(rewards(policy, reference, lengths, "lndpo"), loss_type="lndpo", alpha=0.3, beta=2.5)

    assert torch.equal(fused, reference / lengths)
    assert infifpo.tolist() == pytest.approx(lndpo.tolist())


INITIAL = column(-1.0, -1.0, -1.0)
SOURCES = torch.stack([column(-0.5, -3.0, -1.5), column(-2.0, -0.9, -0.2)])


@pytest.mark.parametrize(
    ("fusion", "clip", "expected"),
    [
        # source: -0.5 is 0.5 away, -2 is raised to -1. target: -3 is raised to -1, -0.9 is 0.1 away.
        # rejected: -1.5 is 0.5 away, -0.2 is lowered to -1.
        ("max_margin", True, [-0.5, -0.9, -1.5]),
        # the largest distances without clipping: 1.0 of -2, 2.0 of -3, 0.8 of -0.2
        ("max_margin", False, [-2.0, -3.0, -0.2]),
        ("mean", True, [-0.75, -0.95, -1.25]),
        ("mean", False, [-1.25, -1.95, -0.85]),
    ],
)
def test_the_fused_reference_worked_out_by_hand(fusion: SourceFusion, clip: bool, expected: list[float]) -> None:
    assert fused_reference(INITIAL, SOURCES, fusion=fusion, clip=clip).flatten().tolist() == pytest.approx(expected)


def test_infifpo_worked_out_by_hand() -> None:
    policy, lengths = column(-4.0, -9.0, -6.0), column(4, 3, 2)  # -1, -3, -3 per token
    r = rewards(policy, fused_reference(INITIAL, SOURCES), lengths, "infifpo")  # -0.5, -2.1, -1.5

    assert r.flatten().tolist() == pytest.approx([-0.5, -2.1, -1.5])
    assert loss_of(r, loss_type="infifpo", alpha=1.0, beta=2.5) == pytest.approx(math.log1p(math.exp(-2.5)))


@pytest.mark.parametrize("fusion", ["max_margin", "mean"])
def test_a_source_without_a_log_probability_is_left_out_of_the_fusion(fusion: SourceFusion) -> None:
    sources = torch.stack([SOURCES[0], torch.full_like(INITIAL, math.nan)])
    none = torch.full_like(sources, math.nan)

    assert torch.equal(
        fused_reference(INITIAL, sources, fusion=fusion), fused_reference(INITIAL, SOURCES[:1], fusion=fusion)
    )
    assert bool(fused_reference(INITIAL, none, fusion=fusion).isnan().all())


# ------------------------------------------------------------------------------------------------------------ FuseRL


def test_weights_of_sources_are_a_softmax_of_their_rewards() -> None:
    weights = source_weights(torch.tensor([0.0, math.log(3.0)]), tau=1.0)

    assert weights.tolist() == pytest.approx([0.25, 0.75])
    assert source_weights(torch.tensor([0.0, 1.0]), tau=1e6).tolist() == pytest.approx([0.5, 0.5], abs=1e-6)
    assert source_weights(torch.tensor([0.0, 1.0]), tau=1e-3).tolist() == pytest.approx([0.0, 1.0])


def test_fusesft_and_fusepo_weigh_the_losses_of_answers_and_pairs() -> None:
    logps, lengths, weights = torch.tensor([-6.0, -2.0]), torch.tensor([3.0, 4.0]), torch.tensor([0.5, 1.5])
    ratios = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # margins 2 and 0

    assert weighted_nll(logps, lengths, weights).tolist() == pytest.approx([1.0, 0.75])
    assert weighted_preference_loss(ratios, weights, beta=0.5).tolist() == pytest.approx(
        [0.5 * math.log1p(math.exp(-1.0)), 1.5 * math.log(2)]
    )
